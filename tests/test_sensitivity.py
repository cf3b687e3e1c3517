"""Sensitivities: what all of them promise, and what each computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from qcompiler.errors import InputError, UnsupportedError
from qcompiler.ir.program import Program
from qcompiler.job import prepare, run_job
from qcompiler.passes.allocate.sensitivity import SENSITIVITIES, measure_table
from qcompiler.passes.allocate.sensitivity.method import Joint, Sensitivity, Subject
from qcompiler.passes.allocate.sensitivity.results import LossDelta
from qcompiler.passes.allocate.units import Offer, offer
from qcompiler.passes.recipes import Recipe
from qcompiler.pipeline import Context
from qcompiler.spec import parse_scheme

WEIGHTS = ("w8a16", "w4a16g16", "w3a16g16", "w2a16g16")
IMAGES = {"ssim", "gmsd"}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Classifier(nn.Module):
    """Two layers, a residual addition, a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.head(x + torch.relu(self.second(x)))


class Painter(nn.Module):
    """Images to images."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


class Attention(nn.Module):
    """One head, with a norm before."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        return self.out(torch.nn.functional.scaled_dot_product_attention(q, k, v))


SAMPLES: dict[type[nn.Module], list[Tensor]] = {
    Classifier: [noise(16, 32, seed=1), noise(16, 32, seed=2)],
    Painter: [noise(4, 3, 12, 12, seed=3)],
    Attention: [noise(4, 5, 16, seed=4)],
}


@cache
def canonical(kind: type[nn.Module]) -> tuple[Program, Context]:
    """A canonical program and what passes are told."""
    job = prepare(kind().eval(), "simulation", calibration=SAMPLES[kind], recipe=Recipe("none", ()))
    return run_job(job)[1], Context(job.target, batches=job.batches)


def offered(kind: type[nn.Module], schemes: Sequence[str] = WEIGHTS, with_float: bool = False) -> Offer:
    program, context = canonical(kind)
    return offer(program, context.target, [*map(parse_scheme, schemes), *([None] if with_float else [])], ())


def table(name: str, kind: type[nn.Module] = Classifier, schemes: Sequence[str] = WEIGHTS) -> list[list[float]]:
    program, context = canonical(kind)
    return [list(row) for row in measure_table(name, program, offered(kind, schemes).units, context)]


# -- what all promise --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SENSITIVITIES)
def test_losses_are_zero_for_float_and_fall_with_bits(kind: type[Sensitivity]) -> None:
    model = Painter if kind.name in IMAGES else Classifier
    program, context = canonical(model)
    schemes = ("w8a16", "w4a16", "w3a16", "w2a16") if model is Painter else WEIGHTS
    found = offered(model, schemes, with_float=True)
    for row in measure_table(kind.name, program, found.units, context):
        assert row[4] == 0
        assert 0 <= row[0] <= row[1] <= row[2] <= row[3]
        assert row[3] > row[0] or kind is LossDelta  # which may find that coarse weights do good


@pytest.mark.parametrize("kind", SENSITIVITIES)
def test_losses_of_activations_fall_with_bits(kind: type[Sensitivity]) -> None:
    model = Painter if kind.name in IMAGES else Classifier
    for row in table(kind.name, model, ("w8a8", "w4a8", "w4a4")):
        assert 0 <= row[0] <= row[2]
        assert row[2] > 0 or kind is LossDelta


@pytest.mark.parametrize("kind", SENSITIVITIES)
def test_a_row_depends_on_its_unit_alone(kind: type[Sensitivity]) -> None:
    model = Painter if kind.name in IMAGES else Classifier
    program, context = canonical(model)
    units = offered(model, ("w4a16",)).units
    rows = [list(kind().losses(Subject(program, context), part)) for part in (units, units[1:])]
    assert len(rows[0]) == len(rows[1]) + 1
    for one, other in zip(rows[0][1:], rows[1], strict=True):
        assert one.dim() == 2
        assert isinstance(kind(), Joint) or torch.allclose(one, other)


@pytest.mark.parametrize("kind", [kind for kind in SENSITIVITIES if kind.needs_data])
def test_those_that_need_data_ask_for_it(kind: type[Sensitivity]) -> None:
    model = Painter if kind.name in IMAGES else Classifier
    program, context = canonical(model)
    units = offered(model, ("w8a8",)).units
    with pytest.raises(InputError, match="sensitivity=weight"):
        measure_table(kind.name, program, units, replace(context, batches=()))


@pytest.mark.parametrize("kind", [kind for kind in SENSITIVITIES if not kind.needs_data])
def test_the_others_need_none(kind: type[Sensitivity]) -> None:
    program, context = canonical(Classifier)
    assert len(measure_table(kind.name, program, offered(Classifier).units, replace(context, batches=()))) == 3


@pytest.mark.parametrize("kind", [kind for kind in SENSITIVITIES if kind.name not in {*IMAGES, "synflow"}])
def test_attention_and_norms_are_no_obstacle(kind: type[Sensitivity]) -> None:
    rows = table(kind.name, Attention, ("w8a8", "w3a8"))
    assert all(0 <= row[0] < row[1] or kind is LossDelta for row in rows)


def test_what_cannot_be_judged_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match=r"nothing flows through 'linear"):
        table("synflow", Attention)
    with pytest.raises(UnsupportedError, match="does not give one image"):
        table("ssim")
