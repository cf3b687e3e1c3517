"""Products taken apart: `0.5 * x * (1 + erf(y))` is the number 0.5 and the factors x and (1 + erf(y)), in any order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from qcompiler.ir.pattern import number_of
from qcompiler.ir.program import Node, Program

NEAR = 5e-7


@dataclass
class Product:
    """A tree of multiplications and divisions, flat.

    Args:
        number: product of the numbers.
        factors: tensors above the fraction bar, in reading order.
        divisors: tensors below it.
    """

    number: float = 1.0
    factors: list[Node] = field(default_factory=list)
    divisors: list[Node] = field(default_factory=list)


def product_of(program: Program, node: Node, depth: int = 3) -> Product:
    """Takes the product at `node` apart, at most `depth` operators deep."""
    found = Product()
    _collect(program, node, False, depth, found)
    return found


def _collect(program: Program, value: object, below: bool, depth: int, found: Product) -> None:
    number = number_of(value, program)
    if number is not None and number != 0:
        found.number *= 1 / number if below else number
        return
    if not isinstance(value, Node):
        return
    op = program.op(value)
    if depth and op == "aten.neg":
        found.number = -found.number
        _collect(program, value.args[0], below, depth - 1, found)
    elif depth and op in ("aten.mul.Tensor", "aten.div.Tensor"):
        _collect(program, value.args[0], below, depth - 1, found)
        _collect(program, value.args[1], below != (op == "aten.div.Tensor"), depth - 1, found)
    else:
        (found.divisors if below else found.factors).append(value)


def near(number: float | None, wanted: float) -> bool:
    """Whether a constant is `wanted` up to its rounding to float32."""
    return number is not None and abs(number - wanted) <= NEAR * abs(wanted)


def plus_number(program: Program, node: object) -> tuple[Node, float] | None:
    """The parts of `x + number`."""
    if not isinstance(node, Node) or program.op(node) not in ("aten.add.Tensor", "aten.sub.Tensor"):
        return None
    number = number_of(node.args[1], program)
    if number is None or not isinstance(node.args[0], Node):
        return None
    return node.args[0], number if program.op(node) == "aten.add.Tensor" else -number


def operand(program: Program, node: object, *names: str) -> Node | None:
    """The first argument of a call of one of `names`; None for anything else."""
    if isinstance(node, Node) and program.op(node) in names and isinstance(node.args[0], Node):
        return node.args[0]
    return None


def pairings(nodes: list[Node]) -> Iterator[tuple[Node, Node]]:
    """Two nodes both ways round; nothing when there are not exactly two."""
    if len(nodes) == 2:
        yield nodes[0], nodes[1]
        yield nodes[1], nodes[0]
