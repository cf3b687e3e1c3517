"""What a quantized tensor is: QuantSpec, the requests that become specs, and the arithmetic of both.

Specs and schemes are read and printed without torch; the arithmetic is loaded when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from qcompiler.spec.parts import Parts, Remainder, SharedTable
from qcompiler.spec.quantspec import Granularity, Level, QuantSpec, bits_per_element
from qcompiler.spec.scheme import Number, NumberGranularity, Scheme, parse_scheme

if TYPE_CHECKING:
    from qcompiler.formats.blocks import block_reduce, expand_blocks
    from qcompiler.formats.rounding import round_scale, round_through
    from qcompiler.spec.arithmetic import (
        Scales,
        choose_qparams,
        dequantize,
        effective_scale,
        fake_quantize,
        nearest,
        qparams_from_range,
        quantize,
    )

_LAZY = {
    "block_reduce": "qcompiler.formats.blocks",
    "expand_blocks": "qcompiler.formats.blocks",
    "round_scale": "qcompiler.formats.rounding",
    "round_through": "qcompiler.formats.rounding",
    "Scales": "qcompiler.spec.arithmetic",
    "choose_qparams": "qcompiler.spec.arithmetic",
    "dequantize": "qcompiler.spec.arithmetic",
    "effective_scale": "qcompiler.spec.arithmetic",
    "fake_quantize": "qcompiler.spec.arithmetic",
    "nearest": "qcompiler.spec.arithmetic",
    "qparams_from_range": "qcompiler.spec.arithmetic",
    "quantize": "qcompiler.spec.arithmetic",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


__all__ = [
    "Granularity",
    "Level",
    "Number",
    "NumberGranularity",
    "Parts",
    "QuantSpec",
    "Remainder",
    "Scales",
    "Scheme",
    "SharedTable",
    "bits_per_element",
    "block_reduce",
    "choose_qparams",
    "dequantize",
    "effective_scale",
    "expand_blocks",
    "fake_quantize",
    "nearest",
    "parse_scheme",
    "qparams_from_range",
    "quantize",
    "round_scale",
    "round_through",
]
