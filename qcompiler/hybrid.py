"""Programs between two: a pass taken apart into the places that it edited, each of which can be taken or left.

Values that both programs name alike, and that the pass does not claim to have changed, are *cuts*: either program may
compute them. A place where the two compute a cut differently from the cuts before it is an edit site. A hybrid computes
every cut as the first program does, but for the chosen sites, which it takes from the second one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from torch.fx.node import map_arg

from qcompiler.errors import InputError
from qcompiler.ir import ops
from qcompiler.ir.fill import is_unset
from qcompiler.ir.nodes import all_nodes
from qcompiler.ir.program import Node, Program
from qcompiler.ir.region import Region
from qcompiler.ir.text import print_fill, print_literal, print_program
from qcompiler.ir.types import TensorType
from qcompiler.spec import QuantSpec


@dataclass(frozen=True)
class EditSite:
    """One place that a pass edited.

    Args:
        value: name of the cut that is computed differently.
        before: names of the nodes that compute it in the first program, from the cuts before it.
        after: the same in the second program.
        module: source module.
    """

    value: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    module: str = ""


@dataclass
class Seam:
    """Two programs and where they can be cut.

    Args:
        before: the program before the pass.
        after: the one after it.
        cuts: each cut in the first program, and the same value in the second one.
        sites: where they differ, in order of the second program.
    """

    before: Program
    after: Program
    cuts: Mapping[Node, Node]
    sites: tuple[EditSite, ...] = ()

    def hybrid(self, taken: Collection[str]) -> Program:
        """The program that takes these sites, by the name of their value, from the second one.

        Raises:
            InputError: when the sites cannot be taken apart so.
        """
        return _Hybrid(self, frozenset(taken)).build()


def seam(before: Program, after: Program, moved: Collection[str] = ()) -> Seam:
    """Finds the cuts and the edit sites of a pass.

    Args:
        before: the program before the pass.
        after: the one after it.
        moved: names of values that hold something else on purpose; no cuts.
    """
    hidden = frozenset(moved)
    old = {node.name: node for node in before.graph.nodes if _is_value(node) and node.name not in hidden}
    cuts: dict[Node, Node] = {}
    for node in after.graph.nodes:
        other = old.get(node.name)
        if other is not None and _is_value(node) and node.op == other.op and _fit(before, other, after, node):
            cuts[other] = node
    taken = set(cuts.values())
    for other, node in zip(before.outputs, after.outputs, strict=False):
        if other not in cuts and node not in taken and other.name not in hidden and _fit(before, other, after, node):
            cuts[other] = node
            taken.add(node)
    return Seam(before, after, cuts, tuple(_sites(before, after, cuts)))


def without_unset(program: Program) -> Program:
    """The program as it would run now: grids that no pass has found yet let everything through."""
    unset = {node for node in program.param_nodes if is_unset(program.params[str(node.target)])}
    if not unset:
        return program
    copy = program.copy()
    unset_names = {node.name for node in unset}
    for node in copy.nodes:
        if node.target is not ops.quantize or not unset_names & {source.name for source in node.all_input_nodes}:
            continue
        for user in list(node.users):
            if user.target is ops.dequantize:
                user.replace_all_uses_with(node.all_input_nodes[0])
    copy.erase_dead()
    return copy


def _is_value(node: Node) -> bool:
    return node.op in ("placeholder", "call_function")


def _fit(before: Program, one: Node, after: Program, other: Node) -> bool:
    """Whether a reader of one value could read the other."""
    old, new = before.type(one), after.type(other)
    if not (isinstance(old, TensorType) and isinstance(new, TensorType)):
        return False
    sizes = zip(old.shape, new.shape, strict=False)
    same = all(a == b for a, b in sizes if isinstance(a, int) or isinstance(b, int))
    return same and old.dtype == new.dtype and old.spec == new.spec and len(old.shape) == len(new.shape)


def _sites(before: Program, after: Program, cuts: Mapping[Node, Node]) -> list[EditSite]:
    back = {new: old for old, new in cuts.items()}
    names = {new: old.name for old, new in cuts.items()}
    first = _local(before, {old: old.name for old in cuts})
    second = _local(after, names)
    changed = [node for node in after.graph.nodes if node in back and first[back[node]] != second[node]]
    return [
        EditSite(
            names[node],
            _inside(back[node], cuts.keys()),
            _inside(node, names.keys()),
            after.origin(node).module or before.origin(back[node]).module,
        )
        for node in changed
    ]


def _local(program: Program, cuts: Mapping[Node, str]) -> dict[Node, str]:
    """What computes each node from the cuts before it, as a digest."""
    found: dict[Node, str] = {}

    def of(value: object) -> str:
        if isinstance(value, Node):
            return f"%{cuts[value]}" if value in cuts else found[value]
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(of, value))}]"
        if isinstance(value, Region):
            return str(value.program)
        return str(value) if isinstance(value, QuantSpec) else print_literal(value)

    for node in program.graph.nodes:
        if node.op == "get_attr":
            found[node] = print_fill(program.rounded(node)) + str(program.tensor_type(node).spec)
        elif node.op == "placeholder":
            found[node] = f"input {node.target}"
        elif node.op == "call_function":
            text = f"{program.op(node)} {of(node.args)} {[(key, of(node.kwargs[key])) for key in sorted(node.kwargs)]}"
            found[node] = hashlib.sha256(text.encode()).hexdigest()
    return found


def _inside(node: Node, cuts: Collection[Node]) -> tuple[str, ...]:
    """Names of what computes a cut from the cuts before it, in order."""
    found, pending = {node}, [node]
    while pending:
        for source in pending.pop().all_input_nodes:
            if source not in found and source not in cuts:
                found.add(source)
                pending.append(source)
    return tuple(each.name for each in sorted(found))


@dataclass
class _Hybrid:
    seam: Seam
    taken: frozenset[str]
    made: dict[Node, Node] = field(default_factory=dict)
    back: dict[Node, Node] = field(default_factory=dict)

    def build(self) -> Program:
        first, second = self.seam.before, self.seam.after
        if len(first.outputs) != len(second.outputs):
            raise InputError("the pass changed the number of results, so that its edits cannot be told apart")
        self.back = {new: old for old, new in self.seam.cuts.items()}
        dimensions = second.dimensions.copy()
        for name, symbol in first.dimensions.symbols.items():
            if name not in dimensions.symbols:
                dimensions.add(name, symbol)
        hybrid = Program(first.name, first.stage, dimensions=dimensions, signature=first.signature)
        hybrid.states = dict(first.states)
        others = {node.target: node for node in second.inputs}
        for node in first.inputs:
            made = hybrid.add_input(str(node.target), first.type(node))
            self.made[node] = made
            if node.target in others:
                self.made[others[node.target]] = made
        outputs = [self.chosen(node) for node in first.outputs]
        for node in outputs:
            self.make(hybrid, node)
        hybrid.set_outputs([self.made[node] for node in outputs])
        return hybrid

    def chosen(self, node: Node) -> Node:
        """The node that computes a value: the first program's, unless its site is taken."""
        old = self.back.get(node, node)
        if old not in self.seam.cuts:
            return node
        return self.seam.cuts[old] if old.name in self.taken else old

    def make(self, hybrid: Program, last: Node) -> None:
        """Copies a node and everything that it reads."""
        pending, open_ = [last], set[Node]()
        while pending:
            node = pending[-1]
            if node in self.made:
                pending.pop()
                continue
            missing = [each for each in map(self.chosen, node.all_input_nodes) if each not in self.made]
            if not missing:
                self.made[node] = self.copied(hybrid, node)
                pending.pop()
            elif open_.intersection(missing):
                raise InputError(f"the edits around '%{node.name}' depend on each other and cannot be told apart")
            else:
                open_.add(node)
                pending += missing

    def copied(self, hybrid: Program, node: Node) -> Node:
        side = self.seam.after if node.graph is self.seam.after.graph else self.seam.before
        if node.op == "get_attr":
            return hybrid.add_param(str(node.target), side.params[str(node.target)], side.tensor_type(node))
        args, kwargs = map_arg((node.args, dict(node.kwargs)), lambda read: self.made[self.chosen(read)])  # pyright: ignore[reportArgumentType, reportGeneralTypeIssues]
        made = hybrid.graph.create_node("call_function", node.target, args, kwargs, node.name)  # pyright: ignore[reportArgumentType]
        made.meta.update(node.meta)
        return made


def region_text(program: Program, names: Sequence[str]) -> str:
    """The lines of some operators and of the parameters that they read, as the text form has them."""
    chosen = frozenset(names)
    read = {source.name for node in program.nodes if node.name in chosen for source in all_nodes(node.args)}
    params = {node.name for node in program.param_nodes}
    around = ("program ", "dim ", "}", "  return", "  signature")
    lines = print_program(program, chosen | (read & params)).splitlines()
    return "\n".join(line.strip() for line in lines if not line.startswith(around))
