"""The operators a Program may hold, by name: ATen, symbolic-size arithmetic, and the `qc::` dialect.

`qc` ops are plain differentiable functions of tensors. Codes stay in a float carrier, so quantize followed by
dequantize *is* fake quantization and learned step sizes fall out of autograd.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch

from qcompiler.errors import ParseError, UnsupportedError, VerifyError
from qcompiler.spec import QuantSpec
from qcompiler.spec import choose_qparams as spec_choose_qparams
from qcompiler.spec import dequantize as spec_dequantize
from qcompiler.spec import quantize as spec_quantize

Scale = torch.Tensor | tuple[torch.Tensor, ...]
Target = Callable[..., object]


def quantize(x: torch.Tensor, scale: Scale, zero_point: torch.Tensor | None, spec: QuantSpec) -> torch.Tensor:
    """Grid values of `x`: `format.round(x / scale + zero_point)`, in the dtype and shape of `x`.

    Args:
        x: real tensor.
        scale: one tensor per level of `spec`, shaped `level.scale_shape(x.shape)`; a bare tensor for one level.
        zero_point: integer-valued tensor shaped like the innermost scale, None when symmetric.
        spec: the number format and where its scales live.
    """
    return spec_quantize(x, scale, zero_point, spec)


def dequantize(codes: torch.Tensor, scale: Scale, zero_point: torch.Tensor | None, spec: QuantSpec) -> torch.Tensor:
    """Reals of grid values: `(codes - zero_point) * scale`; see `quantize` for the shapes."""
    return spec_dequantize(codes, scale, zero_point, spec)


def choose_qparams(x: torch.Tensor, spec: QuantSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """Run-time scale and zero point of `x` from its minimum and maximum per block (dynamic quantization).

    Returns:
        float32 scale and zero point of shape `level.scale_shape(x.shape)`; the zero point is 0 when symmetric.
    """
    scale, zero_point = spec_choose_qparams(x, spec)
    return (scale[0] if isinstance(scale, tuple) else scale), zero_point


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
QC_OPS: dict[str, Target] = {
    "qc.quantize": quantize,
    "qc.dequantize": dequantize,
    "qc.choose_qparams": choose_qparams,
    "qc.kernel": kernel,
}
GETITEM = "getitem"
_NAMED: dict[str, Target] = {**_SYMBOL_OPS, **QC_OPS, GETITEM: operator.getitem}
_NAMES: dict[Target, str] = {target: name for name, target in _NAMED.items()}
_PARAMETERS: dict[Target, tuple[str, ...]] = {
    operator.getitem: ("a", "b"),
    **{op: tuple(inspect.signature(op).parameters) for op in (quantize, dequantize, choose_qparams)},
}


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
        parameters = [(name, _MISSING) for name in _PARAMETERS[cast(Target, target)]]
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


class _Missing:
    pass


_MISSING = _Missing()
