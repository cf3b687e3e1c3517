"""The law of the transform family: every pass of it keeps the function of every kind of model, and can prove it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pytest
from torch import Tensor

from qcompiler.certificate import certifies, write_certificate
from qcompiler.ir.program import Program
from qcompiler.job import backends
from qcompiler.pass_text import make_pass, parse_pass
from qcompiler.passes import transform
from qcompiler.passes.recipes import catalogue
from qcompiler.pipeline import Context, Exact, Options, Pass, difference, run_passes
from qcompiler.targets import load_target
from tests.certificate_checker import check
from tests.transform_models import KINDS, batches, canonical

ASSIGN = "assign{scheme=w4a4, weight=int4 sym channel scale=f32, activation=int4 sym token scale=f32 dynamic}"
EXACT = [cls for cls in transform.PASSES if isinstance(cls.promise, Exact)]
PROVED = ("tied llama", "vit")
# Training is cut short, and what would be left alone because it does not help is done all the same.
BOLD: dict[str, object] = {"steps": 3, "stages": 1, "guard": False, "worth": -1.0}


@lru_cache
def assigned(kind: str) -> tuple[Program, list[list[Tensor]]]:
    """The canonical program of a kind with four bits wanted everywhere, and calibration data."""
    return run(canonical(kind), parse_pass(ASSIGN, catalogue()), ()), batches(kind)


def run(program: Program, step: Pass, data: Sequence[list[Tensor]]) -> Program:
    context = Context(load_target("simulation", backends()))
    return run_passes(program, [step], context, data, Options(check="off"))[0]


def bold(cls: type[Pass]) -> Pass:
    known = {option.name for option in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]
    return make_pass(cls, {name: value for name, value in BOLD.items() if name in known})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cls", EXACT, ids=lambda cls: cls.name)
def test_the_function_is_kept(cls: type[Pass], kind: str, tmp_path: Path) -> None:
    before, data = assigned(kind)
    after = run(before, bold(cls), data)
    assert difference(before, after, data[1]) <= 1e-9
    if kind in PROVED and certifies(before, after):
        write_certificate(before, after, data[0], tmp_path)
        assert check(tmp_path) > 0


def test_every_exact_pass_promises_nine_digits() -> None:
    assert EXACT
    assert all(cls.promise == Exact(1e-9) for cls in EXACT)
