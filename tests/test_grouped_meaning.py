"""What kernels of groups compute: exact sums of groups, scaled and added up in order."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.reference.grouped import GROUPED_MEANINGS, linear, roundings
from qcompiler.backends.reference.semantics import GROUPED_SEMANTICS
from qcompiler.errors import UnsupportedError, VerifyError
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Program, Stage
from qcompiler.ir.types import TensorType
from qcompiler.spec import QuantSpec, dequantize

SHAPES = {
    "rows": st.integers(1, 4),
    "outputs": st.integers(1, 5),
    "inputs": st.integers(1, 150),
    "group": st.sampled_from([32, 64]),
    "seed": st.integers(0, 99),
}


def operands(rows: int, outputs: int, inputs: int, group: int, seed: int, blocked: bool) -> tuple[list, list]:
    """Asymmetric on both sides; scales of activations are of blocks or of rows."""
    rng = torch.Generator().manual_seed(seed)
    groups = -(-inputs // group)
    x, w = (torch.randint(0, top, (n, inputs), generator=rng).float() for top, n in ((256, rows), (16, outputs)))
    wide = groups if blocked else 1
    source = [x, torch.rand(rows, wide, generator=rng) / 50 + 0.01]
    source.append(torch.randint(0, 256, (rows, wide), generator=rng).float())
    scale = (torch.rand(outputs, groups, generator=rng) / 50 + 0.01).half().float()
    return source, [w, scale, torch.randint(0, 16, (outputs, groups), generator=rng).float()]


def rounded(value: Fraction) -> Fraction:
    """To float32; the numbers of these tests are exact in float64 but for ties that do not come."""
    return Fraction(float(np.float32(float(value))))


@pytest.mark.parametrize("blocked", [False, True])
@given(**SHAPES)
@settings(deadline=None, max_examples=20)
def test_each_group_is_one_fused_step(
    blocked: bool, rows: int, outputs: int, inputs: int, group: int, seed: int
) -> None:
    source, weight = operands(rows, outputs, inputs, group, seed, blocked)
    found = linear(source, weight, op="aten.linear", group=group, blocked=blocked)
    (x, sx, zx), (w, sw, zw) = source, weight
    total = Fraction(0)
    for index, start in enumerate(range(0, inputs, group)):
        block = index if blocked else 0
        sum_ = ((x[0, start : start + group] - zx[0, block]) * (w[0, start : start + group] - zw[0, index])).sum()
        step = Fraction(float(sw[0, index]))
        step = rounded(step * Fraction(float(sx[0, block]))) if blocked else step
        total = rounded(Fraction(int(sum_)) * step + total)
    assert Fraction(float(found[0, 0])) == (total if blocked else rounded(total * Fraction(float(sx[0, 0]))))


@pytest.mark.parametrize("blocked", [False, True])
@given(**SHAPES)
@settings(deadline=None, max_examples=20)
def test_it_is_the_product_of_the_reals(
    blocked: bool, rows: int, outputs: int, inputs: int, group: int, seed: int
) -> None:
    source, weight = operands(rows, outputs, inputs, group, seed, blocked)
    bias = torch.randn(outputs, generator=torch.Generator().manual_seed(seed))
    found = linear(source, weight, bias, op="aten.linear", group=group, blocked=blocked)
    extent = group if blocked else -1
    specs = [
        QuantSpec.parse(f"uint8 asym block=(1,{extent}) scale=f32 dynamic"),
        QuantSpec.parse(f"uint4 asym block=(1,{group}) scale=f16"),
    ]
    reals = [
        dequantize(codes.double(), scale.double(), zero.double(), spec)
        for (codes, scale, zero), spec in zip((source, weight), specs, strict=True)
    ]
    starts = range(0, inputs, group)
    parts = [reals[0][:, start : start + group] @ reals[1][:, start : start + group].t() for start in starts]
    size = sum(part.abs() for part in parts) + bias.abs()
    bound = roundings(inputs, group) * 2.0**-24 * size
    assert ((found.double() - sum(parts) - bias.double()).abs() <= bound).all()


def test_one_scale_for_all_activations() -> None:
    source, weight = operands(3, 4, 70, 32, 1, blocked=False)
    single = [source[0], torch.tensor([[0.25]]), None]
    each = [source[0], torch.full((3, 1), 0.25), torch.zeros(3, 1)]
    found = [linear(given_, weight, op="aten.linear", group=32) for given_ in (single, each)]
    assert torch.equal(*found)


def test_scales_that_do_not_fit_the_groups_are_refused() -> None:
    source, weight = operands(2, 3, 100, 32, 1, blocked=True)
    with pytest.raises(VerifyError, match="for each of 2 groups"):
        linear(source, weight, op="aten.linear", group=64)
    with pytest.raises(VerifyError, match="for blocks"):
        linear(source, weight, op="aten.linear", group=32)
    wide = [torch.zeros(1, 40000), torch.ones(1, 1), None], [torch.zeros(1, 40000), torch.ones(1, 1), None]
    with pytest.raises(UnsupportedError, match="overflow"):
        linear(*wide, op="aten.linear", group=40000)


def test_the_interpreter_runs_it() -> None:
    program = Program(stage=Stage.LOWERED)
    shapes = ((1, 3), (1, 1), (1, 3), (1, 2))
    x, sx, w, sw = (
        program.add_input(name, TensorType(torch.float32, shape))
        for name, shape in zip(("x", "sx", "w", "sw"), shapes, strict=True)
    )
    parts, attributes = ([x, sx, None], [w, sw, None]), {"op": "aten.linear", "group": 2}
    type_ = TensorType(torch.float32, (1, 1))
    call = program.append().call("qc.kernel", "linear_grouped", *parts, kwargs=attributes, type_=type_)
    program.set_outputs([call])
    values = [torch.tensor(value) for value in ([[1.0, 2.0, 3.0]], [[0.5]], [[1.0, 1.0, -1.0]], [[2.0, 4.0]])]
    assert evaluate(program, values, kernels=GROUPED_MEANINGS)[0].item() == (3 * 2 - 3 * 4) * 0.5


def test_every_kernel_of_groups_says_how_it_rounds() -> None:
    assert set(GROUPED_SEMANTICS) == set(GROUPED_MEANINGS)
