"""The explainer: from a float program, what was made of it and samples, to an explanation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from qcompiler.errors import InputError, QCompilerError
from qcompiler.explain.causes import causes_of
from qcompiler.explain.decompose import Slopes, inner, slopes
from qcompiler.explain.diagnose import diagnose
from qcompiler.explain.mends import Change, merged, plan_mends, ranked, redo_mends, together
from qcompiler.explain.sites import RESULT, Record, Site, all_values, find_sites, record
from qcompiler.explain.verify import requantized, result_error, verified
from qcompiler.explain.weight_faults import Fault
from qcompiler.ir.program import Program
from qcompiler.layout import channels_last
from qcompiler.measure import limit_samples, sample_count
from qcompiler.passes.allocate.trial import Trial, affordable_samples
from qcompiler.pipeline import Pass
from qcompiler.plan import Plan
from qcompiler.report.explanation import Cause, Explanation, Finding, Part, gain_db
from qcompiler.stats import Batch
from qcompiler.target import Runner, Target

SAMPLES = 8
RESULTS = "results"
"""Tensor and layer of what happens behind the program."""
_BEHIND: tuple[Cause, Cause] = ("accumulation and requantization", "kernel mismatch")


@dataclass(frozen=True)
class Subject:
    """What is explained.

    Args:
        reference: the float program, at stage canonical.
        quantized: at stage quantized.
        target: the device; None: mends are not looked for.
        plan: who got which format.
        passes: what quantizes a program that carries a plan.
        simulated: runs the lowered program by what its kernels mean.
        ships: runs the files.
        seed: of every random choice.
    """

    reference: Program
    quantized: Program
    target: Target | None = None
    plan: Plan = field(default_factory=Plan)
    passes: tuple[Pass, ...] = ()
    simulated: Runner | None = None
    ships: Runner | None = None
    seed: int = 0


def explain(
    subject: Subject,
    batches: Sequence[Batch],
    samples: int = SAMPLES,
    verify: int = 3,
    log: Callable[[str], None] = lambda line: None,
) -> Explanation:
    """Says where the error of the results comes from, what is wrong, and what would mend it.

    Args:
        subject: the programs, and what made them.
        batches: flat samples; all of them calibrate mends, the first ones are looked at.
        samples: how many are looked at, at most.
        verify: how many mends are made and measured; 0: none.
        log: takes one line for the user.

    Raises:
        InputError: when there is no sample, or it does not fit.
        UnsupportedError: when the programs have nothing in common.
    """
    most = min(samples, affordable_samples(subject.reference, batches))
    few = [channels_last(batch) for batch in limit_samples(subject.reference, batches, most)]
    if not few:
        raise InputError("there is no sample to explain the error of", mend="pass calibration data")
    sites = find_sites(subject.reference, subject.quantized)
    tally = _Tally(subject)
    records: list[Record] = []
    for batch in few:
        log(f"errors of {len(sites.sites)} tensors on {sample_count(batch)} samples")
        records.append(record(sites, batch, all_values(subject.reference, batch)))
        tally.add(records[-1])
    found = tally.explanation(sum(map(sample_count, few)))
    faults = diagnose(records[0], tally.shares())
    redone = redo_mends(records[0], faults, subject.plan, tally.shares())
    found = replace(found, findings=_findings(faults, tally.shares(), redone))
    if subject.target is None:
        return replace(found, mends=tuple(change.mend for change in ranked(redone)))
    return _with_mends(found, subject, batches, few, redone, verify, log)


def _with_mends(
    found: Explanation,
    subject: Subject,
    batches: Sequence[Batch],
    few: Sequence[Batch],
    redone: Sequence[Change],
    verify: int,
    log: Callable[[str], None],
) -> Explanation:
    """The explanation with mends, the best of them made and measured, and the plan that makes those that help."""
    target = subject.target
    if target is None:
        return found
    log("mends")
    trial = Trial(subject.reference, few)
    planned = plan_mends(subject.reference, subject.plan, target, trial, list(found.by_layer()))
    changes = ranked([*redone, *planned])
    now = result_error(subject.reference, subject.quantized, few)
    tried: list[Change] = []
    notes = list(found.notes)
    for change in changes[:verify]:
        try:
            tried.append(verified(change, subject.reference, subject.passes, target, batches, few, now, subject.seed))
        except QCompilerError as error:
            notes.append(f"{change.mend.text} could not be made: {error.what}")
            tried.append(change)
    helpful = [change for change in tried if (change.mend.measured_db or 0.0) > 0]
    helpful.sort(key=lambda change: -(change.mend.measured_db or 0.0))
    plan = helpful[0].plan if helpful else None
    combined = merged(subject.plan, [change for change in helpful if change.plan is not subject.plan])
    if helpful and combined not in (subject.plan, plan):
        program = requantized(subject.reference, combined, subject.passes, target, batches, subject.seed)
        gain = gain_db(now, result_error(subject.reference, program, few))
        better = gain > (helpful[0].mend.measured_db or 0.0)
        plan = combined if better else plan
        layers = len({change.mend.layer for change in helpful if change.plan is not subject.plan})
        told = f"the best mend of each of {layers} layers together wins {gain:+.2f} dB"
        notes.append(told if better else f"{told}, less than the best one alone: the plan has that one")
    mends = tuple(change.mend for change in (*tried, *changes[verify:]))
    return replace(found, mends=mends, plan=plan, notes=tuple(notes))


def _findings(
    faults: Mapping[Site, Fault], shares: Mapping[Site, float], redone: Sequence[Change]
) -> tuple[Finding, ...]:
    """Worst first: by what quantizing the tensor anew would win; parameters that passes change on purpose come last."""
    known = {change.mend.tensor: change.mend.predicted_db for change in redone}
    gains = {site: known.get(together(site, faults, shares)[0].name, 0.0) for site in faults}

    def rank(site: Site) -> tuple[bool, float, float]:
        return faults[site].kind == "changed parameter", -gains[site], -shares.get(site, 0.0)

    order = sorted(faults, key=rank)
    return tuple(
        Finding(
            site.name,
            site.readers[0],
            faults[site].kind,
            faults[site].evidence,
            faults[site].recovered,
            shares.get(site, 0.0),
        )
        for site in order
    )


class _Tally:
    """Sums the parts of several batches."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.parts: dict[tuple[Site | None, Cause], float] = {}
        self.channels: dict[tuple[Site | None, Cause], Tensor] = {}
        self.whole = self.explained = self.signal = 0.0
        self.elements = self.points = 0

    def add(self, taken: Record) -> None:
        """Adds one batch."""
        behind = self.behind(taken)
        total = [sum(parts, torch.zeros_like(parts[0])) for parts in zip(*behind.values(), strict=True)]
        slope = slopes(taken, total)
        self.whole += slope.whole
        self.explained += slope.explained
        self.points += slope.points
        wanted = [value for value in taken.wanted if value.is_floating_point()]
        self.elements += sum(value.numel() for value in wanted)
        self.signal += sum(float(value.double().square().sum()) for value in wanted)
        for site, gradient in slope.sites.items():
            for cause, piece in causes_of(taken, site).items():
                self.put(site, cause, gradient, piece)
        self.put_behind(behind, slope)

    def put(self, site: Site, cause: Cause, gradient: Tensor, piece: Tensor) -> None:
        """Adds the part of one cause at one tensor."""
        key = (site, cause)
        self.parts[key] = self.parts.get(key, 0.0) + inner(gradient, piece)
        if piece.dim() > 1:
            axis = 0 if site.constant else 1 if piece.dim() > 3 else piece.dim() - 1
            sums = torch.nan_to_num(gradient.double() * piece.double()).movedim(axis, 0).flatten(1).sum(1)
            known = self.channels.get(key)
            self.channels[key] = sums if known is None or known.shape != sums.shape else known + sums

    def put_behind(self, behind: Mapping[Cause, Sequence[Tensor]], slope: Slopes) -> None:
        for cause, pieces in behind.items():
            part = sum(inner(gradient, piece) for gradient, piece in zip(slope.results, pieces, strict=True))
            self.parts[None, cause] = self.parts.get((None, cause), 0.0) + part

    def behind(self, taken: Record) -> dict[Cause, list[Tensor]]:
        """What the kernels and the runtime add to the results of the quantized program."""
        stages: list[Sequence[Tensor]] = [taken.found]
        named: list[Cause] = []
        for cause, runner in zip(_BEHIND, (self.subject.simulated, self.subject.ships), strict=True):
            if runner is not None:
                stages.append(runner(taken.batch))
                named.append(cause)
        found: dict[Cause, list[Tensor]] = {}
        for cause, before, after in zip(named, stages[:-1], stages[1:], strict=True):
            pairs = zip(before, after, strict=True)
            found[cause] = [b.to(a.dtype) - a for a, b in pairs if a.is_floating_point()]
        return found

    def shares(self) -> dict[Site, float]:
        """Share of each site in the whole, all causes together."""
        found: dict[Site, float] = {}
        for (site, _), value in self.parts.items():
            if site is not None:
                found[site] = found.get(site, 0.0) + value / (self.whole or 1.0)
        return found

    def explanation(self, samples: int) -> Explanation:
        """Parts alone."""
        elements, whole = max(self.elements, 1), self.whole or 1.0
        modules = {node.name: self.subject.reference.origin(node).module for node in self.subject.reference.nodes}
        parts: list[Part] = []
        for (site, cause), value in self.parts.items():
            if not value:
                continue
            tensor, layer = (RESULTS, RESULTS) if site is None else (site.name, site.readers[0])
            layer = RESULTS if layer == RESULT else layer
            channel, part = self.worst_channel((site, cause), value)
            parts.append(
                Part(tensor, layer, modules.get(layer, ""), cause, value / elements, value / whole, channel, part)
            )
        parts.sort(key=lambda part: -part.share)
        return Explanation(
            model=self.subject.reference.name,
            samples=samples,
            mse=self.whole / elements,
            sqnr_db=gain_db(self.signal, self.whole),
            parts=tuple(parts),
            interaction=(self.whole - self.explained) / elements,
            points=self.points,
            deployed=self.subject.ships is not None or self.subject.simulated is not None,
        )

    def worst_channel(self, key: tuple[Site | None, Cause], value: float) -> tuple[int, float]:
        sums = self.channels.get(key)
        if sums is None or len(sums) < 2 or value <= 0:
            return -1, 0.0
        worst = int(sums.argmax())
        # Channels may cancel, so that one of them can be more than all together.
        return worst, float(sums[worst]) / float(sums.abs().sum())
