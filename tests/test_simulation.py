"""The simulation of what ships against onnxruntime: every kernel, and whole artefacts."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

import qcompiler
from qcompiler.errors import InputError
from qcompiler.job import backends, prepare, run_job
from qcompiler.measure import sqnr_db
from qcompiler.pass_text import parse_passes
from qcompiler.passes.recipes import Recipe, catalogue
from qcompiler.targets import load_target
from tests.kernel_pairs import PAIRS, Pair

PROGRAMS, ROUNDS = 3, 7


def check(pair: Pair, seed: int, rounds: int) -> None:
    bench = pair.bench(seed)
    session, kernels = bench.session()
    assert kernels & set(pair.realised), f"onnxruntime runs {sorted(kernels)}"
    for number in range(rounds):
        bench.redraw(number)
        difference = bench.meant() - bench.ran(session)
        assert pair.excess(bench, difference) <= 1, f"{int((difference != 0).sum())} of {difference.numel()} differ"


@pytest.mark.parametrize("pair", PAIRS, ids=[pair.name for pair in PAIRS])
def test_meaning_is_what_runs(pair):
    for seed in range(PROGRAMS):
        check(pair, seed, ROUNDS)


def test_there_are_forty_pairs():
    assert len({pair.name for pair in PAIRS}) == len(PAIRS) >= 40


class Net(torch.nn.Module):
    """Convolutions, a sum, a sigmoid and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 8, 3, padding=1)
        self.last = torch.nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = torch.sigmoid(self.second(x)) + x
        return self.last(x.mean((2, 3)))


class Tower(torch.nn.Module):
    """Three linear layers of unlike sensitivity."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(64, 64) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


JUDGED = re.compile(r"error of the results ([\d.e-]+)")
IMAGES = [(torch.randn(4, 3, 9, 7, generator=torch.Generator().manual_seed(1)),)]
ROWS = [(torch.randn(16, 64, generator=torch.Generator().manual_seed(1)),)]


def tensor(value: object) -> torch.Tensor:
    assert isinstance(value, torch.Tensor)
    return value


def fast_target():
    target = load_target("onnxruntime", backends())
    return replace(target, settings={**target.settings, "weight_only": "fast"})


def test_an_artefact_simulates_itself_bit_for_bit(tmp_path):
    artifact = qcompiler.compile(Net().eval(), calibration=IMAGES, recipe="w8a8", output=tmp_path / "net")
    for each in (artifact, qcompiler.load(tmp_path / "net")):
        assert torch.equal(tensor(each.simulate(IMAGES[0][0])), tensor(each(IMAGES[0][0])))


def test_a_simulation_takes_what_the_model_takes():
    artifact = qcompiler.compile(Net().eval(), calibration=IMAGES, recipe="w8a8")
    with pytest.raises(InputError):
        artifact.simulate(torch.zeros(2, 3))


def test_a_target_without_kernels_simulates_too():
    artifact = qcompiler.compile(Net().eval(), "simulation", calibration=IMAGES, recipe="w8a8")
    assert torch.equal(tensor(artifact.simulate(IMAGES[0][0])), tensor(artifact(IMAGES[0][0])))


@pytest.mark.parametrize("recipe", ["w4a16g32", "w8a16"])
def test_activations_that_the_runtime_quantizes_are_predicted(recipe):
    model, (rows,) = Tower().eval(), ROWS[0]
    artifact = qcompiler.compile(model, fast_target(), calibration=ROWS, recipe=recipe)
    exact = qcompiler.compile(model, calibration=ROWS, recipe=recipe)
    wanted = model(rows).detach()
    real, predicted, ideal = (
        sqnr_db(wanted, tensor(value)) for value in (artifact(rows), artifact.simulate(rows), exact(rows))
    )
    assert abs(real - predicted) < 0.1
    assert recipe != "w8a16" or ideal - real > 1


def test_the_report_tells_what_the_simulation_predicts():
    artifact = qcompiler.compile(Net().eval(), calibration=IMAGES, recipe="w8a8", simulate="deployed")
    line = next(note for note in artifact.report.notes if "kernels that ship" in note)
    assert line.count(f"{artifact.report.sqnr_db:.2f} dB") == 2


def test_allocation_tries_plans_as_they_would_ship():
    """With an error that only the runtime's own rounding of activations makes, plans are judged worse."""
    errors: list[float] = []
    for simulate in ("quantized", "deployed"):
        lines: list[str] = []
        text = f"mixed_precision{{schemes=w8a16|w4a16g32, size=3.2x, simulate={simulate}}}"
        passes = tuple(parse_passes(f"{text},apply_plan,nearest", catalogue()))
        recipe = Recipe("tried", passes)
        job = prepare(Tower().eval(), fast_target(), calibration=ROWS, recipe=recipe, log=lines.append)
        run_job(job)
        errors += [float(match[1]) for line in lines if (match := JUDGED.match(line))]
    assert len(errors) == 2
    assert errors[1] > errors[0]
