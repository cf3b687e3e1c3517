"""Smoothing passes on whole programs: what they fold where, and what it is worth once numbers are rounded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qcompiler.analysis.symmetry import symmetries
from qcompiler.errors import InputError
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Program
from qcompiler.job import backends, prepare, run_job
from qcompiler.pass_text import parse_pass, pass_text
from qcompiler.passes.recipes import Recipe, catalogue
from qcompiler.passes.transform.smoothing import METHODS
from qcompiler.passes.transform.smoothing.driver import best, put
from qcompiler.passes.transform.smoothing.equalize import equalizing
from qcompiler.passes.transform.smoothing.method import Smoothing
from qcompiler.passes.transform.smoothing.sites import Known, places, requests, sampled
from qcompiler.passes.transform.smoothing.smoothquant import SmoothQuant
from qcompiler.pipeline import Context, Options, difference, run_passes
from qcompiler.stats import collect
from qcompiler.targets import load_target
from tests.torch_models import TinyEncoder, noise, seeded, sqnr_db

STATIC = "assign{weight=int8 sym channel scale=f32, activation=int8 sym tensor scale=f32}"
REST = ("apply_plan", "calibrate{method=minmax}", "nearest")


class Branches(nn.Module):
    """Two convolutions side by side, joined and read by a third."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(10, 5, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.last(torch.cat([F.relu(self.one(image)), F.relu(self.two(image))], 1))


class Chain(nn.Module):
    """Two layers with a ReLU between, the rows of the first and the columns of the second of very different size."""

    def __init__(self, width: int = 32, high: float = 0.0) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, width), nn.Linear(width, 8)
        self.high = high

    def forward(self, rows: Tensor) -> Tensor:
        return self.second(F.relu(self.first(rows)))


def chain(spread: float = 0.0, high: float = 0.0) -> nn.Module:
    model = seeded(Chain(high=high))
    assert isinstance(model, Chain)
    factor = torch.exp(spread * noise(32, seed=9))
    with torch.no_grad():
        model.first.weight *= factor[:, None]
        model.first.bias.mul_(factor)
        model.first.bias.add_(high)
        model.second.weight /= factor
    return model


def spiky() -> nn.Module:
    """Two layers on inputs of low rank; the first has a few large weights on channels that hardly say anything."""
    model = seeded(nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 8)))
    first = model[0]  # pyright: ignore[reportIndexIssue]
    with torch.no_grad():
        first.weight[::4, :3] += 3.0
    return model


def encoder(planted: float = 1.0) -> nn.Module:
    """A transformer block; some channels of its norms are outliers that the layers behind undo."""
    model = seeded(TinyEncoder())
    assert isinstance(model, TinyEncoder)
    with torch.no_grad():
        for norm, readers in ((model.norm1, (model.query, model.key, model.value)), (model.norm2, (model.up,))):
            for vector in norm.parameters():
                vector[:2] *= planted
            for reader in readers:
                reader.weight[:, :2] /= planted
    return model


QUIET = torch.where(torch.arange(64) < 3, 0.01, 1.0)
MODELS: dict[str, Callable[[], nn.Module]] = {
    "encoder": encoder,
    "outliers": lambda: encoder(planted=50.0),
    "branches": lambda: seeded(Branches()),
    "chain": chain,
    "uneven chain": lambda: chain(spread=1.5),
    "high chain": lambda: chain(high=6.0),
    "spiky": spiky,
}
DATA = {
    "encoder": [noise(4, 6, 16, seed=seed) for seed in range(4)],
    "chain": [noise(40, 8, seed=seed) for seed in range(4)],
    "branches": [noise(2, 3, 6, 6, seed=seed) for seed in range(4)],
    "spiky": [noise(64, 12, seed=seed) @ noise(12, 64, seed=40) * QUIET for seed in range(4)],
}


def data_of(name: str) -> list[Tensor]:
    return DATA[{"outliers": "encoder"}.get(name, name.split()[-1])]


@lru_cache
def canonical(name: str) -> Program:
    return run_job(prepare(MODELS[name](), "simulation", data_of(name)[0], recipe=Recipe.of("nothing", [])))[1]


def passed(program: Program, data: Sequence[Tensor], *passes: str) -> tuple[Program, list[str]]:
    """The program after the passes, and what they said."""
    said: list[str] = []
    context = Context(load_target("simulation", backends()), log=said.append)
    steps = [parse_pass(text, catalogue()) for text in passes]
    return run_passes(program, steps, context, [(x,) for x in data], Options(check="off"))[0], said


def smoothed(name: str, *passes: str) -> tuple[Program, Program, list[str]]:
    """The assigned program, the same after the passes, and what they said."""
    before, _ = passed(canonical(name), (), STATIC)
    after, said = passed(before, data_of(name)[:3], *passes)
    return before, after, said


def quality(name: str, *passes: str) -> float:
    """Output SQNR on data that calibrated nothing."""
    *seen, fresh = data_of(name)
    after, _ = passed(canonical(name), seen, *passes)
    return sqnr_db(outputs(canonical(name), fresh), outputs(after, fresh))


