"""Bad input: one clear error that says what, where and the mend, and nothing is left behind."""

from __future__ import annotations

import errno
import gc
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

import qcompiler
from qcompiler import Budget, Inputs, Plan
from qcompiler.backends.onnx.backend import OnnxBackend
from qcompiler.errors import InputError, PassError, QCompilerError, SpecError, UnsupportedError
from qcompiler.ir.program import Program
from qcompiler.job import backends
from qcompiler.target import Target
from qcompiler.targets import load_target
from tests.onnx_models import build, normal
from tests.torch_models import noise, seeded

MODEL = seeded(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)))
SAMPLES = [noise(4, 8, seed=seed) for seed in range(2)]
PROGRAM = qcompiler.trace(MODEL, (SAMPLES[0],))
DYNAMIC = "w8a8_dynamic"
Options = Mapping[str, object]


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., QCompilerError]]:
    """Compiles what must fail, into a folder whose parent does not exist, and looks for leavings everywhere."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    kept: set[Path] = {scratch}

    def run(model: object = PROGRAM, **options: object) -> QCompilerError:
        kept.update(path for path in tmp_path.rglob("*") if scratch not in path.parents)
        with pytest.raises(QCompilerError) as caught:
            qcompiler.compile(model, **{"output": tmp_path / "deep" / "out", **options})  # pyright: ignore[reportArgumentType]
        assert caught.value.what
        assert caught.value.mend
        return caught.value.with_traceback(None)

    yield run
    if any(scratch.iterdir()):
        gc.collect()  # what the exceptions of this test still hold
    assert set(tmp_path.rglob("*")) == kept


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def mlp_onnx(weight: np.ndarray | None = None, op: str = "Relu", domain: str = "") -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="/layer/MatMul"),
        helper.make_node(op, ["h"], ["y"], name="/act/Node", domain=domain),
    ]
    weight = normal(8, 4) if weight is None else weight
    return build(nodes, {"x": normal(2, 8)}, ["y"], {"w": weight}, free=[0], domains=[domain])


# -- models ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"not a model", "\N{SNOWMAN}".encode() * 100, b"\x08\x0a\x3a\xff"])
def test_a_file_that_is_no_onnx_model(content: bytes, refused: Callable[..., QCompilerError], tmp_path: Path) -> None:
    path = written(tmp_path / "model.onnx", content)
    error = refused(path)
    assert isinstance(error, InputError)
    assert str(path) in str(error)


@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_a_truncated_onnx_model(share: float, refused: Callable[..., QCompilerError], tmp_path: Path) -> None:
    whole = mlp_onnx().SerializeToString()
    error = refused(written(tmp_path / "model.onnx", whole[: int(len(whole) * share)]), recipe=DYNAMIC)
    assert isinstance(error, InputError)
    assert "model.onnx" in str(error)


def test_a_missing_model(refused: Callable[..., QCompilerError], tmp_path: Path) -> None:
    assert "there is no file" in refused(tmp_path / "none.onnx").what


@pytest.mark.parametrize("model", [None, 3, {"weights": torch.zeros(1)}, MODEL.state_dict()])
def test_what_is_no_model(model: object, refused: Callable[..., QCompilerError]) -> None:
    assert "is not a model" in refused(model).what


def test_an_unsupported_onnx_operator(refused: Callable[..., QCompilerError], tmp_path: Path) -> None:
    onnx.save(mlp_onnx(op="Frobnicate", domain="acme"), str(tmp_path / "model.onnx"))
    error = refused(tmp_path / "model.onnx", recipe=DYNAMIC)
    assert isinstance(error, UnsupportedError)
    assert "acme::Frobnicate" in error.what
    assert "'/act/Node'" in error.where
    assert "MatMul" in error.mend


class Spectrum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svdvals(self.linear(x))


def test_an_unsupported_torch_operator(refused: Callable[..., QCompilerError]) -> None:
    error = refused(nn.Sequential(nn.Linear(8, 8), Spectrum()), inputs=(SAMPLES[0],), recipe=DYNAMIC)
    assert isinstance(error, UnsupportedError)
    assert "aten._linalg_svd" in error.what
    assert "%_linalg_svd" in error.where
    assert "module 1" in error.where
    assert "conv2d" in error.mend


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if bool((x > 0).any()) else x


def test_control_flow_on_data(refused: Callable[..., QCompilerError]) -> None:
    error = refused(Branches(), inputs=(SAMPLES[0],), recipe=DYNAMIC)
    assert isinstance(error, UnsupportedError)
    assert "test_bad_input.py:" in error.where
    assert "(x > 0).any()" in error.where
    assert "torch.where" in error.mend


def poisoned(value: float) -> nn.Module:
    model = seeded(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)))
    with torch.no_grad():
        model[0].weight[3, 2] = value  # pyright: ignore[reportIndexIssue]
    return model


@pytest.mark.parametrize(("value", "kind"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_weights_that_are_not_finite(value: float, kind: str, refused: Callable[..., QCompilerError]) -> None:
    model = poisoned(value)
    for given in (model, torch.export.export(model, (SAMPLES[0],))):
        error = refused(given, inputs=(SAMPLES[0],), recipe=DYNAMIC)
        assert error.what == f"weight '0.weight' holds {kind}"
    weight = normal(8, 4)
    weight[1, 1] = value
    assert refused(mlp_onnx(weight), recipe=DYNAMIC).what == f"weight 'w' holds {kind}"


def test_a_buffer_that_is_not_finite(refused: Callable[..., QCompilerError]) -> None:
    model = poisoned(0.0)
    model[1].running_var[0] = np.nan  # pyright: ignore[reportIndexIssue]
    assert "'1.running_var' holds NaN" in refused(model, inputs=(SAMPLES[0],), recipe=DYNAMIC).what


def test_a_model_with_nothing_to_quantize(refused: Callable[..., QCompilerError]) -> None:
    error = refused(nn.ReLU(), calibration=SAMPLES)
    assert isinstance(error, UnsupportedError)
    assert "can run no operator of this model as w8a8" in error.what


# -- calibration data --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [MODEL, PROGRAM])
@pytest.mark.parametrize("make", [list, tuple, lambda: iter(()), lambda: (x for x in ())])
def test_no_samples(model: object, make: Callable[[], object], refused: Callable[..., QCompilerError]) -> None:
    assert refused(model, calibration=make()).what == "the calibration data is empty"


NOT_A_NUMBER = torch.full((4, 8), float("nan"))
SAMPLE_CASES: list[tuple[object, str]] = [
    (NOT_A_NUMBER, "input 'input' holds NaN or infinity"),
    (torch.full((4, 8), float("inf")), "input 'input' holds NaN or infinity"),
    (noise(4, 9), "input 'input' must be f32[s0,8], got torch.float32 [4, 9]"),
    (noise(8), "input 'input' must be f32[s0,8], got torch.float32 [8]"),
    (noise(4, 8).double(), "input 'input' must be f32[s0,8], got torch.float64 [4, 8]"),
    ({"image": noise(4, 8)}, "unknown image"),
    (Inputs(noise(4, 8), image=noise(4, 8)), "unknown image"),
    ((noise(4, 8),) * 3, "args must be a tuple of 1 values, got tuple of 3"),
    ("sample.png", "input 'input' is a str, not a tensor or array"),
    (None, "input 'input' is a NoneType, not a tensor or array"),
]


@pytest.mark.parametrize(("sample", "message"), SAMPLE_CASES)
def test_a_sample_that_does_not_fit_is_numbered(
    sample: object, message: str, refused: Callable[..., QCompilerError]
) -> None:
    error = refused(calibration=[*SAMPLES, sample])
    assert isinstance(error, InputError)
    assert message in error.what
    assert error.where == "calibration sample 2"


def test_a_first_sample_that_the_model_cannot_take(refused: Callable[..., QCompilerError]) -> None:
    error = refused(MODEL, calibration=[noise(4, 9)])
    assert "the model failed on the example inputs" in error.what
    assert "the first calibration sample" in error.where


@pytest.mark.parametrize(
    ("calibration", "message"),
    [(3, "is a int"), (noise(4, 8), "is one array"), ({"input": noise(4, 8)}, "is the inputs of one call")],
)
def test_what_is_no_calibration_data(calibration: object, message: str, refused: Callable[..., QCompilerError]) -> None:
    for model in (MODEL, PROGRAM):
        assert message in refused(model, calibration=calibration).what


ARCHIVES: list[tuple[dict[str, np.ndarray], str]] = [
    ({}, "no array named input"),
    ({"image": np.zeros((4, 8), np.float32)}, "no array named input"),
    ({"input": np.zeros((0, 8), np.float32)}, "the calibration data is empty"),
    ({"input": np.float32(3)}, "array 'input' is one number"),  # pyright: ignore[reportAssignmentType]
    ({"input": np.full((4, 8), np.nan, np.float32)}, "holds NaN"),
    ({"input": np.zeros((4, 8))}, "got torch.float64 [4, 8]"),
    ({"input": np.array([{}], dtype=object)}, "cannot read the data file"),
]


@pytest.mark.parametrize(("arrays", "message"), ARCHIVES)
def test_a_data_file_that_does_not_fit(
    arrays: dict[str, np.ndarray], message: str, refused: Callable[..., QCompilerError], tmp_path: Path
) -> None:
    np.savez(tmp_path / "data.npz", **arrays)  # pyright: ignore[reportArgumentType]
    assert message in refused(calibration=tmp_path / "data.npz").what


def test_a_data_file_with_other_names_is_named(refused: Callable[..., QCompilerError], tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", image=np.zeros((4, 8), np.float32))
    error = refused(MODEL, calibration=tmp_path / "data.npz")
    assert "missing a required argument: 'input'" in error.what
    assert "data.npz" in error.where


@pytest.mark.parametrize("content", [None, b"", b"hello", b"PK\x03\x04 cut off"])
def test_a_data_file_that_cannot_be_read(
    content: bytes | None, refused: Callable[..., QCompilerError], tmp_path: Path
) -> None:
    path = tmp_path / "data.npz"
    if content is not None:
        path.write_bytes(content)
    for model in (MODEL, PROGRAM):
        error = refused(model, calibration=str(path))
        assert isinstance(error, InputError)
        assert error.where == str(path)


def test_static_ranges_are_never_made_up(refused: Callable[..., QCompilerError]) -> None:
    for options in (
        {"recipe": "w8a8"},
        {"recipe": "w8a8", "inputs": (SAMPLES[0],)},
        {"target": "jetson", "recipe": "w8a8"},
    ):
        error = refused(**options)
        assert "there is no calibration data" in error.what
        assert DYNAMIC in error.mend


# -- targets, recipes, plans, budgets ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "message", "mend"),
    [
        ({"target": "tpu"}, SpecError, "there is no target 'tpu'", "onnxruntime"),
        ({"target": "none.yaml"}, SpecError, "cannot read the target file", ".yaml"),
        ({"recipe": "w9z3"}, SpecError, "there is no recipe 'w9z3'", "w8a8_dynamic"),
        ({"recipe": "none.yaml"}, InputError, "cannot read the recipe", "recipes"),
        ({"recipe": "w3a3"}, UnsupportedError, "can run no operator of this model as w3a3", "targets"),
        ({"recipe": "nvfp4"}, UnsupportedError, "can run no operator of this model as nvfp4", "targets"),
        ({"budget": Budget(size="100x")}, InputError, "the budget allows", "w4a16g128"),
        ({"budget": "4x"}, InputError, "not a Budget", 'Budget(size="4x")'),
        ({"budget": Budget(size="plenty")}, SpecError, "'plenty' is not a size", "500kB"),
        ({"evaluate": lambda model: "good"}, InputError, "evaluate returned a str", "number"),
        ({"dynamic": "sometimes"}, InputError, "dynamic is 'sometimes'", "auto, none"),
    ],
)
def test_choices_that_do_not_exist(
    options: Options, kind: type, message: str, mend: str, refused: Callable[..., QCompilerError]
) -> None:
    error = refused(**{"calibration": SAMPLES, "recipe": "w8a8", **options})
    assert isinstance(error, kind)
    assert message in error.what
    assert mend in error.mend


RECIPES: list[tuple[str | bytes, str]] = [
    ("passes: [", "the recipe is not YAML"),
    (b"\xff\xfe\x00", "the recipe is not YAML"),
    ("", "not a mapping"),
    ("- 1", "not a mapping"),
    ("passes: []", "does not follow the schema"),
    ("name: mine\nextra: 1\npasses: []", "does not follow the schema"),
    ("name: mine\npasses: [{assign: w8a8}]", "does not follow the schema"),
    ("name: mine\npasses: [nothing]", "there is no pass 'nothing'"),
    ("name: mine\npasses: [{assign: {scheme: w8a8, more: 1}}]", "pass 'assign' has no option 'more'"),
    ("name: mine\npasses: [{calibrate: {method: best}}]", "there is no range method 'best'"),
    ("name: mine\npasses: [{assign: {scheme: 8}}, apply_plan]", "unknown scheme '8'"),
    ("name: mine\npasses: [{assign: {keep: nowhere}}, apply_plan]", "keep pattern 'nowhere' matches no node or module"),
    ("name: mine\npasses: [assign]", "the recipe ends at stage canonical"),
    ("name: mine\npasses: [nearest]", "nearest needs stage quantized"),
    ("name: mine\npasses: [assign, apply_plan]", "was never set"),
]


@pytest.mark.parametrize(("text", "message"), RECIPES)
def test_a_recipe_that_makes_no_sense(
    text: str | bytes, message: str, refused: Callable[..., QCompilerError], tmp_path: Path
) -> None:
    assert message in refused(calibration=SAMPLES, recipe=written(tmp_path / "mine.yaml", text)).what


@pytest.fixture(scope="module")
def plan() -> Plan:
    return qcompiler.compile(PROGRAM, calibration=SAMPLES, recipe="w8a8").plan


@pytest.mark.parametrize(
    "text", [None, b"\xff", "{", "[]", "{}", '{"version": 9}', '{"version": 1, "assignments": []}']
)
def test_a_file_that_is_no_plan(
    text: str | bytes | None, refused: Callable[..., QCompilerError], tmp_path: Path
) -> None:
    path = tmp_path / "plan.json"
    if text is not None:
        written(path, text)
    error = refused(calibration=SAMPLES, plan=path)
    assert isinstance(error, InputError)
    assert error.where == str(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda item: item.update(kernel="magic"), "kernel 'magic', which onnxruntime lacks"),
        (lambda item: item.update(kernel="conv"), "it computes aten.conv"),
        (lambda item: item["inputs"].pop("input"), "input in float"),
        (lambda item: item["inputs"].pop("weight"), "weight in float"),
        (lambda item: item["inputs"].update(bias=item["inputs"]["input"]), "bias, which is none of its arguments"),
        (lambda item: item["inputs"].update(input="int4 sym block=(1,2) scale=f32"), "input as int4"),
        (lambda item: item.update(result=item["inputs"]["input"], result_at="nowhere"), "a result at %nowhere"),
        (lambda item: item["inputs"].update(input="eight bits"), "this is not a plan"),
    ],
)
def test_an_edited_plan_that_the_target_cannot_follow(
    change: Callable[[dict[str, object]], object],
    message: str,
    plan: Plan,
    refused: Callable[..., QCompilerError],
    tmp_path: Path,
) -> None:
    data = json.loads(json.dumps(plan.to_json()))
    change(data["assignments"]["linear"])
    error = refused(calibration=SAMPLES, plan=written(tmp_path / "plan.json", json.dumps(data)))
    assert message in error.what


def test_a_plan_of_another_target(plan: Plan, refused: Callable[..., QCompilerError]) -> None:
    error = refused(target="jetson", calibration=SAMPLES, plan=plan)
    assert isinstance(error, SpecError)
    assert "does not do: input as uint8 asym" in error.what
    assert "made for onnxruntime" in error.mend


def test_a_plan_of_another_model(plan: Plan, refused: Callable[..., QCompilerError]) -> None:
    other = replace(plan, assignments={"somewhere": plan.assignments["linear"], **plan.assignments})
    error = refused(calibration=SAMPLES, plan=other)
    assert "operators that this model lacks: somewhere" in error.what


# -- places to write ---------------------------------------------------------------------------------------------------


def test_places_that_cannot_be_written(refused: Callable[..., QCompilerError], tmp_path: Path) -> None:
    written(tmp_path / "file", "mine")
    for place in (tmp_path / "file" / "out", Path("/proc/nothing/out")):
        error = refused(calibration=SAMPLES, output=place)
        assert isinstance(error, InputError)
        assert "cannot be written" in error.what
        assert error.where == str(place)


def test_a_place_that_is_taken_is_refused_before_any_work(
    refused: Callable[..., QCompilerError], tmp_path: Path
) -> None:
    path = tmp_path / "mine"
    path.mkdir()
    written(path / "notes", "mine")
    for place in (path, path / "notes"):
        error = refused(calibration=SAMPLES, output=place, evaluate=lambda model: pytest.fail("worked already"))
        assert "the output folder exists" in error.what
    assert (path / "notes").read_text() == "mine"


class FullDisk(OnnxBackend):
    """Writes half a model and then finds the disk full."""

    def emit(self, program: Program, target: Target, folder: Path) -> Sequence[str]:
        (folder / "model.onnx").write_bytes(b"half a model")
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "model.onnx"))


def test_a_full_disk(refused: Callable[..., QCompilerError]) -> None:
    target = replace(load_target("onnxruntime", backends()), backend=FullDisk())
    error = refused(target=target, calibration=SAMPLES)
    assert isinstance(error, InputError)
    assert "the disk is full" in error.what
    assert "free some space" in error.mend


def test_an_error_of_the_users_own_code_passes_through(tmp_path: Path) -> None:
    def broken(model: object) -> float:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        qcompiler.compile(PROGRAM, calibration=SAMPLES, evaluate=broken, output=tmp_path / "deep" / "out")
    assert not (tmp_path / "deep").exists()


# -- calls -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (Inputs(), "got tuple of 0"),
        (Inputs(noise(2, 8), noise(2, 8)), "got tuple of 2"),
        (Inputs(image=noise(2, 8)), "unknown image"),
        (Inputs(noise(2, 9)), "input 'input' must be f32[s0,8], got torch.float32 [2, 9]"),
        (Inputs(noise(8)), "got torch.float32 [8]"),
        (Inputs(noise(2, 8).double()), "got torch.float64"),
        (Inputs(torch.zeros(2, 8, dtype=torch.int64)), "got torch.int64"),
        (Inputs("image.png"), "input 'input' is a str"),
    ],
)
def test_a_call_of_the_artefact_that_does_not_fit(call: Inputs, message: str, artifact: qcompiler.Artifact) -> None:
    with pytest.raises(InputError) as caught:
        artifact(*call.args, **call.kwargs)
    assert message in caught.value.what
    assert caught.value.mend


@pytest.fixture(scope="module")
def artifact() -> qcompiler.Artifact:
    return qcompiler.compile(PROGRAM, recipe=DYNAMIC)


def test_a_pass_that_comes_too_early_says_what_it_needs(refused: Callable[..., QCompilerError]) -> None:
    error = refused(calibration=SAMPLES, recipe=qcompiler.Recipe.of("mine", ["apply_plan", "assign"]))
    assert isinstance(error, PassError)
    assert "assign needs stage canonical, the program is at quantized" in error.what
