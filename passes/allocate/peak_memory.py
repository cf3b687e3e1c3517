"""Peak memory of activations: one limit for every step of the schedule, all of them linear in the choice.

Formula   at step t: sum of the bytes of all values made at t or before and read at t or after. A value that a unit
          makes as codes takes the bits of its spec, every other one those of its type; reshaped values lie where their
          source does
Shapes    one table [unit][option] per step; steps whose values are all alive at another one are left out
Promise   what the schedule in program order needs, without scratch memory of kernels and values inside regions;
          values of joining and carrying kernels count as float, so that it is never less than what they need
Needs     sizes at the hints that the model was traced with
Source    linear liveness constraints for a fixed schedule; own
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from qcompiler.ir.program import Node, Program
from qcompiler.ir.types import TensorType
from qcompiler.passes.allocate.measures import Costs
from qcompiler.passes.allocate.problem import Unit

RESOURCE = "peak_memory"
_VIEWS = frozenset({"aten.reshape", "aten.unsqueeze", "aten.squeeze.dims"})
_BYTE = 8


def peak_memory(program: Program, units: Sequence[Unit]) -> dict[str, Costs]:
    """Costs of every step that may be the peak, by `peak_memory at %node`; their references are the float peak."""
    owner = _owners(units)
    sizes = {value: _bytes(program, value) for value in _values(program)}
    found: dict[str, Costs] = {}
    steps = _alive(program)
    whole = max((math.fsum(sizes[value] for value in alive) for alive in steps.values()), default=0.0)
    for step, alive in steps.items():
        table = [[0.0] * len(unit.options) for unit in units]
        for value in alive:
            unit, bits = owner.get(value.name, (0, []))
            for option, width in enumerate(bits):
                table[unit][option] += sizes[value] if width is None else _elements(program, value) * width / _BYTE
        fixed = math.fsum(sizes[value] for value in alive if value.name not in owner)
        found[f"{RESOURCE} at %{step.name}"] = Costs(table, fixed, whole)
    return found


def _owners(units: Sequence[Unit]) -> dict[str, tuple[int, list[int | None]]]:
    """For each value that some option makes as codes: the unit, and the bits under each option, None for float."""
    found: dict[str, tuple[int, list[int | None]]] = {}
    for number, unit in enumerate(units):
        # Where an activation is absorbed, the value in front of it is the codes as well.
        made = [
            {
                value: item.result.bits
                for name, item in option.assignments.items()
                if item.result is not None
                for value in (name, item.result_at)
            }
            for option in unit.options
        ]
        for name in dict.fromkeys(name for bits in made for name in bits):
            found[name] = (number, [bits.get(name) for bits in made])
    return found


def _values(program: Program) -> list[Node]:
    nodes = [*program.inputs, *program.nodes]
    return [node for node in nodes if isinstance(program.type(node), TensorType)]


def _alive(program: Program) -> dict[Node, list[Node]]:
    """The values that lie in memory at each operator."""
    home: dict[Node, Node] = {}
    for node in program.graph.nodes:
        viewed = program.op(node) in _VIEWS and node.all_input_nodes[0].op != "get_attr"
        home[node] = home[node.all_input_nodes[0]] if viewed else node
    values = {node for node in _values(program) if home[node] is node}
    order = [node for node in program.graph.nodes if node.op != "get_attr"]
    first = {node: place for place, node in enumerate(order)}
    last = dict(first)
    for node in order:
        for source in node.all_input_nodes:
            last[home[source]] = max(last.get(home[source], 0), first[node])
    for output in program.outputs:
        last[home[output]] = len(order)
    steps = {
        node: frozenset(value for value in values if first[value] <= first[node] <= last[value])
        for node in program.nodes
    }
    return {node: sorted(alive, key=first.__getitem__) for node, alive in _largest(steps).items()}


def _largest(steps: Mapping[Node, frozenset[Node]]) -> dict[Node, frozenset[Node]]:
    """The steps whose values are not all alive at another one too; of equals the first."""
    kept: dict[Node, frozenset[Node]] = {}
    for node, alive in sorted(steps.items(), key=lambda item: -len(item[1])):
        if not any(alive <= other for other in kept.values()):
            kept[node] = alive
    return kept


def _elements(program: Program, value: Node) -> int:
    return math.prod(program.dimensions.hint(size) for size in program.shape(value))


def _bytes(program: Program, value: Node) -> float:
    return float(_elements(program, value) * program.tensor_type(value).dtype.itemsize)
