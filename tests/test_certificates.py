"""Certificates: written beside a rewrite, believed by the checker when right, refused by name when not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from qcompiler.analysis.groups import Place
from qcompiler.certificate import Basis, Claim, claim, claims_between, hide, write_certificate
from qcompiler.ir.parse import parse_program
from qcompiler.ir.program import Program, Stage
from qcompiler.job import backends
from qcompiler.pipeline import Context, Exact, Options, Promise, run_passes
from qcompiler.targets import load_target
from tests import certificate_checker
from tests.certificate_checker import WrongCertificate, check

SIZE = 6
TEXT = """
dim s0 = 3 in 1..
program @stream stage=canonical {
  input %x : f64[s0,6]
  param %w1 : f64[6,6] = normal(seed=1)
  param %b1 : f64[6] = normal(seed=2)
  param %gain : f64[6] = normal(seed=3)
  param %w2 : f64[4,6] = normal(seed=4)
  %first = aten.linear %x, %w1, %b1 : f64[s0,6]
  %norm = aten.rms_norm %first, [6], %gain, 1e-06 : f64[s0,6]
  %last = aten.linear %norm, %w2 : f64[s0,4]
  return %last
}
"""


def rotation(seed: int = 0) -> Tensor:
    draw = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(draw).Q


def everywhere(axis: int) -> Place:
    return Place(axis, torch.arange(SIZE)[None], torch.zeros(1, dtype=torch.int64))


def set_value(program: Program, name: str, change: Callable[[Tensor], Tensor]) -> None:
    node = program.node(name)
    program.set_param(node, change(program.param(node)))


def rotate(program: Program, basis: Basis) -> None:
    """Rotates the stream between the two layers, the gain of the norm folded into its reader."""
    turn, gain = basis.values[0], program.param(program.node("gain"))
    set_value(program, "w1", lambda value: turn.T @ value)
    set_value(program, "b1", lambda value: value @ turn)
    set_value(program, "w2", lambda value: (value * gain) @ turn)
    norm = program.node("norm")
    program.set_args(norm, [norm.args[0], [SIZE], None, 1e-6])
    claim(program.node("first"), Claim(basis, everywhere(1)))
    hide(norm)


@dataclass(frozen=True)
class Rotate:
    """A step as the runner sees one."""

    name: ClassVar[str] = "rotate_by_hand"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact()

    def run(self, program: Program, ctx: Context) -> Program:
        rotate(program, Basis("orthogonal", rotation()[None]))
        return program


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A certificate that is right."""
    before = parse_program(TEXT)
    after = before.copy()
    rotate(after, Basis("orthogonal", rotation()[None]))
    sample = [torch.randn(3, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(9))]
    write_certificate(before, after, sample, tmp_path)
    return tmp_path


def edit_claims(folder: Path, change: Callable[[dict[str, dict[str, object]]], object]) -> None:
    path = folder / "claims.json"
    text = json.loads(path.read_text())
    change(text)
    path.write_text(json.dumps(text))


def edit_tensor(folder: Path, name: str, change: Callable[[Tensor], Tensor]) -> None:
    path = folder / "claims.safetensors"
    tensors = load_file(path)
    save_file({**tensors, name: change(tensors[name]).contiguous()}, path)


def test_a_right_certificate_is_believed(folder: Path) -> None:
    assert check(folder) == 2  # the first layer as claimed, the result unchanged; the norm is looked through


def test_the_checker_is_a_program(folder: Path) -> None:
    command = [sys.executable, "-m", "tests.certificate_checker", str(folder)]
    root = Path(certificate_checker.__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert (done.returncode, done.stdout) == (0, "2 values are as claimed\n"), done.stderr


def test_an_unclaimed_change_is_refused(folder: Path) -> None:
    edit_claims(folder, lambda text: text["values"].clear())
    with pytest.raises(WrongCertificate, match="%first"):
        check(folder)


def test_a_value_is_looked_through_only_when_hidden(folder: Path) -> None:
    edit_claims(folder, lambda text: text.update(hidden=[]))  # pyright: ignore[reportArgumentType, reportCallIssue]
    with pytest.raises(WrongCertificate, match="%norm"):
        check(folder)


def test_a_result_cannot_be_hidden(folder: Path) -> None:
    edit_claims(folder, lambda text: text.update(hidden=["norm", "last"]))  # pyright: ignore[reportArgumentType, reportCallIssue]
    with pytest.raises(WrongCertificate, match="%last is an input or a result"):
        check(folder)


def test_hiding_proves_no_less(folder: Path, tmp_path: Path) -> None:
    """A wrong program whose changed values are all hidden still fails, at the result."""
    edit_claims(folder, lambda text: text.update(hidden=["first", "norm"], values={}))  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert check(folder) == 1
    text = tmp_path / "after.qir"
    text.write_text(text.read_text().replace("1e-06", "1e-02"))
    with pytest.raises(WrongCertificate, match="%last"):
        check(folder)


def test_a_basis_must_be_of_its_kind(folder: Path) -> None:
    edit_tensor(folder, "basis.0", lambda value: value * 1.000001)
    with pytest.raises(WrongCertificate, match=r"basis.0 is not orthogonal"):
        check(folder)


def test_another_rotation_is_refused(folder: Path) -> None:
    edit_tensor(folder, "basis.0", lambda value: rotation(7)[None])
    with pytest.raises(WrongCertificate, match="%first"):
        check(folder)


def test_weights_that_were_changed_afterwards_are_refused(folder: Path) -> None:
    path = folder / "after.safetensors"
    weights = load_file(path)
    weights["w2"][0, 0] += 1e-6
    save_file(weights, path, metadata=dict.fromkeys(weights, "float64"))
    with pytest.raises(Exception, match="is not the one this program was written with"):
        check(folder)


def test_claims_act_in_order_and_on_their_coordinates() -> None:
    """A scale on two of the coordinates, then a shift of all, is what the checker applies."""
    before = parse_program(TEXT)
    after = before.copy()
    assert claims_between(before, after) == {}
    scale, shift = Basis("scale", torch.full((1, 2), 2.0)), Basis("shift", torch.ones(1, SIZE))
    claim(after.node("first"), Claim(scale, Place(1, torch.tensor([[1, 4]]), torch.tensor([0])), exponent=-1))
    again = after.copy()
    claim(again.node("first"), Claim(shift, everywhere(1)))
    assert [len(made) for made in claims_between(before, again).values()] == [2]
    assert [item.basis for item in claims_between(after, again)["first"] if isinstance(item, Claim)] == [shift]


def test_the_runner_writes_one_beside_the_texts(tmp_path: Path) -> None:
    target = load_target("simulation", backends())
    run_passes(parse_program(TEXT), [Rotate()], Context(target), options=Options(dump_dir=tmp_path))
    assert check(tmp_path / "01-rotate_by_hand.certificate") == 2
