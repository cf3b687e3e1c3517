"""The face, end to end: models of three kinds, recipes, targets, replay, reproducible bytes, another process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

import qcompiler
from qcompiler import Artifact, Inputs, Recipe
from qcompiler.errors import AuditError
from qcompiler.report import LayerReport
from tests.torch_models import TinyCnn, TinyEncoder, export_onnx, noise, seeded, sqnr_db

CNN = seeded(TinyCnn())
IMAGES = [noise(8, 3, 8, 8, seed=seed) for seed in range(4)]
FRESH = noise(5, 3, 8, 8, seed=9)
ENCODER = seeded(TinyEncoder(), seed=1)
ROWS = [noise(4, 6, 16, seed=seed) for seed in range(4)]
FRESH_ROWS = noise(3, 9, 16, seed=9)
UNMEASURED = ("report.json", "report.html")


@pytest.fixture(scope="module")
def cnn() -> Artifact:
    return qcompiler.compile(CNN, calibration=IMAGES, recipe="w8a8", strict=True)


def near(artifact: Artifact, bar_db: float, model: nn.Module = CNN, x: Tensor = FRESH) -> None:
    wanted, got = model(x), artifact(x)
    if isinstance(wanted, dict):
        assert isinstance(got, dict)
        assert list(got) == list(wanted)
        for name, value in wanted.items():
            assert sqnr_db(value, got[name]) > bar_db, name
    else:
        assert sqnr_db(wanted, got) > bar_db  # pyright: ignore[reportArgumentType]


def layers(artifact: Artifact) -> dict[str, LayerReport]:
    return {layer.module: layer for layer in artifact.report.layers}


# -- models and recipes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("recipe", "bar_db"), [("w8a8_dynamic", 35), ("w8a16", 35), ("w4a16g32", 15)])
def test_a_cnn_under_each_recipe(recipe: str, bar_db: float) -> None:
    near(qcompiler.compile(CNN, inputs=(IMAGES[0],), recipe=recipe), bar_db)


@pytest.mark.parametrize(("recipe", "bar_db"), [("w8a8", 30), ("w8a8_dynamic", 30), ("w8a16", 35), ("w4a16g32", 12)])
def test_a_transformer_under_each_recipe(recipe: str, bar_db: float) -> None:
    artifact = qcompiler.compile(ENCODER, calibration=ROWS, recipe=recipe)
    near(artifact, bar_db, ENCODER, FRESH_ROWS)


def test_static_cnn_runs_in_integers(cnn: Artifact) -> None:
    near(cnn, 35)
    assert {layers(cnn)[name].realised for name in ("stem", "body")} == {"QLinearConv"}
    assert layers(cnn)["head"].realised == "QGemm"


def test_an_exported_program_gives_the_module_s_model(cnn: Artifact, tmp_path: Path) -> None:
    exported = torch.export.export(
        CNN,
        (IMAGES[0],),
        dynamic_shapes=({0: torch.export.Dim("n"), 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO},),
    )
    artifact = qcompiler.compile(exported, calibration=IMAGES, recipe="w8a8")
    torch.testing.assert_close(artifact(FRESH), cnn(FRESH), rtol=0, atol=1e-4)


def test_an_onnx_file_gives_the_module_s_model(cnn: Artifact, tmp_path: Path) -> None:
    path = export_onnx(CNN, IMAGES[0], tmp_path / "float.onnx")
    artifact = qcompiler.compile(path, calibration=IMAGES, recipe="w8a8", strict=True)
    near(artifact, 35)
    torch.testing.assert_close(artifact(FRESH), cnn(FRESH), rtol=0, atol=1e-2)


def test_a_program_compiles_too(cnn: Artifact) -> None:
    traced = qcompiler.trace(CNN, (IMAGES[0],))
    program = qcompiler.parse(
        str(traced), {name: value for name, value in traced.params.items() if isinstance(value, Tensor)}
    )
    artifact = qcompiler.compile(program, calibration=IMAGES, recipe="w8a8")
    assert artifact.onnx.read_bytes() == cnn.onnx.read_bytes()


def test_auto_needs_no_data_but_uses_it() -> None:
    with_data = qcompiler.compile(CNN, calibration=IMAGES)
    without = qcompiler.compile(CNN, inputs=(IMAGES[0],))
    assert (with_data.report.recipe, without.report.recipe) == ("w8a8", "w8a8_dynamic")
    assert not with_data.report.warnings
    assert any("no calibration data" in warning for warning in without.report.warnings)


def test_weights_may_lie_in_memory_in_any_order() -> None:
    model = nn.Linear(8, 6)
    model.weight = nn.Parameter(noise(8, 6).t())
    assert not model.weight.is_contiguous()
    for recipe in ("w8a8", "w8a16"):
        near(qcompiler.compile(model, calibration=[noise(64, 8)], recipe=recipe), 25, model, noise(3, 8, seed=1))


# -- calls -------------------------------------------------------------------------------------------------------------


def test_an_artefact_is_called_like_its_model(cnn: Artifact) -> None:
    wanted = cnn(FRESH)
    assert isinstance(wanted, Tensor)
    for got in (cnn(image=FRESH), cnn(FRESH.numpy()), cnn(FRESH.flip(0).flip(0))):
        assert isinstance(got, Tensor)
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_the_batch_is_free(rows: int, cnn: Artifact) -> None:
    assert torch.equal(cnn(FRESH[:rows]), cnn(FRESH)[:rows])  # pyright: ignore[reportArgumentType, reportIndexIssue]


def test_keyword_inputs_and_structured_results() -> None:
    calls = [Inputs(rows=rows) for rows in ROWS]
    artifact = qcompiler.compile(ENCODER, calibration=calls, recipe="w8a8")
    got = artifact(rows=FRESH_ROWS)
    assert isinstance(got, dict)
    assert list(got) == ["rows", "scores"]
    near(artifact, 30, ENCODER, FRESH_ROWS)


def test_a_loader_of_pairs_and_an_npz_give_the_same(cnn: Artifact, tmp_path: Path) -> None:
    images = torch.cat(IMAGES)
    labels = torch.zeros(len(images), dtype=torch.long)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=8)
    np.savez(tmp_path / "data.npz", image=images.numpy())
    for calibration in (loader, (batch for batch in IMAGES), tmp_path / "data.npz"):
        artifact = qcompiler.compile(CNN, calibration=calibration, recipe="w8a8")
        torch.testing.assert_close(artifact(FRESH), cnn(FRESH), rtol=0, atol=1e-4)


# -- folders -----------------------------------------------------------------------------------------------------------


def test_a_saved_artefact_runs_in_another_process(cnn: Artifact, tmp_path: Path) -> None:
    cnn.save(tmp_path / "artefact")
    np.save(tmp_path / "x.npy", FRESH.numpy())
    code = (
        "import sys, numpy, qcompiler\n"
        "folder = sys.argv[1]\n"
        "artifact = qcompiler.load(folder + '/artefact')\n"
        "numpy.save(folder + '/y.npy', artifact(numpy.load(folder + '/x.npy')).numpy())\n"
        "print(artifact.report.recipe, len(artifact.plan.assignments))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == ["w8a8", str(len(cnn.plan.assignments))]
    assert np.array_equal(np.load(tmp_path / "y.npy"), cnn(FRESH).numpy())  # pyright: ignore[reportAttributeAccessIssue]


def test_the_same_inputs_and_seed_give_the_same_bytes(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        qcompiler.compile(CNN, calibration=IMAGES, recipe="w8a8", seed=3, output=folder)
    first, second = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    assert set(first) == set(second)
    assert [name for name in first if name not in UNMEASURED and first[name] != second[name]] == []


@pytest.mark.parametrize("by_path", [False, True])
def test_a_plan_replays(by_path: bool, cnn: Artifact) -> None:
    plan = cnn.folder / "plan.json" if by_path else cnn.plan
    again = qcompiler.compile(CNN, calibration=IMAGES, recipe="w8a8", plan=plan)
    assert again.onnx.read_bytes() == cnn.onnx.read_bytes()
    assert again.plan.assignments == cnn.plan.assignments


def test_a_printed_recipe_is_the_recipe(cnn: Artifact, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(cnn.recipe)
    again = qcompiler.compile(CNN, calibration=IMAGES, recipe=path)
    assert again.onnx.read_bytes() == cnn.onnx.read_bytes()


# -- choices -----------------------------------------------------------------------------------------------------------


def test_a_recipe_of_ones_own_keeps_a_layer_in_float() -> None:
    texts = ["assign{scheme=w8a8, keep=stem}", "apply_plan", "calibrate{method=minmax}", "nearest"]
    artifact = qcompiler.compile(CNN, calibration=IMAGES, recipe=Recipe.of("mine", texts))
    near(artifact, 30)
    found = layers(artifact)
    assert found["stem"].requested == "float"
    assert "kept in float" in found["stem"].reason
    assert found["body"].realised == "QLinearConv"
    assert artifact.report.recipe == "mine"


def test_the_task_metric_lands_in_the_report(cnn: Artifact) -> None:
    wanted = CNN(FRESH).argmax(1)

    def agreement(model: Callable[..., object]) -> float:
        scores = model(FRESH)
        assert isinstance(scores, Tensor)
        return float((scores.argmax(1) == wanted).float().mean())

    report = qcompiler.compile(CNN, calibration=IMAGES, recipe="w8a8", evaluate=agreement).report
    assert report.metric_float == 1.0
    assert report.metric_quantized == agreement(cnn)
    assert "metric" in report.to_dict()


def test_the_report_holds_what_scripts_rely_on(cnn: Artifact) -> None:
    data = cnn.report.to_dict()
    output, size, rows = data["output"], data["size"], data["layers"]
    assert isinstance(output, dict)
    assert isinstance(size, dict)
    assert isinstance(rows, list)
    assert output["sqnr_db"] > 35
    assert size["quantized_bytes"] > 0
    norm = 2 * 8 - 8  # its weight and bias went into one new bias
    assert size["float_bytes"] == 4 * (sum(value.numel() for value in CNN.parameters()) - norm)
    assert {"name", "op", "requested", "realised", "sqnr_db", "bytes"} <= set(rows[0])
    assert isinstance(data["seconds"], float)
    assert isinstance(data["peak_bytes"], int)


def test_strict_refuses_a_layer_that_stays_in_float(tmp_path: Path) -> None:
    # No convolution of onnxruntime finds its ranges at run time.
    with pytest.raises(AuditError, match="2 of 3 layers do not run as asked") as caught:
        qcompiler.compile(CNN, inputs=(IMAGES[0],), recipe="w8a8_dynamic", strict=True, output=tmp_path / "out")
    assert "conv2d" in caught.value.where
    assert caught.value.mend
    assert list(tmp_path.iterdir()) == []


# -- TensorRT ----------------------------------------------------------------------------------------------------------


def test_jetson_is_int8_symmetric_per_channel() -> None:
    artifact = qcompiler.compile(CNN, "jetson", calibration=IMAGES, recipe="w8a8")
    near(artifact, 30)
    model = onnx.load(str(artifact.onnx))
    onnx.checker.check_model(model, full_check=True)
    stored = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    assert {node.op_type for node in model.graph.node if node.domain} == set()
    for node in pairs:
        zero = stored[node.input[2]] if len(node.input) > 2 else np.zeros(1, np.int8)
        assert zero.dtype in (np.int8, np.int32)
        assert not zero.any()
    weights = {len(stored[node.input[1]].reshape(-1)) for node in pairs if node.input[0] in stored}
    assert weights >= {8, 5}
    session = onnxruntime.InferenceSession(str(artifact.onnx), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"image": FRESH.numpy()})
    assert sqnr_db(CNN(FRESH), torch.from_numpy(np.asarray(got))) > 30
