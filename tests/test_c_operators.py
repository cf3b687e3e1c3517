"""Every operator of generated C against the interpreter: numbers to some units in the last place, moves exactly."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
import torch

from qcompiler.backends.c.building import Build
from qcompiler.backends.c.emission import write_module
from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.module import Recorded
from qcompiler.backends.c.project import write_project
from qcompiler.backends.c.settings import Settings
from qcompiler.backends.c.toolchain import find_compiler
from qcompiler.errors import InputError, UnsupportedError
from tests.c_cases import ATTENTION, MORE, MOVES, ODD, ODDLY, STRIDED
from tests.c_programs import SIZE, Merged, merged
from tests.onnx_tools import Case
from tests.test_onnx_movement import SHAPES
from tests.test_onnx_ops import ELEMENTWISE, LAYERS

# Spelled otherwise, or folded, by canonical passes.
NEVER = {"selu", "celu", "glu", "determinant", "conv2d same", "conv2d without batch"}
THEMES: Mapping[str, list[Case]] = {
    "elementwise": [case for case in ELEMENTWISE if case[0] not in NEVER],
    "layers": [case for case in LAYERS if case[0] not in NEVER],
    "strided": STRIDED,
    "attention": ATTENTION,
    "more": MORE,
}
THEMES = {**THEMES, "shapes": [*SHAPES, *MOVES]}
ALL = [(theme, case[0]) for theme, cases in THEMES.items() for case in cases]


@cache
def theme(name: str) -> Merged:
    return merged(THEMES[name])


@cache
def computed(name: str) -> Mapping[str, list[torch.Tensor]]:
    try:
        find_compiler("portable")
    except UnsupportedError as error:
        pytest.skip(error.what)
    return theme(name).run()


@pytest.mark.parametrize(("name", "case"), ALL)
def test_numbers_are_those_of_double_precision(name: str, case: str) -> None:
    results, wanted, types = computed(name)[case], theme(name).exact[case], theme(name).wanted[case]
    for found, exact, type_ in zip(results, wanted, types, strict=True):
        assert found.dtype == type_.dtype
        reach = max(1.0, float(exact.double().abs().nan_to_num(0, 0, 0).max()))
        torch.testing.assert_close(found.double(), exact.double(), rtol=4e-6, atol=1e-6 * reach, equal_nan=True)


@pytest.mark.parametrize("case", [case[0] for case in MOVES])
def test_what_only_moves_stays_the_same(case: str) -> None:
    for found, wanted in zip(computed("shapes")[case], theme("shapes").wanted[case], strict=True):
        assert found.dtype == wanted.dtype
        assert torch.equal(found, wanted)


def test_infinities_and_nan_go_through_as_in_torch() -> None:
    cases = merged(ODDLY, dict.fromkeys([case[0] for case in ODDLY], ODD))
    found, wanted = cases.run(), cases.wanted
    for name in wanted:
        for one, other in zip(found[name], wanted[name], strict=True):
            torch.testing.assert_close(
                one, other, rtol=1e-6, atol=1e-6, equal_nan=True, msg=f"{name}: {one} != {other}"
            )


@pytest.mark.parametrize("name", ["strided", "attention"])
def test_levels_and_compilers_give_the_same_bits(name: str) -> None:
    fast, plain = computed(name), theme(name).run(Isa.PORTABLE, flags=())
    for case, results in fast.items():
        for one, other in zip(results, plain[case], strict=True):
            assert torch.equal(one, other), case


def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    cases = theme("shapes")
    results = [result for found in computed("shapes").values() for result in found]
    recorded = Recorded([x.numpy() for x in cases.inputs], [x.numpy() for x in results])
    write_project(write_module(cases.program, Settings(isa=Isa.PORTABLE, batch=SIZE)), tmp_path, recorded)
    flags = ("-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    try:
        program = Build("program", flags=flags).run(tmp_path)
    except InputError as error:
        pytest.skip(error.what)
    done = subprocess.run([program, "check", tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
