"""Options inside weights, and units that are coarser than one layer."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qcompiler.compiler import build
from qcompiler.errors import SpecError
from qcompiler.job import Job, backends, prepare, run_job
from qcompiler.passes.allocate.costs import AverageBits, BitOperations
from qcompiler.passes.allocate.harm import relative_error
from qcompiler.passes.allocate.network_segments import groups
from qcompiler.passes.allocate.options import with_options
from qcompiler.passes.allocate.segments_inside import METHODS, Slices, cut, inverse_diagonal, paired, with_widths
from qcompiler.passes.allocate.trial import Trial, through_grid
from qcompiler.passes.allocate.units import offer
from qcompiler.passes.recipes import Recipe
from qcompiler.spec import QuantSpec, bits_per_element, parse_scheme
from qcompiler.target import Accept, Kernel, Slot
from qcompiler.targets import load_target
from tests.allocate_models import DATA, Branches, Convolutions, canonical, job_of, noise, traced

ROWS = QuantSpec.parse("uint3 asym block=(1,-1) scale=f32")
COLUMNS = QuantSpec.parse("int3 sym block=(1,8) scale=f32")


def uneven(seed: int = 0) -> Tensor:
    """A weight whose rows, and whose column groups, are of very different size."""
    weight = noise(20, 40, seed=seed)
    weight[::5] *= 6
    weight[:, 8:16] *= 5
    return weight


def slices(method: str, weight: Tensor, spec: QuantSpec, moment: Tensor | None = None) -> Slices:
    axis, reach, _ = METHODS[method]
    ones = torch.ones(weight.shape[1]) if moment is None else moment
    found = cut(weight, spec, axis, ones, torch.ones(len(weight)), reach)
    assert found is not None
    return found


# -- widths of slices --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@given(seed=st.integers(0, 1000), columns=st.integers(17, 40))
@settings(deadline=None, max_examples=5)
def test_the_mean_width_stays_and_the_error_does_not_grow(method: str, seed: int, columns: int) -> None:
    weight = uneven(seed)[:, :columns]
    rows = noise(64, columns, seed=seed + 1) * torch.linspace(0.2, 3, columns)
    found = slices(method, weight, COLUMNS if METHODS[method][0] else ROWS, rows.T @ rows / 64)
    widths = METHODS[method][2](found)
    assert sum(widths) == 3 * len(widths)
    assert widths[-1] == 3 or found.sizes[-1] == found.sizes[0]
    assert found.harm(widths) <= found.harm([3] * len(widths))


@pytest.mark.parametrize("method", ["waterfill", "slim", "abmp"])
def test_uneven_weights_gain(method: str) -> None:
    spec = COLUMNS if METHODS[method][0] else ROWS
    found = slices(method, uneven(), spec)
    assert found.harm(METHODS[method][2](found)) < 0.9 * found.harm([3] * len(found.sizes))


def test_exchanges_are_the_best_there_are() -> None:
    found = slices("abmp", uneven(3), COLUMNS)
    best = min(
        (widths for widths in itertools.product((2, 3, 4), repeat=5) if sum(widths) == 15),
        key=lambda widths: found.harm(list(widths)),
    )
    assert found.harm(paired(found)) == pytest.approx(found.harm(list(best)))


def test_the_error_of_widths_is_that_of_the_product() -> None:
    weight, x = uneven(), noise(50, 40, seed=9)
    found = slices("slim", weight, COLUMNS, x.T @ x / 50)
    widths = [2, 4, 3, 3, 3]
    spec = with_widths(found, widths)
    assert spec is not None
    error = x @ (through_grid(weight, spec) - weight).T
    assert found.harm(widths) == pytest.approx(float(error.square().sum() / 50), rel=0.02)


def test_the_harms_of_rows_add_up() -> None:
    found = slices("omq", uneven(), ROWS)
    assert float(found.harms(2).sum()) == pytest.approx(found.harm([2] * 20))


def test_rows_with_outliers_get_more_bits() -> None:
    weight = noise(20, 60)
    weight[7, 3], weight[11, 5] = 25, 18
    widths = METHODS["omq"][2](slices("omq", weight, ROWS))
    assert widths[7] == widths[11] == 4


def test_salience_is_weight_over_inverse_curvature() -> None:
    x = noise(80, 12, seed=4)
    moment = x.T.double() @ x.double() / 80
    ridge = 0.01 * moment.diagonal().mean()
    wanted = torch.linalg.inv(moment + ridge * torch.eye(12)).diagonal()
    assert torch.allclose(inverse_diagonal(moment), wanted)
    assert torch.allclose(inverse_diagonal(torch.diag(moment.diagonal())), inverse_diagonal(moment.diagonal()))


def test_segments_are_runs_of_one_width_and_read_back() -> None:
    found = slices("slim", uneven(), COLUMNS)
    spec = with_widths(found, [4, 4, 2, 3, 2])
    assert str(spec) == "int4 sym block=(1,8) scale=f32 along=1 segments=16*int4,8*int2,8*int3,8*int2"
    assert QuantSpec.parse(str(spec)) == spec
    assert spec is not None
    assert spec.numbers == "int2+int3+int4"
    assert bits_per_element(spec, (20, 40)) == pytest.approx(bits_per_element(COLUMNS, (20, 40)) + 4 * 32 / 800)
    assert with_widths(found, [3] * 5) is None


@pytest.mark.parametrize(
    "spec",
    [
        "int3 sym block=(-1,-1) scale=f32",
        "fp4e2m1 sym block=(1,-1) scale=f32",
        "int8 sym block=(1,-1) scale=f32",
        "int4 sym block=(1,8) scale=e4m3 block=(-1,-1) scale=f32",
    ],
)
def test_widths_that_cannot_differ(spec: str) -> None:
    assert cut(uneven(), QuantSpec.parse(spec), 0, torch.ones(40), torch.ones(20)) is None


# -- options of units --------------------------------------------------------------------------------------------------


def test_options_inside_stand_behind_the_plain_ones() -> None:
    program, context = canonical(Branches)
    plain = offer(program, context.target, [parse_scheme("w4a16g16"), parse_scheme("w3a16"), None], ())
    found = with_options(plain, ["waterfill", "slim"], context)
    names = [option.name for option in found.units[0].options]
    assert names[:3] == ["w4a16g16", "w3a16", "float"]
    assert set(names[3:]) <= {"w4a16g16+waterfill", "w4a16g16+slim", "w3a16+waterfill"}
    assert "w3a16+waterfill" in names
    assert found.uniform("w3a16") == plain.uniform("w3a16")
    bits = AverageBits().measure(program, found.units, context).table[0]
    (uneven_one,) = found.units[0].options[names.index("w3a16+waterfill")].assignments.values()
    parts = uneven_one.inputs["weight"].parts
    assert parts is not None
    runs = 32 * len(parts.segments) / (4 * 32 * 32 + 8 * 32)
    assert bits[names.index("w3a16+waterfill")] == pytest.approx(bits[1] + runs, rel=0.01)
    products = BitOperations().measure(program, found.units, context).table[0]
    assert products[names.index("w3a16+waterfill")] == pytest.approx(products[1])


def test_options_inside_lose_less_where_rows_differ() -> None:
    module = Branches()
    with torch.no_grad():
        for layer in (module.q, module.k, module.v, module.out, module.head):
            layer.weight[::4] *= 5
    job = prepare(module.eval(), "simulation", calibration=DATA, recipe=Recipe("none", ()))
    program, (_, context) = run_job(job)[1], canonical(Branches)
    found = with_options(offer(program, context.target, [parse_scheme("w3a16")], ()), ["waterfill"], context)
    trial = Trial(program, context.batches)
    plain, inside = (relative_error(trial.results(found.plan([option] * len(found.units)))) for option in (0, 1))
    assert inside < 0.8 * plain


def test_convolutions_are_cut_by_rows_and_channels() -> None:
    program, context = canonical(Convolutions)
    schemes = [parse_scheme("w3a16"), parse_scheme("w3a16g2")]
    found = with_options(offer(program, context.target, schemes, ()), ["waterfill", "abmp"], context)
    specs = {
        option.name: item.inputs["weight"].parts
        for unit in found.units
        for option in unit.options
        for item in option.assignments.values()
    }
    rows, columns = specs["w3a16+waterfill"], specs["w3a16g2+abmp"]
    assert rows is not None
    assert columns is not None
    assert (rows.along, columns.along) == (0, 1)
    assert sum(size for size, _ in rows.segments) in (5, 8)


@pytest.mark.parametrize("target", ["simulation", "onnxruntime"])
def test_plans_with_widths_inside_run_and_replay(target: str) -> None:
    options = "schemes=w4a16g16|w3a16g16|w2a16g16, average_bits=5.3, inside=slim|waterfill"
    made = build(job_of(options, target=target))
    specs = [str(item.inputs["weight"]) for item in made.plan.assignments.values()]
    assert any("segments=" in spec for spec in specs)
    again = build(prepare(traced(Branches), target, recipe=job_of(options).recipe, plan=made.plan))
    assert again.plan.assignments == made.plan.assignments
    one, other = (torch.as_tensor(artifact(DATA[0])) for artifact in (made, again))
    assert torch.equal(one, other)
    with torch.no_grad():
        wanted = Branches()(DATA[0])
    assert float((one - wanted).square().sum() / wanted.square().sum()) < 0.05


def test_a_target_without_such_a_kernel_says_so() -> None:
    program, context = canonical(Branches)
    only = Slot((Accept.parse("uint4 asym group=16"),), weight=True)
    row = Kernel("linear_weight_only", ("aten.linear",), {"weight": only})
    target = replace(load_target("simulation", backends()), kernels=(row,))
    lines: list[str] = []
    asked = replace(context, target=target, log=lines.append)
    found = with_options(offer(program, target, [parse_scheme("w4a16g16")], ()), ["slim"], asked)
    assert [len(unit.options) for unit in found.units] == [1] * 5
    assert lines == [
        "no widths inside 5 weights: simulation has no kernel for aten.linear beside weight that takes any numbers"
    ]


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(SpecError, match="no way 'luck'"):
        run_job(job_of("average_bits=6, inside=luck"))


# -- coarser units -----------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """One attention with a residual, and two layers behind it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.q, self.k, self.v, self.out = (nn.Linear(32, 32) for _ in range(5))
        self.up, self.down = nn.Linear(32, 48), nn.Linear(48, 32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        q, k, v = (layer(x).unflatten(-1, (2, 16)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = torch.softmax(q @ k.transpose(2, 3) / 4, -1) @ v
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(torch.relu(self.up(x)))


@cache
def attention() -> Job:
    """The canonical program of an attention."""
    job = prepare(Attention().eval(), "simulation", calibration=[noise(4, 6, 32)], recipe=Recipe("none", ()))
    return replace(job, program=run_job(job)[1])


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("layer", [["enter"], ["q"], ["k"], ["v"], ["out"], ["up"], ["down"]]),
        ("segment", [["enter"], ["q", "k", "v", "out"], ["up", "down"]]),
        ("attention", [["enter"], ["q", "k", "v"], ["out"], ["up"], ["down"]]),
    ],
)
def test_units_can_be_segments_or_attentions(kind: str, wanted: list[list[str]]) -> None:
    program = attention().program
    schemes = [parse_scheme("w4a16g16"), parse_scheme("w3a16g16")]
    found = offer(program, attention().target, schemes, (), kind)  # pyright: ignore[reportArgumentType]
    modules = {node.name: program.origin(node).module for node in program.nodes}
    assert [[modules[name] for name in unit.nodes] for unit in found.units] == wanted


def test_an_unknown_unit_is_refused() -> None:
    program, _ = canonical(Branches)
    with pytest.raises(SpecError, match="no unit 'house'"):
        groups(program, [], "house")  # pyright: ignore[reportArgumentType]


def test_activation_bits_alone_are_allocated_under_equal_weights() -> None:
    program, _ = canonical(Branches)
    weight = "ternary sym group=16 scale=f16"
    texts = "|".join(f"{weight} / int{bits} sym token scale=f32 dynamic" for bits in (2, 3, 4))
    nodes = [node for node in run_job(job_of(f"schemes={texts}, bops=0.0052x"))[1].nodes if "assignment" in node.meta]
    widths = {node.name: node.meta["assignment"].inputs["input"].bits for node in nodes}
    assert len(widths) == 5
    assert len(set(widths.values())) > 1
    products = {name: program.shape(program.node(name))[-1] for name in widths}
    spent = sum(bits * int(str(products[name])) for name, bits in widths.items())
    assert 2 * spent * 32 <= 0.0052 * 1024 * 32 * sum(int(str(count)) for count in products.values())
