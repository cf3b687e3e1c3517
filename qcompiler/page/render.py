"""The page as text: one self-contained HTML file, no network, light and dark, for the screen and for paper."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from qcompiler.ir.program import Program
from qcompiler.page.data import PageData, embedded
from qcompiler.page.graph import graph_data
from qcompiler.report import Report
from qcompiler.report.frontier import svg
from qcompiler.report.words import db_text, metric_text, ratio_text, seconds_text, size_text


def html(report: Report, data: PageData | None = None) -> str:
    """The page as text.

    Every name is escaped or written by the script as text, so that a model cannot inject markup; a content policy
    inside the page forbids any request.

    Args:
        report: of a compilation.
        data: what else is known; without it the page has neither graph nor histograms.
    """
    data = data or PageData()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(size=size_text, db=db_text, ratio=ratio_text, seconds=seconds_text, metric=metric_text)
    return environment.from_string(_packaged("page.html.j2")).render(
        report=report,
        trimmed=data.trimmed,
        pictures=[svg(frontier) for frontier in report.frontiers],
        data=Markup(embedded(report, data)),
        style=Markup(_packaged("page.css")),
        script=Markup("\n").join(Markup(_packaged(name)) for name in SCRIPTS),
    )


def program_page(program: Program) -> str:
    """The page of a program about which nothing else is known."""
    return html(Report(program.name, "", str(program.stage)), PageData(graph_data(program)))


SCRIPTS = ("parts.js", "model.js", "charts.js", "table.js", "panel.js", "compare.js", "start.js")
"""In the order in which they need each other."""


def _packaged(name: str) -> str:
    return files("qcompiler.page").joinpath(name).read_text(encoding="utf-8")
