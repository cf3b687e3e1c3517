"""What differs between two programs: node by node in structure, value by value in numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from qcompiler.errors import QCompilerError
from qcompiler.ir.interp import evaluate
from qcompiler.ir.ops import GETITEM
from qcompiler.ir.program import Node, Program
from qcompiler.ir.region import Region
from qcompiler.ir.text import print_fill, print_literal, print_type
from qcompiler.ir.types import TensorType
from qcompiler.measure import output_sqnr_db, sqnr_db
from qcompiler.spec import QuantSpec

Kind = Literal["added", "removed", "changed"]


@dataclass(frozen=True)
class Change:
    """One node that is not the same in both programs; `before` or `after` is empty when it is only in one."""

    kind: Kind
    name: str
    before: str
    after: str


@dataclass(frozen=True)
class Numbers:
    """How far the values drifted on one sample.

    Args:
        output_sqnr_db: over all results together.
        values: of each real-valued node that both programs have, in order of the second.
    """

    output_sqnr_db: float
    values: Mapping[str, float]


@dataclass(frozen=True)
class Difference:
    """Everything that differs.

    Args:
        changes: removed nodes first, then added and changed ones in order of the second program.
        unchanged: number of nodes that are the same.
        numbers: None when they could not be had.
        no_numbers: why not.
    """

    changes: tuple[Change, ...]
    unchanged: int
    numbers: Numbers | None = None
    no_numbers: str = ""

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        numbers = self.numbers
        return {
            "unchanged": self.unchanged,
            "changes": [{"kind": c.kind, "name": c.name, "before": c.before, "after": c.after} for c in self.changes],
            "output_sqnr_db": numbers.output_sqnr_db if numbers else None,
            "values": dict(numbers.values) if numbers else {},
            "no_numbers": self.no_numbers,
        }


def difference(
    before: Program,
    after: Program,
    sample: Sequence[torch.Tensor],
    kernels: Mapping[str, Callable[..., object]] | None = None,
) -> Difference:
    """Compares two programs of one model.

    Args:
        before: any stage.
        after: any stage.
        sample: flat inputs of both.
        kernels: meanings of kernel calls, where one of them is lowered.
    """
    changes, unchanged = structural(before, after)
    try:
        return Difference(changes, unchanged, numerical(before, after, sample, kernels))
    except QCompilerError as error:
        return Difference(changes, unchanged, None, error.what)


def structural(before: Program, after: Program) -> tuple[tuple[Change, ...], int]:
    """Nodes that were added, removed or changed, matched by name; and the number of equal ones."""
    old, new = _nodes(before), _nodes(after)
    changes = [Change("removed", name, describe(before, node), "") for name, node in old.items() if name not in new]
    unchanged = 0
    for name, node in new.items():
        text = describe(after, node)
        if name not in old:
            changes.append(Change("added", name, "", text))
            continue
        earlier = describe(before, old[name])
        if earlier != text:
            changes.append(Change("changed", name, earlier, text))
        else:
            unchanged += 1
    return tuple(changes), unchanged


def numerical(
    before: Program,
    after: Program,
    sample: Sequence[torch.Tensor],
    kernels: Mapping[str, Callable[..., object]] | None = None,
) -> Numbers:
    """SQNR of the results and of the real values that both programs name alike, `before` being the reference.

    Raises:
        InputError: when a program cannot run on the sample (weights not at hand, other inputs or results).
    """
    common = frozenset(_real_nodes(before) & _real_nodes(after))
    reference: dict[str, torch.Tensor] = {}
    values: dict[str, float] = {}

    def keep(node: Node, value: torch.Tensor) -> None:
        reference[node.name] = value

    def compare(node: Node, value: torch.Tensor) -> None:
        if reference[node.name].shape == value.shape:
            values[node.name] = sqnr_db(reference[node.name], value)

    with torch.no_grad():
        wanted = evaluate(before, sample, observe=keep, observed=common, kernels=kernels)
        found = evaluate(after, sample, observe=compare, observed=common, kernels=kernels)
    return Numbers(output_sqnr_db(wanted, found), values)


def describe(program: Program, node: Node) -> str:
    """What a node is, without its name: operator, arguments, type and value, spelled out so that texts compare."""
    type_ = print_type(program.type(node))
    if node.op == "placeholder":
        return f"input : {type_}"
    if node.op == "get_attr":
        return f"param : {type_} = {print_fill(program.rounded(node))}"
    parts = [_argument(arg) for arg in node.args]
    parts += [f"{key}={_argument(value)}" for key, value in sorted(node.kwargs.items())]
    return f"{program.op(node)} {', '.join(parts)} : {type_}"


def _argument(value: object) -> str:
    if isinstance(value, Node):
        return f"%{value.name}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_argument(item) for item in value)}]"
    if isinstance(value, Region):
        digest = hashlib.sha256(str(value.program).encode()).hexdigest()[:8]
        return f"@{value.program.name}({digest})"
    return str(value) if isinstance(value, QuantSpec) else print_literal(value)


def _nodes(program: Program) -> dict[str, Node]:
    return {node.name: node for node in program.graph.nodes if node.op != "output" and program.op(node) != GETITEM}


def _real_nodes(program: Program) -> set[str]:
    return {
        node.name for node in program.nodes if isinstance(type_ := program.type(node), TensorType) and type_.is_float
    }
