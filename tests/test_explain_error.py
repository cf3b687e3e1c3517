"""The explainer: parts that sum to the whole, causes, mends that are made, explanations that come back from disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import qcompiler
from qcompiler.cli.app import run
from qcompiler.errors import InputError, UnsupportedError
from qcompiler.explain import Explanation, Subject, driver, explain
from qcompiler.explain.causes import causes_of
from qcompiler.explain.decompose import slopes
from qcompiler.explain.mends import Change, changed_plan
from qcompiler.explain.sites import find_sites, record, run_with
from qcompiler.explain.verify import passes_behind
from qcompiler.ir.interp import evaluate
from qcompiler.ir.parse import parse_program
from qcompiler.ir.program import Node, Program
from qcompiler.job import prepare, run_job
from qcompiler.pipeline import Options
from qcompiler.plan import EXCLUDED, Plan, plan_of
from qcompiler.report.explanation import Mend
from qcompiler.spec import QuantSpec, choose_qparams

FLOAT = """
dim s0 = 4 in 1..
program @two stage=canonical {
  input %x : f32[s0,8]
  param %w : f32[6,8] = normal(seed=1)
  param %v : f32[3,6] = normal(seed=2)
  %first = aten.linear %x, %w, none : f32[s0,6]
  %relu = aten.relu %first : f32[s0,6]
  %second = aten.linear %relu, %v, none : f32[s0,3]
  return %second
}
"""

QUANTIZED = """
spec @a = uint8 asym block=(-1,-1) scale=f32
spec @w = int4 sym block=(-1,-1) scale=f32
dim s0 = 4 in 1..
program @two stage=quantized {
  input %x : f32[s0,8]
  param %w : f32[6,8] = normal(seed=1)
  param %v : f32[3,6] = normal(seed=2)
  param %ws : f32[1,1] = values(WEIGHT_SCALE)
  param %xs : f32[1,1] = values(INPUT_SCALE)
  param %xz : f32[1,1] = values(128)
  %xq = qc.quantize %x, %xs, %xz : @a[s0,8]
  %xd = qc.dequantize %xq, %xs, %xz : f32[s0,8]
  %wq = qc.quantize %w, %ws, none : @w[6,8]
  %wd = qc.dequantize %wq, %ws, none : f32[6,8]
  %first = aten.linear %xd, %wd, none : f32[s0,6]
  %relu = aten.relu %first : f32[s0,6]
  %second = aten.linear %relu, %v, none : f32[s0,3]
  return %second
}
"""


def two(weight_scale: float = 0.5, input_scale: float = 0.05) -> Subject:
    text = QUANTIZED.replace("WEIGHT_SCALE", str(weight_scale)).replace("INPUT_SCALE", str(input_scale))
    return Subject(parse_program(FLOAT), parse_program(text))


def rows(seed: int = 0, count: int = 6) -> list[torch.Tensor]:
    return [torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))]


def mse(reference: Program, quantized: Program, batch: list[torch.Tensor]) -> float:
    wanted, found = evaluate(reference, batch)[0], evaluate(quantized, batch)[0]
    return float((wanted - found).double().square().mean())


# -- the decomposition ------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 99), st.floats(0.05, 2.0), st.floats(0.005, 0.5))
def test_parts_sum_to_the_measured_error(seed: int, weight_scale: float, input_scale: float) -> None:
    subject, batch = two(weight_scale, input_scale), rows(seed)
    found = explain(subject, [batch])
    whole = mse(subject.reference, subject.quantized, batch)
    assert found.mse == pytest.approx(whole, rel=1e-4)
    assert sum(part.mse for part in found.parts) == pytest.approx(whole, rel=0.1)
    assert sum(part.mse for part in found.parts) + found.interaction == pytest.approx(whole, rel=1e-4)


def test_the_float_program_with_all_errors_computes_the_quantized_results() -> None:
    subject, batch = two(), rows()
    taken = record(find_sites(subject.reference, subject.quantized), batch)
    found = run_with(taken.sites, batch, taken.errors)[0]
    assert torch.allclose(found, evaluate(subject.quantized, batch)[0], atol=1e-5)


def test_an_error_in_a_linear_program_is_the_product_of_slope_and_error() -> None:
    text = "program @p stage=canonical {\n  input %x : f32[2,4]\n  param %w : f32[3,4] = normal(seed=1)\n"
    text += "  %y = aten.linear %x, %w, none : f32[2,3]\n  return %y\n}\n"
    changed = text.replace("canonical", "quantized").replace("seed=1", "seed=2")
    reference, other = parse_program(text), parse_program(changed)
    batch = [torch.randn(2, 4, generator=torch.Generator().manual_seed(0))]
    taken = record(find_sites(reference, other), batch)
    slope = slopes(taken)
    error = evaluate(other, batch)[0] - evaluate(reference, batch)[0]
    (site,) = slope.sites
    assert torch.allclose(slope.sites[site], error.T @ batch[0], atol=1e-5)
    assert slope.explained == pytest.approx(float(error.double().square().sum()), rel=1e-5)


def test_equal_programs_have_no_error() -> None:
    reference = parse_program(FLOAT)
    found = explain(Subject(reference, reference.copy()), [rows()])
    assert (found.mse, found.parts, found.explained) == (0.0, (), 1.0)


def test_programs_with_nothing_in_common_are_refused() -> None:
    other = parse_program(FLOAT.replace("%first", "%one").replace("%relu", "%two").replace("%second", "%three"))
    with pytest.raises(UnsupportedError, match="no operator"):
        explain(Subject(parse_program(FLOAT), other), [rows()])


def test_no_samples_are_refused() -> None:
    with pytest.raises(InputError, match="no sample"):
        explain(two(), [])


# -- causes -----------------------------------------------------------------------------------------------------------


def test_causes_of_a_tensor_sum_to_its_error() -> None:
    subject, batch = two(0.2, 0.01), rows()
    taken = record(find_sites(subject.reference, subject.quantized), batch)
    for site in taken.errors:
        pieces = causes_of(taken, site)
        assert torch.allclose(sum(pieces.values(), torch.zeros(())), taken.errors[site], atol=1e-6)


def test_what_lies_beyond_the_range_is_clipping() -> None:
    subject, batch = two(0.2, 0.005), rows()
    taken = record(find_sites(subject.reference, subject.quantized), batch)
    site = next(site for site in taken.sites.sites if site.name == "x")
    clipped = causes_of(taken, site)["activation clipping"]
    low, high = -128 * 0.005, 127 * 0.005
    assert torch.allclose(clipped, batch[0].clamp(low, high) - batch[0], atol=1e-6)


def test_a_wide_range_is_all_rounding() -> None:
    causes = explain(two(1.0, 0.05), [rows()]).by_cause()
    assert set(causes) == {"weight rounding", "activation rounding"}


def test_what_the_runtime_adds_is_a_mismatch() -> None:
    subject, batch = two(), rows()

    def ships(inputs: object) -> list[torch.Tensor]:
        return [value + 0.5 for value in evaluate(subject.quantized, inputs)]  # pyright: ignore[reportArgumentType]

    found = explain(replace(subject, ships=ships), [batch])
    wanted, quantized = evaluate(subject.reference, batch)[0], evaluate(subject.quantized, batch)[0]
    assert found.mse == pytest.approx(float((quantized + 0.5 - wanted).square().mean()), rel=1e-4)
    assert found.by_cause()["kernel mismatch"] > 0
    assert found.explained == pytest.approx(1.0, abs=0.1)


def test_scales_rounded_to_half_a_byte_are_a_cause() -> None:
    text = QUANTIZED.replace("@w = int4 sym block=(-1,-1) scale=f32", "@w = int4 sym block=(1,-1) scale=e8m0")
    program = parse_program(
        text.replace("f32[1,1] = values(WEIGHT_SCALE)", "f32[6,1] = ones()").replace("INPUT_SCALE", "0.05")
    )
    reference = parse_program(FLOAT)
    node = next(node for node in program.nodes if node.name == "wq")
    spec, holder = program.bind(node)["spec"], program.bind(node)["scale"]
    assert isinstance(spec, QuantSpec)
    assert isinstance(holder, Node)
    scale, _ = choose_qparams(program.param(program.node("w")), spec)
    assert isinstance(scale, torch.Tensor)
    program.set_param(holder, scale)
    assert explain(Subject(reference, program), [rows()]).by_cause()["scale format"] != 0


# -- artefacts, runs and mends ----------------------------------------------------------------------------------------


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(2, 6, 3, padding=1), torch.nn.BatchNorm2d(6), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(6 * 36, 5)).eval()


IMAGES = [(torch.randn(8, 2, 6, 6, generator=torch.Generator().manual_seed(1)),)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "artefact"
    qcompiler.compile(network(), calibration=IMAGES, recipe="w8a8", output=path)
    np.savez(path.parent / "samples.npz", input=IMAGES[0][0].numpy())
    return path


def test_a_saved_artefact_is_explained_without_its_model(folder: Path) -> None:
    artifact = qcompiler.load(folder)
    found = artifact.explain(IMAGES, verify=0)
    assert found.deployed
    assert found.explained == pytest.approx(1.0, abs=0.1)
    assert found.sqnr_db == pytest.approx(artifact.report.sqnr_db, abs=0.5)
    assert "weight rounding" in found.by_cause()


def test_mends_are_made_and_measured_and_their_plan_compiles_better(folder: Path, tmp_path: Path) -> None:
    found = qcompiler.load(folder).explain(IMAGES, verify=2)
    assert [mend.measured_db is not None for mend in found.mends[:2]] == [True, True]
    assert found.plan is not None
    found.plan.save(tmp_path / "fixed.json")
    better = qcompiler.compile(network(), calibration=IMAGES, recipe="w8a8", plan=tmp_path / "fixed.json")
    before, after = qcompiler.load(folder).report.sqnr_db, better.report.sqnr_db
    assert before is not None
    assert after is not None
    assert after > before + 0.5


def test_what_a_plan_leaves_in_float_on_purpose_is_no_fallback(folder: Path) -> None:
    plan = qcompiler.load(folder).plan
    layer = next(iter(plan.assignments))
    made = qcompiler.compile(network(), calibration=IMAGES, plan=changed_plan(plan, layer, None), strict=True)
    (kept,) = made.report.kept_in_float()[EXCLUDED]
    assert (kept.name, kept.requested) == (layer, "float")


@pytest.mark.parametrize("combined", [-0.03, 1.5])
def test_the_plan_is_the_best_that_was_measured(folder: Path, monkeypatch: pytest.MonkeyPatch, combined: float) -> None:
    artifact = qcompiler.load(folder)
    singles = iter((0.27, 1.17))

    def measured(change: Change, *rest: object) -> Change:
        return replace(change, mend=replace(change.mend, measured_db=next(singles)))

    def two_layers(program: Program, plan: Plan, *rest: object) -> list[Change]:
        return [
            Change(Mend("exclude", name, name, name, 3.0), changed_plan(plan, name, None))
            for name in list(plan.assignments)[:2]
        ]

    tried: list[Plan] = []
    errors = iter((1.0, 10 ** (-combined / 10)))
    monkeypatch.setattr(driver, "verified", measured)
    monkeypatch.setattr(driver, "plan_mends", two_layers)
    monkeypatch.setattr(driver, "requantized", lambda reference, plan, *rest: tried.append(plan))
    monkeypatch.setattr(driver, "result_error", lambda *given: next(errors))
    found = artifact.explain(IMAGES, verify=2)
    assert found.plan is not None
    assert len(tried) == 1
    assert len(found.plan.refusals) - len(artifact.plan.refusals) == (2 if combined > 1.17 else 1)
    assert list(artifact.plan.assignments)[1] not in found.plan.assignments
    assert f"wins {combined:+.2f} dB" in found.notes[-1]


def test_a_channel_never_has_more_than_all_of_a_part() -> None:
    tally = driver._Tally(two())
    tally.channels[None, "weight rounding"] = torch.tensor([3.0, -2.0, 1.0])
    assert tally.worst_channel((None, "weight rounding"), 2.0) == (0, 0.5)


def test_an_artefact_without_its_float_program_says_so(tmp_path: Path) -> None:
    artifact = qcompiler.compile(network(), calibration=IMAGES, recipe="w8a8", keep_float=False)
    with pytest.raises(InputError, match="keeps no float program"):
        artifact.explain(IMAGES)


def test_an_explanation_comes_back_from_json(tmp_path: Path) -> None:
    job = prepare(network(), calibration=IMAGES, recipe="w8a8")
    reference, quantized, _ = run_job(job)
    plan = plan_of(quantized, job.target.name, "w8a8")
    subject = Subject(reference, quantized, job.target, plan, passes_behind(job.recipe.passes))
    found = explain(subject, list(job.batches), verify=1)
    found.save(tmp_path / "explanation.json")
    assert Explanation.load(tmp_path / "explanation.json") == found


def test_data_that_is_no_explanation_is_refused() -> None:
    with pytest.raises(InputError, match="no explanation"):
        Explanation.from_dict({"version": 1, "parts": []})


def test_the_command_prints_json_and_writes_the_plan(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = str(folder.parent / "samples.npz")
    line = ["explain", str(folder), "--calibration", samples, "--verify", "1", "-o", str(tmp_path / "plan.json")]
    assert run([*line, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert Explanation.from_dict(told) == Explanation.load(folder / "explanation.json")
    assert json.loads((tmp_path / "plan.json").read_text())["assignments"]
    qcompiler.load(folder)


def test_a_run_is_explained_with_its_own_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = Options(dump_dir=tmp_path / "run")
    run_job(prepare(network(), calibration=IMAGES, recipe="w8a8", options=options))
    assert run(["explain", str(tmp_path / "run"), "--verify", "0"]) == 0
    text = capsys.readouterr().out
    assert "weight rounding" in text
    assert "they explain" in text
