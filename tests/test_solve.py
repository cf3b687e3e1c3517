"""Weights: their ranges, rounding to nearest, and the exchange of codes for floats."""

from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.errors import InputError, SpecError
from qcompiler.ir.interp import evaluate
from qcompiler.ir.parse import parse_program
from qcompiler.ir.program import Program
from qcompiler.passes.solve import METHODS, Nearest, WeightRanges
from qcompiler.passes.solve.driver import Solver
from qcompiler.passes.solve.ranges import Search, SearchName
from qcompiler.pipeline import Context, Pass, run_passes
from qcompiler.spec import QuantSpec, dequantize, effective_scale, qparams_from_range, quantize
from qcompiler.target import Backend, Target

SPECS = [
    QuantSpec.parse(text)
    for text in (
        "int8 sym block=(1,-1) scale=f32",
        "uint4 asym block=(1,5) scale=f16",
        "int4 sym block=(-1,-1) scale=f32",
        "uint2 asym block=(2,4) scale=f32",
        "nf4 sym block=(1,-1) scale=f32",
        "fp4e2m1 sym block=(1,4) scale=e4m3 block=(-1,-1) scale=f32",
    )
]
SEARCHES: tuple[SearchName, ...] = ("minmax", "mse", "percentile")


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def compiled(program: Program, *passes: Pass) -> Program:
    return run_passes(program, passes, Context(Target("nowhere", cast(Backend, None), ())), sample=[])[0]


def squared_error(weight: torch.Tensor, low: torch.Tensor, high: torch.Tensor, spec: QuantSpec) -> torch.Tensor:
    scale, zero_point = qparams_from_range(low, high, spec)
    return (dequantize(quantize(weight, scale, zero_point, spec), scale, zero_point, spec) - weight).square()


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("solver", METHODS)
@given(st.integers(0, 999), st.sampled_from([0.0, 1e-3, 1.0, 1e4]))
@settings(deadline=None, max_examples=8)
def test_the_law_of_solvers(
    solver: type[Nearest], search: SearchName, spec: QuantSpec, seed: int, magnitude: float
) -> None:
    weight = noise(5, 12, seed=seed) * magnitude
    method: Solver = solver(search)
    solved = method.solve(weight, spec)
    grid = spec.format.grid().values
    assert bool(torch.isin(solved.codes.double(), grid).all())
    assert (solved.zero_point is None) == spec.symmetric
    scales = solved.scale if isinstance(solved.scale, tuple) else (solved.scale,)
    assert all(bool((scale > 0).all() & scale.isfinite().all()) for scale in scales)
    found = dequantize(solved.codes, solved.scale, solved.zero_point, spec)
    assert bool(((found - weight).abs() <= weight.abs().max()).all())
    assert torch.equal(method.solve(weight, spec).codes, solved.codes)


@given(st.integers(0, 999), st.sampled_from(SPECS[:4]))
@settings(deadline=None, max_examples=30)
def test_the_error_of_nearest_is_at_most_half_a_step(seed: int, spec: QuantSpec) -> None:
    weight = noise(6, 11, seed=seed)
    solved = Nearest().solve(weight, spec)
    step = effective_scale(solved.scale, spec, weight.shape)
    zero_point = solved.zero_point
    error = (dequantize(solved.codes, solved.scale, zero_point, spec) - weight).abs()
    # The rounded zero point may cut half a step off one end of an asymmetric grid.
    assert bool((error <= step * (0.5 if spec.symmetric else 1.01)).all())


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_mse_is_never_worse_than_minmax_in_any_block(spec: QuantSpec) -> None:
    weight = noise(40, 24) ** 3
    plain = squared_error(weight, *Search().range(weight, spec), spec)
    found = squared_error(weight, *Search("mse").range(weight, spec), spec)
    assert found.sum() <= plain.sum()
    if spec.block[0] == 1:
        assert bool((found.sum(1) <= plain.sum(1) * (1 + 1e-6)).all())


