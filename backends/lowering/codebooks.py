"""Weights that solvers wrote as vectors of learned tables, put together at run time, become calls of a kernel.

Formula   `linear(x, cut(sum of entries(table, codes)) * factor, b)` = `linear_codebook(x, codes, tables, factor, b)`
Shapes    weights [N, K]; codes [N, ceil(K / length)]; tables [entries, length]; factors [N, blocks]
Needs     all that makes the weight is known; vectors lie along the inputs, factors are of rows, or of blocks of them
Source    own
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qcompiler.formats import Codebook, Integer
from qcompiler.ir import ops
from qcompiler.ir.program import Builder, Node, Program, map_nodes
from qcompiler.ir.types import TensorType
from qcompiler.spec import Level, QuantSpec

STEP = "lower"
_MOST_ENTRIES = 1 << 16


@dataclass(frozen=True)
class Vectors:
    """A weight as sums of entries.

    Args:
        codes: int64 [N, vectors] of each summand.
        tables: float32 [entries, length] of each summand.
        factor: float32 [N, blocks].
        block: vectors that share a factor.
        inputs: columns of the weight.
    """

    codes: tuple[Tensor, ...]
    tables: tuple[Tensor, ...]
    factor: Tensor
    block: int
    inputs: int

    @property
    def length(self) -> int:
        """Elements of a vector."""
        return self.tables[0].shape[1]


def take_codebooks(program: Program, fits: Callable[[Node, Vectors], bool]) -> None:
    """Puts kernels in the place of linear layers with such weights.

    Args:
        program: at stage lowered; changed in place.
        fits: whether there is a kernel for a layer and its weight.
    """
    for node in program.nodes:
        if program.op(node) == "aten.linear":
            weight = program.bind(node)["weight"]
            found = vectors_of(program, weight) if isinstance(weight, Node) else None
            if found is not None and fits(node, found):
                _replace(program, node, found)
    program.erase_dead()


def vectors_of(program: Program, node: Node) -> Vectors | None:
    """What a weight is made of; None where it is something else."""
    match program.op(node):
        case "qc.dequantize":
            return _dequantized(program, node)
        case "aten.reshape":
            return _looked_up(program, node)
        case "aten.gather":
            return _gathered(program, node)
        case "aten.mul.Tensor":
            return _scaled(program, node)
        case "aten.index_select":
            return _cut(program, node)
        case "aten.add.Tensor":
            return _sum(program, node)
    return None


def _looked_up(program: Program, node: Node) -> Vectors | None:
    """Entries of consecutive vectors of a row."""
    source = program.bind(node)["self"]
    if not isinstance(source, Node) or program.op(source) != "aten.embedding":
        return None
    bound = program.bind(source)
    table, indices, shape = _value(program, bound["weight"]), _value(program, bound["indices"]), program.shape(node)
    if table is None or indices is None or len(shape) != 2 or indices.dim() != 1:
        return None
    rows, columns = map(int, shape)
    if columns % table.shape[1]:
        return None
    return _plain(indices.reshape(rows, -1), table, columns)


def _gathered(program: Program, node: Node) -> Vectors | None:
    """Single numbers, rows of a group from a table of their own: all tables one after the other."""
    bound = program.bind(node)
    picked = bound["self"]
    if bound["dim"] not in (1, -1) or not isinstance(picked, Node) or program.op(picked) != "aten.index_select":
        return None
    of_tables = program.bind(picked)
    tables, group = _value(program, of_tables["self"]), _value(program, of_tables["index"])
    codes = _value(program, bound["index"])
    if of_tables["dim"] != 0 or tables is None or group is None or codes is None:
        return None
    return _plain(codes + group[:, None] * tables.shape[1], tables.reshape(-1, 1), codes.shape[1])


def _dequantized(program: Program, node: Node) -> Vectors | None:
    """Codes of a spec whose format is a codebook."""
    bound = program.bind(node)
    spec = bound["spec"]
    codes, scale, table = (_value(program, bound[name]) for name in ("codes", "scale", "table"))
    if not isinstance(spec, QuantSpec) or not isinstance(spec.format, Codebook):
        return None
    if codes is None or scale is None or table is None or codes.dim() != 2 or len(spec.levels) != 1:
        return None
    inputs, length = int(program.shape(node)[1]), spec.format.dimension
    group = spec.block[1] if spec.block[1] > 0 else codes.shape[1] * length
    if table.numel() != spec.format.entries * length or group % length or spec.block[0] not in (1, -1):
        return None
    found = _plain(codes, table.reshape(-1, length), inputs)
    factor = scale.float().expand(codes.shape[0], -1)
    return None if found is None else replace(found, factor=factor, block=group // length)


def _scaled(program: Program, node: Node) -> Vectors | None:
    """A factor for every row."""
    sides = [program.bind(node)[name] for name in ("self", "other")]
    for part, other in (sides, sides[::-1]):
        factor = _value(program, other)
        found = vectors_of(program, part) if isinstance(part, Node) and factor is not None else None
        if found is not None and factor is not None and _of_rows(factor, found):
            return replace(found, factor=found.factor * factor.float().reshape(-1, 1))
    return None


def _of_rows(factor: Tensor, found: Vectors) -> bool:
    return factor.numel() == 1 or (factor.dim() == 2 and factor.shape == (found.factor.shape[0], 1))


def _cut(program: Program, node: Node) -> Vectors | None:
    """The first columns, in their order."""
    bound = program.bind(node)
    order, source = _value(program, bound["index"]), bound["self"]
    if bound["dim"] != 1 or order is None or not torch.equal(order, torch.arange(len(order))):
        return None
    found = vectors_of(program, source) if isinstance(source, Node) else None
    return None if found is None else replace(found, inputs=len(order))


def _sum(program: Program, node: Node) -> Vectors | None:
    """Summands of equal vectors and factors."""
    bound = program.bind(node)
    parts = [vectors_of(program, side) if isinstance(side, Node) else None for side in (bound["self"], bound["other"])]
    one, other = parts
    if one is None or other is None or bound["alpha"] != 1 or one.inputs != other.inputs:
        return None
    alike = one.length == other.length and one.block == other.block and torch.equal(one.factor, other.factor)
    return replace(one, codes=one.codes + other.codes, tables=one.tables + other.tables) if alike else None


def _plain(codes: Tensor, table: Tensor, inputs: int) -> Vectors | None:
    if len(table) > _MOST_ENTRIES:
        return None
    return Vectors((codes.long(),), (table.float(),), torch.ones(len(codes), 1), codes.shape[1], inputs)


def _value(program: Program, node: object) -> Tensor | None:
    """What a node computes from parameters alone; None where it reads anything else."""
    if not isinstance(node, Node):
        return None
    if node.op == "get_attr":
        return program.param(node)
    if node.op != "call_function":
        return None
    known = {source: _value(program, source) for source in node.all_input_nodes}
    if not known or any(value is None for value in known.values()):
        return None
    arguments = [map_nodes(argument, known.__getitem__) for argument in node.args]  # pyright: ignore[reportArgumentType]
    named = {key: map_nodes(value, known.__getitem__) for key, value in node.kwargs.items()}  # pyright: ignore[reportArgumentType]
    found = ops.op_target(program.op(node))(*arguments, **named)
    return found if isinstance(found, Tensor) else None


def _replace(program: Program, node: Node, found: Vectors) -> None:
    bound = program.bind(node)
    builder = program.before(node, STEP)
    name = node.name
    pairs = zip(found.codes, found.tables, strict=True)
    call = builder.call(
        "qc.kernel",
        "linear_codebook",
        bound["input"],
        [_codes(builder, f"{name}.codes", codes, len(table)) for codes, table in pairs],
        [builder.param(f"{name}.table", table) for table in found.tables],
        builder.param(f"{name}.factor", found.factor.contiguous()),
        bound["bias"],
        kwargs={"op": "aten.linear", "block": found.block},
        name=f"{name}_codebook",
        type_=program.type(node),
    )
    call.meta |= {key: value for key, value in node.meta.items() if key == "decomposition"}
    program.replace(node, call)
    program.rename(call, name)


def _codes(builder: Builder, name: str, codes: Tensor, entries: int) -> Node:
    """A parameter that is stored with as many bits as its codes need."""
    bits = max(1, (entries - 1).bit_length())
    spec = QuantSpec(Integer(bits if bits <= 8 else 16, signed=False), (Level((-1, -1)),))
    return builder.param(name, codes.float(), TensorType(torch.float32, tuple(codes.shape), spec))
