"""One node under rewriting, and the driver that applies a table of narrow rules to a whole program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from qcompiler.errors import VerifyError
from qcompiler.ir import ops
from qcompiler.ir.pattern import number_of
from qcompiler.ir.program import Node, Program
from qcompiler.ir.types import Dim, SymbolType, TensorType, TupleType

Number = int | float
Result = Node | Sequence[Node | None] | None


@dataclass
class Site:
    """What a rule sees: the node, its arguments by name, and a way to add nodes in front of it.

    Args:
        program: being rewritten.
        node: the call at hand.
        step: name of the pass.
        arguments: of the call, by schema name, defaults filled in.
        made: every node that the rule added.
    """

    program: Program
    node: Node
    step: str
    arguments: Mapping[str, object]
    made: list[Node] = field(default_factory=list)

    # -- arguments ----------------------------------------------------------------------------------------------------

    def tensor(self, name: str) -> Node:
        """A tensor argument.

        Raises:
            VerifyError: when it is something else.
        """
        value = self.arguments[name]
        if not isinstance(value, Node):
            raise VerifyError(f"{name} of '%{self.node.name}' is {value}, not a tensor")
        return value

    def optional(self, name: str) -> Node | None:
        """A tensor argument, None when absent."""
        return None if self.arguments[name] is None else self.tensor(name)

    def integer(self, name: str) -> int:
        """A constant integer argument.

        Raises:
            VerifyError: when it is something else.
        """
        value = self.arguments[name]
        if not isinstance(value, int):
            raise VerifyError(f"{name} of '%{self.node.name}' is {value}, not an integer")
        return value

    def flag(self, name: str) -> bool:
        """A Boolean argument."""
        return bool(self.arguments[name])

    def integers(self, name: str) -> list[int]:
        """A list of constant integers; a lone integer is a list of one.

        Raises:
            VerifyError: when it holds anything else.
        """
        value = self.arguments[name]
        items = [value] if isinstance(value, int) else value
        if not isinstance(items, list | tuple) or not all(isinstance(item, int) for item in items):
            raise VerifyError(f"{name} of '%{self.node.name}' is {value}, not a list of integers")
        return [int(item) for item in items]

    def nodes(self, name: str) -> list[Node]:
        """A list of tensors.

        Raises:
            VerifyError: when it holds anything else.
        """
        value = self.arguments[name]
        if not isinstance(value, list | tuple) or not all(isinstance(item, Node) for item in value):
            raise VerifyError(f"{name} of '%{self.node.name}' is not a list of tensors")
        return [item for item in value if isinstance(item, Node)]

    def number(self, name: str) -> Number | None:
        """A number, or the number in a parameter with one element that broadcasts without adding an axis."""
        return number_in(self.program, self.arguments[name], self.rank(self.node))

    # -- types --------------------------------------------------------------------------------------------------------

    def shape(self, node: Node) -> tuple[Dim, ...]:
        """Shape of a tensor."""
        return self.program.shape(node)

    def rank(self, node: Node) -> int:
        """Number of axes of a tensor; 0 for anything else."""
        type_ = self.program.type(node)
        return type_.rank if isinstance(type_, TensorType) else 0

    def dtype(self, node: Node) -> torch.dtype:
        """Element type of a tensor."""
        return self.program.tensor_type(node).dtype

    def axis(self, name: str, rank: int) -> int:
        """A constant axis argument, made non-negative."""
        return self.integer(name) % max(rank, 1)

    def axes(self, name: str, rank: int) -> list[int]:
        """Constant axes, non-negative and in order; all of them when none are given."""
        value = self.arguments[name]
        given = [] if value is None else self.integers(name)
        return sorted(axis % max(rank, 1) for axis in given) or list(range(rank))

    # -- making -------------------------------------------------------------------------------------------------------

    def call(self, op: str, *args: object, kwargs: Mapping[str, object] | None = None) -> Node:
        """Adds a call in front of the node."""
        made = self.program.before(self.node, self.step).call(op, *args, kwargs=kwargs, name=op.split(".")[1])
        self.made.append(made)
        return made

    def constant(self, name: str, value: torch.Tensor) -> Node:
        """Adds a parameter in front of the node."""
        return self.program.before(self.node, self.step).param(name, value)

    def cast(self, node: Node, dtype: torch.dtype) -> Node:
        """`node` converted to `dtype`; itself when it has that type."""
        return node if self.dtype(node) == dtype else self.call("aten._to_copy", node, kwargs={"dtype": dtype})


Rule = Callable[[Site], Result]
_SWITCHES = ("dropout_p", "dropout", "p", "train", "training")


def number_in(program: Program, value: object, rank: int) -> Number | None:
    """The number that an operand is, when replacing it keeps a result of `rank` axes."""
    if isinstance(value, Node):
        if value.op != "get_attr" or program.tensor_type(value).rank > rank:
            return None
        found = number_of(value, program)
        integral = not program.tensor_type(value).dtype.is_floating_point
        return int(found) if found is not None and integral else found
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def is_constant(value: object) -> bool:
    """Whether a value depends on no input of the program, and on no random numbers."""
    waiting = [value] if isinstance(value, Node) else []
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node.op == "placeholder" or is_random(node):
            return False
        fresh = [source for source in node.all_input_nodes if source not in seen]
        seen.update(fresh)
        waiting.extend(fresh)
    return True


def is_random(node: Node) -> bool:
    """Whether two calls with the same arguments may differ; an operator whose dropout is off draws nothing."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    bound = ops.bind(target, node.args, node.kwargs)
    return not any(name in bound and not bound[name] for name in _SWITCHES)


