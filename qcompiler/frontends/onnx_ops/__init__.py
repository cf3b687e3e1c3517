"""The ONNX operators that the front-end reads, one table per theme."""

from __future__ import annotations

from qcompiler.frontends.onnx_ops.activation import ACTIVATION
from qcompiler.frontends.onnx_ops.attention import ATTENTION
from qcompiler.frontends.onnx_ops.counted import COUNTED
from qcompiler.frontends.onnx_ops.create import CREATE
from qcompiler.frontends.onnx_ops.index import INDEX
from qcompiler.frontends.onnx_ops.layout import LAYOUT
from qcompiler.frontends.onnx_ops.math import MATH, Operator
from qcompiler.frontends.onnx_ops.norm import NORM
from qcompiler.frontends.onnx_ops.pool import POOL
from qcompiler.frontends.onnx_ops.quantized import QUANTIZED
from qcompiler.frontends.onnx_ops.recurrent import RECURRENT
from qcompiler.frontends.onnx_ops.reduce import REDUCE
from qcompiler.frontends.onnx_ops.resize import RESIZE
from qcompiler.frontends.onnx_ops.sampling import SAMPLING
from qcompiler.frontends.onnx_ops.signal import SIGNAL
from qcompiler.frontends.onnx_ops.window import WINDOW

TABLES = (
    ACTIVATION,
    ATTENTION,
    COUNTED,
    CREATE,
    INDEX,
    LAYOUT,
    MATH,
    NORM,
    QUANTIZED,
    RECURRENT,
    REDUCE,
    RESIZE,
    WINDOW,
    POOL,
    SAMPLING,
    SIGNAL,
)
OPERATORS: dict[str, Operator] = {name: operator for table in TABLES for name, operator in table.items()}

_RANDOM = "it draws random numbers; pass noise that the model needs as an input"
_SEQUENCE = "sequences and optionals are no tensors; export the model without them"
_TEXT = "strings are no numbers; keep the text side outside of the compiled model"
_KINDS: dict[str, tuple[str, ...]] = {
    _RANDOM: ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
    _SEQUENCE: (
        "ConcatFromSequence", "Optional", "OptionalGetElement", "OptionalHasElement", "SequenceAt", "SequenceConstruct",
        "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength", "SequenceMap", "SplitToSequence",
    ),
    _TEXT: ("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer"),
    "pictures are decoded outside of the compiled model": ("ImageDecoder",),
}  # fmt: skip
REFUSED: dict[str, str] = {name: reason for reason, names in _KINDS.items() for name in names}

__all__ = ["OPERATORS", "REFUSED", "TABLES", "Operator"]
