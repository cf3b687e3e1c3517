"""What plans do to the results, tried on samples."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qcompiler.job import prepare, run_job
from qcompiler.passes.allocate.harm import relative_error
from qcompiler.passes.allocate.trial import Trial, block_sums, through_grid
from qcompiler.passes.allocate.units import offer
from qcompiler.passes.recipes import Recipe
from qcompiler.spec import QuantSpec, choose_qparams, dequantize, expand_blocks, parse_scheme, quantize
from tests.allocate_models import (
    DATA,
    SAMPLES,
    Branches,
    Convolutions,
    canonical,
    noise,
    traced,
)


def test_a_trial_of_nothing_is_the_float_program() -> None:
    program, context = canonical(Branches)
    results = Trial(program, context.batches).results({})
    assert relative_error(results) == 0
    assert sum(len(batch.wanted[0]) for batch in results) == 32


@pytest.mark.parametrize(
    ("scheme", "kind"),
    [("w3a16g16", Branches), ("w4a8", Branches), ("w4a8_dynamic", Branches), ("w4a4", Convolutions)],
)
def test_a_trial_is_close_to_the_quantized_program(scheme: str, kind: type[nn.Module]) -> None:
    program, context = canonical(kind)
    found = offer(program, context.target, [parse_scheme(scheme)], ())
    plan = found.plan([0] * len(found.units))
    passes = [f"assign{{scheme={scheme}}}", "apply_plan", "calibrate{method=mse}", "nearest{search=mse}"]
    job = prepare(traced(kind), calibration=SAMPLES[kind], target="simulation", recipe=Recipe.of("test", passes))
    quantized, module = run_job(job)[1], kind().eval()
    with torch.no_grad():
        wanted = torch.cat([module(x) for x in SAMPLES[kind]])
        got = torch.cat([torch.as_tensor(quantized.run(x)) for x in SAMPLES[kind]])
    tried = relative_error(Trial(program, context.batches).results(plan))
    assert tried == pytest.approx(float((wanted - got).square().sum() / wanted.square().sum()), rel=0.4)


def test_a_trial_of_one_layer_equals_doing_it_by_hand() -> None:
    program, context = canonical(Branches)
    found = offer(program, context.target, [parse_scheme("w2a16g16")], ())
    module = Branches()
    (name,) = found.units[0].nodes
    assert program.origin(program.node(name)).module == "q"
    plan = found.units[0].options[0].assignments
    with torch.no_grad():
        wanted = torch.cat([module(x) for x in DATA])
        module.q.weight.copy_(through_grid(module.q.weight, plan[name].inputs["weight"]))
        got = torch.cat([module(x) for x in DATA])
    tried = relative_error(Trial(program, context.batches).results(plan))
    assert tried == pytest.approx(float((wanted - got).square().sum() / wanted.square().sum()), rel=1e-4)


def test_the_best_grid_is_no_worse_than_the_whole_range() -> None:
    weight, spec = noise(8, 64) ** 3, QuantSpec.parse("int3 sym block=(1,-1) scale=f32")
    whole = choose_qparams(weight, spec)
    plain = dequantize(quantize(weight, *whole, spec), *whole, spec)
    rows = [(value - weight).square().sum(1) for value in (through_grid(weight, spec), plain)]
    assert bool((rows[0] <= rows[1]).all())
    assert float(rows[0].sum()) < 0.98 * float(rows[1].sum())


def test_one_block_is_searched_like_many() -> None:
    value = noise(1, 64) ** 3
    one = through_grid(value, QuantSpec.parse("int3 sym block=(-1,-1) scale=f32"))
    many = through_grid(value.expand(2, 64), QuantSpec.parse("int3 sym block=(1,-1) scale=f32"))
    assert torch.equal(many, one.expand(2, 64))


@pytest.mark.parametrize("block", [(-1, -1), (1, -1), (1, 5), (2, 3), (-1, 4)])
def test_sums_by_block_are_those_of_the_elements(block: tuple[int, ...]) -> None:
    x = noise(6, 11)
    sums = block_sums(x, block)
    index = expand_blocks(torch.arange(sums.numel()).reshape(sums.shape), block, x.shape)
    assert torch.allclose(torch.bincount(index.flatten(), x.flatten()).reshape(sums.shape), sums, atol=1e-5)
