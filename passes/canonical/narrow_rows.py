"""Rows that nobody reads are not computed: a slice behind operators that work row by row moves in front of them.

Formula   slice(f(x)) = f(slice(x)) for f that computes every row of an axis from the same row of its operands
Shapes    any; a select stays where it is and picks from the one row that is left
Promise   Exact: the rows that stay see the same arithmetic
Needs     every reader picks the same rows; done only up to a matrix product or a norm, else there is nothing to save
Source    own; what it finds is a classifier that reads one token of the last layer
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch.fx.node import Argument

from qcompiler.ir.program import Builder, Node, Program, Stage, map_nodes
from qcompiler.ir.types import TensorType
from qcompiler.passes.canonical.row_wise import HEAVY, ROW_WISE, Pick, pick_of
from qcompiler.pipeline import Context, Exact, Promise


@dataclass(frozen=True)
class NarrowRows:
    """Moves slices towards the inputs."""

    name: ClassVar[str] = "narrow_rows"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact()

    def run(self, program: Program, ctx: Context) -> Program:
        """The program without rows that nobody reads."""
        picks = worthwhile(program, narrowable(program))
        narrowed: dict[Node, Node] = {}
        slices: dict[tuple[Node, Pick], Node] = {}
        for node in program.nodes:
            if node in picks:
                narrowed[node] = self.rewrite(program, node, picks[node], narrowed, slices)
            elif pick_of(program, node) is not None and node.all_input_nodes[0] in narrowed:
                _settle(program, node, narrowed[node.all_input_nodes[0]])
        program.erase_dead()
        for node, new in narrowed.items():
            program.rename(new, node.name)
        return program

    def rewrite(
        self,
        program: Program,
        node: Node,
        pick: Pick,
        narrowed: Mapping[Node, Node],
        slices: dict[tuple[Node, Pick], Node],
    ) -> Node:
        """The node on the rows that are read."""
        builder = program.before(node, self.name)
        found = ROW_WISE[program.op(node)](program, node, pick)
        operands = dict(found.operands) if found is not None else {}

        def rows(source: Node) -> Argument:
            wanted = operands.get(source)
            if wanted is None or source in narrowed:
                return narrowed.get(source, source)
            if (source, wanted) not in slices:
                slices[source, wanted] = _sliced(program, builder, source, wanted)
            return slices[source, wanted]

        args = [map_nodes(argument, rows) for argument in (found.arguments if found is not None else node.args)]
        kwargs = {key: map_nodes(argument, rows) for key, argument in node.kwargs.items()}
        return builder.call(program.op(node), *args, kwargs=kwargs, name=f"{node.name}_rows")


def narrowable(program: Program) -> dict[Node, Pick]:
    """The nodes of which every reader picks the same rows, and these rows."""
    picks: dict[Node, Pick] = {}
    for node in reversed(program.nodes):
        wanted = {_wanted(program, user, node, picks) for user in node.users}
        pick = next(iter(wanted)) if len(wanted) == 1 else None
        rule = ROW_WISE.get(program.op(node))
        if pick is None or rule is None or program.shape(node)[pick.axis] == pick.count:
            continue
        if rule(program, node, pick) is not None:
            picks[node] = pick
    return picks


def worthwhile(program: Program, picks: Mapping[Node, Pick]) -> dict[Node, Pick]:
    """Those that are, or stand behind, an operator that costs more than the slices."""
    kept: dict[Node, Pick] = {}
    for node in program.nodes:
        if node in picks and (program.op(node) in HEAVY or any(source in kept for source in node.all_input_nodes)):
            kept[node] = picks[node]
    return kept


def _wanted(program: Program, user: Node, source: Node, picks: Mapping[Node, Pick]) -> Pick | None:
    """The rows of `source` that `user` reads; None for all of them."""
    if user in picks:
        found = ROW_WISE[program.op(user)](program, user, picks[user])
        return None if found is None else found.operands.get(source)
    return pick_of(program, user) if isinstance(program.type(source), TensorType) else None


def _sliced(program: Program, builder: Builder, source: Node, pick: Pick) -> Node:
    known = program.constant(source)
    if known is None:
        bounds = (pick.axis, pick.start, pick.stop, 1)
        return builder.call("aten.slice.Tensor", source, *bounds, name=f"{source.name}_rows")
    start = pick.start % known.shape[pick.axis]
    return builder.param(f"{source.target}.rows", known.narrow(pick.axis, start, pick.count))


def _settle(program: Program, node: Node, source: Node) -> None:
    """Lets a slice or select read what is left of its operand."""
    if program.op(node) == "aten.select.int":
        program.set_args(node, [source, node.args[1], 0])
    else:
        program.replace(node, source)