@pytest.mark.parametrize("spec", SPECS[1:], ids=str)
def test_mse_gains_where_bits_are_few(spec: QuantSpec) -> None:
    weight = noise(40, 24) ** 3
    plain = squared_error(weight, *Search().range(weight, spec), spec)
    assert squared_error(weight, *Search("mse").range(weight, spec), spec).sum() < 0.98 * plain.sum()


def test_mse_listens_to_the_curvature() -> None:
    spec = SPECS[2]
    weight = torch.cat([noise(1, 500), torch.tensor([[30.0]])], dim=1)
    small = torch.cat([torch.ones(500), torch.tensor([1e-6])])
    _, ignoring = Search("mse").range(weight, spec, small)
    _, minding = Search("mse").range(weight, spec, torch.cat([torch.ones(500), torch.tensor([1e6])]))
    assert ignoring.item() < 10
    assert minding.item() > 29


def test_percentiles_are_per_block() -> None:
    weight = torch.arange(1.0, 23.0).reshape(2, 11)
    low, high = Search("percentile", 90.0).range(weight, QuantSpec.parse("uint8 asym block=(1,-1) scale=f32"))
    assert high.flatten().tolist() == [10.0, 21.0]
    assert low.flatten().tolist() == [2.0, 13.0]
    low, high = Search("percentile", 80.0).range(-weight, QuantSpec.parse("int8 sym block=(1,6) scale=f32"))
    assert high.tolist() == [[5.0, 10.0], [16.0, 21.0]]
    assert torch.equal(low, -high)


def test_options_are_checked() -> None:
    with pytest.raises(SpecError, match="no weight search 'luck'"):
        Nearest("luck")  # pyright: ignore[reportArgumentType]
    with pytest.raises(SpecError, match="percentile 30"):
        WeightRanges("percentile", 30.0)


TIED = """
spec @w = int4 sym block=(1,-1) scale=f32
spec @g = uint4 asym block=(1,2) scale=f32
program @net stage=quantized {
  input %x : f32[3,4]
  input %ids : i64[2]
  param %e "table" : f32[6,4] = normal(seed=1)
  param %s : f32[6,1] = unset()
  param %gs : f32[6,2] = unset()
  param %gz : f32[6,2] = unset()
  %q = qc.quantize %e, %s, none : @w[6,4]
  %d = qc.dequantize %q, %s, none : f32[6,4]
  %y = aten.linear %x, %d, none : f32[3,6]
  %g = qc.quantize %e, %gs, %gz : @g[6,4]
  %h = qc.dequantize %g, %gs, %gz : f32[6,4]
  %z = aten.linear %x, %h, none : f32[3,6]
  READER
  return %y, %z, %r
}
"""
EMBEDDED = TIED.replace("READER", "%r = aten.embedding %e, %ids : f32[2,4]")
SHARED = TIED.replace(
    "READER",
    "%q2 = qc.quantize %e, %s, none : @w[6,4]\n  %d2 = qc.dequantize %q2, %s, none : f32[6,4]\n"
    "  %r = aten.embedding %d2, %ids : f32[2,4]",
)
INPUTS = [noise(3, 4), torch.tensor([5, 0])]


@pytest.mark.parametrize("text", [EMBEDDED, SHARED], ids=["read in float", "shared"])
def test_codes_compute_what_quantize_computed(text: str) -> None:
    ranged = compiled(parse_program(text), WeightRanges())
    done = compiled(ranged, Nearest())
    assert not [node for node in done.nodes if done.op(node) == "qc.quantize"]
    for one, other in zip(evaluate(ranged, INPUTS), evaluate(done, INPUTS), strict=True):
        assert torch.equal(one, other)


