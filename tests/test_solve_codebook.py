"""Weights as indices into tables, and channels rebuilt from others: clustering, learning, storage, bad layers."""

from __future__ import annotations

import math
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qcompiler.errors import SpecError
from qcompiler.formats.masks import keep_largest
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Program
from qcompiler.job import prepare, run_job
from qcompiler.pass_text import parse_pass, pass_text
from qcompiler.passes.recipes import Recipe
from qcompiler.passes.solve.codebook import CODEBOOKS, Jlcm, KMeansVq, Mvq, Ssvq, VimVq, Vq4All
from qcompiler.passes.solve.codebook.jlcm import Joint, RowTables, first_tables, row_groups
from qcompiler.passes.solve.codebook.learn import tuned_table
from qcompiler.passes.solve.codebook.mvq import Masks
from qcompiler.passes.solve.codebook.soft import SoftSearch, learn_assignments
from qcompiler.passes.solve.codebook.ssvq import Latent
from qcompiler.passes.solve.codebook.vectors import cut, kmeans, nearest, nearest_few
from qcompiler.passes.solve.codebook.vq4all import Shared, density_table
from qcompiler.passes.solve.expression import Dense, Whole, bits_per_weight
from qcompiler.passes.solve.layers import LayerSolver
from qcompiler.passes.solve.udfc import Udfc, mixing, pairs, relu_moments
from qcompiler.pipeline import Context, Pass
from qcompiler.spec import QuantSpec
from tests.solve_tools import error, model_error, noise, odd_layers, plain_layer, prepared, through_nodes

SMALL: dict[str, LayerSolver] = {
    "kmeans_vq": KMeansVq(16, 4).solve,
    "kmeans_vq alone": KMeansVq(16, 4, weighted=False, compensate=False).solve,
    "vimvq": VimVq(16, 4, steps=12).solve,
    "ssvq": Ssvq(16, 4, steps=12).solve,
    "mvq": Mvq(16, 2, 8, steps=8).solve,
    "vq4all": Vq4All(300, 4, steps=12).solve,
    "jlcm": Jlcm(2, steps=12).solve,
}
EIGHT = QuantSpec.parse("uint3 asym block=(1,16) scale=f32")


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).square().sum() / wanted.square().sum())


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("kind", odd_layers())
def test_bad_layers_give_finite_weights(name: str, kind: str) -> None:
    problem = odd_layers()[kind]
    found = SMALL[name](problem)
    value = found.value()
    assert value.shape == problem.weight.shape
    assert bool(value.isfinite().all())
    assert float(value.abs().max()) <= 4 * float(problem.weight.abs().max())
    assert 0 < found.bits() < math.inf
    torch.testing.assert_close(through_nodes(found), value, rtol=0, atol=0)


@pytest.mark.parametrize("name", SMALL)
def test_solving_twice_gives_the_same(name: str) -> None:
    first, second = (SMALL[name](plain_layer()) for _ in range(2))
    assert torch.equal(first.value(), second.value())


@pytest.mark.parametrize("name", SMALL)
def test_the_nodes_of_a_solution_compute_its_value(name: str) -> None:
    found = SMALL[name](plain_layer(columns=50))
    torch.testing.assert_close(through_nodes(found), found.value(), rtol=0, atol=0)


@pytest.mark.parametrize("method", CODEBOOKS)
def test_passes_print_and_parse_back(method: type[Pass]) -> None:
    assert parse_pass(pass_text(method()), CODEBOOKS) == method()


def solved(model: nn.Module, data: Tensor, passes: list[str]) -> Program:
    recipe = Recipe.of("test", passes)
    return run_job(prepare(model.eval(), "simulation", calibration=[(data,)], recipe=recipe))[1]


def grouped_model() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4), nn.Conv2d(8, 6, 1))
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def start() -> tuple[Program, Context]:
    return prepared(grouped_model(), noise(4, 2, 6, 6), "w4a16")


