"""What becomes of integer sums: fields of `qc_epilogue`, by the formulas of `backends.reference.dense`."""

from __future__ import annotations

import numpy as np
import torch

from qcompiler.backends.c.emit import fixed
from qcompiler.backends.c.emit.grid import grid_of
from qcompiler.backends.c.generator import Generator
from qcompiler.backends.c.loops import Computed
from qcompiler.backends.c.number import float_text
from qcompiler.backends.c.value import Value
from qcompiler.backends.lowering.call import Call
from qcompiler.backends.lowering.operands import Operand, operand_of
from qcompiler.errors import UnsupportedError
from qcompiler.ir.program import Node


def quantized(call: Call, position: int) -> Operand:
    """The quantized argument at a position."""
    found = operand_of(call.inputs[position]) if position < len(call.inputs) else None
    if found is None:
        raise call.unsupported(f"argument {position} is not quantized")
    return found


def zero_point(generator: Generator, operand: Operand) -> int:
    """Zero point of a static operand of one scale, as stored."""
    shift = generator.element(generator.program.tensor_type(operand.codes))[1]
    if operand.zero_point is None:
        return shift
    value = generator.program.constant(operand.zero_point)
    if value is None or value.numel() > 1:
        return shift
    return int(value.reshape(())) + shift


def epilogue(
    generator: Generator,
    call: Call,
    x: Operand,
    w: Operand,
    sums: np.ndarray,
    out: Value,
    picked: slice,
    zero: int | None = None,
) -> dict[str, str]:
    """Fields of `qc_epilogue`, by the formulas of `backends.reference.dense`.

    Args:
        generator: takes the constants.
        call: the kernel call.
        x: quantized input.
        w: quantized weight, symmetric.
        sums: of the weight codes of each column.
        out: the result.
        picked: columns, when only some of them are computed.
        zero: the zero point of the input, when its kernel does not read codes as they are stored.
    """
    program = generator.program
    x_scale, w_scale = program.constant(x.scale), program.constant(w.scale)
    if w_scale is None:
        raise call.unsupported("the scales of its weight are not constant")
    if w.zero_point is not None and bool(program.param(w.zero_point).any()):
        raise call.unsupported("zero points of weights")
    columns = len(sums)
    scale = w_scale.float().reshape(-1)
    scale = (scale[picked] if scale.numel() > 1 else scale).expand(columns)
    bias = call.inputs[2] if len(call.inputs) > 2 else None
    integers = torch.zeros(columns, dtype=torch.float64)
    folded = operand_of(bias)
    if folded is not None:
        integers = integers + program.param(folded.codes).double().reshape(-1)[picked]
    fields: dict[str, str] = {}
    if x_scale is not None:
        stored = zero_point(generator, x) if zero is None else zero
        integers = integers - stored * torch.from_numpy(sums).double()
        factor = x_scale.float().reshape(()) * scale if x_scale.numel() == 1 else scale
    else:
        factor = scale
        fields |= _run_time(generator, x, sums, out)
    reals = program.constant(bias) if isinstance(bias, Node) else None
    panel = generator.panel
    if reals is not None:
        fields["float_bias"] = generator.pointer(
            generator.constant(padded(reals.float().reshape(-1)[picked].numpy(), panel), "float")
        )
    fields["bias"] = generator.pointer(generator.constant(padded(integers.numpy().astype(np.int32), panel), "int32_t"))
    return fields | _requantized(generator, call, factor, reals is not None)


def _requantized(generator: Generator, call: Call, factor: torch.Tensor, biased: bool) -> dict[str, str]:
    """What the totals of columns are multiplied with, and where results lie."""
    fields: dict[str, str] = {}
    if isinstance(call.arguments.get("result"), list | tuple):
        grid = grid_of(generator, call)
        if call.flag("fixed") and not biased:
            whole = fixed.fields(generator, factor / grid.scale, grid, generator.panel)
            return {"finish": "QC_FIXED", **{f"fixed.{name}": str(text) for name, text in whole.items()}}
        limits = {"zero_point": grid.zero, "low": grid.low, "high": grid.high}
        fields = {name: grid.stored(code) for name, code in limits.items()}
        if biased:
            fields["scale"] = float_text(float(grid.scale))
        else:
            factor = factor / grid.scale
        fields["finish"] = "QC_CODES_BIASED" if biased else "QC_CODES"
    else:
        fields["finish"] = "QC_REALS_BIASED" if biased else "QC_REALS"
    fields["factor"] = generator.pointer(generator.constant(padded(factor.numpy(), generator.panel), "float"))
    return fields


def _run_time(generator: Generator, x: Operand, sums: np.ndarray, out: Value) -> dict[str, str]:
    """Scales and zero points of the rows, which only a run knows."""
    rows = out.count // out.shape[-1]
    scale = _per_row(generator, generator.value(x.scale), rows)
    fields = {"row_scale": generator.pointer(scale)}
    shift = generator.element(generator.program.tensor_type(x.codes))[1]
    if x.zero_point is None and not shift:
        return fields
    if x.zero_point is None:
        zero = generator.settled(Computed("int32_t", (rows,), str(shift), ()))
    else:
        zero = _per_row(generator, generator.value(x.zero_point), rows)
    column_sum = generator.constant(padded(sums.astype(np.int32), generator.panel), "int32_t")
    fields["row_zero"] = generator.pointer(zero)
    fields["column_sum"] = generator.pointer(column_sum)
    return fields


def _per_row(generator: Generator, value: Value, rows: int) -> Value:
    flat = value.reshaped((value.count,)) or generator.contiguous(value).reshaped((value.count,))
    if flat is None:
        raise UnsupportedError(f"scales of {value.shape} are not one per row", step="emit")
    return generator.copied(flat.expanded((rows,)), (0,)) if flat.shape != (rows,) else flat


def padded(values: np.ndarray, multiple: int) -> np.ndarray:
    """Zeros behind a vector up to a multiple, because kernels read whole panels."""
    return np.pad(values, (0, -len(values) % multiple))
