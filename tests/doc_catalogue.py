"""The chapter of the documentation that lists every pass, sensitivity and solver, made from their own docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from typing import get_args

from qcompiler.cli.lists import describe_pass
from qcompiler.passes import allocate, calibrate, canonical, lower, solve, transform
from qcompiler.passes.allocate import segments_inside
from qcompiler.passes.allocate.dynamic_program import DynamicProgram
from qcompiler.passes.allocate.genetic import Genetic
from qcompiler.passes.allocate.greedy import greedy, one_shot
from qcompiler.passes.allocate.milp import Milp
from qcompiler.passes.allocate.segments_inside import METHODS as INSIDE
from qcompiler.passes.allocate.sensitivity import SENSITIVITIES
from qcompiler.passes.allocate.solvers import SolverName
from qcompiler.passes.calibrate import METHODS as RANGES
from qcompiler.pipeline import Pass

_HEAD = """# Catalogue of passes

Made from the code by `pytest tests/test_docs.py --bless`. `qcompiler passes` prints the passes of the version that is
installed, `qcompiler passes --json` their options and defaults. Stages and promises are explained in
[Writing your own](extend.md), what a recipe is in [Recipes](recipes.md).

"""
_CHANGES = (
    "They change the basis around a value and fold the change into weights. `assign` stands before them, `apply_plan` "
    "behind."
)
_FAMILIES: tuple[tuple[str, str, tuple[type[Pass], ...]], ...] = (
    ("Canonical", "They run in front of every recipe and keep the function.", canonical.PASSES),
    ("Allocation", "They say who gets which numbers.", allocate.PASSES),
    ("Transforms", _CHANGES, transform.PASSES),
    ("Lowering", "What was decided becomes explicit quantize and dequantize nodes.", lower.PASSES),
    ("Calibration", "They find ranges of activations and what biases must answer for.", calibrate.PASSES),
    ("Weight solvers", "They find the codes of weights.", solve.PASSES),
)
_TOLD = ("method", "what it does", "source")
_SENSITIVITIES = (
    "`mixed_precision{sensitivity=...}` takes one, or a sum such as `output + 0.5*ssim`. What each is worth: "
    "`python -m benchmarks.sensitivity`."
)
_SOLVERS = {"milp": Milp, "dynamic_program": DynamicProgram, "greedy": greedy, "one_shot": one_shot, "genetic": Genetic}


def catalogue_page() -> str:
    """The whole chapter."""
    head = ("pass", "what it does", "promise", "options", "source")
    parts = [_HEAD, *(_section(title, says, head, map(_pass_row, passes)) for title, says, passes in _FAMILIES)]
    ranges = [(f"`{cls.name}`", _summary(cls), _source(cls)) for cls in RANGES]
    parts.append(_section("Ranges", "`calibrate{method=...}` takes one of:", _TOLD, ranges))
    rows = [(f"`{cls.name}`", _summary(cls), "yes" if cls.needs_data else "no", _source(cls)) for cls in SENSITIVITIES]
    parts.append(_section("Sensitivities", _SENSITIVITIES, ("name", "what it measures", "needs data", "source"), rows))
    found = [(f"`{name}`", _summary(what), _source(what)) for name, what in _SOLVERS.items()]
    parts.append(_section("Allocation solvers", "`mixed_precision{solver=...}` takes one of:", _TOLD, found))
    inside = ", ".join(f"`{name}`" for name in INSIDE)
    origin = _heading(inspect.getdoc(segments_inside) or "", "Source")
    text = f"`mixed_precision{{inside=...}}` takes {inside}, with `|` between them. Source: {origin}"
    return "".join([*parts, f"## Widths inside a weight\n\n{text}\n"])


def missing_solvers() -> set[str]:
    """Allocation solvers that the chapter forgets."""
    return set(get_args(SolverName)) - set(_SOLVERS)


def _section(title: str, text: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join(f"| {' | '.join(_cell(cell) for cell in row)} |" for row in lines)
    return f"## {title}\n\n{text}\n\n{table}\n\n"


def _pass_row(cls: type[Pass]) -> tuple[str, ...]:
    item = describe_pass(cls)
    options = item["options"]
    assert isinstance(options, dict)
    told = ", ".join(f"`{name}`" for name in options)
    return f"`{item['name']}`", str(item["summary"]), str(item["promise"]), told, _source(cls)


def _summary(what: object) -> str:
    return (inspect.getdoc(what) or "").partition("\n")[0]


def _source(what: object) -> str:
    module = inspect.getmodule(what)
    return _heading(inspect.getdoc(module) or "", "Source") if module else ""


def _heading(text: str, name: str) -> str:
    """What stands behind one of the headings Formula, Shapes, Promise, Needs, Source of a method file."""
    match = re.search(rf"^{name} +(.+(?:\n +.+)*)", text, re.MULTILINE)
    return re.sub(r"\s+", " ", match[1]) if match else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").strip()
