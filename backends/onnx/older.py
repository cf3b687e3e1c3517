"""What an older operator set lacks: written with the operators it has, or refused by name.

Formula   Gelu(x) = x (1 + erf(x / sqrt 2)) / 2, with tanh x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2;
          LayerNormalization(x) = (x - mean) / sqrt(mean((x - mean)^2) + eps) * scale + bias; HardSwish(x) = x * h(x)
Source    ONNX operator schemas, version by version
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir

from qcompiler.errors import UnsupportedError

if TYPE_CHECKING:
    from qcompiler.backends.onnx.context import Attribute, Context

_FARTHEST = int(np.iinfo(np.int64).max)
_FLOAT8 = frozenset(
    dtype.value
    for dtype in (
        ir.DataType.FLOAT8E4M3FN,
        ir.DataType.FLOAT8E4M3FNUZ,
        ir.DataType.FLOAT8E5M2,
        ir.DataType.FLOAT8E5M2FNUZ,
    )
)


@dataclass(frozen=True)
class Wanted:
    """A node as the newest operator set says it.

    Args:
        kind: operator.
        inputs: None where one is left out.
        attributes: by name.
        outputs: how many.
    """

    kind: str
    inputs: Sequence[ir.Value | None]
    attributes: Mapping[str, Attribute]
    outputs: int = 1


Rule = Callable[["Context", Wanted], "list[ir.Value] | Wanted"]


def rule_for(kind: str, opset: int) -> Rule | None:
    """How an operator is written in an operator set older than the one that made it what it is; None for as it is."""
    since, rule = RULES.get(kind, (0, None))
    return rule if opset < since else None


def check_known(wanted: Wanted, opset: int) -> None:
    """Refuses what the schema of an operator set does not know.

    Raises:
        UnsupportedError: naming the operator, and the attribute or input that is too new.
    """
    known = _schema(wanted.kind, opset)
    if known is None:
        raise _too_new(wanted.kind, opset, f"the operator is there since {_first(wanted.kind)}")
    unknown = sorted(set(wanted.attributes) - known[0])
    if unknown:
        raise _too_new(wanted.kind, opset, f"it does not know the attribute '{unknown[0]}'")
    if len(wanted.inputs) > known[1]:
        raise _too_new(wanted.kind, opset, f"it takes {known[1]} inputs and not {len(wanted.inputs)}")


@lru_cache(maxsize=1024)
def _schema(kind: str, opset: int) -> tuple[frozenset[str], int] | None:
    """Names of the attributes and the most inputs of an operator."""
    try:
        schema = onnx.defs.get_schema(kind, opset, "")
    except onnx.defs.SchemaError:
        return None
    return frozenset(schema.attributes), schema.max_input


def _first(kind: str) -> int:
    versions = [item.since_version for item in onnx.defs.get_all_schemas_with_history() if item.name == kind]
    return min(versions, default=0)


def _too_new(kind: str, opset: int, why: str) -> UnsupportedError:
    return UnsupportedError(
        f"{kind} cannot be written in operator set {opset}: {why}",
        step="write onnx",
        mend="ask for a newer operator set (setting opset of the target)",
    )


# -- rules -------------------------------------------------------------------------------------------------------


def _axes_as_attribute(context: Context, wanted: Wanted) -> list[ir.Value] | Wanted:
    """Reductions took their axes as an attribute."""
    attributes = {name: value for name, value in wanted.attributes.items() if name != "noop_with_empty_axes"}
    axes = wanted.inputs[1] if len(wanted.inputs) > 1 else None
    if axes is None:
        return replace(wanted, inputs=wanted.inputs[:1], attributes=attributes)
    if axes.const_value is None:
        raise _too_new(wanted.kind, context.opset, "its axes are not constant")
    found = [int(axis) for axis in axes.const_value.numpy()]
    if not found and wanted.attributes.get("noop_with_empty_axes"):
        return [context.op("Identity", wanted.inputs[:1])]
    return replace(wanted, inputs=wanted.inputs[:1], attributes={**attributes, **({"axes": found} if found else {})})


def _shape_then_slice(context: Context, wanted: Wanted) -> list[ir.Value] | Wanted:
    """Shape gave all sizes."""
    if not wanted.attributes:
        return wanted
    start, end = (wanted.attributes.get(name, limit) for name, limit in (("start", 0), ("end", _FARTHEST)))
    whole = context.op("Shape", wanted.inputs)
    return [context.op("Slice", [whole, *(context.ints([int(str(bound))]) for bound in (start, end))])]


def _saturating(context: Context, wanted: Wanted) -> Wanted:
    """Without small floats there was nothing to saturate."""
    if wanted.attributes.get("to") in _FLOAT8:
        raise _too_new(wanted.kind, context.opset, "floats of 8 bits are there since 19")
    return replace(wanted, attributes={name: value for name, value in wanted.attributes.items() if name != "saturate"})


def _equal_parts(context: Context, wanted: Wanted) -> Wanted:
    """Split cut into as many equal parts as it had results."""
    attributes = {name: value for name, value in wanted.attributes.items() if name != "num_outputs"}
    return replace(wanted, attributes=attributes)


def _plain_scatter(context: Context, wanted: Wanted) -> Wanted:
    """Scatters only overwrote."""
    if wanted.attributes.get("reduction", "none") != "none" and context.opset < 16:
        raise _too_new(wanted.kind, context.opset, "it does not reduce")
    if wanted.attributes.get("reduction") in ("max", "min"):
        raise _too_new(wanted.kind, context.opset, "it does not reduce by 'max' or 'min'")
    kept = {name: value for name, value in wanted.attributes.items() if name != "reduction" or context.opset >= 16}
    return replace(wanted, attributes=kept)


def _older_grid_words(context: Context, wanted: Wanted) -> Wanted:
    """Modes of sampling had other names."""
    words = {"linear": "bilinear", "cubic": "bicubic"}
    mode = str(wanted.attributes.get("mode", "linear"))
    return replace(wanted, attributes={**wanted.attributes, "mode": words.get(mode, mode)})


def _reshaped_by_copies(context: Context, wanted: Wanted) -> Wanted:
    """A size of zero always meant the size of the input."""
    if wanted.attributes.get("allowzero"):
        raise _too_new(wanted.kind, context.opset, "a tensor without elements has no shape there")
    return replace(wanted, attributes={})


def _layer_norm(context: Context, wanted: Wanted) -> list[ir.Value]:
    value, scale, bias = [*wanted.inputs, None][:3]
    if value is None or scale is None or scale.shape is None:
        raise _too_new(wanted.kind, context.opset, "its scale is not known")
    axes = context.ints(range(-len(scale.shape), 0))
    mean = context.op("ReduceMean", [value, axes], {"keepdims": 1})
    centred = context.op("Sub", [value, mean])
    squares = context.op("Pow", [centred, _number(context, 2.0, scale)])
    variance = context.op("ReduceMean", [squares, axes], {"keepdims": 1})
    epsilon = _number(context, float(str(wanted.attributes["epsilon"])), scale)
    normal = context.op("Div", [centred, context.op("Sqrt", [context.op("Add", [variance, epsilon])])])
    scaled = context.op("Mul", [normal, scale])
    return [scaled if bias is None else context.op("Add", [scaled, bias])]


def _gelu(context: Context, wanted: Wanted) -> list[ir.Value]:
    (value,) = wanted.inputs
    if value is None:
        raise _too_new(wanted.kind, context.opset, "it has no input")
    half, one = _number(context, 0.5, value), _number(context, 1.0, value)
    if wanted.attributes.get("approximate") == "tanh":
        cube = context.op("Pow", [value, _number(context, 3.0, value)])
        inner = context.op("Add", [value, context.op("Mul", [cube, _number(context, 0.044715, value)])])
        bent = context.op("Tanh", [context.op("Mul", [inner, _number(context, math.sqrt(2 / math.pi), value)])])
    else:
        bent = context.op("Erf", [context.op("Div", [value, _number(context, math.sqrt(2.0), value)])])
    return [context.op("Mul", [context.op("Mul", [value, context.op("Add", [bent, one])]), half])]


def _hard_swish(context: Context, wanted: Wanted) -> list[ir.Value]:
    gate = context.op("HardSigmoid", wanted.inputs, {"alpha": 1 / 6, "beta": 0.5})
    return [context.op("Mul", [*wanted.inputs, gate])]


def _number(context: Context, number: float, like: ir.Value) -> ir.Value:
    """A constant of the element type of a value."""
    dtype = like.dtype or ir.DataType.FLOAT
    return context.constant(np.array(number, dtype=dtype.numpy()))


RULES: Mapping[str, tuple[int, Rule]] = {
    **{
        f"Reduce{kind}": (18, _axes_as_attribute)
        for kind in ("L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
    },
    "Cast": (19, _saturating),
    "Gelu": (20, _gelu),
    "GridSample": (20, _older_grid_words),
    "HardSwish": (14, _hard_swish),
    "LayerNormalization": (17, _layer_norm),
    "Reshape": (14, _reshaped_by_copies),
    "ScatterElements": (18, _plain_scatter),
    "ScatterND": (18, _plain_scatter),
    "Shape": (15, _shape_then_slice),
    "Split": (18, _equal_parts),
}