@pytest.mark.parametrize(
    "method",
    [
        KMeansVq(32, 3),
        KMeansVq(32, 3, False, False),
        VimVq(32, 3, steps=9),
        Ssvq(16, 3, steps=9),
        Mvq(32, 6, 9, steps=5),
        Vq4All(500, 3, steps=9),
        Jlcm(2, steps=9),
        Udfc(),
    ],
    ids=pass_text,
)
def test_every_method_solves_a_model(method: Pass, start: tuple[Program, Context]) -> None:
    assert model_error(grouped_model(), noise(4, 2, 6, 6), start, method) < 0.3


# -- clustering -------------------------------------------------------------------------------------------------------


@given(st.integers(0, 999), st.booleans(), st.integers(1, 5))
@settings(deadline=None, max_examples=30)
def test_nearest_is_the_cheapest_entry(seed: int, weighted: bool, count: int) -> None:
    vectors, table = noise(20, 3, seed=seed), noise(7, 3, seed=seed + 1)
    costs = noise(20, 3, seed=seed + 2).square() if weighted else None
    exact = (vectors[:, None] - table).square() * (1.0 if costs is None else costs[:, None])
    wanted = exact.sum(2).sort(1)
    indices, distances = nearest(vectors, table, costs)
    torch.testing.assert_close(distances, wanted.values[:, 0], rtol=1e-3, atol=1e-4)
    assert torch.equal(indices, wanted.indices[:, 0])
    few, prices = nearest_few(vectors, table, costs, count)
    torch.testing.assert_close(prices, wanted.values[:, :count], rtol=1e-3, atol=1e-4)
    assert torch.equal(few[:, 0], indices)


def test_kmeans_finds_clusters_that_are_there() -> None:
    centers, which = 10 * noise(6, 3), torch.arange(120) % 6
    indices, table = kmeans(centers[which] + 0.01 * noise(120, 3, seed=1), 6)
    torch.testing.assert_close(table[indices], centers[which], rtol=0, atol=0.05)


def test_masked_kmeans_does_not_see_hidden_elements() -> None:
    centers, which = 10 * noise(4, 6), torch.arange(200) % 4
    mask = noise(200, 6, seed=1) > -0.3
    vectors = torch.where(mask, centers[which], 1000 * noise(200, 6, seed=2))
    indices, table = kmeans(vectors, 12, mask.float())
    torch.testing.assert_close(table[indices] * mask, centers[which] * mask, rtol=0, atol=0.05)


def test_more_entries_than_vectors_keep_every_vector() -> None:
    vectors = noise(5, 2)
    indices, table = kmeans(vectors, 64)
    torch.testing.assert_close(table[indices], vectors, rtol=0, atol=1e-5)


def test_equal_vectors_need_one_entry() -> None:
    indices, table = kmeans(torch.ones(50, 3), 8)
    torch.testing.assert_close(table[indices], torch.ones(50, 3))


@given(st.integers(1, 9), st.integers(1, 13))
@settings(deadline=None, max_examples=30)
def test_a_cut_weight_goes_back_together(length: int, columns: int) -> None:
    problem = plain_layer(rows=4, columns=16)
    problem = type(problem)("cut", problem.weight[:, :columns], 1, problem.spec, problem.inputs)
    pieces = cut(problem, length, informed=False)
    torch.testing.assert_close(pieces.matrix, problem.weight, rtol=1e-5, atol=1e-7)
    assert pieces.vectors.shape[1] == length
    assert float(pieces.error(pieces.vectors)) == 0.0
    assert float(pieces.error(torch.zeros_like(pieces.vectors))) == pytest.approx(1.0)


def test_row_scales_are_refitted_to_the_output() -> None:
    pieces = cut(plain_layer(), 4)
    scaled = pieces.vectors * torch.linspace(0.5, 2, 12).repeat_interleave(12)[:, None]
    scale = pieces.refitted(scaled)
    torch.testing.assert_close(scaled.reshape(12, -1) * scale, pieces.matrix, rtol=1e-4, atol=1e-5)


# -- storage ----------------------------------------------------------------------------------------------------------


