from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from qcompiler.errors import InputError
from qcompiler.ir.parse import parse_program
from qcompiler.page import html
from qcompiler.pipeline import Step
from qcompiler.report import LayerReport, Report
from qcompiler.report.symmetry import GroupReport, SymmetryReport, symmetry_report
from qcompiler.report.words import db_text, ratio_text, seconds_text, size_text


def make_layer(index: int) -> LayerReport:
    layer = LayerReport(
        name=f"linear_{index}",
        module=f"blocks.{index // 4}.attention.projection_{index % 4}",
        op="aten.linear",
        requested="int8 x uint8",
        realised="QGemm",
        kernel="linear_static",
        bits=(2.13, 4.5, 8.03, 16.0)[index % 4],
        sqnr_db=18.0 + (index * 7) % 23,
        error_share=((index * 13) % 10 + 1) / 1000,
        bytes=4_000 + 120 * index,
        float_bytes=16_000 + 480 * index,
    )
    if index % 50 != 3:
        return layer
    return replace(
        layer,
        realised="Gemm (float)",
        bits=32.0,
        bytes=layer.float_bytes,
        reason="its weight is used twice & with different scales",
        mend="give the layers their own weights",
    )


def make_report(layers: int = 12) -> Report:
    return Report(
        model="vit_tiny",
        target="onnxruntime",
        recipe="w8a8",
        layers=tuple(make_layer(index) for index in range(layers)),
        sqnr_db=24.37,
        float_bytes=22_900_000,
        quantized_bytes=6_010_000,
        seconds=12.3,
        peak_bytes=812_000_000,
        metric_float=0.9871,
        metric_quantized=0.9852,
        steps=(
            Step(1, "fold_batch_norm", 12, 0.4, 500_000_000, 3.2e-15),
            Step(2, "assign{scheme=w8a8}", 0, 0.1, 500_000_000),
            Step(3, "calibrate{method=mse}", 96, 6.5, 812_000_000),
        ),
        warnings=("the calibration data holds only 8 samples",),
        symmetries=SymmetryReport(
            rotations=1,
            permutations=2,
            scales=0,
            largest=(GroupReport("s0", "orthogonal_keeping_mean", 64, 1, 3, 2, "linear"),),
            refused={"an elementwise function": ("linear_2", "linear_3")},
        ),
        seed=7,
        versions={"torch": "2.13.0", "onnxruntime": "1.31.0"},
    )


MLP = """
program @mlp stage=canonical {
  input %x : f32[2,4]
  param %up : f32[8,4] = normal(seed=1)
  param %down : f32[6,8] = normal(seed=2)
  param %head : f32[3,6] = normal(seed=3)
  %first = aten.linear %x, %up, none : f32[2,8]
  %gelu = aten.gelu %first : f32[2,8]
  %second = aten.linear %gelu, %down, none : f32[2,6]
  %last = aten.linear %second, %head, none : f32[2,3]
  return %last
}
"""


# -- data --------------------------------------------------------------------------------------------------------


def test_dict_holds_what_scripts_rely_on() -> None:
    data = json.loads(json.dumps(make_report().to_dict(), allow_nan=False))
    assert data["output"]["sqnr_db"] == 24.37
    assert data["size"] == {
        "float_bytes": 22_900_000,
        "quantized_bytes": 6_010_000,
        "ratio": pytest.approx(22.9 / 6.01),
    }
    assert (data["seconds"], data["peak_bytes"]) == (12.3, 812_000_000)
    assert data["metric"] == {"float": 0.9871, "quantized": 0.9852}
    assert data["layers"][3]["reason"].startswith("its weight")
    assert data["layers"][3].keys() >= {"name", "op", "requested", "realised", "sqnr_db", "bytes"}
    assert data["steps"][0]["error"] == 3.2e-15


def test_symmetries_are_counted_and_told_where_they_end() -> None:
    found = symmetry_report(parse_program(MLP), {"second", "last"})
    assert found is not None
    assert (found.rotations, found.permutations, found.scales) == (1, 1, 1)
    assert [(group.action, group.size, group.where) for group in found.largest] == [
        ("general", 6, "second"),
        ("permutation", 8, "first"),
        ("diagonal", 6, "second"),
    ]
    assert found.refused == {"an elementwise function": ("second",)}


def test_symmetries_come_back() -> None:
    data = json.loads(json.dumps(make_report().to_dict()))
    assert data == make_report().to_dict()
    assert Report.from_dict(data).symmetries == make_report().symmetries


def test_a_report_without_symmetries_is_read() -> None:
    data = make_report().to_dict()
    del data["symmetries"]
    assert Report.from_dict(data).symmetries is None


def test_symmetries_are_one_line_and_a_section() -> None:
    line = "1 rotation, 2 permutations, 0 scales; no rotation for free at 2 quantized layers"
    assert line in str(make_report())
    page = html(make_report())
    assert line in page
    assert "orthogonal keeping mean" in page
    assert "<code>linear_2</code>" in page


