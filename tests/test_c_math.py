"""Elementary functions of generated C: within a few roundings of exact ones, and the same bits on every processor."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from qcompiler.backends.c.isa import LEVELS, WARNINGS, Isa
from qcompiler.backends.c.toolchain import find_compiler, find_emulator
from qcompiler.errors import UnsupportedError
from tests.c_harness import INCLUDE, runs_here

Function = Callable[[Tensor], Tensor]
EXACT: dict[str, tuple[Function, float]] = {
    "exp": (torch.exp, 2),
    "expm1": (torch.expm1, 2),
    "log": (torch.log, 2),
    "log1p": (torch.log1p, 3),
    "tanh": (torch.tanh, 3),
    "sigmoid": (torch.sigmoid, 3),
    "erf": (torch.erf, 2),
    "sin": (lambda x: torch.sin(torch.where(x.abs() < 1e6, x, 0.0)), 2),
    "cos": (lambda x: torch.cos(torch.where(x.abs() < 1e6, x, 0.0)), 2),
    "rsqrt": (torch.rsqrt, 2),
}
"""Largest errors in units in the last place."""
ABSOLUTE: dict[str, Function] = {
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    "softplus": lambda x: functional.softplus(x, threshold=50),
    "mish": lambda x: x * torch.tanh(functional.softplus(x, threshold=50)),
    "hard_swish": functional.hardswish,
    "hard_sigmoid": functional.hardsigmoid,
    "relu": functional.relu,
}
"""Errors at most 6 * 2^-24 of the argument, or of one where that is larger."""
STEP = 0.0123
NAMES = (*EXACT, *ABSOLUTE, "steps", "power")
_MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include "qc_math.h"
static float qc_steps(float x) { return qc_in_steps(x, %sf, 1.0f / %sf); }
static void map(const float *restrict x, size_t n, float *restrict y, int which) {
    switch (which) {
%s
    default:
        for (size_t i = 0; i < n; ++i) y[i] = qc_pow(x[i], x[n - 1 - i]);
    }
}
int main(int count, char **names) {
    static float x[%d], y[%d];
    FILE *in = fopen(names[1], "rb"), *out = fopen(names[2], "wb");
    if (count != 3 || !in || !out || fread(x, sizeof x, 1, in) != 1) return 1;
    for (int which = 0; which < %d; ++which) {
        map(x, sizeof x / sizeof *x, y, which);
        fwrite(y, sizeof y, 1, out);
    }
    return fclose(out);
}
"""


@cache
def numbers() -> np.ndarray:
    """Every 200 000th float, all special ones, and many of the size that networks work with."""
    bits = np.arange(0, 2**32, 200_003, dtype=np.uint64).astype(np.uint32).view(np.float32)
    special = np.array([0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 0.5, -2, 3, -3, 1e-40], np.float32)
    halves = (np.arange(-300, 300) + np.float32(0.5)) * np.float32(STEP)
    usual = np.random.default_rng(0).standard_normal(8000) * np.repeat([0.1, 1, 5, 40], 2000)
    # A number is raised to the power of the one as far from the end: all special ones to all of them.
    bases, exponents = (each.reshape(-1) for each in np.meshgrid(special, special))
    return np.concatenate([bases, bits, usual.astype(np.float32), halves.astype(np.float32), exponents[::-1]])


