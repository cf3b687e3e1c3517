"""What the text form of a program does not say and later passes read: notes on nodes, their order, names of symbols."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict

from qcompiler.ir import ops
from qcompiler.ir.program import Program
from qcompiler.ir.region import nested_programs
from qcompiler.ir.text import symbol_names
from qcompiler.ir.types import Dim, Dimensions, SymbolType, TensorType, TupleType, Type, as_dim, symbol_expr
from qcompiler.plan import Assignment, Decomposition, Plan


def unsaid(program: Program) -> dict[str, object]:
    """Plain data; `restore` puts it back into the program that the text gives."""
    nodes = program.nodes
    assigned = {node.name: item for node in nodes if isinstance(item := node.meta.get("assignment"), Assignment)}
    refused = {node.name: str(node.meta["refusal"]) for node in nodes if "refusal" in node.meta}
    found = {node.name: node.meta.get("decomposition") for node in nodes}
    parts = {name: asdict(item) for name, item in found.items() if isinstance(item, Decomposition)}
    return {
        "symbols": symbol_names(program),
        "order": [node.name for node in program.graph.nodes if node.op != "output"],
        "calls": [node.name for node in nodes if program.op(node) != ops.GETITEM],
        "plan": Plan(assignments=assigned, refusals=refused).to_json(),
        "asked": {node.name: str(node.meta["asked"]) for node in nodes if "asked" in node.meta},
        "decompositions": parts,
    }


def restore(program: Program, extra: Mapping[str, object]) -> None:
    """Puts names, order and notes back.

    Raises:
        KeyError, TypeError, ValueError: when the data is not that of this program.
    """
    _rename_symbols(program, {printed: name for name, printed in _dict(extra["symbols"]).items()})
    calls = [node for node in program.nodes if program.op(node) != ops.GETITEM]
    for node, name in zip(calls, _list(extra["calls"]), strict=True):
        if node.name != name:
            node._rename(name)
    nodes = {node.name: node for node in program.graph.nodes}
    last = program.graph._root
    for name in _list(extra["order"]):
        last.append(nodes[name])
        last = nodes[name]
    plan = Plan.from_json(extra["plan"])
    notes: dict[str, Mapping[str, object]] = {
        "assignment": plan.assignments,
        "refusal": plan.refusals,
        "asked": _dict(extra["asked"]),
        "decomposition": {name: Decomposition(**_dict(item)) for name, item in _dict(extra["decompositions"]).items()},  # pyright: ignore[reportArgumentType]
    }
    for key, noted in notes.items():
        for name, value in noted.items():
            nodes[name].meta[key] = value


def _list(value: object) -> list[str]:
    if not isinstance(value, list):
        raise TypeError("a list is missing")
    return value


def _dict(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise TypeError("an object is missing")
    return value


def _rename_symbols(program: Program, names: Mapping[object, str]) -> None:
    """Gives the symbols the names that they bore; `names` by printed name."""
    if all(printed == name for printed, name in names.items()):
        return
    swapped = {symbol_expr(str(printed)): symbol_expr(name) for printed, name in names.items()}

    def renamed(dim: Dim) -> Dim:
        return dim if isinstance(dim, int) else as_dim(dim.xreplace(swapped))

    dimensions = Dimensions({names.get(name, name): symbol for name, symbol in program.dimensions.symbols.items()})
    for _, each in nested_programs(program):
        each.dimensions = dimensions
        for node in each.graph.nodes:
            if "type" in node.meta:
                node.meta["type"] = _renamed_type(node.meta["type"], renamed)


def _renamed_type(type_: Type | None, renamed: Callable[[Dim], Dim]) -> Type | None:
    if isinstance(type_, TensorType):
        return TensorType(type_.dtype, tuple(map(renamed, type_.shape)), type_.spec)
    if isinstance(type_, SymbolType):
        return SymbolType(renamed(type_.expr))
    return TupleType(tuple(_renamed_type(item, renamed) for item in type_.items)) if type_ is not None else None
