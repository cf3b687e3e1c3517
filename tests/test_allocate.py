"""Mixed precision on programs: units, ties, options, costs, groups and boundaries."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import qcompiler
from qcompiler.compiler import build
from qcompiler.errors import InputError, SpecError
from qcompiler.job import backends, run_job
from qcompiler.passes.allocate.boundaries import boundaries
from qcompiler.passes.allocate.costs import AverageBits, BitOperations, Size
from qcompiler.passes.allocate.decoupled import decoupled, weightings
from qcompiler.passes.allocate.mixed import MixedPrecision
from qcompiler.passes.allocate.peak_memory import peak_memory
from qcompiler.passes.allocate.units import offer
from qcompiler.pipeline import Context
from qcompiler.spec import parse_scheme
from qcompiler.targets import load_target
from tests.allocate_models import (
    WEIGHTS,
    Branches,
    Convolutions,
    Tied,
    canonical,
    job_of,
    joining_target,
    noise,
    offered,
    widths,
)

# -- units and options -------------------------------------------------------------------------------------------------


def test_every_layer_is_a_unit_with_the_schemes_that_its_kernels_take() -> None:
    found = offered(Branches, f"{WEIGHTS}|float")
    assert [len(unit.nodes) for unit in found.units] == [1] * 5
    assert all([option.name for option in unit.options] == [*WEIGHTS.split("|"), "float"] for unit in found.units)


def test_options_are_what_the_target_accepts() -> None:
    plain = load_target("onnxruntime", backends())
    # without the rows that keep any weight packed and compute in float
    target = replace(plain, kernels=tuple(row for row in plain.kernels if not row.name.startswith("stored")))
    schemes = "w4a16g16|w8a8|w4a4|float"
    convolution, linear = (offered(kind, schemes, target).units[0] for kind in (Convolutions, Branches))
    assert [option.name for option in convolution.options] == ["w8a8", "float"]
    assert [option.name for option in linear.options] == ["w4a16g16", "w8a8", "float"]
    nothing = offered(Convolutions, "w4a16g16", target)
    assert not nothing.units
    assert [reason.partition(":")[0] for reason in nothing.refusals.values()] == ["conv"] * 4


def test_schemes_that_make_no_difference_are_one_option() -> None:
    found = offered(Branches, "w4a16g16|w4a16g16_asym|w4a16g16_sym")
    assert [option.name for option in found.units[0].options] == ["w4a16g16", "w4a16g16_sym"]


def test_readers_of_one_weight_are_one_unit() -> None:
    found = offered(Tied, WEIGHTS)
    assert sorted(len(unit.nodes) for unit in found.units) == [1, 2]


@pytest.mark.parametrize(
    ("schemes", "sizes"), [(WEIGHTS, [1] * 5), ("w8a8|w4a16g16", [1] * 5), ("w8a8|w4a4", [3, 1, 1])]
)
def test_readers_of_one_activation_are_tied_only_when_its_grids_differ(schemes: str, sizes: list[int]) -> None:
    found = offered(Branches, schemes)
    assert sorted(len(unit.nodes) for unit in found.units) == sorted(sizes)


def test_results_that_meet_at_a_joining_kernel_are_tied() -> None:
    found = offered(Convolutions, "w8a8|w4a4", joining_target())
    groups = [
        sorted(found.program.origin(node).module for node in found.program.nodes if node.name in unit.nodes)
        for unit in found.units
    ]
    assert groups == [["head", "left", "right", "stem"]]
    alike = offered(Convolutions, "w8a8|w4a8", joining_target())
    assert [len(unit.nodes) for unit in alike.units] == [1] * 4


def test_joining_operators_follow_the_units_around_them() -> None:
    found = offered(Convolutions, "w8a8|float", joining_target())
    kernels = [item.kernel for item in found.plan([0] * len(found.units)).values()]
    assert kernels.count("add") == 1
    assert "add" not in {item.kernel for item in found.plan([1] * len(found.units)).values()}


# -- costs -------------------------------------------------------------------------------------------------------------


def test_size_counts_codes_scales_and_every_parameter_once() -> None:
    program, context = canonical(Tied)
    found = offer(program, context.target, [parse_scheme("w4a16g16"), None], ())
    sizes = Size().measure(program, found.units, context)
    whole = sum(parameter.numel() * 4 for parameter in Tied().parameters())
    assert sizes.reference == whole
    assert sizes.fixed == 32 * 4
    per_weight = (4 + (32 + 4) / 16) / 8
    assert sorted(row[0] for row in sizes.table) == pytest.approx([24 * 32 * per_weight, 32 * 32 * per_weight])
    assert sorted(row[1] for row in sizes.table) == [24 * 32 * 4, 32 * 32 * 4]


def test_average_bits_of_a_uniform_plan_are_its_bits() -> None:
    program, context = canonical(Branches)
    found = offer(program, context.target, [parse_scheme("w4a16g16_sym"), None], ())
    costs = AverageBits().measure(program, found.units, context)
    assert sum(row[0] for row in costs.table) == pytest.approx(4 + 32 / 16)
    assert sum(row[1] for row in costs.table) == pytest.approx(32)


def test_bit_operations_are_products_times_bits() -> None:
    program, context = canonical(Convolutions)
    found = offer(program, context.target, [parse_scheme("w4a8"), None], ())
    costs = BitOperations().measure(program, found.units, context)
    rows = 4 * 4 * 4  # samples and places
    macs = [rows * 8 * 27, rows * 8 * 72, rows * 8 * 8, rows * 5 * 8]
    assert [row[0] for row in costs.table] == [product * 32 for product in macs]
    assert costs.reference == sum(macs) * 1024
    assert costs.fixed == 0


LIVENESS = """program @chain stage=canonical {
  input %x : f32[1,4,8,8]
  param %w : f32[4,4,1,1] = normal(seed=1)
  %a = aten.conv2d %x, %w, none, [1, 1], [0, 0], [1, 1], 1 : f32[1,4,8,8]
  %b = aten.sigmoid %a : f32[1,4,8,8]
  %c = aten.add.Tensor %b, %a : f32[1,4,8,8]
  %d = aten.amax %c, [2, 3] : f32[1,4]
  return %d
}
"""


def test_peak_memory_is_that_of_the_fullest_step() -> None:
    program = qcompiler.parse(LIVENESS)
    found = offer(program, joining_target(), [parse_scheme("w8a8"), None], ())
    rows = peak_memory(program, found.units)
    value = 4 * 8 * 8 * 4
    # at the addition a, b and c are alive, two of which stay in float
    assert {cost.reference for cost in rows.values()} == {3 * value}
    peaks = [max(cost.fixed + cost.table[0][option] for cost in rows.values()) for option in (0, 1)]
    assert peaks == [2.25 * value, 3 * value]


def test_peak_memory_can_be_limited() -> None:
    program = qcompiler.parse(LIVENESS)
    context = Context(joining_target(), batches=[[noise(1, 4, 8, 8)]])
    for limit, name in (("3100", "float"), ("2305", "w8a8"), ("2200", "w4a4")):
        done = MixedPrecision(schemes="w8a8|w4a4|float", peak_memory=limit).run(program.copy(), context)
        assert next(node for node in done.nodes if node.name == "a").meta["asked"] == name
    with pytest.raises(InputError, match=r"peak_memory at %c can be 2176 at least, and 2000 is allowed"):
        MixedPrecision(schemes="w8a8|w4a4|float", peak_memory="2000").run(program.copy(), context)


def test_the_counted_size_is_the_reported_one() -> None:
    job = job_of(f"schemes={WEIGHTS}, average_bits=5.5")
    program, context = canonical(Branches)
    artifact = build(job)
    bits = {layer.name: layer.bits for layer in artifact.report.layers}
    found = offer(program, context.target, [parse_scheme(name) for name in WEIGHTS.split("|")], ())
    costs = AverageBits().measure(program, found.units, context)
    count = sum(module.weight.numel() for module in Branches().children() if isinstance(module, nn.Linear))
    options = [[option.assignments[unit.name] for option in unit.options] for unit in found.units]
    chosen = [row.index(artifact.plan.assignments[unit.name]) for unit, row in zip(found.units, options, strict=True)]
    total = sum(row[option] for row, option in zip(costs.table, chosen, strict=True))
    weights = {unit.name: program.shape(program.node(unit.name).all_input_nodes[1]) for unit in found.units}
    reported = sum(bits[name] * int(shape[0]) * int(shape[1]) for name, shape in weights.items()) / count
    assert total == pytest.approx(reported)
    assert total <= 5.5


# -- groups and boundaries ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1e-4, 1e3])
def test_the_scale_of_a_group_does_not_matter(factor: float) -> None:
    one, other = [[4.0, 1.0], [2.0, 0.5], [9.0, 9.0]], [[7.0, 7.0], [7.0, 7.0], [3.0, 1.0]]
    scaled = [[value * factor for value in row] for row in other]
    first, second = decoupled([one, other], [0, 0, 1]), decoupled([one, scaled], [0, 0, 1])
    assert torch.allclose(torch.tensor(first), torch.tensor(second))
    assert torch.allclose(torch.tensor(first), torch.tensor([[4 / 6, 1 / 6], [2 / 6, 0.5 / 6], [1.0, 1 / 3]]))
    assert decoupled([one, other], [0, 0, 1], {1: 4.0})[2] == pytest.approx([4.0, 4 / 3])
    assert len(weightings(2)) == 5


def test_groups_with_their_own_sensitivity() -> None:
    found = widths(job_of(f"schemes={WEIGHTS}, average_bits=5.5, groups=q=kl|head=local"))
    assert len(found) == 5
    with pytest.raises(SpecError, match="no sensitivity 'taste'"):
        run_job(job_of(f"schemes={WEIGHTS}, average_bits=5.5, groups=q=taste"))


def test_boundaries_are_where_numbers_change() -> None:
    found = offered(Convolutions, "w8a8|w4a8|float", joining_target())
    names = {node.name: found.program.origin(node).module for node in found.program.nodes}
    hand_overs = boundaries(found)
    places = [(names[found.units[b.left].name], names[found.units[b.right].name]) for b in hand_overs]
    assert places == [("stem", "left"), ("stem", "right")]
    # both schemes have the same activations, float has others
    assert all(boundary.mismatch == [[0, 0, 1], [0, 0, 1], [1, 1, 0]] for boundary in hand_overs)
