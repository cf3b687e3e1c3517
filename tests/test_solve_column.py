"""The column core, its grids, and the second-order methods on top of it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from qcompiler.errors import InputError, SpecError
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Program
from qcompiler.job import prepare, run_job
from qcompiler.pass_text import parse_pass
from qcompiler.passes.recipes import Recipe, catalogue, load_recipe
from qcompiler.passes.solve import SECOND_ORDER
from qcompiler.passes.solve.column import column_sequential_solve
from qcompiler.passes.solve.curvature import factorise
from qcompiler.passes.solve.expression import Codes, Columns
from qcompiler.passes.solve.fair_gptq import added
from qcompiler.passes.solve.gptq import Gptq
from qcompiler.passes.solve.gwq import overlay
from qcompiler.passes.solve.layers import Geometry, Inputs, Layer
from qcompiler.passes.solve.ranges import Search
from qcompiler.passes.solve.rounder import GridRounder
from qcompiler.passes.solve.second_order import Switches, second_order
from qcompiler.passes.solve.slim import Slim
from qcompiler.passes.solve.token_weights import attention_received, rarity, weights_of
from qcompiler.pipeline import Context
from qcompiler.spec import QuantSpec, choose_qparams, dequantize, quantize
from qcompiler.stats import Stream

PER_ROW = QuantSpec.parse("uint3 asym block=(1,-1) scale=f32")
SPECS = [
    QuantSpec.parse(text)
    for text in (
        "uint3 asym block=(1,-1) scale=f32",
        "int4 sym block=(1,5) scale=f16",
        "uint2 asym block=(1,4) scale=f32",
        "int3 sym block=(-1,-1) scale=f32",
        "uint4 asym block=(2,4) scale=f32",
        "nf4 sym block=(1,-1) scale=f32",
        "fp4e2m1 sym block=(1,4) scale=e4m3 block=(-1,-1) scale=f32",
    )
]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated(tokens: int, columns: int, seed: int = 0) -> Tensor:
    mixed = noise(tokens, 3, seed=seed) @ noise(3, columns, seed=seed + 1) + 0.4 * noise(tokens, columns, seed=seed + 2)
    return mixed * torch.exp(0.7 * noise(columns, seed=seed + 3))


def layer(weight: Tensor, spec: QuantSpec, x: Tensor, exact: Tensor | None = None) -> Layer:
    streams: dict[Stream, Tensor] = {"quantized": x, "float": x if exact is None else exact}
    return Layer("bed", weight, 1, spec, Inputs(lambda stream: [streams[stream]], Geometry()))


def nearest(weight: Tensor, spec: QuantSpec) -> Codes:
    scale, zero_point = choose_qparams(weight, spec)
    return Codes(spec, quantize(weight, scale, zero_point, spec), scale, zero_point)


def error(found: Tensor, weight: Tensor, x: Tensor) -> float:
    return float((x.double() @ (found - weight).double().T).square().sum())


class ToIntegers:
    """Rounds to whole tenths, whatever the column."""

    width = 0

    def begin(self, start: int, latent: Tensor) -> None:
        raise AssertionError("nothing to announce")

    def round(self, column: int, latent: Tensor) -> Tensor:
        return (latent * 10).round() / 10


@pytest.mark.parametrize("by_size", [False, True])
def test_the_factors_give_the_damped_moment_back(by_size: bool) -> None:
    x = correlated(30, 8)
    moment = (x.T @ x).double()[None]
    curvature = factorise(moment, 0.01, by_size)
    damped = moment[0] + 0.01 * moment[0].diagonal().mean() * torch.eye(8)
    factors = curvature.feedback[0].T @ (curvature.pivots[0][:, None] * curvature.feedback[0])
    torch.testing.assert_close(factors, curvature.arrange_moment(damped[None])[0])
    if by_size:
        assert bool((curvature.arrange_moment(moment)[0].diagonal().diff() <= 0).all())
    matrix = noise(1, 3, 8).double()
    torch.testing.assert_close(curvature.restore(curvature.arrange(matrix)), matrix)
    arranged = curvature.arrange_moment(damped[None])
    torch.testing.assert_close(curvature.divide(matrix) @ arranged, matrix)
    wanted = (matrix[0] @ arranged[0] @ matrix[0].T).diagonal()
    torch.testing.assert_close(curvature.cost(matrix)[0], wanted)


def test_every_latent_column_is_the_least_squares_answer_to_those_before_it() -> None:
    x = correlated(200, 12).double()
    moment = (x.T @ x)[None]
    curvature = factorise(moment, 0.0)
    weight = noise(1, 5, 12).double()
    found = column_sequential_solve(weight, curvature, ToIntegers(), block=4, keep_latent=True)
    assert found.latent is not None
    for q in (1, 5, 9, 11):
        done, open_ = moment[0, :q, q:], moment[0, q:, q:]
        answer = weight[0, :, q:] + (weight - found.value)[0, :, :q] @ done @ torch.linalg.inv(open_)
        torch.testing.assert_close(found.latent[0, :, q], answer[:, 0], rtol=1e-10, atol=1e-10)
    gap = (weight - found.value)[0]
    torch.testing.assert_close(found.cost[0], (gap @ moment[0] @ gap.T).diagonal())


def test_the_push_is_the_gap_times_the_inverse_of_what_is_open() -> None:
    x, gap = correlated(200, 9).double(), noise(9, 9).double()
    moment = x.T @ x
    push = factorise(moment[None], 0.0).push(gap[None])[0]
    for q in (0, 4, 7):
        wanted = gap[q, q + 1 :] @ torch.linalg.inv(moment[q + 1 :, q + 1 :])
        torch.testing.assert_close(push[q, q + 1 :], wanted, rtol=1e-9, atol=1e-9)
    assert bool((push.tril() == 0).all())


@given(st.sampled_from([1, 3, 16, 20, 64]), st.booleans(), st.floats(0, 0.5))
@settings(deadline=None, max_examples=15)
def test_blocks_change_nothing(block: int, pushed: bool, pull: float) -> None:
    x = correlated(100, 45).double()
    curvature = factorise((x.T @ x)[None])
    weight = noise(1, 4, 45).double()
    push = 0.05 * noise(1, 45, 45).double().triu(1) if pushed else None

    def solve(size: int) -> Tensor:
        return column_sequential_solve(weight, curvature, ToIntegers(), push=push, pull=pull, block=size).value

    torch.testing.assert_close(solve(block), solve(45), rtol=0, atol=1e-9)


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("by_size", [False, True])
def test_columns_are_rounded_as_the_spec_says(spec: QuantSpec, by_size: bool) -> None:
    weight = noise(6, 12)
    curvature = factorise(torch.diag(torch.arange(1.0, 13.0))[None], by_size=by_size)
    arranged = curvature.arrange(weight[None])
    rounder = GridRounder(spec, arranged.shape, Search(), curvature)
    rounder.fit(weight)
    # Without correlations nothing is fed back.
    found = column_sequential_solve(arranged, curvature, rounder)
    scale, zero_point = choose_qparams(weight, spec)
    codes = quantize(weight, scale, zero_point, spec)
    assert torch.equal(rounder.result().codes, codes)
    assert torch.equal(curvature.restore(found.value)[0], dequantize(codes, scale, zero_point, spec))


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("groups", ["static", "dynamic"])
def test_the_loop_halves_the_error_of_nearest(bits: int, groups: str) -> None:
    x, weight = correlated(256, 48), noise(20, 48)
    spec = QuantSpec.parse(f"uint{bits} asym block=(1,16) scale=f32")
    switches = Switches(groups=groups, act_order=groups == "static", guard=False)
    found = second_order(switches)(layer(weight, spec, x))
    assert error(found.value(), weight, x) < 0.5 * error(nearest(weight, spec).value(), weight, x)


@given(st.integers(0, 999), st.sampled_from(SPECS), st.integers(1, 40), st.booleans())
@settings(deadline=None, max_examples=40)
def test_no_layer_is_worse_than_nearest(seed: int, spec: QuantSpec, tokens: int, act_order: bool) -> None:
    x, weight = correlated(tokens, 13, seed=seed), noise(6, 13, seed=seed + 9)
    found = second_order(Switches(act_order=act_order))(layer(weight, spec, x)).value()
    moment = x.T @ x
    damped = moment + 0.01 * moment.diagonal().mean() * torch.eye(13)
    costs = [((w - weight) @ damped * (w - weight)).sum() for w in (found, nearest(weight, spec).value())]
    assert float(costs[0]) <= float(costs[1]) * 1.0001


@given(st.integers(0, 999), st.sampled_from(SPECS))
@settings(deadline=None, max_examples=20)
def test_neutral_switches_are_the_parent_bit_for_bit(seed: int, spec: QuantSpec) -> None:
    x, weight = correlated(30, 12, seed=seed), noise(6, 12, seed=seed + 9)
    problem = layer(weight, spec, x, x + 0.1 * noise(30, 12, seed=seed + 5))
    parent = second_order(Switches(guard=False))(problem)
    for neutral in (
        Switches(guard=False, push=0.0, pulled=False),
        Switches(guard=False, block=5),
        Switches(guard=False, trailing="latent"),
    ):
        torch.testing.assert_close(second_order(neutral)(problem).codes, parent.codes, rtol=0, atol=0)
    same = layer(weight, spec, x)
    assert torch.equal(second_order(Switches(guard=False, push=1.0))(same).codes, parent.codes)
    assert torch.equal(second_order(Switches(guard=False, shift=1.0))(same).codes, parent.codes)


def test_a_full_pull_is_nearest() -> None:
    x, weight = correlated(60, 20), noise(8, 20)
    found = second_order(Switches(pull=1.0, guard=False))(layer(weight, PER_ROW, x))
    assert torch.equal(found.codes, nearest(weight, PER_ROW).codes)


def test_recall_on_one_stream_is_the_error_term_of_the_pull() -> None:
    x, weight = correlated(60, 20), noise(8, 20)
    problem = layer(weight, PER_ROW, x)
    recalled = second_order(Switches(damping=1e-9, recall=0.25, trailing="latent", guard=False))(problem)
    pulled = second_order(Switches(damping=1e-9, pull=0.25, pulled=False, guard=False))(problem)
    plain = second_order(Switches(damping=1e-9, guard=False))(problem)
    assert float((recalled.codes != pulled.codes).float().mean()) < 0.02
    assert not torch.equal(recalled.codes, plain.codes)


def test_the_shift_and_the_push_come_closer_to_the_float_stream() -> None:
    exact = correlated(400, 32)
    x, weight = exact + 0.3 * exact.roll(1, 1), noise(16, 32)
    problem = layer(weight, PER_ROW, x, exact)

    def distance(**changes: float) -> float:
        found = second_order(Switches(guard=False, **changes))(problem).value()  # pyright: ignore[reportArgumentType]
        return float((x @ found.T - exact @ weight.T).square().sum())

    assert distance(shift=1.0) < 0.8 * distance(push=1.0)
    assert distance(push=1.0) < 0.9 * distance()


def test_groups_of_a_layer_are_solved_as_if_alone() -> None:
    x, weight = noise(50, 3, 8), noise(6, 8)
    rows = x.transpose(0, 1)
    moment = rows.mT @ rows
    curvature = factorise(moment, by_size=True)
    arranged = curvature.arrange(weight.unflatten(0, (3, 2)))
    rounder = GridRounder(SPECS[2], arranged.shape, Search(), curvature)
    rounder.fit(weight)
    column_sequential_solve(arranged, curvature, rounder)
    for group in range(3):
        alone = second_order(Switches(guard=False))(layer(weight[2 * group : 2 * group + 2], SPECS[2], x[:, group]))
        assert torch.equal(rounder.result().codes[2 * group : 2 * group + 2], alone.codes)


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("tokens", [1, 5, 40])
def test_degenerate_weights_and_inputs(spec: QuantSpec, tokens: int) -> None:
    weight = noise(6, 13)
    weight[0], weight[1], weight[:, 2] = 0.0, 0.7, 0.0
    x = correlated(tokens, 13)
    x[:, 3], x[:, 5], x[:, 6] = 0.0, x[:, 4], 1e4 * x[:, 6]
    exact = x + 0.1 * noise(tokens, 13)
    for switches in (Switches(), Switches(shift=1.0), Switches(push=1.0, recall=0.25), Switches(pull=0.2)):
        found = second_order(switches)(layer(weight, spec, x, exact))
        value = found.value()
        assert bool(value.isfinite().all())
        assert bool((value[0] == 0).all())
        assert torch.equal(second_order(switches)(layer(weight, spec, x, exact)).codes, found.codes)


def test_moments_of_half_precision_do_not_overflow() -> None:
    x, weight = (6e4 * noise(40, 10).clamp(-1, 1)).half(), noise(4, 10)
    found = second_order(Switches())(layer(weight, PER_ROW, x))
    assert bool(found.value().isfinite().all())
    assert torch.equal(found.codes, second_order(Switches())(layer(weight, PER_ROW, x.float())).codes)


def test_an_input_that_is_always_zero_keeps_its_nearest_weight() -> None:
    x, weight = correlated(40, 10), noise(4, 10)
    x[:, 3] = 0.0
    found = second_order(Switches(guard=False))(layer(weight, PER_ROW, x))
    assert torch.equal(found.codes[:, 3], nearest(weight, PER_ROW).codes[:, 3])


def test_damping_grows_until_a_broken_moment_can_be_factorised() -> None:
    moment = torch.tensor([[[1.0, 1.5], [1.5, 1.0]]])
    curvature = factorise(moment, 0.01)
    assert 0.5 < curvature.damping < 1
    hopeless = factorise(torch.tensor([[[1.0, 3.0], [3.0, 1.0]]]), 0.01)
    assert hopeless.damping >= 1
    assert torch.equal(hopeless.feedback[0], torch.eye(2))
    with pytest.raises(SpecError, match="negative"):
        factorise(moment, -1.0)


def test_the_penalty_shrinks_what_pairs_differ_by() -> None:
    x, weight = correlated(64, 24), noise(8, 24)
    direction = noise(2, 24)
    paired = torch.stack([x, x + noise(64, 2, seed=4) @ direction], 1).reshape(-1, 1, 24)
    problem = layer(weight, PER_ROW, paired)

    def bias(penalty: float) -> float:
        found = second_order(Switches(act_order=False, penalty=penalty, guard=False))(problem).value()
        return float((found @ direction.T).square().sum())

    assert bias(1.0) < 0.2 * bias(0.0)
    with pytest.raises(SpecError, match="diverges"):
        second_order(Switches(penalty=10.0, first_order=True))(problem)


def test_the_pair_moment_is_that_of_the_differences() -> None:
    x = noise(5, 3, 4)
    differences = torch.cat([x[0] - x[1], x[2] - x[3]])
    found = Inputs(lambda stream: [x], Geometry()).pair_moment
    torch.testing.assert_close(found[0], 2 / 6 * differences.T @ differences)


def test_token_weights_have_mean_one_and_follow_the_scores() -> None:
    scores = noise(3, 10).abs()
    weights = weights_of(scores, 0.1)
    torch.testing.assert_close(weights.mean(1), torch.ones(3))
    assert torch.equal(weights.argsort(1), scores.argsort(1))
    torch.testing.assert_close(weights.amin(1) / weights.amax(1), torch.full((3,), 0.1))
    assert torch.equal(weights_of(torch.full((2, 4), 3.0), 0.1), torch.ones(2, 4))


def test_the_attention_that_keys_receive() -> None:
    query, key = noise(2, 4, 5, 3), noise(2, 2, 5, 3, seed=1)
    mask = torch.zeros(5, 5).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    repeated = key.repeat_interleave(2, 1)
    wanted = (query @ repeated.mT / 3**0.5 + mask).softmax(-1).sum((1, 2))
    torch.testing.assert_close(attention_received(query, key, None, True, None), wanted)
    torch.testing.assert_close(attention_received(query, key, None, False, mask), wanted)
    torch.testing.assert_close(attention_received(query, key, None, False, mask == 0), wanted)


def test_rare_tokens_score_higher() -> None:
    scores = rarity([[torch.tensor([[1, 1, 2]])], [torch.tensor([[1, 3, 3]])]])
    assert scores is not None
    assert float(scores[0][0, 2]) > float(scores[1][0, 1]) > float(scores[0][0, 0])
    assert rarity([[torch.ones(2, 3)]]) is None


def test_slim_gives_bits_to_the_groups_that_matter() -> None:
    weight, x = noise(16, 64), noise(200, 64)
    x[:, :16] *= 20
    x[:, 48:] *= 0.01
    spec = QuantSpec.parse("uint3 asym block=(1,16) scale=f32")
    found = Slim().solve(layer(weight, spec, x))
    assert isinstance(found, Columns)
    value = found.value()
    widths = [len(set(value[row, 16 * group : 16 * group + 16].tolist())) for row in (0,) for group in range(4)]
    assert widths[0] > 8 >= widths[1]
    assert widths[3] <= 4
    uniform = second_order(Switches(guard=False, act_order=False, search="mse"))(layer(weight, spec, x)).value()
    assert error(value, weight, x) < 0.6 * error(uniform, weight, x)


def test_slim_stays_uniform_where_groups_are_alike() -> None:
    weight, x = noise(16, 40), noise(200, 40)
    spec = QuantSpec.parse("uint2 asym block=(1,16) scale=f32")
    found = Slim(metric="kl").solve(layer(weight, spec, x))
    assert isinstance(found, Codes)
    assert found.spec == spec


@pytest.mark.parametrize("bits", [2, 3])
def test_slim_keeps_the_mean_width(bits: int) -> None:
    weight, x = noise(8, 37), noise(100, 37) * torch.exp(2 * noise(37, seed=3))
    spec = QuantSpec.parse(f"int{bits} sym block=(1,6) scale=f32")
    found = Slim().solve(layer(weight, spec, x))
    assert found.value().shape == weight.shape
    assert isinstance(found, Columns)
    parts = [part for part in found.parts if isinstance(part, Codes)]
    assert sum(part.codes.numel() * part.spec.bits for part in parts) == weight.numel() * bits


def test_the_overlay_keeps_its_elements() -> None:
    weight = noise(6, 10)
    weight[2, 3] = 50.0
    found = overlay(weight, PER_ROW, weight.abs(), 0.05, Search())
    assert float(found.value()[2, 3]) == 50.0
    rest = found.value()
    rest[2] = 0
    assert float((found.value() - weight)[2].abs().max()) < float(
        (nearest(weight, PER_ROW).value() - weight)[2].abs().max()
    )
    assert isinstance(overlay(weight, PER_ROW, weight.abs(), 0.0, Search()), Codes)


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(11, 12), nn.Linear(12, 11)
        self.q, self.k, self.v, self.o = (nn.Linear(12, 12) for _ in range(4))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        heads = [part(x).unflatten(-1, (2, 6)).transpose(1, 2) for part in (self.q, self.k, self.v)]
        mixed = functional.scaled_dot_product_attention(*heads, is_causal=True)
        return self.head(x + self.o(mixed.transpose(1, 2).flatten(2)))


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.each = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.each(self.first(x).relu()).relu().mean((2, 3)))


MODELS = {
    "attentive": (
        Attentive,
        [torch.randint(0, 11, (2, 9), generator=torch.Generator().manual_seed(i)) for i in (0, 1)],
    ),
    "convolutional": (Convolutional, [noise(2, 3, 6, 6, seed=i) for i in (0, 1)]),
}


@cache
def planned(kind: str, scheme: str) -> tuple[Program, Context]:
    torch.manual_seed(0)
    made, data = MODELS[kind]
    recipe = Recipe.of("t", [f"assign{{scheme={scheme}}}", "apply_plan"])
    job = prepare(made().eval(), "simulation", calibration=data, recipe=recipe)
    return run_job(job)[1], Context(job.target, batches=job.batches)


def solved(kind: str, scheme: str, text: str, samples: list[Tensor] | None = None) -> tuple[Program, list[Tensor]]:
    program, context = planned(kind, scheme)
    context = context if samples is None else replace(context, batches=[[sample] for sample in samples])
    program = parse_pass(text, catalogue()).run(program.copy(), context)
    return program, evaluate(program, [MODELS[kind][1][0]])


@pytest.mark.parametrize("method", [method.name for method in SECOND_ORDER])
@pytest.mark.parametrize(("kind", "scheme"), [("attentive", "w3a16g5"), ("convolutional", "w4a16")])
def test_the_law_of_second_order_methods(method: str, kind: str, scheme: str) -> None:
    program, (result,) = solved(kind, scheme, method)
    program.verify()
    (wanted,) = evaluate(planned(kind, scheme)[0], [MODELS[kind][1][0]], bypass_quantization=True)
    assert bool(result.isfinite().all())
    assert float((result - wanted).norm()) < float(wanted.norm())
    assert torch.equal(solved(kind, scheme, method)[1][0], result)


@pytest.mark.parametrize("method", ["gptq", "gptaq", "rsq", "rsq{score=norm}", "rsq{score=rarity}", "rsq{score=first}"])
def test_how_data_are_batched_does_not_matter(method: str) -> None:
    data = MODELS["attentive"][1]
    whole = solved("attentive", "w4a16", method, [torch.cat(data)])[1][0]
    torch.testing.assert_close(solved("attentive", "w4a16", method)[1][0], whole, rtol=1e-3, atol=1e-3)


def test_rsq_weighs_the_layers_of_the_attention_and_those_behind_it() -> None:
    plain = solved("attentive", "w2a16", "rsq{least=1.0}")[1][0]
    assert torch.equal(plain, solved("attentive", "w2a16", "gptq{guard=False}")[1][0])
    assert not torch.equal(plain, solved("attentive", "w2a16", "rsq{least=0.01}")[1][0])


def test_the_penalty_finds_the_layers_that_add_to_a_skip_connection() -> None:
    program = planned("attentive", "w4a16")[0]
    linears = [node for node in program.nodes if program.op(node) == "aten.linear"]
    assert [added(program, node) for node in linears] == [False, False, False, True, False]


@pytest.mark.parametrize(
    "text",
    [
        "gptq{groups=loose}",
        "rsq{score=luck}",
        "rsq{least=2}",
        "fair_gptq{where=here}",
        "gwq{share=1}",
        "slim{metric=x}",
    ],
)
def test_choices_that_do_not_exist_are_refused(text: str) -> None:
    with pytest.raises(SpecError):
        Recipe.of("t", [text])


@pytest.mark.parametrize("name", ["w4a16g128_gptq", "w3a16g128", "w2a16g128"])
def test_recipes_solve_by_what_measured_best(name: str) -> None:
    assert load_recipe(name).passes[-1] == Gptq(shift=0.5)


def test_without_data_there_is_nothing_to_solve_on() -> None:
    with pytest.raises(InputError, match="no calibration data"):
        solved("attentive", "w4a16", "gptq", [])
