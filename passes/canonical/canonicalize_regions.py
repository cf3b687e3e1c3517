"""Regions in canonical spelling: what the other canonical passes do to a program, done to every region inside it.

Formula   parameters that a region captures become its own; then every pass of `STEPS`, in order, on the region, from
          the outside inwards; captures that nobody reads go. A region that several operators run keeps its captures
Shapes    any
Promise   Exact within the sum of what these passes promise
Needs     nothing; regions are float islands, so that nothing else is ever done to them
Source    own
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir.ops import runs_regions
from qcompiler.ir.program import Node, Program, Stage
from qcompiler.ir.region import captures_of, change_regions, map_regions, regions_of, with_signature
from qcompiler.passes.canonical.steps import STEPS
from qcompiler.pipeline import Context, Exact, Promise


@dataclass(frozen=True)
class CanonicalizeRegions:
    """Rewrites regions to the canonical vocabulary."""

    name: ClassVar[str] = "canonicalize_regions"
    needs: ClassVar[Stage] = Stage.TRACED
    gives: ClassVar[Stage] = Stage.TRACED
    promise: ClassVar[Promise] = Exact(1e-5)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with canonical regions.

        Raises:
            UnsupportedError: for a norm in training mode inside a region.
        """

        def rewritten(region: Program) -> Program:
            region = region.copy()
            for step in STEPS:
                region = step.run(region, ctx)
                region.erase_dead()
            return self.run(region, ctx)

        own = [node for node in program.nodes if runs_regions(node.target) and _is_alone(program, node)]
        for node in own:
            _sink_params(program, node)
        map_regions(program, rewritten)
        for node in own:
            _drop_unread(program, node)
        return program


def _is_alone(program: Program, node: Node) -> bool:
    """Whether no other operator runs one of the node's regions, nor the node itself one of them twice."""
    runs = Counter(region for each in program.nodes for region in regions_of(each).values())
    regions = list(regions_of(node).values())
    return all(runs[region] == 1 for region in regions)


def _sink_params(program: Program, node: Node) -> None:
    captures = captures_of(node)
    constant = [index for index, value in enumerate(captures) if value.op == "get_attr"]

    def sunk(region: Program) -> Program:
        region = region.copy()
        inputs = region.inputs[len(region.inputs) - len(captures) :]
        first = next(inner for inner in region.graph.nodes if inner.op != "placeholder")
        for index in constant:
            name = str(captures[index].target)
            value = region.before(first).param(name, program.params[name], program.tensor_type(captures[index]))
            region.replace(inputs[index], value)
        return region

    if constant:
        _rewrite(program, node, sunk, [value for index, value in enumerate(captures) if index not in constant])


def _drop_unread(program: Program, node: Node) -> None:
    captures = captures_of(node)
    read = {
        index
        for region in regions_of(node).values()
        for index, value in enumerate(region.program.inputs[len(region.program.inputs) - len(captures) :])
        if value.users
    }

    def narrowed(region: Program) -> Program:
        region = region.copy()
        for index, value in enumerate(region.inputs[len(region.inputs) - len(captures) :]):
            if index not in read:
                region.erase(value)
        return region

    if len(read) < len(captures):
        _rewrite(program, node, narrowed, [value for index, value in enumerate(captures) if index in read])


def _rewrite(program: Program, node: Node, change: Callable[[Program], Program], captures: list[Node]) -> None:
    """Changes the regions of one operator and what it hands to them."""
    change_regions(program, node, lambda region: with_signature(change(region)))
    program.set_args(node, [*node.args[:-1], captures], node.kwargs)
