"""Where one unit's result is another's operand: a change of format there costs a kernel of its own.

Formula   mismatch[k][m] = 1 where the producer's option k leaves the value in other numbers than the reader's option m
          takes, else 0
Shapes    tables [option of the producer][option of the reader]
Promise   every hand-over between units, direct or through kernels that carry codes; whatever else computes breaks it
Needs     an offer
Source    own
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from qcompiler.ir.program import Node, all_nodes
from qcompiler.passes.allocate.problem import Table, Unit
from qcompiler.passes.allocate.units import Offer
from qcompiler.spec import QuantSpec


@dataclass(frozen=True)
class Boundary:
    """One value between two units.

    Args:
        left: number of the unit that makes it.
        right: number of the unit that reads it.
        value: name of the node that is read.
        mismatch: [option of the left][option of the right], 1 where numbers must change.
    """

    left: int
    right: int
    value: str
    mismatch: Table


def boundaries(offered: Offer) -> list[Boundary]:
    """All hand-overs between two different units, in program order; one for each value and two units."""
    nodes = {node.name: node for node in offered.program.nodes}
    made = _makers(offered)
    found: dict[tuple[int, int, str], Boundary] = {}
    for right, unit in enumerate(offered.units):
        for name in unit.nodes:
            for argument, source in _operands(offered, nodes[name]):
                maker = _maker(offered, made, source)
                if maker is None or maker[0] == right:
                    continue
                left, producer = maker
                table = _mismatch(offered.units[left], producer, unit, name, argument)
                found.setdefault((left, right, source.name), Boundary(left, right, source.name, table))
    return list(found.values())


def _makers(offered: Offer) -> dict[str, tuple[int, str]]:
    """Unit and operator behind every value that a unit makes, absorbed activations included."""
    found: dict[str, tuple[int, str]] = {}
    for number, unit in enumerate(offered.units):
        for name in unit.nodes:
            found[name] = (number, name)
            for option in unit.options:
                item = option.assignments.get(name)
                if item is not None and item.result is not None:
                    found[item.result_at] = (number, name)
    return found


def _maker(offered: Offer, made: dict[str, tuple[int, str]], value: Node) -> tuple[int, str] | None:
    """The unit whose numbers a value has, looked for through operators that carry them on."""
    while value.name not in made:
        choices = offered.choices.get(value, {})
        if not any(choice.kernel.carries for choice in choices.values()):
            return None
        value = value.all_input_nodes[0]
    return made[value.name]


def _operands(offered: Offer, node: Node) -> Iterator[tuple[str, Node]]:
    for argument, value in offered.program.bind(node).items():
        for source in all_nodes(value):
            if source.op == "call_function":
                yield argument, source


def _mismatch(left: Unit, producer: str, right: Unit, reader: str, argument: str) -> Table:
    def made(option: int) -> QuantSpec | None:
        item = left.options[option].assignments.get(producer)
        return None if item is None else item.result

    def read(option: int) -> QuantSpec | None:
        item = right.options[option].assignments.get(reader)
        return None if item is None else item.inputs.get(argument)

    return [[float(made(k) != read(m)) for m in range(len(right.options))] for k in range(len(left.options))]