NAMES = st.text('a.<&"é', max_size=5)
NUMBERS = st.none() | st.floats(-300, 300, allow_nan=False)
LAYERS = st.builds(
    LayerReport,
    name=NAMES,
    sqnr_db=NUMBERS,
    error_share=NUMBERS,
    bytes=st.integers(0, 2**40),
    reason=NAMES,
)


@settings(deadline=None, max_examples=40)
@given(st.lists(LAYERS, max_size=3), NUMBERS, st.integers(0, 9))
def test_dict_comes_back(layers: list[LayerReport], value: float | None, count: int) -> None:
    report = replace(make_report(), layers=tuple(layers), sqnr_db=value, metric_float=value, quantized_bytes=count)
    assert Report.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_file_comes_back(tmp_path: Path) -> None:
    make_report().save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json") == make_report()


def test_numbers_without_json_form_become_null() -> None:
    report = replace(make_report(1), sqnr_db=float("inf"), layers=(replace(make_layer(0), bits=float("nan")),))
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["output"]["sqnr_db"] is None
    assert data["layers"][0]["bits"] is None


@pytest.mark.parametrize("data", [None, {}, {"version": 2}, {"version": 1, "model": "x"}])
def test_other_data_is_no_report(data: object) -> None:
    with pytest.raises(InputError, match="not a report"):
        Report.from_dict(data)


def test_worst_layers_are_those_with_most_error() -> None:
    layers = [replace(make_layer(index), error_share=share) for index, share in enumerate((0.1, 0.5, None, 0.3, 0.1))]
    assert replace(make_report(), layers=tuple(layers)).worst(2) == {"linear_1", "linear_3"}


def test_fallbacks_with_one_cause_stand_together() -> None:
    layers = [replace(make_layer(0), name=str(i), reason=reason) for i, reason in enumerate(("a", "", "b", "a"))]
    groups = replace(make_report(), layers=tuple(layers)).fallback_groups()
    assert [[layer.name for layer in group] for group in groups] == [["0", "3"], ["2"]]


# -- words -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (3_456_000, "3.46 MB"), (812_000_000, "812 MB")]
)
def test_sizes_are_short(count: int, text: str) -> None:
    assert size_text(count) == text


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (300.0, "exact"), (-300.0, "lost"), (23.44, "23.4")])
def test_decibels_are_words_at_the_limits(value: float | None, text: str) -> None:
    assert db_text(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.0124, "12 ms"), (3.44, "3.4 s"), (125.0, "2 min 5 s")])
def test_times_are_short(value: float, text: str) -> None:
    assert seconds_text(value) == text


# -- terminal ----------------------------------------------------------------------------------------------------


def test_text_names_totals_fallbacks_and_warnings() -> None:
    text = str(make_report())
    for part in (
        "vit_tiny · w8a8 · onnxruntime",
        "24.4 dB",
        "22.9 MB -> 6.01 MB",
        "3.81x smaller",
        "0.9871 -> 0.9852",
        "warning: the calibration data",
        "1 layer does not run as asked",
        "reason: its weight is used twice",
        "mend:   give the layers",
    ):
        assert part in text
    assert "\x1b" not in text


def test_a_layer_without_weights_shows_neither_bits_nor_bytes() -> None:
    layer = replace(make_layer(0), op="aten.relu", bytes=0, float_bytes=0)
    line = next(line for line in str(replace(make_report(), layers=(layer,))).splitlines() if "relu" in line)
    assert line.split()[-1] == "–"
    assert "2.13" not in line


def test_text_marks_the_worst_and_the_fallen() -> None:
    lines = str(make_report()).splitlines()
    marked = {line.split()[1] for line in lines if line.startswith(("*", "!")) and "projection" in line}
    named = {layer.module for layer in make_report().layers if layer.name in make_report().worst() or layer.reason}
    assert marked == named


def test_a_layer_kept_in_float_is_no_fallback_and_says_why() -> None:
    layer = replace(
        make_layer(0), module="up", requested="float", realised="ConvTranspose", kernel="", reason="no kernel"
    )
    report = replace(make_report(), layers=(layer,))
    assert report.fallbacks == ()
    assert "in float: up: no kernel" in str(report)
    assert "!" not in str(report)


@pytest.mark.parametrize(("value", "text"), [(3.814, "3.81x smaller"), (0.5, "2.00x larger")])
def test_a_model_that_grew_is_not_called_smaller(value: float, text: str) -> None:
    assert ratio_text(value) == text


def test_names_are_never_read_as_markup() -> None:
    layer = replace(make_layer(0), module="[bold]x[/nonsense]", reason="[red]why")
    console = Console(file=io.StringIO(), width=200)
    replace(make_report(), layers=(layer,)).print(console)
    printed = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert "[bold]x[/nonsense]" in printed
    assert "[red]why" in printed
