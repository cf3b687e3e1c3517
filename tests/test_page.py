"""The data of the page: what is counted, what is kept small, and what can never be taken for markup."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.cli.app import run
from qcompiler.compiler import compile as compile_model
from qcompiler.compiler import parse
from qcompiler.ir.pattern import Refusal
from qcompiler.ir.program import Program
from qcompiler.job import prepare, run_job
from qcompiler.measure import sqnr_db
from qcompiler.page import PageData, html
from qcompiler.page.data import MOST_REFUSALS, page_data
from qcompiler.page.details import BINS, CHANNELS, _histogram, layer_details
from qcompiler.page.graph import graph_data
from qcompiler.page.texts import texts_data
from qcompiler.pipeline import Options, Step
from qcompiler.report import LayerReport, Report
from qcompiler.spec import QuantSpec
from tests.test_report import make_report

NET = """
program @net stage=traced {
  input %x : f32[4,3,6,6]
  param %kernel : f32[5,3,3,3] = normal(seed=1)
  param %weight : f32[300,80] = normal(seed=2)
  %conv2d = aten.conv2d %x, %kernel, none, [1,1], [0,0], [1,1], 1 : f32[4,5,4,4]
  %relu = aten.relu %conv2d : f32[4,5,4,4]
  %flat = aten.reshape %relu, [4,80] : f32[4,80]
  %linear = aten.linear %flat, %weight, none : f32[4,300]
  return %linear
}
"""


def embedded(page: str) -> dict[str, dict[str, object]]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def quantized(recipe: str) -> tuple[Program, Program, list[torch.Tensor]]:
    batch = [torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))]
    job = prepare(parse(NET), "onnxruntime", None, [tuple(batch)] * 2, recipe)
    canonical, made, _ = run_job(job)
    return canonical, made, batch


@pytest.fixture(scope="module")
def eight() -> tuple[Program, Program, list[torch.Tensor]]:
    return quantized("w8a8")


@pytest.fixture(scope="module")
def details(eight: tuple[Program, Program, list[torch.Tensor]]) -> dict[str, dict[str, dict[str, list[float]]]]:
    return layer_details(*eight, {"conv2d", "linear"})  # pyright: ignore[reportReturnType]


# -- histograms --------------------------------------------------------------------------------------------------


def test_shares_add_up_to_all_values(details: dict[str, dict[str, dict[str, list[float]]]]) -> None:
    for layer in ("conv2d", "linear"):
        for argument in ("input", "weight"):
            for side in ("before", "after"):
                assert sum(details[layer][argument][side]) == pytest.approx(1e6, abs=BINS)


def test_codes_of_a_weight_are_counted_on_the_grid(
    eight: tuple[Program, Program, list[torch.Tensor]], details: dict[str, dict[str, dict[str, list[float]]]]
) -> None:
    _, made, _ = eight
    dequantized = made.bind(made.node("linear"))["weight"]
    codes = made.param(made.bind(dequantized)["codes"])  # pyright: ignore[reportArgumentType]
    bars = details["linear"]["weight"]
    assert bars["limits"] == [-128, 127]
    width, low = float(bars["width"]), float(bars["low"])  # pyright: ignore[reportArgumentType]
    place = int((0 - low) // width)
    inside = (codes >= low + place * width) & (codes < low + (place + 1) * width)
    assert bars["after"][place] == pytest.approx(1e6 * float(inside.float().mean()), abs=1)


def test_before_and_after_differ_by_less_than_a_bin(details: dict[str, dict[str, dict[str, list[float]]]]) -> None:
    bars = details["linear"]["weight"]
    gaps = torch.tensor(bars["before"]).cumsum(0) - torch.tensor(bars["after"]).cumsum(0)
    assert float(gaps.abs().max()) < 0.05e6


def test_errors_of_rows_are_those_of_the_weight(
    eight: tuple[Program, Program, list[torch.Tensor]], details: dict[str, dict[str, dict[str, list[float]]]]
) -> None:
    canonical, made, _ = eight
    dequantized = made.bind(made.node("conv2d"))["weight"]
    bound = made.bind(dequantized)  # pyright: ignore[reportArgumentType]
    codes, scale = (made.param(bound[name]) for name in ("codes", "scale"))  # pyright: ignore[reportArgumentType]
    weight = canonical.param(canonical.node("kernel"))
    wanted = [sqnr_db(weight[row], (codes * scale)[row]) for row in range(5)]
    assert details["conv2d"]["weight"]["channels"] == pytest.approx([10 * value for value in wanted], abs=1)


def test_results_have_one_error_per_channel(details: dict[str, dict[str, dict[str, list[float]]]]) -> None:
    channels = details["conv2d"]["channels"]
    assert len(channels) == 5
    assert 200 < min(map(float, channels)) <= max(map(float, channels)) < 700
    assert len(details["linear"]["channels"]) <= CHANNELS


def test_a_grid_that_moves_is_not_drawn() -> None:
    found = layer_details(*quantized("w8a8_dynamic"), {"linear"})
    bars = found["linear"]["input"]
    assert isinstance(bars, dict)
    assert bars["unit"] == "real"
    assert "grid" not in bars


def test_few_levels_are_drawn_each() -> None:
    found = layer_details(*quantized("w4a16g32"), {"linear"})
    bars = found["linear"]["weight"]
    assert isinstance(bars, dict)
    grid, after = bars["grid"], bars["after"]
    assert [above - below for below, above in itertools.pairwise(grid)] == [1.0] * 15
    filled = [bars["low"] + (place + 0.5) * bars["width"] for place, share in enumerate(after) if share]
    assert filled == pytest.approx(grid)


def test_values_without_end_are_counted_at_the_edge() -> None:
    spec = QuantSpec.parse("int8 sym block=(1,-1) scale=f32")
    before = torch.tensor([[float("inf"), -float("inf"), float("nan"), 3.0]])
    bars = _histogram(before, before.nan_to_num(0, 127, -128), spec, (1.0, 1.0), 0.0)
    shares = bars["before"]
    assert isinstance(shares, list)
    assert shares[0] == shares[-1] == 250_000
    assert json.dumps(bars, allow_nan=False)


def test_layers_without_a_partner_are_left_out(eight: tuple[Program, Program, list[torch.Tensor]]) -> None:
    assert layer_details(*eight, {"nowhere"}) == {}


# -- graph and texts ---------------------------------------------------------------------------------------------


def test_graph_names_what_each_node_reads() -> None:
    data = graph_data(parse(NET))
    words, nodes = data["words"], data["nodes"]
    assert isinstance(words, list)
    assert isinstance(nodes, list)
    told = {node[0]: (words[node[1]], [nodes[source][0] for source in node[5]]) for node in nodes}
    assert told["linear"] == ("aten.linear", ["flat", "weight"])
    assert told["x"] == ("input", [])


def unpacked(data: dict[str, object], step: int) -> list[str]:
    lines, steps = data["lines"], data["steps"]
    assert isinstance(lines, list)
    assert isinstance(steps, dict)
    pairs = steps[str(step)]
    return [lines[first + i] for first, count in zip(pairs[::2], pairs[1::2], strict=True) for i in range(count)]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=9), min_size=1, max_size=4))
def test_texts_come_back(steps: list[list[str]]) -> None:
    data = texts_data({number: "\n".join(lines) for number, lines in enumerate(steps)})
    assert [unpacked(data, number) for number in range(len(steps))] == steps
    lines = data["lines"]
    assert isinstance(lines, list)
    assert len(lines) == len(set(lines))


def test_equal_texts_take_one_pair() -> None:
    text = "\n".join(f"line {number}" for number in range(500))
    data = texts_data({0: text, 1: text})
    assert data["steps"] == {"0": [0, 500], "1": [0, 500]}


def test_specs_stand_where_they_are_used() -> None:
    data = texts_data({0: "spec @q0 = int8 sym\n%a : @q0[4]", 1: "spec @q7 = int8 sym\n%a : @q7[4]"})
    assert unpacked(data, 0) == unpacked(data, 1) == ["%a : int8 sym[4]"]


def test_texts_that_are_too_long_are_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qcompiler.page.texts.MOST_CHARACTERS", 10)
    data = texts_data({0: "0123456789", 1: "abcdefgh", 2: "abcdefgh"})
    assert data["cut"] == [0]
    assert list(data["steps"]) == ["2", "1"]  # pyright: ignore[reportArgumentType]


def test_what_is_left_out_is_told(eight: tuple[Program, Program, list[torch.Tensor]]) -> None:
    refusals = tuple(Refusal("why", f"n{number}") for number in range(MOST_REFUSALS + 1))
    data = page_data(*eight, Report("m", "t", "r"), [Step(1, "p", 0, 0.0, 0, refusals=refusals)])
    assert len(data.refusals) == MOST_REFUSALS
    assert "refusals" in html(Report("m", "t", "r"), data).partition("To keep the page small:")[2]


# -- the file ----------------------------------------------------------------------------------------------------


def test_page_escapes_every_name() -> None:
    evil = '"></script><script>alert(1)</script><!--'
    layer = LayerReport(evil, evil, evil, evil, evil, evil, reason=evil, mend=evil)
    report = Report(evil, evil, evil, (layer,), warnings=(evil,), notes=(evil,), versions={evil: evil})
    data = PageData(refusals=[(1, evil, evil, evil)], texts={"lines": [evil], "steps": {}}, trimmed=[evil])
    page = html(replace(report, steps=(Step(1, evil, 0, 0.1, 1),)), data)
    assert "<script>alert" not in page
    assert page.count("<script") == page.count("</script>") == 2
    assert embedded(page)["report"]["model"] == evil


def test_page_asks_for_nothing_from_outside() -> None:
    page = html(make_report())
    assert not re.search(r"https?://|@import|url\(", page)
    assert "default-src 'none'" in page


def test_page_of_an_empty_report_is_whole() -> None:
    assert html(Report("m", "t", "r")).rstrip().endswith("</html>")


def test_an_artefact_holds_what_its_page_shows(tmp_path: Path) -> None:
    batch = torch.randn(4, 3, 6, 6)
    made = compile_model(parse(NET), calibration=[(batch,)], recipe="w8a8", output=tmp_path / "made")
    data = embedded((made.folder / "report.html").read_text(encoding="utf-8"))
    assert set(data["details"]) == {layer.name for layer in made.report.layers if layer.requested != "float"}
    assert data["seconds"]["linear"] > 0  # pyright: ignore[reportOperatorIssue]
    assert data["texts"]["steps"] == {}


# -- runs and notebooks ------------------------------------------------------------------------------------------


def test_dump_makes_a_page_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = [(torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0)),)]
    job = prepare(parse(NET), "onnxruntime", None, samples, "w8a8", options=Options(dump_dir=tmp_path / "run"))
    run_job(job)
    assert run(["dump", f"{tmp_path}/run", "--format", "html"]) == 0
    data = embedded(capsys.readouterr().out)
    assert len(data["texts"]["steps"]) == len(job.passes) + 1  # pyright: ignore[reportArgumentType]
    assert {"conv2d", "linear"} <= set(data["details"])


def test_dump_makes_a_page_of_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.qir").write_text(NET.replace("traced", "canonical"))
    passes = "assign{scheme=w8a16},apply_plan,nearest"
    assert run(["dump", f"{tmp_path}/net.qir", "--passes", passes, "--format", "html"]) == 0
    data = embedded(capsys.readouterr().out)
    assert list(data["texts"]["steps"]) == ["3", "2", "1", "0"]  # pyright: ignore[reportArgumentType]
    assert [layer["name"] for layer in data["report"]["layers"]] == ["conv2d", "linear"]  # pyright: ignore[reportIndexIssue,reportGeneralTypeIssues]


def test_values_look_like_tables_in_a_notebook() -> None:
    program = parse(NET)
    text = program._repr_html_()
    assert text.count("<tr>") == 1 + len(program.nodes)
    assert "aten.linear" in text
    evil = replace(make_report(), model="<b>x", layers=(replace(make_report().layers[0], module="<i>y"),))
    assert "<b>x" not in evil._repr_html_()
    assert "&lt;i&gt;y" in evil._repr_html_()


def test_a_program_shows_itself(tmp_path: Path) -> None:
    shown = parse(NET).show()
    assert "srcdoc=" in shown._repr_html_()
    assert "<script" not in shown._repr_html_()
    nodes = embedded(shown.save(tmp_path / "net.html").read_text(encoding="utf-8"))["graph"]["nodes"]
    assert [node[0] for node in nodes][-1] == "linear"  # pyright: ignore[reportGeneralTypeIssues]
