"""Frontiers: what each amount of a resource buys, as data, as a picture, in reports and on the command line."""

from __future__ import annotations

import itertools
from xml.etree import ElementTree

import pytest

from qcompiler.compiler import build
from qcompiler.errors import InputError, SpecError
from qcompiler.frontier import Frontier, Point
from qcompiler.job import drawing
from qcompiler.page import html
from qcompiler.passes.allocate.frontier import Axes, pareto
from qcompiler.passes.allocate.problem import Option, Problem, Unit
from qcompiler.report import Report
from qcompiler.report.frontier import svg
from tests.allocate_models import WEIGHTS, job_of

LOSSES = [[0.0, 1.0, 5.0], [0.0, 2.0, 3.0], [0.0, 0.5, 9.0]]
SIZES = [[8.0, 4.0, 2.0], [16.0, 8.0, 4.0], [4.0, 3.0, 1.0]]
TIMES = [[4.0, 6.0, 5.0], [8.0, 5.0, 9.0], [2.0, 1.0, 3.0]]


def problem(**limits: float) -> Problem:
    units = tuple(Unit(f"u{number}", tuple(Option(f"w{bits}") for bits in (8, 4, 2))) for number in range(3))
    return Problem(units, LOSSES, {"size": SIZES, "latency": TIMES}, limits, {"size": 10.0})


def drawn(axes: str, **limits: float) -> Frontier:
    uniform = {name: [number] * 3 for number, name in enumerate(("w8", "w4", "w2"))}
    return pareto(problem(**limits), Axes.parse(axes)[0], uniform, [1, 0, 1])


@pytest.mark.parametrize(("axes", "objective"), [("size", "loss"), ("size:latency", "latency")])
def test_every_point_is_the_best_of_its_cost(axes: str, objective: str) -> None:
    found = drawn(axes)
    every = list(itertools.product(range(3), repeat=3))
    for point, bound in zip(found.points, found.bounds, strict=True):
        rivals = [choice for choice in every if problem().used(choice, "size") <= point.cost]
        assert point.harm == pytest.approx(min(problem().used(choice, objective) for choice in rivals))
        assert bound.harm <= point.harm * (1 + 1e-9)
    assert [point.cost for point in found.points] == sorted(point.cost for point in found.points)
    assert len(found.points) > (3 if objective == "loss" else 1)


def test_the_frontier_dominates_uniform_plans_and_the_chosen_one() -> None:
    found = drawn("size")
    assert [(point.name, point.cost) for point in found.uniform] == [("w8", 38.0), ("w4", 25.0), ("w2", 17.0)]
    assert found.chosen is not None
    for point in (*found.uniform, found.chosen):
        assert any(best.cost <= point.cost and best.harm <= point.harm for best in found.points)


def test_limits_are_told_and_not_looked_at() -> None:
    assert drawn("size", size=20.0).limit == 20.0
    assert drawn("size", size=20.0).points == drawn("size").points


def test_frontiers_read_back() -> None:
    found = drawn("size", size=20.0)
    assert Frontier.from_dict(found.to_dict()) == found
    with pytest.raises(TypeError, match="no number"):
        Frontier.from_dict({**found.to_dict(), "limit": "much"})


@pytest.mark.parametrize("words", ["size:size", "loss", ":loss"])
def test_axes_that_make_no_sense(words: str) -> None:
    with pytest.raises(SpecError, match="no two resources"):
        Axes.parse(words)


def test_the_picture_shows_every_plan_and_escapes_names() -> None:
    found = drawn("size", size=20.0)
    rival = Point("<w4 & co>", 25.0, 3.5)
    picture = svg(Frontier(**{**vars(found), "uniform": (*found.uniform, rival)}))
    root = ElementTree.fromstring(str(picture))
    kinds = [circle.get("class") for circle in root.iter("circle")]
    assert kinds.count("front") == len(found.points)
    assert kinds.count("uniform") == 4
    assert kinds.count("chosen") == 1
    assert [line.get("class") for line in root.iter("line")].count("limit") == 1
    assert any("<w4 & co>" in (title.text or "") for title in root.iter("title"))
    for circle in root.iter("circle"):
        assert 0 < float(circle.get("cx") or 0) < 720
        assert 0 < float(circle.get("cy") or 0) < 380


def test_a_cheaper_plan_lies_left_and_a_better_one_below() -> None:
    points = (Point("a", 1.0, 100.0), Point("b", 2.0, 1.0), Point("c", 3.0, 0.01))
    circles = list(ElementTree.fromstring(str(svg(Frontier("size", "loss", points)))).iter("circle"))
    across, down = ([float(circle.get(key) or 0) for circle in circles] for key in ("cx", "cy"))
    assert across == sorted(across)
    assert down == sorted(down)
    # a hundredfold each: equally far on a logarithmic axis
    assert down[1] - down[0] == pytest.approx(down[2] - down[1], abs=0.2)


def test_one_point_and_none_make_a_picture_too() -> None:
    assert "circle" in svg(Frontier("bops", "loss", (Point("a", 1.0, 0.0),)))
    assert svg(Frontier("bops", "loss", ())) == ""


def test_a_compilation_draws_into_its_report() -> None:
    job = drawing(job_of(f"schemes={WEIGHTS}, average_bits=5"), "size|average_bits:size")
    report = build(job).report
    first, second = report.frontiers
    assert (first.resource, first.objective, second.resource, second.objective) == (
        "size",
        "loss",
        "average_bits",
        "size",
    )
    assert second.limit == 5.0
    assert {point.name for point in first.uniform} == set(WEIGHTS.split("|"))
    assert Report.from_dict(report.to_dict()).frontiers == report.frontiers
    page = html(report)
    assert page.count('<svg class="frontier"') == 2
    assert "http" not in page[page.index("<svg") : page.index("</svg>")]


def test_older_reports_have_no_frontiers() -> None:
    data = Report("m", "t", "r").to_dict()
    del data["frontiers"]
    assert Report.from_dict(data).frontiers == ()
    assert "frontiers" not in html(Report("m", "t", "r"))


def test_a_recipe_that_allocates_nothing_draws_nothing() -> None:
    job = job_of("average_bits=5")
    plain = type(job)(job.program, job.target, job.passes[:1], job.recipe)
    with pytest.raises(InputError, match="no frontier to draw"):
        drawing(plain, "size")
