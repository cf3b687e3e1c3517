"""Weights that are codes of vectors in tables: which kernel takes them, and what it reads."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qcompiler.backends.cuda.guards import whole_vectors
from qcompiler.backends.cuda.settings import Compute
from qcompiler.backends.cuda.weight_only import LEAST_GROUP, Packed, dtype_of, kind_of, packed_scales
from qcompiler.backends.cuda.weight_only_packing import pack_codes, tensor_scale
from qcompiler.backends.lowering.codebooks import Vectors
from qcompiler.backends.lowering.guards import batched, single_precision
from qcompiler.ir.program import Node, Program, all_nodes

CODEBOOK = "linear_codebook"
_TABLES = {
    "table4": (1, 4, 1),
    "table8": (1, 8, 1),
    "table16": (1, 16, 1),
    "codebook8d4": (4, 1 << 8, 1),
    "codebook8d8": (8, 1 << 8, 1),
    "codebook16d8": (8, 1 << 16, 1),
    "codebook8d4x2": (4, 1 << 8, 2),
    "codebook8d8x2": (8, 1 << 8, 2),
    "codebook16d8x2": (8, 1 << 16, 2),
    "codebook8d8x4": (8, 1 << 8, 4),
}
"""Lengths of vectors, entries of a table, and tables, by the ends of kernels' names; those that read less come first.
"""


def takes(program: Program, node: Node, found: Vectors) -> bool:
    """Whether there is a kernel for a linear layer with such a weight."""
    group = _group(found)
    whole = group >= found.inputs or (group >= LEAST_GROUP and group & (group - 1) == 0)
    obstacles = (guard(program, node) for guard in (single_precision, batched, whole_vectors))
    return whole and _name(found) is not None and bool(found.factor.any()) and not any(obstacles)


def vectors_at(program: Program, node: Node) -> Vectors:
    """The weight of a call that `take_codebooks` made."""
    codes, tables, factors = ([program.param(one).detach() for one in all_nodes(part)] for part in node.args[2:5])
    block, width = node.kwargs["block"], program.shape(next(all_nodes(node.args[1])))[-1]
    return Vectors(tuple(one.long() for one in codes), tuple(tables), factors[0], int(str(block)), int(str(width)))


def packed_vectors(found: Vectors, bias: Tensor | None, compute: Compute) -> Packed:
    """What a product reads besides activations.

    Tables are rounded to the kernel's floats, multiplied by the power of two that makes their largest entry 0.5 .. 1.
    Where the kernel has more of them than the weight, the others hold zeros.

    Args:
        found: a weight for which `takes` is true.
        bias: of the outputs.
        compute: the library's floats.
    """
    name = _name(found) or ""
    length, entries, summands = _TABLES[name]
    group, depth = min(_group(found), found.inputs), found.inputs
    kind = kind_of(compute)
    power = max(int(torch.frexp(one.detach().float().abs().max()).exponent) for one in found.tables)
    tables = torch.zeros(summands, entries, length)
    codes = np.zeros((len(found.factor), depth // length, summands), np.uint32)
    for index, (one, known) in enumerate(zip(found.codes, found.tables, strict=True)):
        tables[index, : len(known)] = torch.ldexp(known.detach().float(), torch.tensor(-power))
        codes[..., index] = one[:, : depth // length].numpy()
    factor = found.factor.detach().float()
    tensors = {
        "codes": torch.from_numpy(pack_codes(codes.reshape(len(codes), -1), name).view(np.int32)),
        "scale": packed_scales(factor, name, kind, depth, group),
        "table": tables.reshape(-1, length).to(dtype_of(kind)),
    }
    if bias is not None:
        tensors["bias"] = bias.reshape(-1).float()
    return Packed(name, len(codes), depth, group, tensor_scale(factor.numpy(), 2.0**power), tensors)


def _name(found: Vectors) -> str | None:
    """The kernel's, with room for all tables."""
    size, summands = max(len(table) for table in found.tables), len(found.tables)
    fitting = (
        name
        for name, (length, entries, most) in _TABLES.items()
        if length == found.length and size <= entries and summands <= most
    )
    return next(fitting, None)


def _group(found: Vectors) -> int:
    """Inputs that share a factor."""
    return found.block * found.length
