"""Tables of latencies, the roofline, and predictions of whole plans from them."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.clocks import Clocks
from qcompiler.cost import Correction, Device, LatencyTable, Roofline, Row, fit, summary
from qcompiler.errors import InputError, UnsupportedError
from qcompiler.ir.parse import parse_program
from qcompiler.ir.program import Program
from qcompiler.job import backends
from qcompiler.lone_layers import Bench, lone_layers, lone_program
from qcompiler.passes.allocate.latency import Latency, quicker
from qcompiler.passes.allocate.predictor import (
    DEQUANTIZE,
    LAYOUT_OUT,
    QUANTIZE,
    Predictor,
    program_key,
    row_key,
    value_key,
)
from qcompiler.passes.allocate.problem import Problem
from qcompiler.passes.allocate.units import Offer, offer
from qcompiler.pipeline import Context
from qcompiler.spec import parse_scheme
from qcompiler.target import Target
from qcompiler.targets import load_target

DEVICE = Device(target="onnxruntime", processor="a processor", features=("avx2",), runtime="onnxruntime 1")
CHAIN = """
program @chain stage=canonical {
  input %x : f32[1,8,8,8]
  param %a : f32[8,8,3,3] = normal(seed=1)
  param %b : f32[8,8,3,3] = normal(seed=2)
  param %c : f32[8,8,3,3] = normal(seed=3)
  %one = aten.conv2d %x, %a, none, [1,1], [1,1] : f32[1,8,8,8]
  %r = aten.relu %one : f32[1,8,8,8]
  %two = aten.conv2d %r, %b, none, [1,1], [1,1] : f32[1,8,8,8]
  %three = aten.conv2d %two, %c, none, [1,1], [1,1] : f32[1,8,8,8]
  return %three
}
"""


def row(key: tuple[str, str, str, str], seconds: float) -> Row:
    op, kernel, numbers, signature = key
    return Row(op=op, kernel=kernel, numbers=numbers, signature=signature, seconds=seconds, runs=30)


def chain() -> Program:
    return parse_program(CHAIN.strip())


def target() -> Target:
    return load_target("onnxruntime", backends())


def bare() -> Target:
    return replace(target(), device=None)


def offered(program: Program) -> Offer:
    return offer(program, target(), [parse_scheme("w8a8"), None], set())


ROWS = [row(("aten.linear", "float", "", f"{number}"), number * 1e-6) for number in range(5)]


@given(st.permutations(ROWS))
@settings(deadline=None, max_examples=10)
def test_the_text_of_a_table_does_not_depend_on_the_order_of_its_rows(rows: list[Row]) -> None:
    table = LatencyTable(DEVICE, tuple(rows), Correction(slope=0.9, intercept=1e-6, error=0.1, plans=3))
    text = table.to_json()
    assert text == LatencyTable(DEVICE, tuple(ROWS), table.correction).to_json()
    again = LatencyTable.from_json(text)
    assert again.to_json() == text
    assert again.find("aten.linear", "float", "", "3") == ROWS[3]
    assert again.find("aten.linear", "float", "", "7") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version"),
        ({"rows": [{"op": "aten.linear"}]}, r"rows.0.kernel: Field required"),
        ({"rows": [ROWS[1].model_dump() | {"seconds": -1}]}, "rows.0.seconds"),
        ({"device": {"target": "x"}}, "device.processor"),
        ({"more": 1}, "more"),
    ],
)
def test_a_file_that_is_no_table_is_refused_by_the_first_field(change: dict[str, object], message: str) -> None:
    data = LatencyTable(DEVICE, tuple(ROWS)).to_dict() | change
    with pytest.raises(InputError, match=message):
        LatencyTable.from_json(json.dumps(data), "table.json")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the table"):
        LatencyTable.load(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot write the table"):
        LatencyTable(DEVICE).save(tmp_path / "none" / "table.json")


def test_later_rows_take_the_place_of_earlier_ones() -> None:
    table = LatencyTable(DEVICE, tuple(ROWS)).with_rows([ROWS[1].model_copy(update={"seconds": 9.0})])
    found = table.find(*ROWS[1].key)
    assert found is not None
    assert found.seconds == 9.0


def test_the_middle_half_is_not_moved_by_a_busy_machine() -> None:
    seconds, spread = summary([1.0, 1.1, 0.9, 1.0, 50.0, 1.0, 0.1, 1.0])
    assert seconds == pytest.approx(1.0)
    assert 0 < spread < 0.2
    assert summary([2.0]) == (2.0, 0.0)


@given(st.floats(0.2, 3), st.floats(0, 1e-3), st.lists(st.floats(1e-4, 1e-2), min_size=3, max_size=6, unique=True))
@settings(deadline=None, max_examples=30)
def test_a_line_is_found_again(slope: float, intercept: float, sums: list[float]) -> None:
    line = fit(sums, [slope * total + intercept for total in sums])
    assert line.plans == len(sums)
    for total in sums:
        assert line(total) == pytest.approx(slope * total + intercept, rel=0.02)


def test_sums_that_are_alike_fit_a_slope_alone() -> None:
    line = fit([1e-3, 1e-3], [2e-3, 2.2e-3])
    assert line.intercept == 0
    assert line.slope == pytest.approx(2.1, rel=0.01)
    assert line.error == pytest.approx(0.05, abs=0.01)
    falling = fit([1e-3, 2e-3], [2e-3, 1e-3])
    assert falling.slope > 0
    with pytest.raises(InputError, match="all of them positive"):
        fit([], [])


def test_one_trapped_plan_does_not_spoil_the_line() -> None:
    sums = [1e-3, 2e-3, 3e-3, 4e-3, 5e-3]
    times = [1.1 * total for total in sums]
    line = fit(sums, [*times[:2], 3 * times[2], *times[3:]])
    assert line.slope == pytest.approx(1.1)
    assert line.intercept == pytest.approx(0, abs=1e-9)
    assert (line.plans, line.dropped) == (4, 1)
    assert line.error < 1e-6


def test_plans_that_agree_on_no_line_are_all_kept() -> None:
    line = fit([1e-3, 1e-3, 1e-3, 1e-3], [1e-3, 2e-3, 4e-3, 8e-3])
    assert (line.plans, line.dropped) == (4, 0)


def test_a_roofline_is_the_slower_of_compute_and_memory() -> None:
    device = Roofline(operations={8: 1e12, 32: 1e11}, bandwidth=1e10, overhead=1e-6)
    assert device.seconds(1e9, 32, 0) == pytest.approx(1e-2 + 1e-6)
    assert device.seconds(1e9, 4, 0) == pytest.approx(1e-3 + 1e-6)
    assert device.seconds(1e9, 16, 0) == pytest.approx(1e-2 + 1e-6)
    assert device.seconds(1e3, 8, 1e9) == pytest.approx(0.1 + 1e-6)


def test_without_a_table_and_peaks_nothing_is_predicted() -> None:
    with pytest.raises(UnsupportedError, match="nothing tells how long"):
        Predictor(chain(), None, bare())
    device = Roofline(operations={8: 1e12, 32: 1e11}, bandwidth=1e10)
    modelled = Predictor(chain(), None, replace(target(), device=device))
    assert modelled.kind == "modelled"
    assert "modelled" in modelled.described()


def tabled(program: Program) -> tuple[Offer, LatencyTable]:
    """A table whose seconds tell by their digits what they are of."""
    found = offered(program)
    rows = [row(program_key(program), 100.0)]
    for lone in lone_layers(found, target()):
        rows.append(row(lone.key, 10.0 if lone.assigned is None else 4.0))
        if lone.assigned is None:
            continue
        for spec in lone.assigned.inputs.values():
            source = lone.node.all_input_nodes[0]
            rows.append(row(value_key(program, QUANTIZE, source, spec), 0.5))
        if lone.assigned.result is not None:
            rows.append(row(value_key(program, DEQUANTIZE, lone.node, lone.assigned.result), 0.25))
    return found, LatencyTable(DEVICE, tuple(rows))


def test_changes_of_numbers_have_a_price_where_neighbours_differ() -> None:
    found, table = tabled(chain())
    predictor = Predictor(found.program, table, bare())
    quantized, floating = found.uniform("w8a8"), found.uniform("float")
    assert predictor.seconds({}) == 100.0
    assert predictor.seconds(found.plan(floating)) == 100.0
    # Codes at the first operand, reals at the end.
    assert predictor.seconds(found.plan(quantized)) == pytest.approx(100 - 3 * 6 + 0.5 + 0.25)
    middle = (quantized[0], floating[1], quantized[2])
    assert predictor.seconds(found.plan(middle)) == pytest.approx(100 - 2 * 6 + 2 * 0.5 + 2 * 0.25)
    assert predictor.kind == "measured"
    corrected = replace(table, correction=Correction(slope=2.0, intercept=1.0, plans=3))
    assert Predictor(found.program, corrected, bare()).seconds({}) == 201.0


def test_layouts_are_changed_once_where_kernels_disagree() -> None:
    found, table = tabled(chain())
    nodes = {node.name: node for node in found.program.nodes}
    for name, behind in (("one", "r"), ("three", "")):
        op, kernel, numbers, signature = row_key(found.program, nodes[name], None, behind)
        table = table.with_rows([row((f"{LAYOUT_OUT} {op}", kernel, numbers, signature), 1.0)])
    predictor = Predictor(found.program, table, bare())
    floating, quantized = found.uniform("float"), found.uniform("w8a8")
    # In float the last result is laid out anew, which the measured program has in it.
    assert predictor.seconds(found.plan(floating)) == 100.0
    both = (floating[0], quantized[1], floating[2])
    assert predictor.seconds(found.plan(both)) == pytest.approx(100 - 6 + 0.5 + 0.25 + 1.0)


def test_tables_add_up_to_whole_predictions_where_two_units_meet() -> None:
    found, table = tabled(chain())
    predictor = Predictor(found.program, table, bare())
    costs = Latency(found, predictor).measure(found.program, found.units, Context(target()))
    assert costs.reference == 100.0
    assert min(min(entries) for entries in costs.table) >= 0
    draws = random.Random(0)
    for _ in range(8):
        choice = tuple(draws.randrange(len(unit.options)) for unit in found.units)
        added = costs.fixed + sum(entries[option] for entries, option in zip(costs.table, choice, strict=True))
        added += sum(matrix[choice[left]][choice[right]] for (left, right), matrix in costs.pairs.items())
        assert added == pytest.approx(predictor.seconds(found.plan(choice)))


def test_a_choice_gets_quicker_by_single_changes_within_the_limits() -> None:
    found = offered(chain())
    units = found.units
    loss = [[0.0] * len(unit.options) for unit in units]
    size = [[float(option) for option in range(len(unit.options))] for unit in units]

    class Counted(Latency):
        def seconds(self, choice: tuple[int, ...]) -> float:
            return 10.0 - sum(choice)

    device = Roofline(operations={8: 1e12, 32: 1e11}, bandwidth=1e10)
    latency = Counted(found, Predictor(found.program, None, replace(target(), device=device)))
    start = (0,) * len(units)
    assert sum(quicker(Problem(units, loss, {"size": size}, {}), latency, start)) == len(units)
    assert sum(quicker(Problem(units, loss, {"size": size}, {"size": 1.0}), latency, start)) == 1


def test_rows_that_are_missing_are_modelled_and_told() -> None:
    found, table = tabled(chain())
    device = Roofline(operations={8: 1e12, 32: 1e11}, bandwidth=1e10, overhead=1e-6)
    few = replace(table, rows=table.rows[:1])
    predictor = Predictor(found.program, few, replace(target(), device=device))
    assert predictor.seconds(found.plan(found.uniform("w8a8"))) == pytest.approx(100.0, abs=1e-3)
    assert predictor.kind == "modelled"
    assert "are missing there and modelled" in predictor.described()


def test_equal_operators_are_measured_once() -> None:
    found = offered(chain())
    keys = [lone.key for lone in lone_layers(found, target())]
    assert len(set(keys)) == len(keys)
    floats = [lone for lone in lone_layers(found, target()) if lone.assigned is None]
    # The first has an activation behind it; the second and the third are one.
    assert len(floats) == 2


def test_a_lone_layer_keeps_its_weight_and_its_activation() -> None:
    found = offered(chain())
    lone = next(lone for lone in lone_layers(found, target()) if lone.at)
    alone = lone_program(found.program, lone)
    alone.verify()
    assert [alone.op(node) for node in alone.nodes] == ["aten.conv2d", "aten.relu"]
    x = torch.randn(1, 8, 8, 8)
    weight = found.program.param(found.program.param_nodes[0])
    assert torch.equal(alone.run(x), torch.conv2d(x, weight, padding=1).relu())  # pyright: ignore[reportArgumentType]


def test_layers_and_plans_are_timed_on_this_machine() -> None:
    found = offered(chain())
    bench = Bench(target(), runs=5)
    table = bench.layers(found, bench.empty())
    assert {"aten.conv2d", "quantize", "dequantize", "program"} <= {row.op for row in table.rows}
    whole = table.find(*program_key(found.program))
    assert whole is not None
    assert 0 < whole.seconds < 0.1
    assert bench.layers(found, table).rows == table.rows
    corrected, times = bench.corrected(found.program, table, list(bench.anchors(found).values()))
    assert corrected.correction.plans + corrected.correction.dropped == len(times) == 4
    assert all(total > 0 and measured > 0 for total, measured in times)


def test_what_runs_elsewhere_is_not_timed() -> None:
    jetson = load_target("jetson", backends())
    assert isinstance(jetson.backend, Clocks)
    with pytest.raises(UnsupportedError, match="jetson runs elsewhere"):
        Bench(jetson).empty()
    assert jetson.device is not None
    with pytest.raises(UnsupportedError, match="cannot be timed"):
        Bench(load_target("simulation", backends())).empty()
