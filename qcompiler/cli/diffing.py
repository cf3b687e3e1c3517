"""What differs between two programs: node by node in structure, value by value in numbers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from qcompiler.errors import InputError, QCompilerError
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Node, Program
from qcompiler.ir.types import TensorType
from qcompiler.measure import output_sqnr_db, sqnr_db
from qcompiler.target import Runner
from qcompiler.view.align import Alignment, align, describe, named_nodes

Kind = Literal["added", "removed", "changed", "renamed"]
_CALLS = 15


@dataclass(frozen=True)
class Change:
    """One node that is not the same in both programs.

    Args:
        kind: `renamed` nodes differ by their name alone.
        name: in the second program; in the first one for what was removed.
        before: what it was; empty when it is only in the second.
        after: what it is; empty when it is only in the first.
        module: source module.
        old_name: in the first program, where it had another one.
        weight_change: norm of the difference over the norm of the old value, for parameters of one shape and spec.
    """

    kind: Kind
    name: str
    before: str
    after: str
    module: str = ""
    old_name: str = ""
    weight_change: float | None = None

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return {
            "kind": self.kind,
            "name": self.name,
            "old_name": self.old_name or self.name,
            "module": self.module,
            "before": self.before,
            "after": self.after,
            "weight_change": self.weight_change,
        }


@dataclass(frozen=True)
class Numbers:
    """How far the values drifted on one sample.

    Args:
        output_sqnr_db: over all results together.
        values: of each real-valued node that both programs have, in order of the second, by its name there.
    """

    output_sqnr_db: float
    values: Mapping[str, float]


@dataclass(frozen=True)
class Latency:
    """Median seconds of one call of each side, measured in turns."""

    before: float
    after: float


@dataclass(frozen=True)
class Difference:
    """Everything that differs.

    Args:
        changes: removed nodes first, then the others in order of the second program.
        unchanged: number of nodes that are the same.
        numbers: None when they could not be had.
        no_numbers: why not.
        latency: of the files that run, where both are there.
    """

    changes: tuple[Change, ...]
    unchanged: int
    numbers: Numbers | None = None
    no_numbers: str = ""
    latency: Latency | None = None

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        numbers, latency = self.numbers, self.latency
        return {
            "unchanged": self.unchanged,
            "changes": [change.to_json() for change in self.changes],
            "output_sqnr_db": numbers.output_sqnr_db if numbers else None,
            "values": dict(numbers.values) if numbers else {},
            "no_numbers": self.no_numbers,
            "latency_seconds": {"before": latency.before, "after": latency.after} if latency else None,
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
    pairs = align(before, after)
    changes, unchanged = structural(before, after, pairs)
    try:
        return Difference(changes, unchanged, numerical(before, after, sample, kernels, pairs))
    except QCompilerError as error:
        return Difference(changes, unchanged, None, error.what)


def structural(before: Program, after: Program, pairs: Alignment | None = None) -> tuple[tuple[Change, ...], int]:
    """Nodes that were added, removed, changed or renamed, paired by provenance; and the number of equal ones."""
    pairs = pairs or align(before, after)
    old, new = named_nodes(before), named_nodes(after)
    kept = set(pairs.pairs.values())
    changes = [
        Change("removed", name, describe(before, node), "", before.origin(node).module)
        for name, node in old.items()
        if name not in kept
    ]
    unchanged = 0
    for name, node in new.items():
        change = _change(pairs, old.get(pairs.pairs.get(name, "")), node)
        if change is None:
            unchanged += 1
        else:
            changes.append(change)
    return tuple(changes), unchanged


def numerical(
    before: Program,
    after: Program,
    sample: Sequence[torch.Tensor],
    kernels: Mapping[str, Callable[..., object]] | None = None,
    pairs: Alignment | None = None,
) -> Numbers:
    """SQNR of the results and of the real values that both programs have, `before` being the reference.

    Raises:
        InputError: when a program cannot run on the sample (weights not at hand, other inputs or results).
    """
    found = (pairs or align(before, after)).pairs
    mine, theirs = _real_nodes(before), _real_nodes(after)
    common = {name: other for name, other in found.items() if name in theirs and other in mine}
    reference: dict[str, torch.Tensor] = {}
    values: dict[str, float] = {}

    def keep(node: Node, value: torch.Tensor) -> None:
        reference[node.name] = value

    def compare(node: Node, value: torch.Tensor) -> None:
        if reference[common[node.name]].shape == value.shape:
            values[node.name] = sqnr_db(reference[common[node.name]], value)

    with torch.no_grad():
        wanted = evaluate(before, sample, observe=keep, observed=frozenset(common.values()), kernels=kernels)
        results = evaluate(after, sample, observe=compare, observed=frozenset(common), kernels=kernels)
    return Numbers(output_sqnr_db(wanted, results), values)


def latency(before: Runner, after: Runner, sample: Sequence[torch.Tensor]) -> Latency:
    """Times two runners in turns, so that whatever else the machine does meets both.

    Raises:
        InputError: when one of them cannot run on the sample.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    try:
        for turn in range(_CALLS + 1):
            for run, into in zip((before, after), seconds, strict=True):
                started = time.perf_counter()
                run(sample)
                # The first call of each warms up.
                into.extend([time.perf_counter() - started] if turn else [])
    except (RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"the artefacts cannot be timed on this sample: {error}") from error
    return Latency(*map(statistics.median, seconds))


def _change(pairs: Alignment, old: Node | None, new: Node) -> Change | None:
    """What happened to a node of the second program; None for nothing."""
    before, after = pairs.before, pairs.after
    module = after.origin(new).module
    if old is None:
        return Change("added", new.name, "", describe(after, new), module)
    renamed = old.name if old.name != new.name else ""
    was, is_ = describe(before, old), describe(after, new, pairs.rename)
    if was == is_:
        return Change("renamed", new.name, was, describe(after, new), module, renamed) if renamed else None
    weight = _weight_change(before, old, after, new) if new.op == old.op == "get_attr" else None
    return Change("changed", new.name, was, describe(after, new), module, renamed, weight)


def _weight_change(before: Program, old: Node, after: Program, new: Node) -> float | None:
    first, second = before.type(old), after.type(new)
    if not (isinstance(first, TensorType) and isinstance(second, TensorType) and first.spec == second.spec):
        return None
    try:
        was, is_ = before.param(old), after.param(new)
    except QCompilerError:
        return None
    if was.shape != is_.shape or was.is_meta or is_.is_meta:
        return None
    size = float(torch.linalg.vector_norm(was, dtype=torch.float64))
    gap = float(torch.linalg.vector_norm(is_.double() - was.double()))
    return gap / size if size else None


def _real_nodes(program: Program) -> set[str]:
    return {
        node.name for node in program.nodes if isinstance(type_ := program.type(node), TensorType) and type_.is_float
    }
