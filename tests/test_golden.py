"""Golden texts: what passes make of programs, what prints and parses, and which line an error names.

`golden/<family>/*.qir` holds `# RUN:` lines with passes, a program, a line `# ---` and the program that the passes make
of it; `pytest --bless` rewrites the second half. `golden/text` holds programs that print as they read. `golden/verify`
holds broken programs with `; error: ...` on the guilty line.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

import pytest

from qcompiler.errors import ParseError, QCompilerError, VerifyError
from qcompiler.ir.parse import parse_program
from qcompiler.ir.text import print_program
from qcompiler.ir.verify import verify
from qcompiler.job import backends
from qcompiler.pass_text import parse_passes
from qcompiler.passes.recipes import catalogue
from qcompiler.pipeline import Context, Options, run_passes
from qcompiler.targets import load_target

ROOT = Path(__file__).parent / "golden"
SEPARATOR = "# ---\n"
TEXTS = sorted((ROOT / "text").glob("*.qir"))
BROKEN = sorted((ROOT / "verify").glob("*.qir"))
STEPS = sorted(path for path in ROOT.rglob("*.qir") if path.parent.name not in ("text", "verify"))


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", STEPS, ids=_name)
def test_passes_make_the_expected_program(path: Path, bless: bool) -> None:
    given, separator, expected = path.read_text().partition(SEPARATOR)
    assert separator, f"{path} lacks the line '# ---'"
    runs = re.findall(r"^# RUN: (.+)$", given, re.MULTILINE)
    assert runs, f"{path} has no RUN line"
    target = re.search(r"^# TARGET: (\S+)$", given, re.MULTILINE)
    context = Context(load_target(target[1] if target else "onnxruntime", backends()))
    passes = [pass_ for line in runs for pass_ in parse_passes(line, catalogue())]
    program, _ = run_passes(parse_program(given), passes, context, options=Options(check="each"))
    found = print_program(program)
    if bless:
        path.write_text(given + SEPARATOR + found)
        return
    difference = difflib.unified_diff(expected.splitlines(), found.splitlines(), "expected", "found", lineterm="")
    assert found == expected, "\n".join(difference)


@pytest.mark.parametrize("path", TEXTS, ids=_name)
def test_a_text_prints_as_it_reads(path: Path) -> None:
    text = "".join(line for line in path.read_text().splitlines(keepends=True) if not line.startswith("#"))
    program = parse_program(text)
    verify(program)
    assert print_program(program) == text


@pytest.mark.parametrize("path", BROKEN, ids=_name)
def test_an_error_names_its_line(path: Path) -> None:
    lines = path.read_text().splitlines()
    guilty = [(number, line) for number, line in enumerate(lines, 1) if "; error: " in line]
    assert len(guilty) == 1, f"{path} must mark one line"
    number, (text, _, wanted) = guilty[0][0], guilty[0][1].partition("; error: ")
    stripped = "\n".join(line.partition("; error: ")[0].rstrip() for line in lines)
    with pytest.raises((ParseError, VerifyError)) as caught:
        verify(parse_program(stripped))
    assert wanted in caught.value.what
    assert _names_line(caught.value, number, text), caught.value.where


def _names_line(error: QCompilerError, number: int, text: str) -> bool:
    """A parse error counts lines; a verify error shows the node between its neighbours, an arrow at it."""
    if isinstance(error, ParseError):
        return error.where.startswith(f"line {number}:")
    name = text.split("=")[0].split(":")[0].replace("param", "").strip()
    pointed = next((line for line in error.where.splitlines() if line.strip().startswith("->")), error.where)
    return name in pointed


def test_there_are_goldens() -> None:
    assert STEPS
    assert TEXTS
    assert BROKEN
