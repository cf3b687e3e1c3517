from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.errors import InputError, VerifyError
from qcompiler.formats import parse_format
from qcompiler.ir.fill import digest_of
from qcompiler.ir.parse import parse_program
from qcompiler.ir.program import Program
from qcompiler.ir.types import TensorType
from qcompiler.spec import QuantSpec
from qcompiler.weights import read_program, write_program

TEXT = """
spec @w = int4 sym block=(1,-1) scale=f32
dim s0 = 4 in 1..64
program @net stage=quantized {
  input %x : f32[s0,16]
  param %w : @w[5,16] = zeros()
  param %ws : f32[5,1] = uniform(seed=3)
  param %bias : f32[5] = values(1.5, -2, 0.1, 0, 7)
  param %big : f32[3,5] = zeros()
  %wd = qc.dequantize %w, %ws, none : f32[5,16]
  %y = aten.linear %x, %wd, %bias : f32[s0,5]
  %z = aten.linear %y, %big, none : f32[s0,3]
  return %z
}
"""


def test_program_comes_back_bit_for_bit(tmp_path: Path) -> None:
    program = parse_program(TEXT)
    spec = program.tensor_type(program.node("w")).spec
    program.set_param(program.node("w"), torch.randint(-8, 8, (5, 16)).float(), spec)
    program.set_param(program.node("big"), torch.randn(3, 5))
    write_program(program, tmp_path)
    back = read_program(tmp_path)
    assert str(back) == str(program)
    for name in ("w", "big", "bias"):
        assert digest_of(back.param(back.node(name))) == digest_of(program.param(program.node(name)))


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from(["int2", "int3", "int4", "uint5", "int7", "int8", "uint8", "int16", "fp8e4m3", "nf4"]),
    st.integers(1, 4),
    st.integers(9, 40),
    st.integers(0, 99),
)
def test_codes_of_every_width_are_stored_packed(format_name: str, rows: int, columns: int, seed: int) -> None:
    number = parse_format(format_name)
    spec = QuantSpec.parse(f"{format_name} sym block=(1,-1) scale=f32")
    values = number.round(torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 3)
    program = Program()
    node = program.add_param("w", values, TensorType(torch.float32, (rows, columns), spec))
    program.set_outputs([node])
    with tempfile.TemporaryDirectory() as name:
        write_program(program, Path(name))
        size = (Path(name) / "weights.safetensors").stat().st_size
        back = read_program(Path(name))
    assert torch.equal(back.param(back.node("w")), values)
    assert size <= rows * ((columns * number.storage_bits + 7) // 8) + 200


def test_negative_zero_codes_and_odd_numbers_survive(tmp_path: Path) -> None:
    program = Program()
    spec = QuantSpec.parse("int8 sym block=(-1,-1) scale=f32")
    codes = torch.tensor([[-0.4, 3.0] * 8]).round()
    limits = torch.tensor([-(2**63), 2**63 - 1, 2**53 + 1])
    odd = torch.tensor([-0.0, torch.inf, torch.nan])
    nodes = [
        program.add_param("codes", codes, TensorType(torch.float32, (1, 16), spec)),
        program.add_param("limits", limits),
        program.add_param("odd", odd),
        program.add_param("flag", torch.tensor(True)),
    ]
    program.set_outputs(nodes)
    write_program(program, tmp_path)
    back = read_program(tmp_path)
    assert torch.equal(back.param(back.node("codes")), codes)
    assert torch.equal(back.param(back.node("limits")), limits)
    assert digest_of(back.param(back.node("odd"))) == digest_of(odd)
    assert back.param(back.node("flag")).item() is True


def test_equal_weights_are_stored_once(tmp_path: Path) -> None:
    program = Program()
    weight = torch.randn(100, 100)
    program.set_outputs([program.add_param("a", weight), program.add_param("b", weight)])
    write_program(program, tmp_path)
    assert (tmp_path / "weights.safetensors").stat().st_size < 41_000
    back = read_program(tmp_path)
    assert torch.equal(back.param(back.node("b")), weight)


def test_values_off_the_grid_are_refused(tmp_path: Path) -> None:
    program = Program()
    spec = QuantSpec.parse("int4 sym block=(-1) scale=f32")
    program.set_outputs([program.add_param("w", torch.full((9,), 0.5), TensorType(torch.float32, (9,), spec))])
    with pytest.raises(VerifyError, match="'w' holds values that int4 lacks"):
        write_program(program, tmp_path)


def test_a_program_without_its_weights_is_refused(tmp_path: Path) -> None:
    program = Program()
    program.set_outputs([program.add_param("w", torch.randn(30))])
    write_program(program, tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"short")
    with pytest.raises(InputError, match="cannot read the program"):
        read_program(tmp_path)


def test_weights_of_another_program_are_refused(tmp_path: Path) -> None:
    for seed in (1, 2):
        program = Program()
        weight = torch.randn(30, generator=torch.Generator().manual_seed(seed))
        program.set_outputs([program.add_param("w", weight)])
        (tmp_path / str(seed)).mkdir()
        write_program(program, tmp_path / str(seed))
    (tmp_path / "1" / "weights.safetensors").write_bytes((tmp_path / "2" / "weights.safetensors").read_bytes())
    with pytest.raises(InputError, match="'w' is not the one"):
        read_program(tmp_path / "1")


def test_weights_may_be_read_by_whom_the_folder_lets(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    program = Program()
    program.set_outputs([program.add_param("w", torch.randn(30))])
    write_program(program, tmp_path)
    assert (tmp_path / "weights.safetensors").stat().st_mode & 0o777 == 0o644