def outputs(program: Program, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([tensor.flatten() for tensor in evaluate(program, [x])])


def observed(program: Program, op: str, x: Tensor) -> Tensor:
    """The value of the first operator of a kind."""
    node, seen = next(node for node in program.nodes if program.op(node) == op), list[Tensor]()
    evaluate(program, [x], observe=lambda node, value: seen.append(value), observed=frozenset([node.name]))
    return seen[0]


@pytest.mark.parametrize(
    "text", ["smoothquant", "smoothquant{search=true}", "sqb", "smooth", "gps", "cfp", "crossquant"]
)
def test_planted_outliers_are_undone(text: str) -> None:
    assert quality("outliers", STATIC, text, *REST) > quality("outliers", STATIC, *REST) + 8


def test_the_scale_goes_from_the_gain_into_every_reader() -> None:
    before, after, said = smoothed("outliers", "smoothquant")
    assert difference(before, after, data_of("outliers")[:1]) < 1e-6
    assert "0 values multiplied online" in said[0]
    assert len(after.nodes) == len(before.nodes)

    def constants(program: Program, op: str, position: int) -> list[Tensor]:
        nodes = [node for node in program.nodes if program.op(node) == op]
        return [program.param(node.args[position]) for node in nodes]  # pyright: ignore[reportArgumentType]

    ratio = constants(before, "aten.layer_norm", 2)[0] / constants(after, "aten.layer_norm", 2)[0]
    assert ratio[:2].min() > 4 * ratio[2:].max()
    for old, new in list(zip(constants(before, "aten.linear", 1), constants(after, "aten.linear", 1), strict=True))[:2]:
        torch.testing.assert_close(new, old * ratio)


def test_only_online_multiplies_what_nothing_absorbs() -> None:
    _, folded, _ = smoothed("encoder", "smoothquant{guard=false}")
    before, online, said = smoothed("encoder", "smoothquant{guard=false, online=true}")
    counts = [
        sum(program.op(node) == "aten.mul.Tensor" for node in program.nodes) for program in (before, folded, online)
    ]
    assert counts[0] == counts[1] < counts[2]
    assert difference(before, online, data_of("encoder")[:1]) < 1e-6
    gelu = next(node for node in online.nodes if online.op(node) == "aten.gelu")
    assert [online.op(user) for user in gelu.users] == ["aten.mul.Tensor"]
    assert "groups smoothed" in said[0]


def test_two_groups_in_one_value_see_what_the_other_did() -> None:
    program, _ = passed(canonical("branches"), (), STATIC)
    method, data = SmoothQuant(), data_of("branches")[:1]
    stats = collect(program, requests(program, method), [(x,) for x in data])
    first, second = places(program, False)
    assert first.seen[0].node is second.seen[0].node
    known = Known(program, stats, method)
    before, eight = known.site(first, 0), Smoothing(torch.full((first.size,), 8.0, dtype=torch.float64))
    put(program, first, eight, "test")
    known.note(before, first, eight)
    fresh = observed(program, "aten.cat", data[0])
    for place in (first, second):
        view = known.site(place, 0).views[0]
        torch.testing.assert_close(view.high.float(), fresh.amax((0, 2, 3)))
        torch.testing.assert_close(view.samples.amax((0, 2, 3)), fresh.amax((0, 2, 3)))


def test_images_are_sampled_by_the_number_of_their_positions() -> None:
    program, _ = passed(canonical("branches"), (), STATIC)
    (value,) = {place.seen[0].node: place.seen[0] for place in places(program, False)}.values()
    assert sampled(program, value, 9).limit == 8
    assert 8 < sampled(program, value, 4096).limit < 4096
    program, _ = passed(canonical("encoder"), (), STATIC)
    assert sampled(program, places(program, False)[0].seen[0], 36).limit == 36


def test_ranges_are_equal_after_equalisation() -> None:
    before, after, _ = smoothed("uneven chain", "equalize")
    assert difference(before, after, data_of("chain")[:1]) < 1e-6
    for group in symmetries(after).scales:
        assert equalizing(after, group).log().abs().max() < 1e-3
    tensors = "assign{weight=int8 sym tensor scale=f32, activation=float}"
    equal, plain = (quality("uneven chain", tensors, *way, "apply_plan", "nearest") for way in (["equalize"], []))
    assert equal > plain + 10


def test_what_all_samples_have_in_common_is_absorbed() -> None:
    before, after, said = smoothed("high chain", "absorb_bias")
    assert said == ["the biases of 1 layers absorbed what all samples have in common"]
    x = data_of("chain")[0]
    assert difference(before, after, [x]) < 1e-6
    assert observed(after, "aten.relu", x).max() < 0.8 * observed(before, "aten.relu", x).max()


def test_biases_that_reach_below_zero_stay() -> None:
    before, after, _ = smoothed("chain", "absorb_bias")
    assert after.edits == before.edits


@pytest.mark.parametrize(("text", "gain"), [("qsam2", 2.0), ("cfp_weights", 0.1)])
def test_other_weights_are_taken_where_the_output_gains(text: str, gain: float) -> None:
    numbers = "assign{weight=int3 sym channel scale=f32, activation=float}"
    changed, plain = (quality("spiky", numbers, *way, "apply_plan", "nearest") for way in ([text], []))
    assert changed > plain + gain


def test_without_data_the_error_says_what_is_missing() -> None:
    program, _ = passed(canonical("chain"), (), STATIC)
    with pytest.raises(InputError, match="calibration data"):
        passed(program, (), "smoothquant")


def test_the_same_data_gives_the_same_numbers() -> None:
    texts = [str(smoothed("outliers", "smooth")[1]) for _ in range(2)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("cls", METHODS, ids=lambda cls: cls.name)
def test_every_pass_prints_and_parses_back(cls: type[SmoothQuant]) -> None:
    assert parse_pass(pass_text(cls()), catalogue()) == cls()


def test_the_first_best_candidate_wins() -> None:
    program, _ = passed(canonical("outliers"), (), STATIC)
    method = SmoothQuant(search=True)
    stats = collect(program, requests(program, method), [(x,) for x in data_of("outliers")])
    site = Known(program, stats, method).site(places(program, False)[0], 0)
    candidates = method.candidates(site)
    chosen = best(site, candidates, guard=True)
    assert chosen is not None
    assert site.error(chosen) == min(site.error(candidate) for candidate in candidates)
