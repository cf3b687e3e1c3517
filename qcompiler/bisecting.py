"""Finds the first step of a run, and the first place in it, that breaks a check, in few evaluations.

The states of a run are good up to some step and bad from there on, as far as anybody can tell from the two ends;
halving finds the border. The guilty pass is then taken apart into its edit sites (see `hybrid`), and halving goes on
over the programs that take the first few of them.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from qcompiler.errors import InputError, QCompilerError, SpecError
from qcompiler.hybrid import EditSite, Seam, seam, without_unset
from qcompiler.ir.interp import KernelMeaning, evaluate
from qcompiler.ir.program import Program
from qcompiler.measure import output_sqnr_db
from qcompiler.stats import Batch

_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class Verdict:
    """What a check says of a program."""

    good: bool
    text: str


Judge = Callable[[Program], Verdict]


@dataclass(frozen=True)
class Trial:
    """One evaluation: what was looked at, and the verdict."""

    what: str
    verdict: Verdict


@dataclass(frozen=True)
class Guilty:
    """The first step that breaks the check.

    Args:
        number: of the step.
        trials: evaluations that found the pass.
        site: the place in it; None when its edits cannot be told apart.
        site_trials: evaluations that found the place.
        sites: how many places the pass edited.
        why_no_site: why there is none.
        seam: the programs around it.
    """

    number: int
    trials: tuple[Trial, ...]
    site: EditSite | None
    site_trials: tuple[Trial, ...]
    sites: int
    why_no_site: str
    seam: Seam


@dataclass(frozen=True)
class Steps:
    """The states of a run.

    Args:
        numbers: the start, and every step that changed something, in order.
        program: the state after a step.
        moved: values that a step changed on purpose, by its number.
    """

    numbers: Sequence[int]
    program: Callable[[int], Program]
    moved: Callable[[int], Sequence[str]] = field(default=lambda number: ())


def bisect(steps: Steps, judge: Judge, trusted_start: bool = True) -> Guilty | tuple[Trial, ...]:
    """The first step after which the check fails, and where; the trials alone when the last state is good.

    Args:
        steps: see `Steps`.
        judge: the check.
        trusted_start: whether the start is known to be good, as that which everything is compared with is.

    Raises:
        InputError: when the start is bad already.
    """
    trials: list[Trial] = []

    def good(index: int) -> bool:
        number = steps.numbers[index]
        trials.append(Trial(f"after step {number}", judge(without_unset(steps.program(number)))))
        return trials[-1].verdict.good

    last = len(steps.numbers) - 1
    if last < 1 or good(last):
        return tuple(trials)
    first = _first_bad(0, last, good)
    if first == 1 and not trusted_start and not good(0):
        raise InputError(
            f"the check fails before any pass has run: {trials[-1].verdict.text}", mend="loosen it, or mend the model"
        )
    number = steps.numbers[first]
    before, after = (without_unset(steps.program(steps.numbers[index])) for index in (first - 1, first))
    found = seam(before, after, steps.moved(number))
    site, tried, why = _guilty_site(found, judge)
    return Guilty(number, tuple(trials), site, tuple(tried), len(found.sites), why, found)


def _first_bad(good: int, bad: int, is_good: Callable[[int], bool]) -> int:
    while bad - good > 1:
        middle = (good + bad) // 2
        if is_good(middle):
            good = middle
        else:
            bad = middle
    return bad


def _guilty_site(found: Seam, judge: Judge) -> tuple[EditSite | None, list[Trial], str]:
    sites, trials = found.sites, list[Trial]()
    if not sites:
        return None, trials, "it changed no value that can be looked at alone"

    def good(count: int) -> bool:
        program = found.hybrid([site.value for site in sites[:count]])
        trials.append(Trial(f"{count} of {len(sites)} sites", judge(program)))
        return trials[-1].verdict.good

    try:
        return sites[_first_bad(0, len(sites), good) - 1], trials, ""
    except QCompilerError as error:
        return None, trials, error.what


def metric_judge(text: str, reference: Program, sample: Batch, kernels: Mapping[str, KernelMeaning]) -> Judge:
    """A check such as `sqnr>30` against the results of `reference` on a sample.

    `sqnr` is in decibels over all results together; `max_error` the largest difference relative to the largest result;
    `cosine` the similarity of all results as one vector. A program that cannot be run is bad.

    Raises:
        SpecError: for a text that is no check.
        InputError: when the reference cannot be run on the sample.
    """
    match = re.fullmatch(r"\s*(\w+)\s*(>=|<=|>|<)\s*([-+.\deE]+)\s*", text)
    if match is None or match[1] not in METRICS or not _is_number(match[3]):
        raise SpecError(f"'{text}' is no check", mend=f"for example sqnr>30; metrics: {', '.join(METRICS)}")
    metric, compare, limit = METRICS[match[1]], _COMPARISONS[match[2]], float(match[3])
    with torch.no_grad():
        wanted = evaluate(reference, sample, kernels=kernels)

    def judge(program: Program) -> Verdict:
        try:
            with torch.no_grad():
                value = metric(wanted, evaluate(program, sample, kernels=kernels))
        except QCompilerError as error:
            return Verdict(False, f"it cannot be run: {error.what}")
        return Verdict(compare(value, limit), f"{match[1]} {value:.4g}")

    return judge


def largest_error(wanted: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> float:
    """Largest difference of two lists of results, relative to the largest number of the first; infinite for NaN."""
    gaps = [(a.double() - b.double()).abs().max().item() for a, b in zip(wanted, found, strict=True) if a.numel()]
    size = max((a.double().abs().max().item() for a in wanted if a.numel()), default=0.0)
    worst = math.inf if any(math.isnan(gap) for gap in gaps) else max(gaps, default=0.0)
    return worst / (size or 1.0)


def cosine(wanted: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> float:
    """Cosine of the angle between two lists of results, each taken as one vector; -1 for NaN."""
    one, other = (torch.cat([value.double().flatten() for value in values]) for values in (wanted, found))
    value = float(torch.nn.functional.cosine_similarity(one, other, dim=0))
    return -1.0 if math.isnan(value) else value


METRICS: Mapping[str, Callable[[Sequence[torch.Tensor], Sequence[torch.Tensor]], float]] = {
    "sqnr": output_sqnr_db,
    "max_error": largest_error,
    "cosine": cosine,
}


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text) is not None
