"""The walk of calibration data through a program, and where programs can be cut."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qcompiler
from qcompiler.analysis.segments import segments
from qcompiler.errors import InputError
from qcompiler.ir import ops
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Node, Program
from qcompiler.job import prepare, run_job
from qcompiler.passes.recipes import Recipe
from qcompiler.walk import Walk


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        x = x + self.second(self.first(x).relu())
        return self.leave(x)


def batches(count: int = 3) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [[torch.randn(4, 6, generator=generator)] for _ in range(count)]


def quantized(scheme: str = "w8a8") -> Program:
    torch.manual_seed(0)
    recipe = Recipe.of("t", [f"assign{{scheme={scheme}}}", "apply_plan", "calibrate{method=minmax}", "weight_ranges"])
    job = prepare(Residual().eval(), "simulation", calibration=[batch[0] for batch in batches()], recipe=recipe)
    return run_job(job)[1]


def linears(program: Program) -> list[Node]:
    return [node for node in program.nodes if program.op(node) == "aten.linear"]


def test_both_streams_see_what_the_interpreter_sees() -> None:
    program, data = quantized(), batches()
    layers = linears(program)
    walk = Walk(program, data, ("float", "quantized"))
    for layer in layers:
        walk.to(layer)
        source = layer.all_input_nodes[0]
        for stream in ("float", "quantized"):
            found = walk.values(source, stream)
            for batch, value in zip(data, found, strict=True):
                seen: dict[str, Tensor] = {}
                evaluate(
                    program,
                    batch,
                    observe=lambda node, tensor, seen=seen: seen.__setitem__(node.name, tensor),
                    bypass_quantization=stream == "float",
                )
                assert torch.equal(value, seen[source.name])


def test_a_settled_weight_changes_the_quantized_stream_only() -> None:
    program, data = quantized(), batches(1)
    first, second = linears(program)[:2]
    weight = program.bind(first)["weight"]
    assert isinstance(weight, Node)
    assert weight.target is ops.dequantize
    walk = Walk(program, data, ("float", "quantized"))
    walk.to(first)
    walk.settle(weight, torch.zeros(8, 6))
    walk.to(second)
    source = second.all_input_nodes[0]
    assert walk.values(source, "quantized")[0].std(0).max() == 0
    assert walk.values(source, "float")[0].std(0).min() > 0


def test_values_nobody_reads_again_are_dropped() -> None:
    program = quantized()
    walk = Walk(program, batches(1), ("float",))
    walk.to(linears(program)[3])
    assert [node for node in walk.live(0, "float") if node.op == "placeholder"] == []


def test_ahead_is_differentiable_and_moves_nothing() -> None:
    program = quantized()
    first, second = linears(program)[:2]
    weight = program.bind(first)["weight"]
    assert isinstance(weight, Node)
    walk = Walk(program, batches(1), ("quantized",))
    walk.to(first)
    soft = torch.randn(8, 6, requires_grad=True)
    before = walk.live(0, "quantized")
    after = walk.ahead(second, before, "quantized", {weight: soft})
    value = next(value for value in after.values() if isinstance(value, Tensor) and value.requires_grad)
    value.square().sum().backward()
    assert soft.grad is not None
    assert walk.live(0, "quantized").keys() == before.keys()


def test_no_batches_is_an_error_with_a_mend() -> None:
    with pytest.raises(InputError, match="no calibration data"):
        Walk(quantized("w4a16g32"), [], ("quantized",))


def test_a_residual_block_is_one_segment() -> None:
    program = quantized("w4a16g32")
    found = segments(program, linears(program))
    assert [len(segment.sites) for segment in found] == [1, 2, 1]
    assert found[-1].stop is None
    assert all(len(segment.results) == 1 for segment in found[:-1])


def test_a_skip_connection_over_everything_does_not_join_all() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(12)])

        def forward(self, x: Tensor) -> Tensor:
            first = x = self.layers[0](x)
            for layer in self.layers[1:]:
                x = layer(x).relu()
            return x + first

    program = qcompiler.trace(Skip().eval(), (torch.randn(2, 6),))
    sites = linears(program)
    assert [len(segment.sites) for segment in segments(program, sites)] == [1] * 12


def test_two_streams_side_by_side_are_still_cut() -> None:
    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left = nn.ModuleList([nn.Linear(6, 6) for _ in range(20)])
            self.right = nn.ModuleList([nn.Linear(6, 6) for _ in range(20)])

        def forward(self, x: Tensor) -> Tensor:
            a, b = x, x
            for left, right in zip(self.left, self.right, strict=True):
                a, b = left(a + b), right(a - b)
            return a + b

    program = qcompiler.trace(Twins().eval(), (torch.randn(2, 6),))
    sizes = [len(segment.sites) for segment in segments(program, linears(program))]
    assert sum(sizes) == 40
    assert max(sizes) <= 16


def test_a_settled_weight_lasts_until_what_is_made_of_it_was_read() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)).eval()
    recipe = Recipe.of("t", ["assign{scheme=w4a16}", "apply_plan"])
    program = run_job(prepare(model, "simulation", inputs=(torch.randn(6, 6),), recipe=recipe))[1]
    first, second = linears(program)
    weight, source = program.bind(first)["weight"], second.all_input_nodes[0]
    assert isinstance(weight, Node)
    turned = program.before(first).call("aten.flip", weight, [0])
    added = program.before(second).call("aten.add.Tensor", source, turned)
    program.redirect(second, source, added)
    walk = Walk(program, [[torch.randn(6, 6)]], ("quantized",))
    walk.to(first)
    walk.settle(weight, torch.full((6, 6), 2.0))
    walk.to(added)
    assert torch.equal(walk.values(turned, "quantized")[0], torch.full((6, 6), 2.0))
