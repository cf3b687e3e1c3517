"""What all learned transforms share: stretches from front to back, training on them, folding what helped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol, cast

import torch
from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.examples import examples
from qcompiler.ir.program import Node, Program
from qcompiler.passes.transform import surgery
from qcompiler.passes.transform.cut import cut_in
from qcompiler.passes.transform.learned.bases import Basis
from qcompiler.passes.transform.learned.bed import Bed, bed_of, layers_of
from qcompiler.passes.transform.learned.constants import Constant, constants_under
from qcompiler.passes.transform.learned.tasks import Folded, Online, Task, nothing
from qcompiler.passes.transform.learned.units import Unit, units_of, whole
from qcompiler.pipeline import Context
from qcompiler.stats import Batch
from qcompiler.training import Data, Forward, Loss, Outcome, Sample, Schedule, Variable, hard_error, reconstruct
from qcompiler.walk import Walk

_HELD_SHARE = 8
# What has been learned block by block is near an end and only to be adjusted.
_FINISHING_PACE = 0.2


@dataclass(frozen=True)
class Lesson:
    """How to learn.

    Args:
        step: name of the pass.
        steps: of each stage.
        samples: calibration batches, at most.
        rows: examples per step.
        seed: of every random choice.
        loss: of a stretch's results.
        finish: steps at the end in which everything that helped learns together, from the final results.
        guard: keep only what lowers the held-out error; else everything, from where it starts.
    """

    step: str
    steps: int
    samples: int
    rows: int
    seed: int
    loss: Loss = field(default_factory=Loss)
    finish: int = 0
    guard: bool = True

    def __post_init__(self) -> None:
        if min(self.steps, self.finish) < 0 or self.samples < 1 or self.rows < 1:
            raise SpecError(
                f"steps={self.steps}, samples={self.samples}, rows={self.rows} leave nothing to learn on",
                mend="steps are not negative, samples and rows at least 1",
            )


class Stages(Protocol):
    """In what order the bases of a stretch are learned."""

    def __call__(self, tasks: Sequence[Task]) -> Iterator[Sequence[Basis]]:
        """What is learned together, one stage after the other; asked for the next when the last is done."""
        ...


def at_once(tasks: Sequence[Task]) -> Iterator[Sequence[Basis]]:
    """Everything in one stage."""
    yield [task.basis for task in tasks]


def can_learn(program: Program, ctx: Context, step: str) -> bool:
    """Whether there are data and number formats to learn from; a line in the log where not."""
    reason = "no operator will be quantized" if not layers_of(program) else ""
    reason = reason or ("" if len(ctx.batches) else "there is no calibration data")
    if reason:
        ctx.log(f"{step}: nothing to learn: {reason}")
    return not reason


def learn(
    program: Program, prepared: Program, tasks: Sequence[Task], stages: Stages, lesson: Lesson, ctx: Context
) -> Program:
    """Learns the tasks and folds those that lower the error of what they can reach.

    Args:
        program: as it came, with assignments.
        prepared: the same function; gains that the tasks' groups need folded are. Edited.
        tasks: their nodes are the prepared program's.
        stages: what is learned when.
        lesson: how.
        ctx: of the pass.

    Returns:
        the prepared program with transforms, or `program` where nothing helped.
    """
    batches = list(islice(ctx.batches, lesson.samples))
    if not tasks:
        ctx.log(f"{lesson.step}: there is no place for a transform")
        return program
    helped = _learned(prepared, tasks, stages, lesson, ctx, batches)
    for number in sorted(helped):
        fold(prepared, tasks[number], lesson.step)
    held = batches[-max(len(batches) // _HELD_SHARE, 1) :]
    before, after = (quantized_error(version, held, lesson) for version in (program, prepared))
    if lesson.guard and not (helped and after < before):
        ctx.log(f"{lesson.step}: all together would not help ({before:.4g} -> {after:.4g}); the model stays as it is")
        return program
    ctx.log(f"{lesson.step}: {len(helped)} of {len(tasks)} transforms kept, error {before:.4g} -> {after:.4g}")
    return prepared


def fold(program: Program, task: Task, step: str) -> None:
    """Puts what was learned into the program, in float64."""
    basis = task.basis.exact()
    if isinstance(task, Online):
        cut_in(program, task.layers, task.basis.factor(), step)
    elif task.kind == "matrix":
        surgery.apply(program, task.group, basis, step)
    elif task.kind == "scale":
        surgery.scale(program, task.group, basis, step)
    else:
        surgery.shift(program, task.group, basis, step)


def quantized_error(program: Program, batches: Sequence[Batch], lesson: Lesson) -> float:
    """Mean loss of the results with everything that is assigned rounded to nearest, against the float results."""
    bed = bed_of(program, [], lesson.step)
    walk = Walk(bed.program, batches, ("float",))
    given = constants_under(bed.constants, {})
    total = 0.0
    with torch.no_grad():
        for batch in range(walk.batches):
            live = walk.live(batch, "float")
            kinds = walk.ahead(None, live, "float"), walk.ahead(None, live, "quantized", given)
            wanted, found = (_real(bed.program.outputs, values) for values in kinds)
            total += float(lesson.loss(found, Sample(live, (wanted,))))
    return total / walk.batches


def _learned(
    prepared: Program,
    tasks: Sequence[Task],
    stages: Stages,
    lesson: Lesson,
    ctx: Context,
    batches: Sequence[Batch],
) -> list[int]:
    """Numbers of the tasks that helped."""
    bed = bed_of(prepared, tasks, lesson.step)
    units = units_of(bed)
    walk = Walk(bed.program, batches, ("float",))
    helped: list[int] = []
    for done, unit in enumerate(units):
        ctx.progress(done, len(units))
        walk.to(unit.start)
        before, after = _train(_Stretch.of(walk, bed, unit, tasks, lesson), stages, lesson)
        names = ", ".join(sorted({_name(tasks[number]) for number in unit.members}))
        ctx.log(f"{lesson.step}: {names} up to %{unit.results[-1].name}: error {before:.4g} -> {after:.4g}")
        if after < before or not lesson.guard:
            helped += unit.members
    if helped and lesson.finish:
        _finish(bed, tasks, sorted(helped), lesson, batches, ctx)
    return helped


def _finish(
    bed: Bed, tasks: Sequence[Task], helped: Sequence[int], lesson: Lesson, batches: Sequence[Batch], ctx: Context
) -> None:
    """Trains what helped once more, all of it together."""
    for number in set(range(len(tasks))) - set(helped):
        tasks[number].basis.rest()
    walk = Walk(bed.program, batches, ("float",))
    stretch = _Stretch.of(walk, bed, whole(bed), tasks, lesson)
    stage = [tasks[number].basis for number in helped]
    outcome = _taught(stretch, stage, lesson, lesson.finish, _FINISHING_PACE)
    ctx.log(f"{lesson.step}: all together: error {outcome.before:.4g} -> {outcome.after:.4g}")


def _train(stretch: _Stretch, stages: Stages, lesson: Lesson) -> tuple[float, float]:
    """Trains the bases of a stretch in place, from where they start or from rest, whichever is better.

    Returns:
        held-out error without any of them and with all as they were learned.
    """
    before = stretch.error({number: nothing(task) for number, task in stretch.tasks.items()})
    if lesson.guard and not stretch.error(stretch.learned()) <= before:
        for task in stretch.tasks.values():
            task.basis.rest()
    for stage in stages(list(stretch.tasks.values())):
        _taught(stretch, stage, lesson, lesson.steps)
    return before, stretch.error(stretch.learned())


def _taught(stretch: _Stretch, stage: Sequence[Basis], lesson: Lesson, steps: int, pace: float = 1.0) -> Outcome:
    """Trains some bases of a stretch in place."""
    schedule = Schedule(steps, penalty=0.0, warmup=0.0, optimizer="adam_cosine", pace=pace)
    variables = cast(Sequence[Variable], stage)
    return reconstruct(stretch.under(stage), variables, lesson.loss, schedule, stretch.data, lesson.seed)


@dataclass(eq=False)
class _Stretch:
    """A stretch that can be run with any transforms.

    Args:
        walk: stands in front of it.
        unit: where it is.
        tasks: its transforms by number.
        fixed: its constants that no transform touches, rounded.
        moving: the others.
        data: examples.
        loss: of its results.
    """

    walk: Walk
    unit: Unit
    tasks: Mapping[int, Task]
    fixed: Mapping[Node, Tensor]
    moving: Mapping[Node, Constant]
    data: Data
    loss: Loss

    @staticmethod
    def of(walk: Walk, bed: Bed, unit: Unit, tasks: Sequence[Task], lesson: Lesson) -> _Stretch:
        """The stretch of a unit; the walk stands in front of it."""
        inside = set(walk.pending(unit.stop))
        mine = {node: constant for node, constant in bed.constants.items() if inside.intersection(node.users)}
        moving = {node: constant for node, constant in mine.items() if constant.edits}
        fixed = constants_under({node: mine[node] for node in mine.keys() - moving.keys()}, {})
        samples = [_sample(walk, unit, batch) for batch in range(walk.batches)]
        data = examples(bed.program, samples, unit.results, lesson.rows)
        return _Stretch(
            walk, unit, {number: tasks[number] for number in unit.members}, fixed, moving, data, lesson.loss
        )

    def learned(self) -> dict[int, Tensor]:
        """All transforms as they stand."""
        return {number: task.basis.hard() for number, task in self.tasks.items()}

    def results(self, bases: Mapping[int, Tensor], sample: Sample) -> list[Tensor]:
        """What the quantized stretch gives under these transforms."""
        given = {**self.fixed, **constants_under(self.moving, bases)}
        values = self.walk.ahead(self.unit.stop, sample.live, "quantized", given)
        return [cast(Tensor, values[node]) for node in self.unit.results]

    def error(self, bases: Mapping[int, Tensor]) -> float:
        """Held-out error under these transforms."""
        return hard_error(lambda values, sample: self.results(bases, sample), [], self.loss, self.data)

    def under(self, stage: Sequence[Basis]) -> Forward:
        """The results as a function of some bases; the others stay as they stand now."""
        known, numbers = self.learned(), {task.basis: number for number, task in self.tasks.items()}
        active = [numbers[basis] for basis in stage]

        def forward(values: Sequence[Tensor], sample: Sample) -> list[Tensor]:
            return self.results({**known, **dict(zip(active, values, strict=True))}, sample)

        return forward


def _sample(walk: Walk, unit: Unit, batch: int) -> Sample:
    """What the stretch reads in one batch, and what the float model makes of it."""
    pending = walk.pending(unit.stop)
    read = {source for node in pending for source in node.all_input_nodes} - set(pending)
    live = walk.live(batch, "float")
    with torch.no_grad():
        values = walk.ahead(unit.stop, live, "float")
    targets = tuple(cast(Tensor, values[node]) for node in unit.results)
    return Sample({node: value for node, value in live.items() if node in read}, (targets,))


def _real(nodes: Sequence[Node], values: Mapping[Node, object]) -> tuple[Tensor, ...]:
    found = [values[node] for node in nodes]
    return tuple(value for value in found if isinstance(value, Tensor) and value.is_floating_point())


def _name(task: Task) -> str:
    return task.group.name if isinstance(task, Folded) else f"%{task.layers[0].source.name}"
