"""What kernels of signs compute."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.reference.bits import BIT_MEANINGS, conv, linear, signs
from qcompiler.errors import VerifyError
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Program, Stage
from qcompiler.ir.types import TensorType

SCALE = torch.tensor(0.5)


def random_signs(shape: list[int], seed: int) -> torch.Tensor:
    return signs(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


@given(rows=st.integers(1, 5), inputs=st.integers(1, 90), outputs=st.integers(1, 7), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_a_sum_of_signs_counts_where_they_agree(rows: int, inputs: int, outputs: int, seed: int):
    x, w = random_signs([rows, inputs], seed), random_signs([outputs, inputs], seed + 1)
    found = linear([x, torch.ones(()), None], [w, torch.ones(()), None], op="aten.linear")
    agree = (x[:, None] == w[None]).sum(-1)
    assert torch.equal(found, (2 * agree - inputs).float())


def test_zeros_around_an_image_count_nothing():
    x, w = torch.ones(1, 2, 3, 3), torch.ones(1, 2, 3, 3)
    parts = [x, SCALE, None], [w, SCALE, None]
    found = conv(*parts, None, [1, 1], [1, 1], [1, 1], 1, op="aten.conv2d")
    assert found[0, 0].tolist() == [[2.0, 3.0, 2.0], [3.0, 4.5, 3.0], [2.0, 3.0, 2.0]]


def test_a_result_of_signs_is_one_at_zero():
    x, w = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]]), torch.ones(1, 2)
    found = linear([x, SCALE, None], [w, SCALE, None], op="aten.linear", result=[SCALE, None], low=-1, high=1)
    assert found.flatten().tolist() == [1.0, 1.0, -1.0]


def test_a_bias_in_float_moves_the_sign():
    x, w, bias = torch.tensor([[1.0, 1.0]]), torch.ones(2, 2), torch.tensor([-0.5, -0.51])
    found = linear([x, SCALE, None], [w, SCALE, None], bias, op="aten.linear", result=[SCALE, None], low=-1, high=1)
    assert found.tolist() == [[1.0, -1.0]]


def test_a_result_of_eight_bits_is_requantized():
    x, w = torch.tensor([[1.0, 1.0, 1.0]]), torch.ones(1, 3)
    result = [torch.tensor(0.25), torch.tensor(7.0)]
    found = linear([x, SCALE, None], [w, SCALE, None], op="aten.linear", result=result, low=0, high=255)
    assert found.item() == 10


@pytest.mark.parametrize("codes", [torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 1.0]])])
def test_other_codes_are_refused(codes: torch.Tensor):
    with pytest.raises(VerifyError, match="signs"):
        linear([codes, SCALE, None], [torch.ones(1, 2), SCALE, None], op="aten.linear")


def test_the_interpreter_runs_them():
    program = Program(stage=Stage.LOWERED)
    given_ = [TensorType(torch.float32, shape) for shape in ((1, 2), (1, 2), ())]
    x, w, scale = (program.add_input(name, type_) for name, type_ in zip("xws", given_, strict=True))
    arguments = [[x, scale, None], [w, scale, None]]
    type_ = TensorType(torch.float32, (1, 1))
    call = program.append().call("qc.kernel", "linear_binary", *arguments, kwargs={"op": "aten.linear"}, type_=type_)
    program.set_outputs([call])
    values = [torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, 1.0]]), SCALE]
    assert evaluate(program, values, kernels=BIT_MEANINGS)[0].tolist() == [[0.0]]
