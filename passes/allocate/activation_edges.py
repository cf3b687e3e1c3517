"""Units of one weight, and units of one activation: the bits of both are decided apart.

Formula   an operator with one weight and one activation becomes two decisions, w of its weight and a of what it reads;
          the kernel is the first one that takes both. Combinations that no kernel takes are forbidden; what depends on
          both, as bit operations do, is a cost of the pair
Shapes    pair tables [weight's option][activation's option]
Promise   every plan is one that the target chose kernels for; all that reads one activation gets one grid
Needs     kernels whose results stay in float, weights that one operator reads; all other operators are decided whole
Source    MixDQ and CalibTIP decide weights and activations one after the other; both at once by pairs is own
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from qcompiler.ir.program import Node, Program, all_nodes
from qcompiler.passes.allocate.measures import Costs
from qcompiler.passes.allocate.problem import Option, Table, Unit
from qcompiler.passes.allocate.uniform import assignment
from qcompiler.plan import Assignment
from qcompiler.spec import Number, Scheme
from qcompiler.target import Choice, Target

FLOAT = "float"


@dataclass(frozen=True)
class Split:
    """How operators were taken apart.

    Args:
        whole: the units as costs are counted of them: those that were left, then one for each operator.
        left: how many units were left; in `whole` and in the offer they come first.
        parts: of each operator, the numbers of its weight's unit and of its activation's unit.
        legal: of each operator, the number of its option in `whole` by the options of the two; float for no option.
        uniform: number of the option that a scheme is, by unit and scheme.
    """

    whole: tuple[Unit, ...]
    left: int
    parts: tuple[tuple[int, int], ...]
    legal: tuple[Mapping[tuple[int, int], int], ...]
    uniform: Mapping[str, Mapping[str, int]]

    def option(self, number: int, weight: int, edge: int) -> Option:
        """What an operator does under options of its two units; float for what no kernel takes."""
        at = self.legal[number].get((weight, edge))
        return Option(FLOAT) if at is None else self.whole[self.left + number].options[at]

    def spread(self, costs: Costs, units: Sequence[Unit]) -> Costs:
        """Costs of `whole` as costs of the units and of pairs."""
        table = [list(row) for row in costs.table[: self.left]]
        table += [[0.0] * len(unit.options) for unit in units[self.left :]]
        pairs = dict(costs.pairs)
        for row, (weight, edge), legal in zip(costs.table[self.left :], self.parts, self.legal, strict=True):
            for option in range(len(units[weight].options)):
                table[weight][option] = min((row[at] for (k, _), at in legal.items() if k == option), default=0.0)
            pairs[weight, edge] = [
                [
                    row[legal[k, m]] - table[weight][k] if (k, m) in legal else 0.0
                    for m, _ in enumerate(units[edge].options)
                ]
                for k, _ in enumerate(units[weight].options)
            ]
        return replace(costs, table=table, pairs=pairs)

    def forbidden(self, units: Sequence[Unit]) -> Mapping[tuple[int, int], Table]:
        """Infinity for each combination that no kernel takes, by two units."""
        return {
            (weight, edge): [
                [0.0 if (k, m) in legal else math.inf for m, _ in enumerate(units[edge].options)]
                for k, _ in enumerate(units[weight].options)
            ]
            for (weight, edge), legal in zip(self.parts, self.legal, strict=True)
        }


@dataclass(frozen=True)
class _Operator:
    """One operator with its weight and its activation.

    Args:
        node: itself.
        edge: the activation that it reads.
        found: by number of the weight and of the activation, None for float.
    """

    node: Node
    edge: Node
    found: Mapping[tuple[Number | None, Number | None], Assignment | None]


def split(
    program: Program,
    target: Target,
    units: Sequence[Unit],
    choices: Mapping[Node, Mapping[str, Choice]],
    schemes: Mapping[str, Scheme],
    with_float: bool,
) -> tuple[tuple[Unit, ...], Split]:
    """Takes units apart where that is possible.

    Args:
        program: at stage canonical.
        target: whose kernels decide.
        units: of whole operators.
        choices: of each operator, by scheme.
        schemes: by name.
        with_float: whether operators may stay in float.

    Returns:
        the units, those first that were left whole, and how the others were made.
    """
    by_name = {node.name: node for node in choices}
    weights = list(dict.fromkeys([scheme.weight for scheme in schemes.values()] + [None] * with_float))
    numbers = list(dict.fromkeys([scheme.activation for scheme in schemes.values()] + [None] * with_float))
    known = {
        name: _operator(program, target, by_name[name], weights, numbers, with_float)
        for unit in units
        for name in unit.nodes
        if all(_divisible(program, by_name[each], choices) for each in unit.nodes)
    }
    apart = _agreeing([unit for unit in units if set(unit.nodes) <= set(known)], known)
    whole = [unit for unit in units if unit not in apart]
    operators = [known[name] for unit in apart for name in unit.nodes]
    made = list(whole)
    edges: dict[Node, list[_Operator]] = {}
    for operator in operators:
        edges.setdefault(operator.edge, []).append(operator)
        made.append(_unit(operator.node.name, [operator], 0, "weight"))
    place = {edge: len(made) + number for number, edge in enumerate(edges)}
    made += [_unit(f"{edge.name} read", readers, 1, "input") for edge, readers in edges.items()]
    parts = tuple((len(whole) + number, place[operator.edge]) for number, operator in enumerate(operators))
    joint = [_joint(operator) for operator in operators]
    legal = [
        _legal(operator, made[weight], made[edge]) for operator, (weight, edge) in zip(operators, parts, strict=True)
    ]
    uniform = {
        unit.name: {
            name: at
            for name, scheme in schemes.items()
            for at, option in enumerate(unit.options)
            if option.name == _label(scheme.activation if unit.name.endswith(" read") else scheme.weight)
        }
        for unit in made[len(whole) :]
    }
    return tuple(made), Split((*whole, *joint), len(whole), parts, tuple(legal), uniform)


def _divisible(program: Program, node: Node, choices: Mapping[Node, Mapping[str, Choice]]) -> bool:
    """Whether an operator has a weight of its own and reads one activation, and its result stays in float."""
    bound = program.bind(node)
    weight = bound.get("weight")
    if not isinstance(weight, Node) or weight.op != "get_attr" or set(weight.users) != {node}:
        return False
    source = bound.get("input")
    plain = all(
        choice.result is None and set(choice.numbers) <= {"weight", "input"} for choice in choices[node].values()
    )
    return plain and isinstance(source, Node) and source.op != "get_attr"


def _agreeing(units: Sequence[Unit], known: Mapping[str, _Operator]) -> list[Unit]:
    """The units of operators that have a number in common with all others that read the same activation."""
    kept = list(units)
    while True:
        common: dict[Node, set[Number | None]] = {}
        for operator in (known[name] for unit in kept for name in unit.nodes):
            own = {number for _, number in operator.found}
            common[operator.edge] = common.get(operator.edge, own) & own
        left = [unit for unit in kept if all(common[known[name].edge] for name in unit.nodes)]
        if len(left) == len(kept):
            return left
        kept = left


def _operator(
    program: Program,
    target: Target,
    node: Node,
    weights: Sequence[Number | None],
    numbers: Sequence[Number | None],
    with_float: bool,
) -> _Operator:
    found: dict[tuple[Number | None, Number | None], Assignment | None] = {}
    for weight in weights:
        for number in numbers:
            if weight is None and number is None:
                if with_float:
                    found[weight, number] = None
                continue
            choice = target.choose(program, node, Scheme(weight, number, f"{_label(weight)} x {_label(number)}"))
            if isinstance(choice, Choice) and choice.result is None:
                found[weight, number] = assignment(program, node, choice)
    return _Operator(node, next(all_nodes(program.bind(node)["input"])), found)


def _unit(name: str, operators: Sequence[_Operator], side: int, argument: str) -> Unit:
    """The numbers that every one of the operators can have at one argument."""
    options: list[Option] = []
    for number in dict.fromkeys(key[side] for operator in operators for key in operator.found):
        items = [
            (operator.node.name, next((item for key, item in operator.found.items() if key[side] == number), None))
            for operator in operators
            if any(key[side] == number for key in operator.found)
        ]
        if len(items) == len(operators):
            assigned = {
                node: replace(item, inputs={argument: item.inputs[argument]})
                for node, item in items
                if item is not None and argument in item.inputs
            }
            options.append(Option(_label(number), assigned))
    nodes = tuple(operator.node.name for operator in operators) if argument == "weight" else ()
    return Unit(name, tuple(options), nodes)


def _joint(operator: _Operator) -> Unit:
    """The operator with an option for each combination, in the order of `found`."""
    name = operator.node.name
    options = [
        Option(f"{_label(weight)} x {_label(number)}", {} if item is None else {name: item})
        for (weight, number), item in operator.found.items()
    ]
    return Unit(name, tuple(options), (name,))


def _legal(operator: _Operator, weight: Unit, edge: Unit) -> Mapping[tuple[int, int], int]:
    rows = [option.name for option in weight.options]
    columns = [option.name for option in edge.options]
    return {
        (rows.index(_label(w)), columns.index(_label(a))): at
        for at, (w, a) in enumerate(operator.found)
        if _label(w) in rows and _label(a) in columns
    }


def _label(number: Number | None) -> str:
    return FLOAT if number is None else str(number)
