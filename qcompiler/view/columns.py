"""What can be said of nodes on demand: specs, statistics, errors, symmetries, costs, provenance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from qcompiler.analysis.describe import largest_action
from qcompiler.analysis.symmetry import symmetries
from qcompiler.errors import InputError
from qcompiler.ir.interp import KernelMeaning, evaluate
from qcompiler.ir.nodes import all_nodes
from qcompiler.ir.program import Node, Program, Stage
from qcompiler.ir.types import TensorType
from qcompiler.measure import sqnr_db
from qcompiler.passes.allocate.costs import products
from qcompiler.plan import Assignment
from qcompiler.spec import bits_per_element
from qcompiler.stats import Batch
from qcompiler.view.facts import Columns

Column = Literal["specs", "statistics", "errors", "symmetries", "costs", "provenance"]
COLUMNS: tuple[Column, ...] = get_args(Column)
Values = dict[str, dict[str, object]]


@dataclass(frozen=True)
class World:
    """What columns may look at besides the program.

    Args:
        sample: flat inputs, asked for when a column needs them.
        reference: the program that errors are told against, asked for likewise.
        kernels: meanings of kernel calls.
    """

    sample: Callable[[], Batch]
    reference: Callable[[], Program]
    kernels: Mapping[str, KernelMeaning]


def columns(program: Program, wanted: Sequence[Column], world: World) -> Columns:
    """The chosen columns of every node.

    Raises:
        InputError: when a column needs numbers that are not there, or another stage.
    """
    found: dict[str, dict[str, dict[str, object]]] = {}
    for column in wanted:
        for name, values in _MADE[column](program, world).items():
            if values:
                found.setdefault(name, {})[column] = values
    return found


def notes(found: Columns) -> dict[str, list[str]]:
    """The columns as lines of comment, by node."""
    return {
        name: [
            f"{column}: {', '.join(f'{key} {_text(value)}' for key, value in values.items())}"
            for column, values in item.items()
        ]
        for name, item in found.items()
    }


def specs(program: Program, world: World) -> Values:
    """Spec of each node's result, of what it reads, and what was assigned to it."""
    del world
    found: Values = {}
    for node in program.graph.nodes:
        type_ = node.meta.get("type")
        values: dict[str, object] = {}
        if isinstance(type_, TensorType) and type_.spec is not None:
            values["result"] = str(type_.spec)
        for source in node.all_input_nodes:
            read = source.meta.get("type")
            if isinstance(read, TensorType) and read.spec is not None:
                values[f"%{source.name}"] = str(read.spec)
        assigned = node.meta.get("assignment")
        if isinstance(assigned, Assignment):
            values["kernel"] = assigned.kernel
            values |= {name: str(spec) for name, spec in assigned.inputs.items()}
            values |= {"result": str(assigned.result)} if assigned.result is not None else {}
        elif node.meta.get("refusal"):
            values["refused"] = str(node.meta["refusal"])
        found[node.name] = values
    return found


def statistics(program: Program, world: World) -> Values:
    """Smallest, largest, mean and standard deviation of each real value on the sample."""
    found: Values = {}

    def look(node: Node, value: torch.Tensor) -> None:
        if value.is_floating_point() and value.numel():
            low, high = value.aminmax()
            spread = value.double().std(correction=0)
            moments = {"min": low, "max": high, "mean": value.double().mean(), "deviation": spread}
            found[node.name] = {name: float(moment) for name, moment in moments.items()}

    with torch.no_grad():
        evaluate(program, world.sample(), observe=look, kernels=world.kernels)
    return found


def errors(program: Program, world: World) -> Values:
    """SQNR of each value that the reference names alike, on the sample."""
    reference, sample = world.reference(), world.sample()
    names = {node.name for node in program.nodes} & {node.name for node in reference.nodes}
    kept: dict[str, torch.Tensor] = {}
    found: Values = {}

    def keep(node: Node, value: torch.Tensor) -> None:
        kept[node.name] = value

    def compare(node: Node, value: torch.Tensor) -> None:
        wanted = kept[node.name] if node.name in kept else value[:0]
        if value.is_floating_point() and wanted.shape == value.shape:
            found[node.name] = {"sqnr_db": sqnr_db(wanted, value)}

    with torch.no_grad():
        evaluate(reference, sample, observe=keep, observed=frozenset(names), kernels=world.kernels)
        evaluate(program, sample, observe=compare, observed=frozenset(names), kernels=world.kernels)
    return found


def symmetry(program: Program, world: World) -> Values:
    """The groups that each node writes and reads, and what keeps a rotation from the input of one with weights."""
    del world
    check_canonical(program)
    known = symmetries(program)
    found: Values = {}
    for group in known.groups:
        for site in group.sites:
            values = found.setdefault(site.node.name, {})
            text = f"{group.name} {largest_action(group)}"
            values[site.role] = f"{values[site.role]}; {text}" if site.role in values else text
    return found


def check_canonical(program: Program) -> None:
    """Refuses a program of which no symmetries are known.

    Raises:
        InputError: when it is not at stage canonical.
    """
    if program.stage is not Stage.CANONICAL:
        mend = "choose a step between the canonical passes and apply_plan with --after"
        raise InputError(f"symmetries are those of a canonical program, this one is {program.stage}", mend=mend)


def costs(program: Program, world: World) -> Values:
    """Products, bytes of the weights that a node reads, and bytes of its result, free sizes at their hints."""
    del world
    found: Values = {}
    for node in program.graph.nodes:
        if node.op not in ("call_function", "get_attr"):
            continue
        values: dict[str, object] = {}
        if node.op == "get_attr":
            values["bytes"] = _stored(program, node)
        else:
            count = products(program, node)
            weights = sum(_stored(program, source) for source in all_nodes(node.args) if source.op == "get_attr")
            values |= {"products": count} if count else {}
            values |= {"weight_bytes": weights} if weights else {}
            values["result_bytes"] = _result_bytes(program, node)
        found[node.name] = values
    return found


def provenance(program: Program, world: World) -> Values:
    """Source module, and the pass that made the node."""
    del world
    found: Values = {}
    for node in program.graph.nodes:
        origin = program.origin(node)
        found[node.name] = {"module": origin.module or "-", "by": origin.step or "the front-end"}
    return found


_MADE: Mapping[Column, Callable[[Program, World], Values]] = {
    "specs": specs,
    "statistics": statistics,
    "errors": errors,
    "symmetries": symmetry,
    "costs": costs,
    "provenance": provenance,
}


def _stored(program: Program, param: Node) -> int:
    type_ = program.tensor_type(param)
    shape = [int(size) for size in type_.shape]
    each = type_.dtype.itemsize * 8 if type_.spec is None else bits_per_element(type_.spec, shape)
    return math.ceil(math.prod(shape) * each / 8)


def _result_bytes(program: Program, node: Node) -> int:
    type_ = program.type(node)
    if not isinstance(type_, TensorType):
        return 0
    count = math.prod(program.dimensions.hint(size, {}) for size in type_.shape)
    bits = type_.spec.bits if type_.spec is not None else type_.dtype.itemsize * 8
    return math.ceil(count * bits / 8)


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