def test_a_weight_that_is_read_in_float_stays_beside_its_codes() -> None:
    done = compiled(parse_program(EMBEDDED), Nearest())
    assert done.params["table"] == parse_program(EMBEDDED).params["table"]
    types = {str(node.target): done.tensor_type(node).spec for node in done.param_nodes}
    assert str(types["table.codes"]) == "int4 sym block=(1,-1) scale=f32"
    assert str(types["table.codes_1"]) == "uint4 asym block=(1,2) scale=f32"


def test_readers_with_one_grid_share_one_set_of_codes() -> None:
    done = compiled(parse_program(SHARED), Nearest())
    readers = [node for node in done.nodes if str(done.tensor_type(node.all_input_nodes[0]).spec).startswith("int4")]
    assert len(readers) == 2
    assert readers[0].all_input_nodes[0] is readers[1].all_input_nodes[0]


ALONE = """
spec @w = int8 sym block=(1,-1) scale=f32
program @net stage=quantized {
  input %x : f32[3,4]
  param %w : f32[6,4] = normal(seed=1)
  param %s : f32[6,1] = SCALE
  %q = qc.quantize %w, %s, none : @w[6,4]
  %d = qc.dequantize %q, %s, none : f32[6,4]
  %y = aten.linear %x, %d, none : f32[3,6]
  return %y
}
"""


def test_scales_that_are_set_stay() -> None:
    text = ALONE.replace("SCALE", "values(0.5, 0.5, 0.5, 0.5, 0.25, 0.25)")
    done = compiled(parse_program(text), WeightRanges(), Nearest("mse"))
    original = parse_program(text)
    weight = original.param(original.node("w"))
    scale = done.param(done.node("s"))
    assert scale.flatten().tolist() == [0.5] * 4 + [0.25] * 2
    assert torch.equal(done.param(done.node("w")), (weight / scale).round())


def test_weights_with_one_scale_get_a_range_that_holds_both() -> None:
    text = """
spec @w = int8 sym block=(-1,-1) scale=f32
program @net stage=quantized {
  param %v : f32[1,2] = values(1.0, -2.0)
  param %w : f32[1,2] = values(-4.0, 0.5)
  param %s : f32[1,1] = unset()
  %vq = qc.quantize %v, %s, none : @w[1,2]
  %vd = qc.dequantize %vq, %s, none : f32[1,2]
  %wq = qc.quantize %w, %s, none : @w[1,2]
  %wd = qc.dequantize %wq, %s, none : f32[1,2]
  return %vd, %wd
}
"""
    done = compiled(parse_program(text), Nearest())
    assert done.param(done.node("s")).item() == pytest.approx(4 / 127)
    assert done.param(done.node("w")).tolist() == [[-127.0, 16.0]]
    assert done.param(done.node("v")).tolist() == [[32.0, -64.0]]


def test_a_broken_weight_is_an_error_that_names_it() -> None:
    program = parse_program(ALONE.replace("SCALE", "unset()"))
    program.params["w"] = torch.full((6, 4), float("inf"))
    with pytest.raises(InputError, match="weight 'w' holds NaN or infinity"):
        compiled(program, Nearest())


def test_two_levels_of_scales_are_written_and_used() -> None:
    spec = "fp4e2m1 sym block=(1,2) scale=e4m3 block=(-1,-1) scale=f32"
    text = f"""
spec @w = {spec}
program @net stage=quantized {{
  param %w : f32[6,4] = normal(seed=1)
  param %s : f32[6,2] = unset()
  param %t : f32[1,1] = unset()
  %q = qc.quantize %w, [%s, %t], none : @w[6,4]
  %d = qc.dequantize %q, [%s, %t], none : f32[6,4]
  return %d
}}
"""
    program = parse_program(text)
    weight = program.param(program.node("w"))
    solved = Nearest().solve(weight, QuantSpec.parse(spec))
    done = compiled(program, Nearest())
    expected = dequantize(solved.codes, solved.scale, None, QuantSpec.parse(spec))
    assert torch.equal(evaluate(done, [])[0], expected)
