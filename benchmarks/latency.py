"""Latency as a budget: how well lone layers predict whole models, and what an allocation makes of them.

    python -m benchmarks.latency [--models resnet20,vit_mnist,...] [--quick]

First table: seconds of three random plans, predicted and measured, one sample, one thread, CPU time, files run in
turns. The correction of the predictions was fitted to other plans: float, the uniform ones and two mixed ones. Second
table: all uniform plans, and mixed precision under the predicted latency of the fastest of these, and under parts of
it; errors are those of the results on samples that calibration and allocation have not seen, and on how many of these
they are less than those of the uniform plan that is fastest as measured.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import qcompiler
from benchmarks.common import print_table, write_results
from benchmarks.models import CASES
from qcompiler import Budget
from qcompiler.artifact import Artifact
from qcompiler.clocks import Clocks
from qcompiler.cost import LatencyTable, summary
from qcompiler.errors import InputError
from qcompiler.ir.program import Program
from qcompiler.job import Job, prepare
from qcompiler.lone_layers import Bench
from qcompiler.passes.allocate import MixedPrecision
from qcompiler.passes.allocate.predictor import Predictor
from qcompiler.passes.allocate.units import Offer
from qcompiler.passes.recipes import Recipe
from qcompiler.pipeline import Context, Options, run_passes
from qcompiler.plan import Assignment
from qcompiler.promises import measured_table

SCHEMES: Mapping[str, str] = {
    "resnet20": "w8a8|float",
    "squeezenet": "w8a8|float",
    "vit_mnist": "w8a8|w8a8_dynamic|w4a16g32|float",
    "code_lm": "w8a8|w8a8_dynamic|w4a16g32|float",
}
QUICK = ("resnet20", "vit_mnist")
PLANS = 3
SHARES = (1.0, 0.95, 0.9)
"""Limits as parts of what the fastest uniform plan is predicted to take."""
Sample = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Ready:
    """A model whose layers were timed.

    Args:
        name: of the model.
        module: the model.
        samples: of calibration and allocation, one each.
        held: samples that nothing has seen.
        job: with the passes up to the allocation.
        bench: measures.
        table: of latencies.
    """

    name: str
    module: torch.nn.Module
    samples: Sequence[Sample]
    held: Sequence[Sample]
    job: Job
    bench: Bench
    table: LatencyTable


def timed(name: str, runs: int, samples: int) -> Ready:
    """Measures every row of one model."""
    case = CASES[name]()
    single = [
        tuple(parts) for batch in case.calibration for parts in zip(*(value.split(1) for value in batch), strict=True)
    ]
    drawn = random.Random(0).sample(single, min(2 * samples, len(single)))
    recipe = Recipe.of("bench", [MixedPrecision(schemes=SCHEMES[name], size="1x")])
    job = prepare(case.module, inputs=drawn[0], recipe=recipe, dynamic="none", log=print)
    bench = Bench(job.target, runs=runs, log=print)
    table, _ = measured_table(job, bench, bench.empty())
    half = len(drawn) // 2
    return Ready(name, case.module, drawn[:half], drawn[half:], job, bench, table)


def offer_of(ready: Ready) -> tuple[Program, Offer]:
    """The program that is allocated, and its options."""
    *before, allocation = ready.job.passes
    context = Context(ready.job.target)
    program, _ = run_passes(ready.job.program, before, context, [], Options(check="off"), ready.job.sample)
    if not isinstance(allocation, MixedPrecision):
        raise InputError("the recipe does not end with an allocation")
    return program, allocation.offered(program, context)


def predictions(ready: Ready) -> list[dict[str, object]]:
    """Rows of the first table."""
    program, offered = offer_of(ready)
    draws = random.Random(1)
    choices = [tuple(draws.randrange(len(unit.options)) for unit in offered.units) for _ in range(PLANS)]
    plans: list[Mapping[str, Assignment]] = [offered.plan(choice) for choice in choices]
    predictor = Predictor(program, ready.table, ready.job.target)
    measured = [summary(seconds)[0] for seconds in ready.bench.plans(program, plans)]
    return [
        {
            "model": ready.name,
            "plan": f"random {number}",
            "predicted ms": 1e3 * predictor.seconds(plan),
            "measured ms": 1e3 * seconds,
            "error %": 100 * (predictor.seconds(plan) / seconds - 1),
        }
        for number, (plan, seconds) in enumerate(zip(plans, measured, strict=True))
    ]


def compiled(ready: Ready, folder: Path, scheme: str, limit: float | None) -> Artifact:
    """A uniform artefact, or a mixed one under a limit in seconds."""
    path = folder / f"{ready.name}.json"
    ready.table.save(path)
    mixed = MixedPrecision(schemes=SCHEMES[ready.name], latencies=str(path), samples=len(ready.samples))
    first = f"assign{{scheme={scheme}}}" if limit is None else mixed
    recipe = Recipe.of(scheme, [first, "apply_plan", "calibrate", "nearest", "bias_correction"])
    return qcompiler.compile(
        ready.module,
        inputs=ready.samples[0],
        calibration=ready.samples,
        recipe=recipe,
        budget=None if limit is None else Budget(latency=limit),
        dynamic="none",
        output=folder / f"{ready.name}_{scheme}_{limit}",
    )


def errors(ready: Ready, artifact: Artifact) -> torch.Tensor:
    """Squared error of the results on each sample that nothing has seen, as a part of the mean square of them all."""
    noise: list[float] = []
    signal = 0.0
    with torch.no_grad():
        for sample in ready.held:
            wanted, found = ready.module(*sample), artifact(*sample)
            noise.append(float((torch.as_tensor(found).double() - wanted.double()).square().sum()))
            signal += float(wanted.double().square().sum())
    return torch.tensor(noise, dtype=torch.float64) * len(noise) / signal


def times(ready: Ready, folders: Sequence[Path]) -> list[float]:
    """Seconds of one call of each artefact, run in turns."""
    clocks = ready.job.target.backend
    if not isinstance(clocks, Clocks):
        raise InputError("the target cannot be timed")
    calls = clocks.calls(folders, [list(ready.samples[0])] * len(folders), 1, 3 * ready.bench.runs)
    return [summary(seconds)[0] for seconds in calls]


def allocations(ready: Ready, folder: Path) -> list[dict[str, object]]:
    """Rows of the second table."""
    made = {
        f"uniform {scheme}": compiled(ready, folder, scheme, None)
        for scheme in SCHEMES[ready.name].split("|")
        if scheme != "float"
    }
    program, offered = offer_of(ready)
    predictor = Predictor(program, ready.table, ready.job.target)
    fastest = min(predictor.seconds(offered.plan(offered.uniform(scheme))) for scheme in offered.schemes)
    for share in SHARES:
        try:
            made[f"mixed, {share:g} of the fastest"] = compiled(ready, folder, "mixed", share * fastest)
        except InputError as refused:
            print(f"{ready.name}, {share:g}: {refused.what}")
    ready.bench.emit(program, {}, folder / f"{ready.name}_float")
    places = [folder / f"{ready.name}_float", *(artifact.onnx.parent for artifact in made.values())]
    seconds = times(ready, places)
    found = {name: errors(ready, artifact) for name, artifact in made.items()}
    _, best = min((taken, name) for name, taken in zip(made, seconds[1:], strict=True) if name.startswith("uniform"))
    rows: list[dict[str, object]] = []
    for (name, artifact), taken in zip(made.items(), seconds[1:], strict=True):
        predicted = artifact.report.latency.predicted if artifact.report.latency is not None else None
        low = sum(layer.requested != "float" and not layer.reason for layer in artifact.report.layers)
        rows.append(
            {
                "model": ready.name,
                "plan": name,
                "ms": 1e3 * taken,
                "predicted ms": None if predicted is None else 1e3 * predicted,
                "x float": seconds[0] / taken,
                "error": float(found[name].mean()),
                "less on": f"{int((found[name] < found[best]).sum())}/{len(ready.held)}",
                "low-bit layers": f"{low}/{len(artifact.report.layers)}",
                "fell back": len(artifact.report.fallbacks),
            }
        )
    return rows


def main() -> None:
    """Measures the models asked for and writes `results/latency.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="")
    parser.add_argument("--quick", action="store_true", help="few runs, of two small models by default; writes nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = options.models.split(",") if options.models else QUICK if options.quick else tuple(SCHEMES)
    predicted: list[dict[str, object]] = []
    allocated: list[dict[str, object]] = []
    for name in names:
        ready = timed(name, 15 if options.quick else 40, 16 if options.quick else 40)
        predicted += (plans := predictions(ready))
        print_table(plans)
        with TemporaryDirectory() as folder:
            allocated += (made := allocations(ready, Path(folder)))
        print_table(made)
    if not options.quick and set(names) == set(SCHEMES):
        rows = [{"table": "predictions", **row} for row in predicted] + [
            {"table": "budgets", **row} for row in allocated
        ]
        print(write_results("latency", rows, "one sample, one thread, CPU time, files run in turns"))


if __name__ == "__main__":
    main()
