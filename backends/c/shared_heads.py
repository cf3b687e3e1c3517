"""Attention whose keys and values are repeated, a copy for every head that shares them, reads the originals instead."""

from __future__ import annotations

from qcompiler.ir.program import Node, Program
from qcompiler.ir.types import Dim

_ATTENTION = "aten.scaled_dot_product_attention"
_RANK, _COPIES = 4, 2


def share_heads(program: Program) -> None:
    """Rewrites every attention that it can; the repeated tensors go where nobody else reads them.

    Formula: attention(q, repeat(k), repeat(v)) = attention(q, k, v) with heads in groups, as `enable_gqa` says.
    """
    for node in program.nodes:
        if program.op(node) != _ATTENTION or program.bind(node)["enable_gqa"]:
            continue
        query, key, value, *rest = node.args
        keys, values = _once(program, key), _once(program, value)
        if keys is None or values is None or program.shape(keys)[1] != program.shape(values)[1]:
            continue
        if not isinstance(query, Node) or not isinstance(key, Node) or _lead(program, query) != _lead(program, key):
            continue
        kwargs = {**node.kwargs, "enable_gqa": True}
        program.set_args(node, (query, keys, values, *rest), kwargs)
    program.erase_dead()


def _lead(program: Program, heads: Node) -> tuple[Dim, ...]:
    return program.shape(heads)[:-2]


def _once(program: Program, repeated: object) -> Node | None:
    """What [batch, groups, length, width] was repeated to [batch, groups * copies, length, width]; None otherwise."""
    wide = _source(program, repeated, "aten.reshape")
    spread = _source(program, wide, "aten.expand")
    source = _source(program, spread, "aten.unsqueeze")
    if source is None or wide is None or spread is None or not isinstance(repeated, Node):
        return None
    if program.tensor_type(source).rank != _RANK or program.tensor_type(wide).rank != _RANK + 1:
        return None
    batch, groups, *inner = program.shape(source)
    copies = program.shape(wide)[_COPIES]
    lined_up = program.shape(spread) == (batch, groups, 1, *inner)
    spread_out = program.shape(wide) == (batch, groups, copies, *inner)
    merged = program.shape(repeated) == (batch, groups * copies, *inner)
    return source if lined_up and spread_out and merged else None


def _source(program: Program, node: object, op: str) -> Node | None:
    """What an operator reads; None where `node` is another one."""
    found = node.args[0] if isinstance(node, Node) and program.op(node) == op else None
    return found if isinstance(found, Node) else None
