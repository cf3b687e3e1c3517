"""What the explainer calls wrong: each fault at its place and under its name, and nothing where nothing is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qcompiler.cli.explain import finding_rows
from qcompiler.explain import Subject, explain
from qcompiler.explain.causes import Grid
from qcompiler.explain.diagnose import activation_fault
from qcompiler.explain.weight_faults import weight_fault
from qcompiler.ir.program import Program
from qcompiler.job import prepare, run_job
from qcompiler.report.explanation import Finding
from qcompiler.spec import QuantSpec, choose_qparams, quantize
from qcompiler.stats import Batch

CHANNEL = QuantSpec.parse("int8 sym block=(1,-1) scale=f32")
GROUPS = QuantSpec.parse("int4 asym block=(1,8) scale=f32")
TENSOR = QuantSpec.parse("uint8 asym block=(-1,-1) scale=f32")


def weight(rows: int = 12, columns: int = 16) -> Tensor:
    """Rows and columns of different sizes, so that their scales differ."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.linspace(0.3, 3, rows)[:, None] * torch.linspace(1, 2, columns)
    return sizes * torch.randn(rows, columns, generator=generator)


def grid(value: Tensor, spec: QuantSpec) -> Grid:
    scale, zero = choose_qparams(value, spec)
    zero_point = None if spec.symmetric else zero
    return Grid(spec, scale, zero_point, quantize(value.clone(), scale, zero_point, spec), False)


def changed(value: Tensor, spec: QuantSpec, scale: Tensor) -> Grid:
    """Quantized anew with other scales."""
    good = grid(value, spec)
    return Grid(spec, scale, good.zero_point, quantize(value.clone(), scale, good.zero_point, spec), False)


def scale_of(good: Grid) -> Tensor:
    assert isinstance(good.scale, Tensor)
    return good.scale


def kind(value: Tensor, broken: Grid) -> str:
    fault = weight_fault(value, broken)
    return "" if fault is None else fault.kind


@pytest.mark.parametrize("spec", [CHANNEL, GROUPS])
def test_a_weight_on_its_best_grid_has_no_fault(spec: QuantSpec) -> None:
    assert weight_fault(weight(), grid(weight(), spec)) is None


@pytest.mark.parametrize("factor", [0.3, 1.5, 4.0])
@pytest.mark.parametrize("spec", [CHANNEL, GROUPS])
def test_a_scale_changed_behind_the_codes_is_bad(spec: QuantSpec, factor: float) -> None:
    good = grid(weight(), spec)
    assert kind(weight(), Grid(spec, scale_of(good) * factor, good.zero_point, good.codes, False)) == "bad scale"


def test_a_step_far_too_coarse_is_bad() -> None:
    assert kind(weight(), changed(weight(), CHANNEL, scale_of(grid(weight(), CHANNEL)) * 6)) == "bad scale"


def test_one_channel_cut_off_is_saturated() -> None:
    scale = scale_of(grid(weight(), CHANNEL)).clone()
    scale[5] *= 0.2
    fault = weight_fault(weight(), changed(weight(), CHANNEL, scale))
    assert fault is not None
    assert fault.kind == "saturated channel"
    assert "channel 5" in fault.evidence


def test_a_zero_point_off_by_two_steps_is_named_with_its_size() -> None:
    good = grid(weight(), GROUPS)
    assert good.zero_point is not None
    fault = weight_fault(weight(), Grid(GROUPS, good.scale, good.zero_point + 2, good.codes, False))
    assert fault is not None
    assert fault.kind == "wrong zero point"
    assert "+2" in fault.evidence


@pytest.mark.parametrize("rows", [16, 12])
def test_exchanged_axes_are_seen_in_square_and_other_weights(rows: int) -> None:
    value = weight(rows)
    good = grid(value, CHANNEL)
    codes = good.codes.T.reshape(value.shape).contiguous()
    assert kind(value, Grid(CHANNEL, good.scale, None, codes, False)) == "swapped axis"


def test_scales_read_along_the_other_axis_are_named() -> None:
    value = weight(16)
    good = grid(value, GROUPS)
    table = scale_of(good).T.reshape(scale_of(good).shape)
    assert kind(value, Grid(GROUPS, table, good.zero_point, good.codes, False)) == "wrong group axis"


def test_scales_computed_along_the_other_axis_are_named() -> None:
    value = weight(16)
    other = value.abs().amax(0, keepdim=True).T / 127
    assert kind(value, changed(value, CHANNEL, other)) == "wrong group axis"


