"""Large weights are solved a share of their rows at a time, with the same result."""

from __future__ import annotations

import tempfile
from dataclasses import replace

import pytest
import torch

from qcompiler.ir.fill import digest_of, put_aside
from qcompiler.ir.types import TensorType
from qcompiler.passes.solve.ranges import Search
from qcompiler.passes.solve.rows import row_slices
from qcompiler.passes.solve.second_order import Switches, prepare, solve_layer
from qcompiler.spec import QuantSpec, choose_qparams
from tests.solve_tools import noise, plain_layer

SPEC = QuantSpec.parse("uint3 asym block=(1,16) scale=f32")


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("spec", [SPEC, QuantSpec.parse("int4 sym block=(1,-1) scale=f32")])
def test_rows_solved_apart_are_rows_solved_together(spec: QuantSpec, given: bool) -> None:
    problem = plain_layer(24, 48, 96, spec)
    if given:
        problem = replace(problem, qparams=choose_qparams(problem.weight, spec))
    switches = Switches(search="mse", guard=False)
    common = prepare(problem.inputs, switches)
    whole, apart = (solve_layer(problem, common, switches, elements=share) for share in (1 << 20, 48 * 7))
    torch.testing.assert_close(apart.value(), whole.value(), rtol=0, atol=1e-6)
    assert [scale.shape for scale in apart.scales] == [scale.shape for scale in whole.scales]
    assert (apart.zero_point is None) == spec.symmetric


def test_ranges_of_a_large_weight_are_those_of_its_rows() -> None:
    weight, importance = noise(600, 512), noise(512, seed=1).square()
    found = Search("mse").range(weight, SPEC, importance)
    rows = [Search("mse").range(row, SPEC, importance) for row in weight.split(150)]
    for index in (0, 1):
        assert torch.equal(found[index], torch.cat([part[index] for part in rows]))


def test_blocks_that_span_rows_keep_them_together() -> None:
    whole = QuantSpec.parse("int4 sym block=(-1,-1) scale=f32")
    nested = QuantSpec.parse("fp4e2m1 sym block=(1,16) scale=e4m3 block=(-1,-1) scale=f32")
    assert row_slices((10, 32), whole, 64) == [slice(0, 10)]
    assert row_slices((10, 32), nested, 64) == [slice(0, 10)]
    assert [(part.start, part.stop) for part in row_slices((5, 32), SPEC, 64)] == [(0, 2), (2, 4), (4, 5)]
    assert len(row_slices((5, 32), SPEC, 1)) == 5


def test_codes_put_aside_come_back() -> None:
    spec = QuantSpec.parse("int3 sym block=(1,-1) scale=f32")
    codes = torch.randint(-4, 4, (3, (1 << 19) + 3), generator=torch.Generator().manual_seed(0)).float()
    with tempfile.TemporaryFile(buffering=0) as file:
        first, second = put_aside(codes, spec, file), put_aside(-codes.clamp(min=-3), spec, file)
        type_ = TensorType(torch.float32, tuple(codes.shape), spec)
        assert torch.equal(first.materialize(type_), codes)
        assert torch.equal(second.materialize(type_), -codes.clamp(min=-3))
        assert first.digest == digest_of(codes)
