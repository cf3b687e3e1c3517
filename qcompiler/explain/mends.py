"""Changes of a plan that would lose less, and what each is foretold to win.

Formula   gain = 10 log10(squared error under the plan / under the changed plan), both tried on the samples with the
          best grids; for a tensor that is to be quantized anew, that of the quantized program with the tensor exchanged
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from qcompiler.errors import QCompilerError
from qcompiler.explain.diagnose import repaired_results
from qcompiler.explain.sites import Record, Site, square_error
from qcompiler.explain.weight_faults import Fault
from qcompiler.ir.program import Node, Program
from qcompiler.passes.allocate.trial import Trial
from qcompiler.passes.allocate.uniform import assignment
from qcompiler.plan import EXCLUDED, Assignment, Plan
from qcompiler.report.explanation import Mend, MendKind, gain_db
from qcompiler.spec import parse_scheme
from qcompiler.target import Choice, Target

SCHEMES = ("w8a8", "w8a8_token", "w8a16", "w4a16g32", "w4a16g128")
"""Tried where they have more bits, or finer scales, than what a layer has."""
CHEAPER: Sequence[MendKind] = ("redo", "recalibrate", "finer scales", "more bits", "exclude")
"""Of two mends that win the same, the one that costs less."""
_LAYERS = 5
_NAMED = 3


@dataclass(frozen=True)
class Change:
    """A mend with the plan that makes it; the plan as it was where quantizing anew is all."""

    mend: Mend
    plan: Plan


def redo_mends(record: Record, faults: Mapping[Site, Fault], plan: Plan, shares: Mapping[Site, float]) -> list[Change]:
    """Tensors with something wrong, quantized anew by the same plan: the gain with nothing else changed.

    What one fault spoilt is one mend, called after the tensor that carries most of the error.
    """
    wanted, now = record.wanted, float(square_error(record.wanted, record.found))
    changes: list[Change] = []
    for site in faults:
        spoilt = together(site, faults, shares)
        if spoilt[0] is not site:
            continue
        error = float(square_error(wanted, repaired_results(record, spoilt)))
        kind: MendKind = "redo" if site.constant else "recalibrate"
        mend = Mend(kind, site.name, site.readers[0], _redo_text(spoilt, faults[site]), gain_db(now, error))
        changes.append(Change(mend, plan))
    return changes


def together(site: Site, faults: Mapping[Site, Fault], shares: Mapping[Site, float]) -> list[Site]:
    """The tensors that one fault spoilt: all that a normalisation was folded into, all ranges of a calibration.

    Those that carry most of the error come first.
    """
    kind, spoilt = faults[site].kind, [site]
    if kind == "stale calibration":
        spoilt = [other for other, fault in faults.items() if fault.kind == kind]
    if kind == "stale norm statistics":
        spoilt = [
            other for other, fault in faults.items() if fault.kind == kind and other.readers[0] == site.readers[0]
        ]
    return sorted(spoilt, key=lambda other: -shares.get(other, 0.0))


def _redo_text(spoilt: Sequence[Site], fault: Fault) -> str:
    names = ", ".join(f"%{site.name}" for site in spoilt[:_NAMED]) + (", ..." if len(spoilt) > _NAMED else "")
    if spoilt[0].constant:
        return f"quantize {names} anew: {fault.kind}"
    return f"find the range of {names} anew" if len(spoilt) == 1 else f"find {len(spoilt)} ranges anew: {names}"


def plan_mends(program: Program, plan: Plan, target: Target, trial: Trial, layers: Sequence[str]) -> list[Change]:
    """Other numbers for the layers that lose most, and none at all.

    Args:
        program: the canonical program of the trial.
        plan: who gets which format now.
        target: what can be asked for.
        trial: runs plans on samples.
        layers: names of operators, worst first.
    """
    nodes = {node.name: node for node in program.nodes}
    before = _error(trial, plan.assignments)
    changes: list[Change] = []
    for name in [name for name in layers if name in plan.assignments and name in nodes][:_LAYERS]:
        for kind, text, item in _alternatives(program, nodes[name], plan.assignments[name], target):
            changed = changed_plan(plan, name, item)
            gain = gain_db(before, _error(trial, changed.assignments))
            changes.append(Change(Mend(kind, name, name, text, gain), changed))
    return changes


def ranked(changes: Sequence[Change]) -> list[Change]:
    """Most gain first; what wins the same to a tenth of a decibel, cheapest first; what wins nothing not at all."""
    useful = [change for change in changes if change.mend.predicted_db > 0.05]
    return sorted(useful, key=lambda change: (-round(change.mend.predicted_db, 1), CHEAPER.index(change.mend.kind)))


def changed_plan(plan: Plan, layer: str, item: Assignment | None) -> Plan:
    """The plan with another assignment for a layer, or none."""
    others = {name: value for name, value in plan.assignments.items() if name != layer}
    if item is not None:
        return replace(plan, assignments={**plan.assignments, layer: item})
    return replace(plan, assignments=others, refusals={**plan.refusals, layer: EXCLUDED})


def merged(plan: Plan, changes: Sequence[Change]) -> Plan:
    """One plan with several changes; where two speak of one layer, the first counts."""
    result, done = plan, set[str]()
    for change in changes:
        if change.mend.layer not in done:
            done.add(change.mend.layer)
            result = changed_plan(result, change.mend.layer, change.plan.assignments.get(change.mend.layer))
    return result


def _alternatives(
    program: Program, node: Node, now: Assignment, target: Target
) -> Iterator[tuple[MendKind, str, Assignment | None]]:
    seen = [now]
    for name in SCHEMES:
        try:
            choice = target.choose(program, node, parse_scheme(name))
            item = assignment(program, node, choice) if isinstance(choice, Choice) else None
        except QCompilerError:
            continue
        kind = None if item is None or item in seen else _gain_kind(now, item)
        if item is not None and kind is not None:
            seen.append(item)
            yield kind, f"%{node.name}: {_numbers(now, item)}", item
    yield "exclude", f"%{node.name}: float", None


def _numbers(now: Assignment, item: Assignment) -> str:
    """What a layer reads, weights first; what was in few bits and no longer is, too."""
    names = sorted({*now.inputs, *item.inputs}, key=lambda name: (name != "weight", name))
    return ", ".join(f"{name} {item.inputs[name].numbers if name in item.inputs else 'float'}" for name in names)


def _gain_kind(now: Assignment, item: Assignment) -> MendKind | None:
    """How another assignment is finer; None where it is coarser anywhere."""
    more = finer = False
    for name in {*now.inputs, *item.inputs}:
        one, other = now.inputs.get(name), item.inputs.get(name)
        if one is None and other is not None:
            return None
        if one is None or other is None or other.bits > one.bits:
            more = True
        elif other.bits < one.bits:
            return None
        else:
            finer = finer or _blocks(other.block) < _blocks(one.block) or (other.dynamic and not one.dynamic)
    return "more bits" if more else "finer scales" if finer else None


def _blocks(block: tuple[int, ...]) -> float:
    """Size of a block, axes that it takes whole counting as very long."""
    size = 1.0
    for extent in block:
        size *= 1e6 if extent == -1 else extent
    return size


def _error(trial: Trial, plan: Mapping[str, Assignment]) -> float:
    return sum(float(square_error(result.wanted, result.found)) for result in trial.results(plan))
