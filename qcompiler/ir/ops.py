"""The operators a Program may hold, by name: ATen, symbolic-size arithmetic, and the `qc::` dialect.

`qc` ops are plain differentiable functions of tensors. Codes stay in a float carrier, so quantize followed by
dequantize *is* fake quantization and learned step sizes fall out of autograd.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from qcompiler.errors import ParseError, UnsupportedError, VerifyError
from qcompiler.ir import control
from qcompiler.ir.detection import non_max_suppression
from qcompiler.ir.online import hadamard, kronecker
from qcompiler.spec import QuantSpec
from qcompiler.spec import choose_qparams as spec_choose_qparams
from qcompiler.spec import dequantize as spec_dequantize
from qcompiler.spec import quantize as spec_quantize

Scale = torch.Tensor | tuple[torch.Tensor, ...]
Target = Callable[..., object]


def quantize(
    x: torch.Tensor,
    scale: Scale,
    zero_point: torch.Tensor | None,
    spec: QuantSpec,
    table: torch.Tensor | None = None,
) -> torch.Tensor:
    """Grid values of `x`: `format.round(x / scale + zero_point)`, in the dtype of `x` and `spec.code_shape(x.shape)`.

    Args:
        x: real tensor.
        scale: one tensor per level of `spec`, shaped `level.scale_shape(x.shape)`; a bare tensor for one level.
        zero_point: integer-valued tensor shaped like the innermost scale, None when symmetric.
        spec: the number format and where its scales live.
        table: the values of a codebook format, shaped `spec.table_shape(x.shape)`; None for all others.
    """
    return spec_quantize(x, scale, zero_point, spec, table)


def dequantize(
    codes: torch.Tensor,
    scale: Scale,
    zero_point: torch.Tensor | None,
    spec: QuantSpec,
    table: torch.Tensor | None = None,
) -> torch.Tensor:
    """Reals of grid values: `(codes - zero_point) * scale`, `table[codes] * scale`; see `quantize` for the shapes."""
    return spec_dequantize(codes, scale, zero_point, spec, table)


def choose_qparams(x: torch.Tensor, spec: QuantSpec) -> tuple[torch.Tensor, ...]:
    """Run-time scale and zero point of `x` from its minimum and maximum per block (dynamic quantization).

    Returns:
        float32 scale of each level, innermost first, of shape `level.scale_shape(x.shape)`, and the zero point, shaped
        like the innermost scale; it is 0 when symmetric.
    """
    scale, zero_point = spec_choose_qparams(x, spec)
    return (*(scale if isinstance(scale, tuple) else (scale,)), zero_point)


def kernel(name: str, *inputs: object, **attributes: object) -> object:
    """A call of a target kernel by name; its meaning is the kernel table that the interpreter is given."""
    raise UnsupportedError(
        f"kernel '{name}' was run without a kernel table",
        mend="interpret lowered programs with the kernels of their target",
    )


_SYMBOL_OPS: dict[str, Target] = {
    "sym.add": operator.add,
    "sym.sub": operator.sub,
    "sym.mul": operator.mul,
    "sym.floordiv": operator.floordiv,
    "sym.truediv": operator.truediv,
    "sym.mod": operator.mod,
    "sym.neg": operator.neg,
    "sym.pow": operator.pow,
    "sym.eq": operator.eq,
    "sym.ne": operator.ne,
    "sym.lt": operator.lt,
    "sym.le": operator.le,
    "sym.gt": operator.gt,
    "sym.ge": operator.ge,
    "sym.and": operator.and_,
    "sym.or": operator.or_,
    "sym.not": torch.sym_not,
    "sym.max": torch.sym_max,
    "sym.min": torch.sym_min,
    "sym.ite": torch.sym_ite,
    "sym.float": torch.sym_float,
    "sym.int": torch.sym_int,
    "sym.ceil": math.ceil,
    "sym.floor": math.floor,
    "sym.trunc": math.trunc,
    "sym.round": round,
}
_DETECTION: dict[str, Target] = {"qc.non_max_suppression": non_max_suppression}
ONLINE_OPS: dict[str, Target] = {"qc.hadamard": hadamard, "qc.kronecker": kronecker}
QC_OPS: dict[str, Target] = {
    "qc.quantize": quantize,
    "qc.dequantize": dequantize,
    "qc.choose_qparams": choose_qparams,
    "qc.kernel": kernel,
}


@dataclass(frozen=True)
class RegionOp:
    """An operator that runs regions.

    Args:
        target: what it computes.
        regions: which of its arguments are regions.
    """

    target: Target
    regions: tuple[str, ...]


REGION_OPS: dict[str, RegionOp] = {
    "qc.cond": RegionOp(control.cond, ("then", "otherwise")),
    "qc.loop": RegionOp(control.loop, ("body",)),
    "qc.scan": RegionOp(control.scan, ("body",)),
}
_REGION_TARGETS: dict[str, Target] = {name: row.target for name, row in REGION_OPS.items()}
_REGION_SET = frozenset(_REGION_TARGETS.values())
GETITEM = "getitem"
_NAMED: dict[str, Target] = {
    **_SYMBOL_OPS,
    **QC_OPS,
    **ONLINE_OPS,
    **_REGION_TARGETS,
    **_DETECTION,
    GETITEM: operator.getitem,
}
_NAMES: dict[Target, str] = {target: name for name, target in _NAMED.items()}
_MISSING = inspect.Parameter.empty
_PARAMETERS: dict[Target, dict[str, object]] = {
    operator.getitem: {"a": _MISSING, "b": _MISSING},
    **{
        op: {name: parameter.default for name, parameter in inspect.signature(op).parameters.items()}
        for op in (
            quantize,
            dequantize,
            choose_qparams,
            non_max_suppression,
            *ONLINE_OPS.values(),
            *_REGION_TARGETS.values(),
        )
    },
}


_COUNTED: frozenset[Target] = frozenset(
    {torch.ops.aten.nonzero.default, torch.ops.aten.unique_dim.default, non_max_suppression}
)


def op_name(target: object) -> str:
    """Text name of an fx call target: `aten.conv2d`, `aten.add.Tensor`, `sym.mul`, `qc.quantize`, `getitem`.

    Raises:
        UnsupportedError: for a target that is not an operator of the IR.
    """
    if isinstance(target, torch._ops.OpOverload):
        name = f"{target.namespace}.{target._opname}"
        return name if target._overloadname == "default" else f"{name}.{target._overloadname}"
    try:
        return _NAMES[cast(Target, target)]
    except (KeyError, TypeError):
        raise UnsupportedError(f"'{target}' is not an operator of the IR") from None


def op_target(name: str) -> Target:
    """The callable behind an op name; inverse of `op_name`.

    Raises:
        ParseError: for an unknown name.
    """
    if name in _NAMED:
        return _NAMED[name]
    parts = name.split(".")
    if len(parts) in (2, 3):
        packet = getattr(getattr(torch.ops, parts[0], None), parts[1], None)
        overload = getattr(packet, parts[2] if len(parts) == 3 else "default", None)
        if isinstance(overload, torch._ops.OpOverload):
            return overload
    raise ParseError(f"unknown operator '{name}'", mend="ops are named like aten.relu, aten.add.Tensor, qc.quantize")


def is_symbolic(target: object) -> bool:
    """Whether the op computes on sizes instead of tensors."""
    return target in _SYMBOL_OPS.values() or target in (
        torch.ops.aten.sym_size.int,
        torch.ops.aten.sym_numel.default,
    )


def runs_regions(target: object) -> bool:
    """Whether the op is one of `REGION_OPS`."""
    return target in _REGION_SET


def is_declared(target: object) -> bool:
    """Whether the types of an op's results are declared where it is built, not inferred."""
    return target is kernel or runs_regions(target) or target in _COUNTED


def bind(target: object, args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, Any]:
    """Arguments of a call by parameter name, with the operator's defaults filled in.

    Raises:
        VerifyError: when the call does not fit the operator's schema.
    """
    if isinstance(target, torch._ops.OpOverload):
        parameters = [
            (arg.name, arg.default_value if arg.has_default_value() else _MISSING) for arg in target._schema.arguments
        ]
    elif target in _PARAMETERS:
        parameters = list(_PARAMETERS[cast(Target, target)].items())
    else:
        return {**{str(i): arg for i, arg in enumerate(args)}, **kwargs}
    bound = dict(zip((name for name, _ in parameters), args, strict=False))
    bound.update(kwargs)
    for name, default in parameters:
        if name not in bound:
            bound[name] = default
    missing = [name for name, value in bound.items() if value is _MISSING]
    unknown = set(bound) - {name for name, _ in parameters}
    if missing or unknown or len(args) > len(parameters):
        raise VerifyError(
            f"the call does not fit {op_name(target)}", where=f"missing {missing}, unknown {sorted(unknown)}"
        )
    return bound
