"""Patterns over a Program: written as calls, matched with reasons for every refusal.

A pattern is built from `Op`, `Any`, `Const` and `Same`. Matching starts at a root node and walks against the flow of
data. A `Match` carries everything captured; nothing is kept between match and rewrite but the Match. A `Refusal` says
how far it got and why it stopped, so that "why did this not fire" has an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from qcompiler.ir.program import Node, Program

COMMUTATIVE = frozenset({"aten.add.Tensor", "aten.mul.Tensor"})


@dataclass(frozen=True)
class Any:
    """Matches every value; captured under `name` when one is given."""

    name: str = ""


@dataclass(frozen=True)
class Param:
    """Matches a parameter, captured under `name`."""

    name: str


@dataclass(frozen=True)
class Const:
    """Matches a number, or a parameter with one element, for which `test` holds; captured as float under `name`."""

    name: str = ""
    test: Callable[[float], bool] = lambda value: True
    says: str = "another number"

    @staticmethod
    def near(value: float, name: str = "", tolerance: float = 1e-4) -> Const:
        """A number within a relative tolerance of `value`."""
        return Const(name, lambda found: abs(found - value) <= tolerance * max(abs(value), 1e-30), f"about {value}")


@dataclass(frozen=True)
class Op:
    """Matches a call.

    Args:
        names: accepted operator names.
        args: patterns of the leading arguments; commutative operators are tried both ways round.
        name: captures the node.
        shared: whether the inner value may have readers outside the match (the root always may).
        where: patterns of further arguments by schema name; plain values must be equal.
    """

    names: tuple[str, ...]
    args: tuple[Pattern, ...] = ()
    name: str = ""
    shared: bool = False
    where: tuple[tuple[str, object], ...] = ()


Pattern = Any | Param | Const | Op | None


def op(
    names: str, *args: Pattern, name: str = "", shared: bool = False, where: Sequence[tuple[str, object]] = ()
) -> Op:
    """An `Op` pattern; `names` separates alternatives with `|`."""
    return Op(tuple(names.split("|")), args, name, shared, tuple(where))


@dataclass(frozen=True)
class Match:
    """A successful match: the root, what was captured, and every operator node inside."""

    root: Node
    captured: dict[str, object]
    nodes: tuple[Node, ...]

    def node(self, name: str) -> Node:
        """A captured node."""
        value = self.captured[name]
        if not isinstance(value, Node):
            raise KeyError(name)
        return value

    def number(self, name: str) -> float:
        """A captured number."""
        return float(self.captured[name])  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Refusal:
    """Why a pattern, a guard or a pass said no.

    Args:
        reason: one line.
        node: name of the node that was looked at.
        depth: how many nodes had matched by then, kernels been tried, or candidates been measured.
        mend: what would turn it into a yes; empty where nobody knows.
    """

    reason: str
    node: str = ""
    depth: int = 0
    mend: str = ""

    def __bool__(self) -> bool:
        return False


@dataclass
class _State:
    program: Program
    root: Node
    captured: dict[str, object] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)


def match(pattern: Op, program: Program, root: Node) -> Match | Refusal:
    """Tries a pattern at one node."""
    state = _State(program, root)
    reason = _match(pattern, root, state)
    if reason:
        return Refusal(reason, root.name, len(state.nodes))
    return Match(root, state.captured, tuple(state.nodes))


def matches(pattern: Op, program: Program) -> Iterator[Match]:
    """Every match in the program, in execution order; the program may be edited between two of them."""
    for node in program.nodes:
        if node._erased:
            continue
        found = match(pattern, program, node)
        if isinstance(found, Match):
            yield found


def _match(pattern: Pattern, value: object, state: _State) -> str:
    """Empty when `value` matches, else the reason."""
    if pattern is None:
        return "" if value is None else f"{value} where nothing was expected"
    if isinstance(pattern, Any):
        return _capture(pattern.name, value, state)
    if isinstance(pattern, Param):
        if not isinstance(value, Node) or value.op != "get_attr":
            return f"{value} is not a parameter"
        return _capture(pattern.name, value, state)
    if isinstance(pattern, Const):
        number = number_of(value, state.program)
        if number is None or not pattern.test(number):
            return f"{value if number is None else number} where {pattern.says} was expected"
        return _capture(pattern.name, number, state)
    return _match_op(pattern, value, state)


def _match_op(pattern: Op, value: object, state: _State) -> str:
    if not isinstance(value, Node) or value.op != "call_function":
        return f"{value} where {'|'.join(pattern.names)} was expected"
    name = state.program.op(value)
    if name not in pattern.names:
        return f"%{value.name} is {name}, not {'|'.join(pattern.names)}"
    if value is not state.root and not pattern.shared and len(value.users) > 1:
        return f"%{value.name} has other readers"
    orders: list[tuple[Pattern, ...]] = [pattern.args]
    if name in COMMUTATIVE and len(pattern.args) == 2:
        orders.append((pattern.args[1], pattern.args[0]))
    farthest, depth = "", -1
    for order in orders:
        saved = dict(state.captured), list(state.nodes)
        state.nodes.append(value)
        reason = _match_args(pattern, order, value, state)
        if not reason:
            return _capture(pattern.name, value, state)
        if len(state.nodes) > depth:
            farthest, depth = reason, len(state.nodes)
        state.captured, state.nodes = saved
    return farthest


def _match_args(pattern: Op, order: tuple[Pattern, ...], node: Node, state: _State) -> str:
    bound = state.program.bind(node)
    values = list(bound.values())
    for wanted, value in zip(order, values, strict=False):
        reason = _match(wanted, value, state)
        if reason:
            return reason
    for key, wanted in pattern.where:
        if isinstance(wanted, Any | Param | Const | Op):
            reason = _match(wanted, bound[key], state)
        else:
            reason = "" if bound[key] == wanted else f"{key} of %{node.name} is {bound[key]}, not {wanted}"
        if reason:
            return reason
    return ""


def _capture(name: str, value: object, state: _State) -> str:
    if name and name in state.captured and state.captured[name] != value:
        return f"'{name}' would be both {state.captured[name]} and {value}"
    if name:
        state.captured[name] = value
    return ""


def number_of(value: object, program: Program) -> float | None:
    """The number that an argument is: a Python number, or a parameter with one element."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, Node) and value.op == "get_attr":
        type_ = program.tensor_type(value)
        if all(dim == 1 for dim in type_.shape) and type_.spec is None and not type_.dtype.is_complex:
            tensor = program.param(value)
            return float(tensor.item()) if isinstance(tensor, torch.Tensor) else None
    return None
