"""Linear layers whose weights are codes of vectors in learned tables; see `backends.reference.codebook`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from qcompiler.backends.c.codebook_packing import COLUMNS, block_scales, code_bits, vector_codes
from qcompiler.backends.c.emit.dense import rows_of
from qcompiler.backends.c.generator import Emitted, Emitter, Generator
from qcompiler.backends.lowering.call import Call
from qcompiler.ir.program import Node

_LANES = 16


def linear(generator: Generator, call: Call) -> Emitted:
    """Activations are floats; tables are filled up to whole vectors of entries."""
    x, codes, tables, factor, bias = call.inputs
    if not isinstance(x, Node) or not isinstance(factor, Node):
        raise call.unsupported("its arguments are not tensors")
    source = rows_of(generator, generator.operand(x))
    shape = generator.shape(call.node)
    rows = math.prod(shape[:-1])
    out = generator.new(shape, "float")
    fields = _weight(generator, call, codes, tables)
    scale = generator.program.param(factor).float().numpy()
    fields |= {
        "input": generator.pointer(source),
        "input_stride": source.strides[-2],
        "scale": generator.pointer(generator.constant(block_scales(scale), "float")),
        "rows": rows,
        "columns": shape[-1],
        "depth": source.shape[-1],
        "block": call.integer("block"),
        "out": generator.pointer(out),
        "out_stride": shape[-1],
    }
    if isinstance(bias, Node):
        fields["bias"] = generator.pointer(generator.contiguous(generator.operand(bias)))
    generator.call("gemm_codebook", fields, -(-shape[-1] // COLUMNS))
    return out


def _weight(generator: Generator, call: Call, codes: object, tables: object) -> dict[str, str | int]:
    values = [table.astype(np.float32) for table in _params(generator, call, tables)]
    most = max(len(table) for table in values)
    entries = -(-most // _LANES) * _LANES
    table = np.stack([np.pad(table, [(0, entries - len(table)), (0, 0)]) for table in values])
    bits = code_bits(most)
    packed = vector_codes(np.stack(_params(generator, call, codes)).astype(np.int64), bits)
    return {
        "codes": generator.pointer(generator.constant(packed, "uint8_t")),
        "code_bits": bits,
        "table": generator.pointer(generator.constant(table, "float")),
        "turned": generator.pointer(generator.constant(table.transpose(0, 2, 1), "float")),
        "tables": len(table),
        "entries": entries,
        "length": table.shape[2],
    }


def _params(generator: Generator, call: Call, nodes: object) -> list[np.ndarray]:
    if not isinstance(nodes, Sequence) or not all(isinstance(node, Node) for node in nodes):
        raise call.unsupported("its codes and tables are not parameters")
    return [generator.program.param(node).numpy() for node in nodes]


KERNELS: dict[str, Emitter] = {"linear_codebook": linear}