@cache
def computed(isa: Isa) -> dict[str, np.ndarray]:
    """Results of all functions on a level, by name."""
    try:
        compiler, emulator = find_compiler(LEVELS[isa].architecture), find_emulator(LEVELS[isa].architecture)
    except UnsupportedError as error:
        pytest.skip(error.what)
    if not runs_here(isa):
        pytest.skip(f"this processor has no {isa.value}")
    x = numbers()
    loop = "    case {}: for (size_t i = 0; i < n; ++i) y[i] = qc_{}(x[i]); break;"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = "\n".join(loop.format(place, function) for place, function in enumerate(NAMES[:-1]))
        (folder / "main.c").write_text(_MAIN % (STEP, STEP, cases, x.size, x.size, len(NAMES)))
        compiler.compile(folder / "main.c", folder / "main.o", isa, (f"-I{INCLUDE}", *WARNINGS))
        compiler.link([folder / "main.o"], folder / "program", ("-static",))
        x.tofile(folder / "x")
        subprocess.run(
            [*emulator, str(folder / "program"), str(folder / "x"), str(folder / "y")], check=True, timeout=99
        )
        return dict(zip(NAMES, np.fromfile(folder / "y", np.float32).reshape(len(NAMES), -1), strict=True))


def off(found: np.ndarray, exact: Tensor) -> np.ndarray:
    """Absolute errors; what is infinite or no number must be so in both."""
    rounded = exact.float().numpy()
    same = np.isnan(found) == np.isnan(rounded)
    same &= np.where(np.isinf(found) | np.isinf(rounded), found == rounded, True) | np.isnan(found)
    assert same.all(), numbers()[~same][:5]
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(rounded), np.abs(found.astype(np.float64) - exact.numpy()), 0)


@pytest.mark.parametrize("name", EXACT)
def test_is_within_its_bound(name: str) -> None:
    function, bound = EXACT[name]
    found, exact = computed(Isa.PORTABLE)[name], function(torch.from_numpy(numbers()).double())
    if name in ("sin", "cos"):
        found = np.where(np.abs(numbers()) < 1e6, found, exact.float().numpy())
        exact = torch.where(torch.from_numpy(np.abs(numbers()) < 1e6), exact, torch.from_numpy(found).double())
    unit = np.maximum(np.spacing(np.abs(exact.float().numpy())), 2.0**-149)
    assert np.nanmax(off(found, exact) / unit) <= bound


@pytest.mark.parametrize("name", ABSOLUTE)
def test_activation_is_within_its_bound(name: str) -> None:
    x = numbers()
    plain = np.abs(x) < 1e30
    exact = ABSOLUTE[name](torch.from_numpy(np.where(plain, x, 0)).double())
    found = np.where(plain, computed(Isa.PORTABLE)[name], exact.float().numpy())
    assert (off(found, exact)[plain] <= 6 * 2.0**-24 * np.maximum(np.abs(x[plain]), 1)).all()


def test_power_is_rounded_once() -> None:
    x = torch.from_numpy(numbers()).double()
    found, exact = computed(Isa.PORTABLE)["power"], x ** x.flip(0)
    unit = np.maximum(np.spacing(np.abs(exact.float().numpy())), 2.0**-149)
    assert np.nanmax(off(found, exact) / unit) <= 0.51


@pytest.mark.parametrize("isa", [Isa.PORTABLE, Isa.AVX2, Isa.AVX512, Isa.NEON], ids=lambda isa: isa.value)
def test_steps_are_those_of_a_division(isa: Isa) -> None:
    x = numbers()
    with np.errstate(all="ignore"):
        steps = x / np.float32(STEP)
    counted = (np.abs(steps) < 2**20) & ((np.abs(steps) > 2.0**-40) | (x == 0))
    found = computed(isa)["steps"]
    np.testing.assert_array_equal(found[counted], steps[counted])
    assert (np.abs(found[np.abs(steps) >= 2**20]) >= 2**20).all()


@pytest.mark.parametrize("isa", [Isa.AVX2, Isa.AVX512, Isa.NEON, Isa.NEON32], ids=lambda isa: isa.value)
def test_every_level_gives_the_same_bits(isa: Isa) -> None:
    found, portable = computed(isa), computed(Isa.PORTABLE)
    for name in (name for name in NAMES if name != "steps"):
        one, other = (np.where(np.isnan(y), 0, y).view(np.uint32) for y in (found[name], portable[name]))
        np.testing.assert_array_equal(one, other, err_msg=name)