def test_bits_count_indices_tables_scales_and_masks() -> None:
    problem = plain_layer(rows=32, columns=64)
    per_row = 16 / 64
    assert bits_per_weight(KMeansVq(64, 4).solve(problem)) == 6 / 4 + 64 * 4 * 16 / 2048 + per_row
    signed = Ssvq(64, 8, steps=0).solve(problem)
    assert signed.bits() == 2048 + 32 + 256 * 6 + 64 * 8 * 16 + 32 * 16
    masked = Mvq(64, 4, 16, steps=0).solve(problem)
    assert masked.bits() == 128 * 6 + 64 * 16 * 8 + 32 + 128 * 11 + 32 * 16
    shared = Shared(Dense(torch.zeros(4, 2).half()), 8)
    assert shared.bits() == 4 * 2 * 16 / 8
    tables = RowTables(torch.zeros(6, 10, dtype=torch.int64), 3, Dense(torch.zeros(4, 8).half()), torch.zeros(6).long())
    assert tables.bits() == 180 + 4 * 8 * 16 + 6 * 2


def test_the_published_bits_of_masked_vectors() -> None:
    rows = columns = 4096
    stored = rows * columns / 16 * (9 + 11) + 512 * 16 * 8 + 32 + 16 * rows
    assert 1.24 <= stored / (rows * columns) <= 1.27


