"""Sizes that a call chooses: the same number as polynomials, as C, and as text that is read back."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.c.extent import (
    Extent,
    Free,
    OnlyARunTellsError,
    at,
    bounds,
    extent_of,
    larger,
    made,
    smaller,
    text,
)
from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.toolchain import find_compiler
from qcompiler.errors import UnsupportedError
from qcompiler.ir.parse_dim import parse_dim
from qcompiler.ir.types import Dimensions, Symbol

ROWS, STEPS = Free("rows", 7), Free("steps", 40)
FREE = {free.name: made([((free,), 1)]) for free in (ROWS, STEPS)}
rows, steps = FREE.values()


@st.composite
def expressions(draw: st.DrawFn) -> tuple[int, str]:
    """A size, and the same in Python."""
    found, told = draw(st.sampled_from([(rows, "rows"), (steps, "steps")]))
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from("+-*/<>%"))
        number = draw(st.integers(1, 9))
        other, word = draw(st.sampled_from([(number, str(number)), (rows, "rows"), (steps, "steps")]))
        if kind == "+":
            found, told = found + other, f"({told} + {word})"
        elif kind == "-":
            found, told = found - other, f"({told} - {word})"
        elif kind == "*":
            found, told = found * other, f"({told} * {word})"
        elif kind == "/":
            found, told = found // other, f"({told} // {word})"
        elif kind == "%":
            found, told = found % other, f"({told} % {word})"
        elif kind == "<":
            found, told = smaller(found, other), f"min({told}, {word})"
        else:
            found, told = larger(found, other), f"max({told}, {word})"
    return found, told


CALLS = st.fixed_dictionaries({"rows": st.integers(1, 7), "steps": st.integers(1, 40)})


@given(expressions(), CALLS)
@settings(deadline=None, max_examples=50)
def test_a_size_is_the_number_that_arithmetic_gives(expression: tuple[int, str], values: dict[str, int]) -> None:
    found, told = expression
    wanted = eval(told, {"min": min, "max": max}, dict(values))
    assert at(found, values) == wanted
    low, high = bounds(found)
    assert low <= wanted <= high


@given(expressions(), CALLS)
@settings(deadline=None, max_examples=50)
def test_text_reads_back(expression: tuple[int, str], values: dict[str, int]) -> None:
    found, _ = expression
    dimensions = Dimensions({free.name: Symbol(free.most, free.least, free.most) for free in (ROWS, STEPS)})
    again = extent_of(parse_dim(text(found, "python"), dimensions), FREE)
    assert at(again, values) == at(found, values)


def test_the_text_in_c_computes_the_same(tmp_path: Path) -> None:
    try:
        compiler = find_compiler("x86")
    except UnsupportedError as error:
        pytest.skip(error.what)
    sizes = [
        rows * steps * 3 - rows + 5,
        (steps - 3) // 2 + 1,
        -(-steps // 16),
        (steps - 9) % 4,
        smaller(rows * 4, steps) - larger(rows, 5),
        (rows * rows + 2) * (steps // 7),
    ]
    points = [{"rows": 1, "steps": 1}, {"rows": 7, "steps": 40}, {"rows": 3, "steps": 17}]
    prints = " ".join(f'printf("%ld ", {size} * 2);' for size in sizes)
    lines = [
        f"{{ const long size_rows = {point['rows']}, size_steps = {point['steps']}; {prints} }}" for point in points
    ]
    source = tmp_path / "t.c"
    source.write_text(f"#include <stdio.h>\nint main(void) {{ {' '.join(lines)} return 0; }}\n")
    compiler.compile(source, tmp_path / "t.o", Isa.PORTABLE, [])
    compiler.link([tmp_path / "t.o"], tmp_path / "t", [])
    printed = subprocess.run([tmp_path / "t"], capture_output=True, text=True, check=True).stdout.split()
    assert list(map(int, printed)) == [2 * at(size, point) for point in points for size in sizes]


def test_equal_polynomials_are_equal_however_they_were_made() -> None:
    assert (rows + 1) * (steps + 2) == rows * steps + rows * 2 + steps + 2
    assert (rows * steps * 64 + rows * 64) // (steps + 1) == rows * 64
    assert rows * 6 // 2 % 3 == 0
    assert rows - rows == 0
    assert rows != 1
    assert hash(rows * 2) == hash(rows + rows)
    assert not isinstance(rows - rows, Extent)


def test_an_order_is_told_where_it_holds_for_all_choices() -> None:
    assert max(rows * steps, 1) == rows * steps
    assert rows < 8
    assert steps * 0 < rows
    assert not rows > 7
    for undecided in (lambda: rows > 1, lambda: steps < 40, lambda: max(rows, steps)):
        with pytest.raises(OnlyARunTellsError):
            undecided()


@pytest.mark.parametrize(
    "taking",
    [
        lambda: range(rows),
        lambda: [0] * rows,
        lambda: float(rows),
        lambda: np.zeros(rows),
        lambda: np.array([rows], dtype=np.int32),
        lambda: [1, 2][rows],
    ],
)
def test_no_number_slips_out(taking: object) -> None:
    with pytest.raises(OnlyARunTellsError):
        taking()  # pyright: ignore[reportCallIssue]
