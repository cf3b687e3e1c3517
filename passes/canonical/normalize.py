"""Normalize: every operator in the one spelling that later passes read, whichever front-end it came from.

Formula   a table from operator name to a narrow rule, applied to every node and to the nodes that rules make; then
          sizes as integers or arithmetic on input sizes, default arguments written out, bookkeeping arguments dropped
Shapes    any
Promise   Exact: a rule only renames, reorders or splits operators, float64 rounding apart
Needs     nothing
Source    the operator schemas of ATen; own
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from qcompiler.ir.ops import is_symbolic
from qcompiler.ir.program import Node, Program, Stage, map_nodes
from qcompiler.ir.types import SymbolType
from qcompiler.passes.canonical.site import Rule, apply_rules
from qcompiler.passes.canonical.sizes import Sizes
from qcompiler.passes.canonical.spell_group import grouped_rules
from qcompiler.passes.canonical.spell_identity import IDENTITY
from qcompiler.passes.canonical.spell_layer import LAYER, filled_rules
from qcompiler.passes.canonical.spell_math import MATH
from qcompiler.passes.canonical.spell_matrix import MATRIX
from qcompiler.passes.canonical.spell_reduce import REDUCE
from qcompiler.passes.canonical.spell_shape import SHAPE, sized_rules
from qcompiler.passes.canonical.spell_update import update_rules
from qcompiler.passes.canonical.spell_window import window_rules
from qcompiler.pipeline import Context, Exact, Promise

RULES: Mapping[str, Rule] = {**IDENTITY, **SHAPE, **MATH, **MATRIX, **REDUCE, **LAYER}
BOOKKEEPING = frozenset({"device", "layout", "pin_memory", "memory_format", "non_blocking", "implicit"})
LENGTHS: Mapping[str, int] = {
    "aten.layer_norm": 5,
    "aten.group_norm": 5,
    "aten.embedding": 2,
    "aten.softmax.int": 2,
    "aten.log_softmax.int": 2,
}


@dataclass(frozen=True)
class Normalize:
    """Rewrites ATen spellings to the canonical vocabulary."""

    name: ClassVar[str] = "normalize"
    needs: ClassVar[Stage] = Stage.TRACED
    gives: ClassVar[Stage] = Stage.TRACED
    promise: ClassVar[Promise] = Exact()

    def run(self, program: Program, ctx: Context) -> Program:
        """The program in canonical spelling.

        Raises:
            UnsupportedError: for a norm in training mode.
        """
        apply_rules(program, rules(program, self.name), self.name)
        sizes = Sizes(program, self.name)
        for node in program.nodes:
            if not is_symbolic(node.target):
                spell_sizes(program, node, sizes)
                spell_defaults(program, node)
        return program


def rules(program: Program, step: str) -> dict[str, Rule]:
    """The whole table for one program."""
    sizes = Sizes(program, step)
    made = {**grouped_rules(sizes), **window_rules(sizes, REDUCE)}
    return {**RULES, **sized_rules(sizes), **filled_rules(sizes), **update_rules(sizes), **made}


def spell_sizes(program: Program, node: Node, sizes: Sizes) -> None:
    """Replaces symbolic operands by integers or by arithmetic on input sizes."""
    if not any(isinstance(program.type(source), SymbolType) for source in node.all_input_nodes):
        return

    def canonical(source: Node) -> int | Node:
        return sizes.canonical(source, node) if isinstance(program.type(source), SymbolType) else source

    args = [map_nodes(argument, canonical) for argument in node.args]
    kwargs = {key: map_nodes(argument, canonical) for key, argument in node.kwargs.items()}
    if args != list(node.args) or kwargs != dict(node.kwargs):
        program.set_args(node, args, kwargs)


def spell_defaults(program: Program, node: Node) -> None:
    """Writes every positional argument out, and keyword-only ones where they differ from their default."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return
    schema = node.target._schema.arguments
    bound = program.bind(node)
    positional = [argument.name for argument in schema if not argument.kwarg_only]
    positional = positional[: LENGTHS.get(program.op(node), len(positional))]
    args = [bound[name] for name in positional]
    kwargs = {
        argument.name: bound[argument.name]
        for argument in schema
        if argument.kwarg_only and argument.name not in BOOKKEEPING and bound[argument.name] != _default(argument)
    }
    if args != list(node.args) or kwargs != dict(node.kwargs):
        program.set_args(node, args, kwargs)


def _default(argument: torch.Argument) -> object:
    return argument.default_value if argument.has_default_value() else None