# -- activations ------------------------------------------------------------------------------------------------------


def test_an_activation_that_its_range_fits_has_no_fault() -> None:
    assert activation_fault(weight(), grid(weight(), TENSOR)) is None


@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_a_range_that_does_not_fit_is_a_bad_scale(factor: float) -> None:
    good = grid(weight(), TENSOR)
    assert good.zero_point is not None
    fault = activation_fault(weight(), Grid(TENSOR, scale_of(good) * factor, good.zero_point, good.codes, False))
    assert fault is not None
    assert fault.kind == "bad scale"


def test_a_shifted_range_is_a_wrong_zero_point() -> None:
    good = grid(weight(), TENSOR)
    assert good.zero_point is not None
    fault = activation_fault(weight(), Grid(TENSOR, good.scale, good.zero_point + 60, good.codes, False))
    assert fault is not None
    assert fault.kind == "wrong zero point"
    assert "+60" in fault.evidence


def test_zeros_throughout_are_a_dead_tensor() -> None:
    zeros = torch.zeros(4, 4)
    fault = activation_fault(zeros, grid(zeros, TENSOR))
    assert fault is not None
    assert fault.kind == "dead tensor"


# -- whole programs ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made() -> tuple[Program, Program, Batch]:
    torch.manual_seed(0)
    convolutions = [torch.nn.Conv2d(2, 6, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(6, 6, 3), torch.nn.ReLU()]
    model = torch.nn.Sequential(*convolutions, torch.nn.Flatten(), torch.nn.Linear(6 * 16, 16), torch.nn.LayerNorm(16))
    images = [(torch.randn(16, 2, 6, 6, generator=torch.Generator().manual_seed(1)),)]
    job = prepare(model.eval(), calibration=images, recipe="w8a8")
    reference, quantized, _ = run_job(job)
    return reference, quantized, job.batches[0]


def broken(program: Program, name: str, value: Tensor) -> Program:
    other = program.copy()
    node = other.node(name)
    other.set_param(node, value, other.tensor_type(node).spec)
    return other


def test_nothing_is_wrong_with_a_compiled_program(made: tuple[Program, Program, Batch]) -> None:
    reference, quantized, batch = made
    assert explain(Subject(reference, quantized), [batch]).findings == ()


def test_the_first_finding_is_the_broken_tensor_and_its_gain_is_right(made: tuple[Program, Program, Batch]) -> None:
    reference, quantized, batch = made
    scale = quantized.param(quantized.node("_2_weight_scale"))
    found = explain(Subject(reference, broken(quantized, "_2_weight_scale", 3 * scale)), [batch])
    assert (found.findings[0].tensor, found.findings[0].kind) == ("_2_weight", "bad scale")
    good = explain(Subject(reference, quantized), [batch])
    assert found.mends[0].predicted_db == pytest.approx(good.sqnr_db - found.sqnr_db, abs=2.0)


def test_a_changed_normalisation_is_found(made: tuple[Program, Program, Batch]) -> None:
    reference, quantized, batch = made
    gain = quantized.param(quantized.node("_6_weight"))
    found = explain(Subject(reference, broken(quantized, "_6_weight", gain * 1.3)), [batch])
    assert (found.findings[0].tensor, found.findings[0].kind) == ("_6_weight", "stale norm statistics")


def test_samples_of_another_size_are_a_stale_calibration(made: tuple[Program, Program, Batch]) -> None:
    reference, quantized, batch = made
    found = explain(Subject(reference, quantized), [[8 * batch[0]]])
    assert found.findings
    assert {finding.kind for finding in found.findings} == {"stale calibration"}
    (mend,) = found.mends
    assert mend.text.startswith(f"find {len(found.findings)} ranges anew: %{found.findings[0].tensor}, ")


def test_many_stale_ranges_are_one_line_with_the_worst_first() -> None:
    shares = {"a": 0.1, "b": 0.4, "c": 0.2, "d": 0.3}
    stale = [Finding(name, f"to_{name}", "stale calibration", "4 of 4; more", 1.0, x) for name, x in shares.items()]
    other = Finding("w", "to_w", "bad scale", "its own", 1.0, 0.05)
    rows = finding_rows([*stale, other], {"to_b": "block.b", "to_w": "block.w"})
    assert rows == [
        ("4 activations: %b, %d, %c, ...", "block.b", "stale calibration", "100.0%", "4 of 4"),
        ("%w", "block.w", "bad scale", "5.0%", "its own"),
    ]
