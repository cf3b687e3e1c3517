"""Where one edit meets another: biases that shifts add, layers that shifts do not reach evenly, values read twice."""

from __future__ import annotations

import pytest

from qcompiler.analysis.symmetry import symmetries
from qcompiler.errors import VerifyError
from qcompiler.ir.parse import parse_program
from qcompiler.passes.transform import surgery
from qcompiler.passes.transform.gains import fold_norm
from qcompiler.passes.transform.rotation.keys import rotate_keys
from tests.test_transform_surgery import SMALL, changed
from tests.torch_models import noise


def test_a_scale_reaches_a_bias_that_the_shift_of_another_group_added() -> None:
    program = parse_program("""program @row stage=canonical {
  input %x : f32[5,6]
  param %w : f32[8,6] = normal(seed=1)
  param %b : f32[8] = normal(seed=2)
  param %v : f32[4,8] = normal(seed=3)
  param %u : f32[3,4] = normal(seed=4)
  %a = aten.linear %x, %w, %b : f32[5,8]
  %c = aten.linear %a, %v, none : f32[5,4]
  %y = aten.linear %c, %u, none : f32[5,3]
  return %y
}
""")
    before = program.copy()
    first, second = symmetries(program).scales
    surgery.shift(program, first, noise(8, seed=5), "test")
    surgery.scale(program, second, noise(4, seed=6).exp(), "test")
    assert changed(before, program) < SMALL


def test_a_transposed_convolution_takes_in_no_shift_because_its_borders_see_less_of_it() -> None:
    program = parse_program("""program @up stage=canonical {
  input %x : f32[1,5,5,6]
  param %w : f32[4,6] = normal(seed=1)
  param %g : f32[4] = normal(seed=2)
  param %h : f32[4] = normal(seed=3)
  param %k : f32[4,3,2,2] = normal(seed=4)
  %a = aten.linear %x, %w, none : f32[1,5,5,4]
  %n = aten.layer_norm %a, [4], %g, %h, 1e-05 : f32[1,5,5,4]
  %p = aten.permute %n, [0, 3, 1, 2] : f32[1,4,5,5]
  %y = aten.conv_transpose2d.input %p, %k, none, [2, 2], [0, 0], [0, 0], 1, [1, 1] : f32[1,3,10,10]
  return %y
}
""")
    with pytest.raises(VerifyError, match="cannot take in"):
        fold_norm(program, program.node("n"), "test")
    assert not any(group.folded_gains for group in symmetries(program).orthogonal)


def test_keys_that_are_the_values_too_are_not_rotated() -> None:
    program = parse_program("""program @shared stage=canonical {
  input %q : f32[1,2,3,4]
  input %k : f32[1,2,5,4]
  %y = aten.scaled_dot_product_attention %q, %k, %k : f32[1,2,3,4]
  return %y
}
""")
    before = program.copy()
    assert rotate_keys(program, "test", 0) == 0
    assert changed(before, program) < SMALL