def apply_rules(program: Program, table: Mapping[str, Rule], step: str) -> None:
    """Applies a table of rules, keyed by operator name, to every node and to the nodes that rules make.

    A rule returns the node that stands for the old value, one node per result for an operator with several, or None to
    leave the node alone. A replacement of another dtype or rank is not taken.
    """
    for node in program.nodes:
        pending = [node]
        while pending:
            current = pending.pop()
            rule = None if current._erased else table.get(program.op(current))
            if rule is not None:
                pending += reversed(apply_rule(program, rule, current, step))


def apply_rule(program: Program, rule: Rule, node: Node, step: str) -> list[Node]:
    """Applies one rule to one node; returns the nodes it made."""
    site = Site(program, node, step, ops.bind(node.target, node.args, node.kwargs))
    result = rule(site)
    if result is None:
        return []
    if isinstance(result, Node):
        if not _same_kind(program, node, result):
            return []
        if result in site.made and result.target is node.target:
            return [*_respell(site, result), node]
        program.replace(node, result)
        return site.made
    _replace_items(program, node, result)
    return site.made


def _respell(site: Site, new: Node) -> list[Node]:
    """Moves the arguments of `new` to the node, which so keeps its name and origin; returns the other new nodes."""
    args, kwargs = new.args, new.kwargs
    site.program.erase(new)
    site.program.set_args(site.node, args, kwargs)
    return [made for made in site.made if made is not new]


def _same_kind(program: Program, old: Node, new: Node) -> bool:
    before, after = program.type(old), program.type(new)
    if isinstance(before, TensorType) and isinstance(after, TensorType):
        return before.dtype == after.dtype and before.rank == after.rank
    return type(before) is type(after) and not isinstance(before, SymbolType)


def _replace_items(program: Program, node: Node, items: Sequence[Node | None]) -> None:
    """Puts `items` where the results of a tuple-valued node are read; an absent item must have no readers."""
    readers = [user for user in node.users if user.op == "call_function"]
    wanted = [(user, items[int(user.args[1])]) for user in readers]  # pyright: ignore[reportArgumentType]
    if not isinstance(program.type(node), TupleType) or any(item is None and user.users for user, item in wanted):
        return
    for user, item in wanted:
        if item is None:
            program.erase(user)
        else:
            program.replace(user, item)
    program.erase(node)


def only_item(site: Site, index: int = 0) -> bool:
    """Whether nobody reads any result of the tuple-valued node but number `index`."""
    return all(user.args[1] == index or not user.users for user in site.node.users)