@pytest.mark.parametrize("width", [1, 7, 8, 9, 12, 15, 16])
def test_indices_of_any_width_pass_through_nodes(width: int) -> None:
    numbers = torch.randint(1 << width, (40,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(through_nodes(Whole(numbers, width)), numbers.float())


def test_masks_are_all_there_once() -> None:
    masks = Masks(3, 7).value()
    assert masks.shape == (35, 7)
    assert bool((masks.sum(1) == 3).all())
    assert len(masks.unique(dim=0)) == 35


def test_masked_weights_keep_their_largest() -> None:
    problem = plain_layer(rows=8, columns=32)
    value = Mvq(64, 2, 8, steps=0).solve(problem).value()
    mask = keep_largest(problem.weight, 2, 8)
    assert bool((value[~mask] == 0).all())
    assert bool((value[mask] != 0).all())


# -- learning ---------------------------------------------------------------------------------------------------------


def test_compensation_lowers_the_error_of_the_output() -> None:
    problem = plain_layer(rows=32, columns=64, tokens=400)
    errors = [error(KMeansVq(64, 4, compensate=on).solve(problem), problem) for on in (False, True)]
    assert errors[1] < 0.9 * errors[0]


def test_a_table_that_learns_after_compensation_lowers_it_further() -> None:
    problem = plain_layer(rows=32, columns=64, tokens=400)
    errors = [error(KMeansVq(64, 4, steps=steps).solve(problem), problem) for steps in (0, 60)]
    assert errors[1] < 0.9 * errors[0]


def test_weighting_by_the_inputs_lowers_the_error_of_the_output() -> None:
    problem = plain_layer(rows=32, columns=64, tokens=400)
    errors = [error(KMeansVq(32, 4, on, compensate=False).solve(problem), problem) for on in (False, True)]
    assert errors[1] < 0.8 * errors[0]


def test_learned_assignments_beat_a_learned_table() -> None:
    pieces = cut(plain_layer(rows=16, columns=64), 8)
    indices, table = kmeans(pieces.vectors, 16, pieces.costs)
    plain = float(pieces.error(tuned_table(pieces, indices, table, 60)[indices]))
    found = learn_assignments(pieces, table, SoftSearch(steps=120))
    assert float(pieces.error(found.table[found.indices])) < 0.95 * plain
    assert found.confirmed == 1.0


def test_a_frozen_table_stays() -> None:
    pieces = cut(plain_layer(), 4)
    table = noise(64, 4)
    found = learn_assignments(pieces, table, SoftSearch(steps=20, table_rate=0, hardening=0.1))
    assert torch.equal(found.table, table)
    indices, _ = nearest(pieces.vectors, table, pieces.costs)
    assert float(pieces.error(table[found.indices])) < float(pieces.error(table[indices]))


def test_learned_signs_lower_the_error() -> None:
    problem = plain_layer(rows=16, columns=64)
    errors = [error(Ssvq(16, 8, steps).solve(problem), problem) for steps in (0, 120)]
    assert errors[1] < 0.8 * errors[0]


def test_restless_signs_freeze_to_their_commoner_value() -> None:
    latent = Latent(torch.tensor([1.0, 1.0]), 60)
    with torch.no_grad():
        for step in range(60):
            latent.numbers[0] = -1.0 if step % 4 else 1.0
            latent.after(step)
            latent.numbers[1] = 1.0
    assert latent.frozen.tolist() == [True, False]
    assert latent.value().tolist() == [-1.0, 1.0]


def test_a_learned_table_of_masked_vectors_lowers_the_error() -> None:
    problem = plain_layer(rows=16, columns=64)
    errors = [error(Mvq(16, 4, 8, steps=steps).solve(problem), problem) for steps in (0, 100)]
    assert errors[1] < 0.8 * errors[0]


def test_joint_learning_of_table_and_indices_beats_clustering() -> None:
    problem = plain_layer(rows=24, columns=64, spec=EIGHT)
    errors = [error(Jlcm(2, steps).solve(problem), problem) for steps in (0, 150)]
    assert errors[1] < 0.8 * errors[0]


def test_an_index_has_the_slope_of_its_neighbours() -> None:
    pieces = cut(plain_layer(rows=1, columns=4, spec=EIGHT), 1, informed=False)
    group = torch.zeros(1, dtype=torch.int64)
    joint = Joint(pieces, group, torch.tensor([[-2.0, -1.0, 1.0, 4.0]]))
    joint.places.data = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    joint.loss().backward()
    value = joint.tables.detach()[0]
    wrong = 2 * (value - pieces.vectors[:, 0]) * pieces.scale[0, 0] ** 2 / pieces.matrix.square().sum()
    slopes = torch.tensor([1.0, 1.5, 2.5, 3.0])
    torch.testing.assert_close(cast(Tensor, joint.places.grad)[0], wrong * slopes)


def test_tables_that_cross_are_sorted_with_their_indices() -> None:
    pieces = cut(plain_layer(rows=2, columns=8, spec=EIGHT), 1, informed=False)
    group = torch.tensor([0, 1])
    joint = Joint(pieces, group, torch.tensor([[-1.0, 0.0, 1.0, 2.0], [-1.0, 0.0, 1.0, 2.0]]))
    before = joint.tables.detach()[group].gather(1, joint.codes())
    with torch.no_grad():
        joint.tables[0] = joint.tables[0][[1, 0, 2, 3]]
        swapped = joint.tables.detach()[group].gather(1, joint.codes())
        joint.after(0)
    after = joint.tables.detach()[group].gather(1, joint.codes())
    assert torch.equal(after, swapped)
    assert torch.equal(after[1], before[1])
    assert bool((joint.tables.detach().diff(dim=1) > 0).all())


def test_rows_that_look_alike_share_a_group() -> None:
    wide, narrow = noise(6, 64), noise(6, 64, seed=1) ** 5
    group = row_groups(torch.cat([wide, narrow]), 2, 0)
    assert len(set(group[:6].tolist())) == len(set(group[6:].tolist())) == 1
    assert group[0] != group[-1]
    pieces = cut(plain_layer(spec=EIGHT), 1)
    tables = first_tables(pieces, torch.arange(12) % 3, 8, 0)
    assert tables.shape == (3, 8)
    assert bool((tables.diff(dim=1) >= 0).all())


def test_a_drawn_table_serves_every_source() -> None:
    laplace = torch.distributions.Laplace(0.0, 0.5**0.5)
    torch.manual_seed(0)
    pools = [noise(4000, 4), noise(4000, 4, seed=1), laplace.sample(torch.Size((4000, 4)))]
    table = density_table(pools, 4096, 0)
    assert torch.equal(table, density_table(pools, 4096, 0))
    assert len(table.unique(dim=0)) == 4096
    fresh = noise(3000, 4, seed=9)
    assert relative(table[nearest(fresh, table)[0]], fresh) < 0.05


def test_one_table_is_shared_by_all_layers() -> None:
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 8)), noise(8, 16)
    program = solved(model, data, ["assign{scheme=w4a16}", "apply_plan", "vq4all{entries=300, steps=4}"])
    tables = [program.param(node) for node in program.param_nodes if tuple(program.shape(node)) == (300, 4)]
    assert len(tables) == 2
    assert torch.equal(tables[0], tables[1])


