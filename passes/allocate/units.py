"""Units and options of an allocation, found from the graph and from what the target's kernels take.

Formula   a unit is an operator that some offered scheme quantizes on its own (no joining or carrying row); operators
          are one unit when they read the same weight, or when one value that they read or make would need two grids:
          readers of one activation, and results that meet at joining or carrying kernels, where schemes differ there
Shapes    any
Promise   every option is one that the target chose a kernel for; refusals keep their reason
Needs     nothing but the graph
Source    ties of residual branches after Yao et al. 2021, "HAWQ-V3: Dyadic Neural Network Quantization"; own
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from qcompiler.errors import SpecError
from qcompiler.ir.program import Node, Program, all_nodes
from qcompiler.ir.types import TensorType
from qcompiler.passes.allocate.activation_edges import FLOAT, Split, split
from qcompiler.passes.allocate.measures import Costs
from qcompiler.passes.allocate.network_segments import UnitKind, groups
from qcompiler.passes.allocate.problem import Option, Unit
from qcompiler.passes.allocate.uniform import activations, assignment, connected, result_node
from qcompiler.plan import KEPT, Assignment
from qcompiler.spec import Number, Scheme
from qcompiler.target import Choice, Target


@dataclass(frozen=True)
class Offer:
    """What may be chosen for a program.

    Args:
        program: at stage canonical.
        schemes: by name, in the order of preference among equals.
        units: with their options.
        choices: of each operator, joining and carrying ones too, by the name of the scheme.
        refusals: why an operator with a weight has no option, by its name.
        split: how operators were taken apart, where weights and activations are units of their own.
    """

    program: Program
    schemes: Mapping[str, Scheme]
    units: tuple[Unit, ...]
    choices: Mapping[Node, Mapping[str, Choice]]
    refusals: Mapping[str, str] = field(default_factory=dict)
    split: Split | None = None

    @property
    def counted(self) -> tuple[Unit, ...]:
        """The units that costs are counted of; `spread` makes costs of `units` of them."""
        return self.units if self.split is None else self.split.whole

    def spread(self, costs: Costs) -> Costs:
        """Costs of the units, of costs that were counted."""
        return costs if self.split is None else self.split.spread(costs, self.units)

    def plan(self, choice: Sequence[int]) -> dict[str, Assignment]:
        """The assignments of a choice, those of the joining and carrying operators between its units included."""
        whole = len(self.units) if self.split is None else self.split.left
        picked = [unit.options[option] for unit, option in zip(self.units[:whole], choice[:whole], strict=True)]
        assignments = {name: item for option in picked for name, item in option.assignments.items()}
        by_name = {node.name: node for node in self.choices}
        scheme_of = {name: option.scheme for option in picked for name in option.assignments}
        for number in dict.fromkeys(scheme.activation for scheme in self.schemes.values()):
            names = [name for name, scheme in self.schemes.items() if scheme.activation == number]
            seeds = {
                by_name[node]: self.choices[by_name[node]][name] for node, name in scheme_of.items() if name in names
            }
            flowing = {node: self.choices[node][names[0]] for node in self._flowing(names[0])}
            ordered = {node: {**flowing, **seeds}[node] for node in self.choices if node in flowing or node in seeds}
            for node, chosen in connected(self.program, ordered).items():
                if node in flowing:
                    assignments.setdefault(node.name, assignment(self.program, node, chosen))
        for number, (weight, edge) in enumerate(self.split.parts if self.split is not None else ()):
            assignments |= self.split.option(number, choice[weight], choice[edge]).assignments if self.split else {}
        return assignments

    def named(self, unit: Unit, scheme: str) -> str:
        """The name of the option of a unit that belongs to a scheme."""
        known = self.split.uniform.get(unit.name, {}) if self.split is not None else {}
        return unit.options[known[scheme]].name if scheme in known else scheme

    def uniform(self, scheme: str) -> tuple[int, ...]:
        """The choice of one scheme wherever it is offered, of float elsewhere, else of the first option."""
        found: list[int] = []
        for unit in self.units:
            names = [option.name for option in unit.options]
            wanted = [names.index(name) for name in (self.named(unit, scheme), FLOAT) if name in names]
            free = wanted[0] if wanted else 0
            found.append(free if unit.pinned is None else unit.pinned)
        return tuple(found)

    def _flowing(self, scheme: str) -> list[Node]:
        return [node for node, found in self.choices.items() if scheme in found and _flows(found[scheme])]


def offer(
    program: Program,
    target: Target,
    schemes: Sequence[Scheme | None],
    kept: Collection[Node],
    kind: UnitKind = "layer",
) -> Offer:
    """Units and options of a program.

    Args:
        program: at stage canonical.
        target: whose kernels decide.
        schemes: what may be chosen; None offers float.
        kept: operators that stay in float.
        kind: what is one unit at least.

    Raises:
        SpecError: without a scheme, or for an unknown kind.
    """
    named = {scheme.name: scheme for scheme in schemes if scheme is not None}
    if not named:
        raise SpecError("no scheme is offered", mend="for example schemes=w8a16|w4a16g32|w3a16g32")
    choices: dict[Node, dict[str, Choice]] = {}
    refusals: dict[str, str] = {}
    for node in program.nodes:
        if node in kept:
            refusals[node.name] = KEPT
        elif isinstance(program.type(node), TensorType):
            found, reason = _choices(program, target, node, named)
            if found:
                choices[node] = found
            elif _reads_matrix(program, node):
                refusals[node.name] = reason
    seeds = [node for node, found in choices.items() if not any(map(_flows, found.values()))]
    options = {node: _options(program, node, choices[node], None in schemes) for node in seeds}
    tied = [*_weight_sharers(program, seeds), *_value_sharers(program, seeds, choices), *groups(program, seeds, kind)]
    units = tuple(_unit(group, options) for group in _classes(seeds, options, tied))
    if kind == "edge":
        units, apart = split(program, target, units, choices, named, None in schemes)
        return Offer(program, named, units, choices, refusals, apart)
    return Offer(program, named, units, choices, refusals)


def pin(
    units: Sequence[Unit],
    wanted: Callable[[Unit], bool],
    scheme: str,
    named: Callable[[Unit, str], str] = lambda unit, scheme: scheme,
) -> tuple[Unit, ...]:
    """The units, those that are `wanted` pinned to the option of one name; `named` says how a scheme is called there.

    Raises:
        SpecError: when such a unit has no such option.
    """
    found: list[Unit] = []
    for unit in units:
        names = [option.name for option in unit.options]
        name = named(unit, scheme)
        if wanted(unit) and name not in names:
            raise SpecError(
                f"'{unit.name}' cannot be pinned to {scheme}: the target does not offer it there",
                mend=f"it can be {', '.join(names)}",
            )
        found.append(replace(unit, pinned=names.index(name)) if wanted(unit) else unit)
    return tuple(found)


def _choices(
    program: Program, target: Target, node: Node, schemes: Mapping[str, Scheme]
) -> tuple[dict[str, Choice], str]:
    found: dict[str, Choice] = {}
    reason = ""
    for name, scheme in schemes.items():
        choice = target.choose(program, node, scheme)
        if isinstance(choice, Choice):
            found[name] = choice
        else:
            reason = choice.reason
    return found, reason


def _options(program: Program, node: Node, choices: Mapping[str, Choice], with_float: bool) -> list[Option]:
    """One option for each scheme that makes a difference."""
    found: list[Option] = []
    for name, choice in choices.items():
        assigned = {node.name: assignment(program, node, choice)}
        if assigned not in [option.assignments for option in found]:
            found.append(Option(name, assigned))
    return [*found, Option(FLOAT)] if with_float else found


def _unit(group: Sequence[Node], options: Mapping[Node, Sequence[Option]]) -> Unit:
    """One unit of nodes that have options in common."""
    shared: list[Option] = []
    for option in options[group[0]]:
        same = [_named(options[node], option.name) for node in group]
        members = [member for member in same if member is not None]
        if len(members) == len(group):
            together = {name: item for member in members for name, item in member.assignments.items()}
            shared.append(Option(option.name, together))
    return Unit(group[0].name, tuple(shared), tuple(node.name for node in group))


def _named(options: Iterable[Option], name: str) -> Option | None:
    return next((option for option in options if option.name == name), None)


def _classes(
    seeds: Sequence[Node], options: Mapping[Node, Sequence[Option]], tied: Iterable[Sequence[Node]]
) -> list[list[Node]]:
    """The nodes that must agree, in graph order; nodes without a common option are left apart."""
    classes: dict[Node, list[Node]] = {node: [node] for node in seeds}
    for group in tied:
        for other in group[1:]:
            first, second = classes[group[0]], classes[other]
            names = [{option.name for option in options[node]} for node in (*first, *second)]
            if first is not second and set.intersection(*names):
                merged = [node for node in seeds if node in first or node in second]
                classes.update(dict.fromkeys(merged, merged))
    return list({id(group): group for group in classes.values()}.values())


def _weight_sharers(program: Program, seeds: Sequence[Node]) -> list[list[Node]]:
    readers: dict[str, list[Node]] = {}
    for node in seeds:
        for source in node.all_input_nodes:
            if source.op == "get_attr" and program.tensor_type(source).rank > 1:
                readers.setdefault(str(source.target), []).append(node)
    return list(readers.values())


def _value_sharers(
    program: Program, seeds: Sequence[Node], choices: Mapping[Node, Mapping[str, Choice]]
) -> list[list[Node]]:
    """Nodes that read or make one value, or values that one joining or carrying kernel brings together."""
    flowing = [node for node, found in choices.items() if any(map(_flows, found.values()))]
    home: dict[Node, Node] = {}

    def root(value: Node) -> Node:
        while home.setdefault(value, value) is not value:
            value = home[value]
        return value

    for node in flowing:
        choice = next(choice for choice in choices[node].values() if _flows(choice))
        values = [source for name in choice.numbers for source in activations(program, node, choice, name)]
        for value in (*values, result_node(program, node, choice)):
            home[root(value)] = root(values[0]) if values else root(value)
    grids: dict[Node, set[Number]] = {}
    users: dict[Node, list[Node]] = {}
    for node in seeds:
        for value, number in _values(program, node, choices[node].values()):
            grids.setdefault(root(value), set()).add(number)
            users.setdefault(root(value), []).append(node)
    return [list(dict.fromkeys(users[value])) for value, numbers in grids.items() if len(numbers) > 1]


def _values(program: Program, node: Node, choices: Iterable[Choice]) -> list[tuple[Node, Number]]:
    """The activations that a node would read or make as numbers of few bits."""
    found: list[tuple[Node, Number]] = []
    for choice in choices:
        for name, number in choice.numbers.items():
            found += [(source, number) for source in activations(program, node, choice, name)]
        if choice.result is not None:
            found.append((result_node(program, node, choice), choice.result))
    return found


def _flows(choice: Choice) -> bool:
    return choice.kernel.joins or choice.kernel.carries


def _reads_matrix(program: Program, node: Node) -> bool:
    tensors = [source for source in all_nodes(list(node.args)) if source.op == "get_attr"]
    return any(program.tensor_type(tensor).rank > 1 for tensor in tensors)
