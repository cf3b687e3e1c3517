"""Linear layers whose weights have few bits and whose activations are floats; see `backends.reference.weights`."""

from __future__ import annotations

import math

import numpy as np

from qcompiler.backends.c.emit.dense import rows_of
from qcompiler.backends.c.emit.finish import quantized
from qcompiler.backends.c.extent import most
from qcompiler.backends.c.gemv_packing import MOST_INPUTS, PANEL, places
from qcompiler.backends.c.generator import Emitted, Emitter, Generator
from qcompiler.backends.c.kernels.low_bit import GEMV_ROWS, gemv_planes
from qcompiler.backends.c.low_bit_packing import Bits, by_block, words
from qcompiler.backends.c.value import Value
from qcompiler.backends.lowering.call import Call
from qcompiler.backends.lowering.operands import Operand
from qcompiler.formats import BINARY
from qcompiler.formats.base import GridFormat
from qcompiler.ir.program import Node
from qcompiler.spec import QuantSpec

_WIDTHS: tuple[Bits, ...] = (2, 3, 4, 8)
_TABLE_BITS = 4
_TABLE_ENTRIES = 1 << _TABLE_BITS
"""A table is as long as this; one of fewer values starts again."""


def linear(generator: Generator, call: Call) -> Emitted:
    """Activations stay floats, or become int8 by blocks first when the call names a block."""
    node = call.inputs[0]
    if not isinstance(node, Node):
        raise call.unsupported("its input is not a tensor of floats")
    weight = quantized(call, 1)
    source = rows_of(generator, generator.operand(node))
    shape = generator.shape(call.node)
    rows = math.prod(shape[:-1])
    out = generator.new(shape, "float")
    taken = int(call.number("block", 0))
    name = _kernel(generator, call.spec(), taken, rows)
    columns = PANEL if name == "gemv_wna8" else generator.layout(name).columns
    fields = _weight_fields(generator, call, weight, name, taken)
    fields |= {"rows": rows, "out": generator.pointer(out), "out_stride": shape[-1]}
    bias = call.inputs[2] if len(call.inputs) > 2 else None
    if isinstance(bias, Node):
        fields["bias"] = generator.pointer(generator.contiguous(generator.operand(bias)))
    if taken:
        fields |= _activation_fields(generator, source, taken, rows)
    else:
        fields |= {"input": generator.pointer(source), "input_stride": source.strides[-2]}
    generator.call(name, fields, -(-shape[-1] // columns))
    return out


def _kernel(generator: Generator, spec: QuantSpec, taken: int, rows: int) -> str:
    """The kernel that has the fewest instructions for a spec, blocks of activations and rows."""
    if not taken:
        return "gemm_wnf32"
    looked_up = most(rows) <= GEMV_ROWS and taken <= MOST_INPUTS
    return "gemv_wna8" if looked_up and _planes(spec)[0] <= gemv_planes(generator.isa) else "gemm_wna8"


def _planes(spec: QuantSpec) -> tuple[int, int]:
    """Bit planes of codes, and what the lowest bit counts: two between signs."""
    return (1, 2) if spec.format == BINARY else (spec.bits, 1)


def _activation_fields(generator: Generator, source: Value, block: int, rows: int) -> dict[str, str | int]:
    depth = source.shape[-1]
    blocks = -(-depth // block)
    codes = generator.new((rows, depth), "int8_t")
    scale, total = generator.new((rows, blocks), "float"), generator.new((rows, blocks), "int32_t")
    made = {
        "input": generator.pointer(source),
        "input_stride": source.strides[-2],
        "width": depth,
        "block": block,
        "out": generator.pointer(codes),
        "out_stride": depth,
        "scale": generator.pointer(scale),
        "sum": generator.pointer(total),
    }
    generator.call("quantize_blocks", made, rows)
    return {
        "input": generator.pointer(codes),
        "input_stride": depth,
        "input_scale": generator.pointer(scale),
        "input_sum": generator.pointer(total),
    }


def _weight_fields(generator: Generator, call: Call, weight: Operand, name: str, taken: int) -> dict[str, str | int]:
    """Packed codes, scales and zero points, or the table that codes are places in."""
    spec = call.spec()
    values = generator.program.param(weight.codes).numpy()
    outputs, depth = values.shape
    counted = spec.format.is_integer or (taken > 0 and spec.format == BINARY)
    bits: Bits | None = next((width for width in _WIDTHS if width >= spec.bits), None)
    if bits is None or len(spec.levels) != 1 or (taken and not counted):
        raise call.unsupported(f"weights of {spec}")
    block = spec.block[1] if spec.block[1] > 0 else depth
    if taken and taken != block:
        block = _finer(call, taken, block)
    scale = _by_output(generator.program.param(weight.scale).float().numpy(), outputs, depth, spec.block[1], block)
    columns = PANEL if name == "gemv_wna8" else generator.layout(name).columns
    fields: dict[str, str | int] = {
        "scale": generator.pointer(generator.constant(by_block(scale, columns), "float")),
        "columns": outputs,
        "depth": depth,
        "block": block,
    }
    if not counted:
        table = _table(spec, call)
        entries = generator.pointer(generator.constant(np.resize(table, _TABLE_ENTRIES), "float"))
        return fields | {"table": entries} | _words(generator, name, _places(values, table), bits, block)
    moved = -int(spec.format.lowest) if spec.format.signed else 0
    codes = (values.astype(np.int64) + moved).astype(np.uint8)
    if name == "gemv_wna8":
        fields |= _looked_up(generator, codes, spec, block)
    else:
        fields |= _words(generator, name, codes, bits, block)
    zero = None if weight.zero_point is None else generator.program.param(weight.zero_point).float().numpy()
    if zero is None or len(np.unique(zero)) == 1:
        return fields | {"common_zero": moved + (0 if zero is None else int(zero.reshape(-1)[0]))}
    points = _by_output(zero, outputs, depth, spec.block[1], block) + moved
    stored = generator.constant(by_block(points.astype(np.uint8), columns), "uint8_t")
    return fields | {"zero": generator.pointer(stored)}


def _words(generator: Generator, name: str, codes: np.ndarray, bits: Bits, block: int) -> dict[str, str | int]:
    """Codes as the kernels that unpack them read them."""
    layout = generator.layout(name)
    packed = words(codes.astype(np.uint8), bits, layout, block)
    element = "uint32_t" if packed.dtype == np.uint32 else "uint8_t"
    weight = generator.pointer(generator.constant(packed.view(np.uint8), "uint8_t"))
    fields: dict[str, str | int] = {"weight": f"(const {element} *)({weight})", "bits": bits}
    fields["block_columns"] = layout.columns
    return fields | {"block_depth": layout.depth} if name == "gemm_wna8" else fields


def _looked_up(generator: Generator, codes: np.ndarray, spec: QuantSpec, block: int) -> dict[str, str | int]:
    """Codes as places in tables of sums."""
    planes, step = _planes(spec)
    packed = generator.constant(places(codes // step, planes, block), "uint8_t")
    return {"weight": generator.pointer(packed), "planes": planes, "step": step}


def _table(spec: QuantSpec, call: Call) -> np.ndarray:
    """The value of every code of a format that is not integers, as float32."""
    number = spec.format
    if spec.parts is not None or not isinstance(number, GridFormat) or number.storage_bits > _TABLE_BITS:
        raise call.unsupported(f"weights of {spec}")
    return np.array(number.code_values(), np.float32)


def _places(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The place of every value in a table, the first one where it stands twice."""
    order = np.argsort(table, kind="stable")
    return order[np.searchsorted(table[order], values)]


def _finer(call: Call, taken: int, block: int) -> int:
    """The block in which activations are quantized, which must divide that of the weight."""
    if block % taken:
        raise call.unsupported(f"activations in blocks of {taken} beside weights in blocks of {block}")
    return taken


def _by_output(values: np.ndarray, outputs: int, depth: int, given: int, block: int) -> np.ndarray:
    """Scales [N or 1, blocks] as one for every output and block of `block` inputs."""
    blocks = -(-depth // block)
    table = values.reshape(-1, -(-depth // given) if given > 0 else 1)
    repeats = (given if given > 0 else depth) // block or 1
    wide = np.repeat(table, repeats, axis=1)[:, :blocks] if table.shape[1] != blocks else table
    return np.broadcast_to(wide, (outputs, blocks))


KERNELS: dict[str, Emitter] = {"linear_weight_only": linear}