@pytest.mark.parametrize(
    "make",
    [
        lambda: KMeansVq(1, 4),
        lambda: VimVq(1 << 17),
        lambda: Ssvq(length=0),
        lambda: Mvq(kept=16),
        lambda: Mvq(kept=16, size=32),
        lambda: Vq4All(candidates=0),
        lambda: Jlcm(0),
        lambda: KMeansVq(steps=-1),
    ],
)
def test_options_are_checked(make: object) -> None:
    with pytest.raises(SpecError):
        cast("type[KMeansVq]", make)()


# -- channels rebuilt from others -------------------------------------------------------------------------------------


class TwoLayers(nn.Module):
    def __init__(self, act: nn.Module, bias: bool = False, kernel: int = 0) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = ((12, 24), (24, 8))
        if kernel:
            self.first, self.second = (nn.Conv2d(*size, kernel, bias=bias) for size in sizes)
        else:
            self.first, self.second = (nn.Linear(*size, bias=bias) for size in sizes)
        self.act = act
        weight = self.first.weight.data
        weight[12:] = weight[:12] * 0.8 + 0.1 * weight[12:]

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.act(self.first(x)))


def test_the_closed_form_is_the_mean_over_normal_inputs() -> None:
    left, right = noise(3, 6), noise(2, 6, seed=1)
    inputs = noise(400_000, 6, seed=2)
    wanted = torch.relu(inputs @ left.T).T @ torch.relu(inputs @ right.T) / len(inputs)
    torch.testing.assert_close(relu_moments(left, right), wanted, rtol=0.02, atol=0.02)


def test_what_is_all_there_needs_no_mixing() -> None:
    moments = relu_moments(noise(5, 9), noise(5, 9))
    torch.testing.assert_close(mixing(moments, moments), torch.eye(5), rtol=0, atol=0.02)


@pytest.mark.parametrize("case", ["relu", "gelu", "bias", "none", "conv"])
def test_pruned_channels_are_rebuilt(case: str) -> None:
    act = {"gelu": nn.GELU(), "none": nn.Identity()}.get(case, nn.ReLU())
    model = TwoLayers(act, case == "bias", 3 if case == "conv" else 0).eval()
    data = noise(6, 12, 8, 8) if case == "conv" else noise(300, 12)
    program = solved(model, data, ["udfc_prune{share=0.4}"])
    kept = model.first.weight.data.flatten(1).norm(dim=1).argsort()[9:].sort().values
    cut_off = TwoLayers(act, case == "bias", 3 if case == "conv" else 0)
    removed = torch.ones(24, dtype=torch.bool)
    removed[kept] = False
    cut_off.load_state_dict(model.state_dict())
    cut_off.second.weight.data[:, removed] = 0
    wanted = model(data).detach()
    assert [program.shape(n)[0] for n in program.param_nodes if n.target == "first.weight_1"] == [15]
    assert relative(evaluate(program, [data])[0], wanted) < 0.5 * relative(cut_off(data).detach(), wanted)


def test_the_loss_of_one_layer_is_made_up_for_in_the_next() -> None:
    model, data = TwoLayers(nn.ReLU()).eval(), noise(300, 12)
    scheme = ["assign{scheme=w3a16, keep=second}", "apply_plan"]
    plain, found = (solved(model, data, [*scheme, text]) for text in ("nearest{search=mse}", "udfc"))
    wanted = model(data).detach()
    errors = [relative(evaluate(program, [data])[0], wanted) for program in (plain, found)]
    assert errors[1] < 0.8 * errors[0]


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        return self.second(y) + y


def test_channels_that_others_read_stay() -> None:
    program = solved(Branches(), noise(4, 8), ["udfc_prune{share=0.5}"])
    assert pairs(program) == []
