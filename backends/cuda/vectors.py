"""Weights that are codes of vectors in a table: which kernel takes them, and what it reads."""

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
_TABLES = {"table16": (1, 16), "codebook8d4": (4, 1 << 8), "codebook8d8": (8, 1 << 8), "codebook16d8": (8, 1 << 16)}
"""Lengths of vectors, and entries of tables, by the ends of kernels' names; smaller tables come first."""


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

    The table is rounded to the kernel's floats, multiplied by the power of two that makes its largest entry 0.5 .. 1.

    Args:
        found: a weight for which `takes` is true.
        bias: of the outputs.
        compute: the library's floats.
    """
    name = _name(found) or ""
    length, entries = _TABLES[name]
    group, depth = min(_group(found), found.inputs), found.inputs
    kind = kind_of(compute)
    known = found.tables[0].detach().float()
    power = int(torch.frexp(known.abs().max()).exponent)
    table = torch.zeros(entries, length)
    table[: len(known)] = torch.ldexp(known, torch.tensor(-power))
    codes = found.codes[0][:, : depth // length].numpy().astype(np.uint32)
    factor = found.factor.detach().float()
    tensors = {
        "codes": torch.from_numpy(pack_codes(codes, name).view(np.int32)),
        "scale": packed_scales(factor, name, kind, depth, group),
        "table": table.to(dtype_of(kind)),
    }
    if bias is not None:
        tensors["bias"] = bias.reshape(-1).float()
    return Packed(name, len(codes), depth, group, tensor_scale(factor.numpy(), 2.0**power), tensors)


def _name(found: Vectors) -> str | None:
    """The kernel's, for weights of one summand."""
    if len(found.tables) != 1:
        return None
    size, length = found.tables[0].shape
    return next((name for name, (one, most) in _TABLES.items() if one == length and size <= most), None)


def _group(found: Vectors) -> int:
    """Inputs that share a factor."""
    return found.block * found.length
