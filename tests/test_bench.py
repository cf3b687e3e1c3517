"""`qcompiler bench`: tables of latencies from the command line, and allocations that use them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from qcompiler.backends.onnx.timing import calls_of, parts_of, scaled
from qcompiler.cli.app import run
from qcompiler.clocks import Times
from qcompiler.cost import LatencyTable

MODULE = """
import torch

def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64)).eval()
"""
RECIPE = """
name: fast
passes:
  - mixed_precision: {schemes: w8a8|float, sensitivity: weight, guard: false, latencies: TABLE}
  - apply_plan
  - calibrate
  - nearest
"""


@pytest.fixture
def model(tmp_path: Path) -> list[str]:
    (tmp_path / "net.py").write_text(MODULE)
    samples = np.random.default_rng(0).standard_normal((8, 64)).astype("float32")
    np.savez(tmp_path / "data.npz", input=samples)
    return [f"{tmp_path}/net.py:build", "--calibration", f"{tmp_path}/data.npz"]


def test_a_table_is_measured_kept_and_used(
    model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.json"
    line = ["bench", *model, "--schemes", "w8a8|float", "--runs", "5", "-o", str(table)]
    assert run(line) == 0
    told = capsys.readouterr().out
    assert "uniform w8a8" in told
    assert "rows measured" in told
    first = LatencyTable.load(table)
    assert {"aten.linear", "quantize", "program"} <= {row.op for row in first.rows}
    assert first.correction.plans + first.correction.dropped == 4
    (tmp_path / "fast.yaml").write_text(RECIPE.replace("TABLE", str(table)))
    made = tmp_path / "made"
    compile_ = ["compile", *model, "--recipe", str(tmp_path / "fast.yaml"), "--progress", "none"]
    assert run([*compile_, "--budget", "latency=9x", "-o", str(made)]) == 0
    report = json.loads((made / "report.json").read_text())
    assert report["latency"]["kind"] == "measured"
    capsys.readouterr()
    assert run([*line, "--table", str(table), "--validate", str(made / "plan.json"), "--json"]) == 0
    captured = capsys.readouterr()
    assert "measured 0 rows" in captured.err
    again = json.loads(captured.out)
    assert again["rows"] == first.to_dict()["rows"]
    assert [each["name"] for each in again["plans"]][-1] == str(made / "plan.json")


def test_a_table_of_another_device_is_not_added_to(
    model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.json"
    device = {"target": "onnxruntime", "processor": "another"}
    path.write_text(json.dumps({"version": 1, "device": device, "rows": []}))
    assert run(["bench", *model, "--table", str(path)]) == 1
    assert "rows of two devices do not mix" in capsys.readouterr().err
    assert run(["bench", *model, "--target", "jetson"]) == 1
    assert "jetson runs elsewhere" in capsys.readouterr().err
    assert run(["bench", *model, "--plan", "plan.json"]) == 2


def test_a_profile_is_read_call_by_call() -> None:
    def kernel(kind: str, ticks: int) -> dict[str, object]:
        return {"cat": "Node", "name": "x_kernel_time", "dur": ticks, "args": {"op_name": kind}}

    end: dict[str, object] = {"cat": "Session", "name": "model_run", "dur": 99}
    calls = calls_of([kernel("Conv", 4), kernel("Relu", 1), end, kernel("Conv", 5), end])
    assert [[kind for kind, _ in call] for call in calls] == [["Conv", "Relu"], ["Conv"]]
    assert calls[0][0][1] == pytest.approx(4.5e-6)


def test_interrupted_calls_do_not_change_how_a_layer_divides() -> None:
    quiet: Times = {"enter": 1e-5, "layout in": 0.0, "operator": 8e-5, "layout out": 0.0, "leave": 1e-5}
    long_operator: Times = {**quiet, "operator": 9e-3}
    long_leave: Times = {**quiet, "leave": 4e-3}
    calls: list[Times] = [quiet, quiet, quiet, *[long_operator, long_leave] * 3]
    for parts in scaled(calls, 2e-4):
        assert parts["operator"] == pytest.approx(1.6e-4)
        assert parts["leave"] == pytest.approx(2e-5)


def test_what_is_around_a_layer_is_no_part_of_it() -> None:
    kinds = ["QuantizeLinear", "Transpose", "QLinearConv", "Transpose", "Reshape", "DequantizeLinear"]
    parts = parts_of([(kind, 1.0 * 2**place) for place, kind in enumerate(kinds)])
    assert parts == {"enter": 1.0, "layout in": 2.0, "operator": 4.0 + 16.0, "layout out": 8.0, "leave": 32.0}
    # Weights that are unpacked in front of their layer, and results that are rounded behind it, belong to it.
    parts = parts_of([("DequantizeLinear", 1.0), ("Gemm", 2.0), ("QuantizeLinear", 4.0)])
    assert parts["operator"] == 7.0
    assert parts_of([("Transpose", 3.0)])["operator"] == 3.0
