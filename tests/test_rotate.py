"""Randomised Hadamard rotations on whole models: where they go, that nothing changes, and what they are worth."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qcompiler
from qcompiler import Recipe
from qcompiler.errors import SpecError
from qcompiler.ir.interp import evaluate
from qcompiler.ir.parse import parse_program
from qcompiler.ir.program import Node, Program
from qcompiler.job import backends
from qcompiler.pass_text import parse_passes
from qcompiler.passes.recipes import catalogue
from qcompiler.passes.transform.wanted import readings, wanted
from qcompiler.pipeline import Context, Options, difference, run_passes
from qcompiler.targets import load_target
from tests.torch_models import TinyEncoder, noise, seeded, sqnr_db
from tests.transform_models import KINDS, batches, canonical

W4A4 = "weight=int4 sym channel scale=f32, activation=int4 sym token scale=f32 dynamic"
NVFP4 = "weight=nvfp4, activation=nvfp4 dynamic"
TARGET = load_target("simulation", backends())


def rotated(kind: str, options: str = "guard=false", numbers: str = W4A4) -> tuple[Program, Program, float, list[str]]:
    """A model before and after, the relative difference, and the log."""
    lines: list[str] = []
    before, data = canonical(kind), batches(kind)
    passes = parse_passes(f"assign{{scheme=w4a4, {numbers}}},rotate{{{options}}}", catalogue())
    ctx = Context(TARGET, log=lines.append)
    after, steps = run_passes(before, passes, ctx, data, Options(check="each"), data[0])
    return before, after, steps[-1].error or 0.0, lines


def online(program: Program) -> list[Node]:
    return [node for node in program.nodes if program.op(node) in ("qc.hadamard", "qc.kronecker")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", ["guard=false", "heads=true, worth=0, tries=2"])
def test_every_kind_of_model_keeps_its_function(kind: str, options: str) -> None:
    before, after, error, _ = rotated(kind, options)
    assert error < 1e-12
    assert difference(before, after, batches(kind)[1]) < 1e-12


@pytest.mark.parametrize(
    ("kind", "groups", "nodes"),
    [("llama", 3, 2), ("tied llama", 2, 1), ("vit", 2, 1), ("bert", 1, 3), ("dit", 1, 6), ("mamba", 2, 2)],
)
def test_rotations_are_folded_where_the_graph_allows_and_online_elsewhere(kind: str, groups: int, nodes: int) -> None:
    _, after, _, lines = rotated(kind)
    assert sum(": rotated" in line for line in lines) == groups
    assert len(online(after)) == nodes


def test_switches_choose_the_places() -> None:
    counts = {}
    for options in ("residual=false", "values=false", "online=false"):
        _, after, _, lines = rotated("llama", f"guard=false, {options}")
        counts[options] = (sum(": rotated" in line for line in lines), len(online(after)))
    assert counts == {"residual=false": (2, 7), "values=false": (1, 4), "online=false": (3, 0)}


def test_the_log_says_why_a_rotation_runs_online_and_what_it_costs() -> None:
    *_, lines = rotated("tied llama")
    (line,) = [line for line in lines if " online, " in line]
    assert "12 additions per element" in line
    assert "elementwise product" in line


def test_a_tied_head_is_untied_for_the_gain_that_only_it_takes() -> None:
    _, after, _, _ = rotated("tied llama")
    tables = [after.bind(node)["weight"] for node in after.nodes if after.op(node) == "aten.embedding"]
    heads = [after.bind(node)["weight"] for node in after.outputs]
    assert len(tables) == len(heads) == 1
    assert tables[0] is not heads[0]
    bare = canonical("tied llama")
    assert [bare.bind(node)["weight"] for node in bare.outputs] == [
        bare.bind(node)["weight"] for node in bare.nodes if bare.op(node) == "aten.embedding"
    ]


def test_the_same_seed_gives_the_same_rotation() -> None:
    weights = [
        [after.exact(node) for node in after.param_nodes if after.tensor_type(node).is_float]
        for _, after, _, _ in (rotated("vit"), rotated("vit"), rotated("vit", "guard=false, seed=5"))
    ]
    assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights[0], weights[2], strict=True))


def test_group_formats_may_keep_outliers_in_their_groups() -> None:
    numbers = "weight=int4 sym group=4 scale=f32, activation=int4 sym group=4 scale=f32 dynamic"
    _, after, _, _ = rotated("dit", "guard=false", numbers)
    assert {str(node.args[2]) for node in online(after)} == {"2", "4"}
    _, whole, _, _ = rotated("dit", "guard=false, block=8", numbers)
    assert "8" in {str(node.args[2]) for node in online(whole)}


def test_queries_and_keys_turn_alike_behind_the_rotary_embedding() -> None:
    before, after, error, _ = rotated("llama", "guard=false, residual=false, values=false, online=false, keys=true")
    assert error < 1e-12
    assert difference(before, after, batches("llama")[1]) < 1e-12
    assert len(online(after)) == 4
    attentions = [node for node in after.nodes if "attention" in after.op(node)]
    assert all(set(node.args[:2]) <= set(online(after)) for node in attentions)


LAYER = """program @layer stage=canonical {
  input %x : f32[64,64]
  param %w : f32[16,64] = normal(seed=1)
  param %v : f32[8,64] = normal(seed=2)
  %t = aten.tanh %x : f32[64,64]
  %r = aten.mul.Tensor %x, %t : f32[64,64]
  %y = aten.linear %r, %w, none : f32[64,16]
  %z = aten.linear %r, %v, none : f32[64,8]
  return %y, %z
}
"""


def outliers(strength: float) -> Tensor:
    x = noise(64, 64, seed=3)
    x[:, 5:8] *= strength
    return x


@pytest.mark.parametrize(("worth", "turned"), [(0.3, 1), (0.99, 0)])
def test_measured_error_decides_whether_a_rotation_is_worth_its_node(worth: float, turned: int) -> None:
    passes = parse_passes(f"assign{{scheme=w4a4, {W4A4}}},rotate{{worth={worth}}}", catalogue())
    after, _ = run_passes(parse_program(LAYER), passes, Context(TARGET), [[outliers(30.0)]])
    assert len(online(after)) == turned


def test_one_node_serves_all_layers_that_read_a_value() -> None:
    passes = parse_passes(f"assign{{scheme=w4a4, {W4A4}}},rotate{{guard=false}}", catalogue())
    after, _ = run_passes(parse_program(LAYER), passes, Context(TARGET))
    (node,) = online(after)
    assert sorted(user.name for user in node.users) == ["y", "z"]


def test_layers_that_stay_float_are_left_alone() -> None:
    program = parse_program(LAYER)
    passes = parse_passes(f"assign{{scheme=w4a4, {W4A4}, keep=y}},rotate{{guard=false}}", catalogue())
    after, _ = run_passes(program, passes, Context(TARGET))
    assert [layer.node.name for layer in wanted(after)] == ["z"]
    assert [layer.source.name for layer in readings(after)] == ["r", "r_turned"]


def test_it_pays_in_low_bits_where_there_are_outliers() -> None:
    model = TinyEncoder()
    seeded(model, seed=1)
    with torch.no_grad():
        for norm, layers in ((model.norm1, (model.query, model.key, model.value)), (model.norm2, (model.up,))):
            norm.weight[3] *= 40
            norm.bias[3] *= 40
            for layer in layers:
                layer.weight[:, 3] /= 40
    data = [(noise(4, 6, 16, seed=seed),) for seed in range(4)]
    found = []
    numbers = W4A4.replace("weight=int4", "weight=int8")
    for more in ([], ["rotate"]):
        recipe = Recipe.of("test", [f"assign{{scheme=w4a4, {numbers}}}", *more, "apply_plan", "nearest"])
        artifact = qcompiler.compile(model, "simulation", calibration=data, recipe=recipe)
        result = artifact(*data[0])
        assert isinstance(result, dict)
        found.append(sqnr_db(model(*data[0])["rows"], result["rows"]))
    assert found[1] > found[0] + 2


def test_onnxruntime_runs_what_was_rotated() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 24), nn.Linear(24, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.relu(self.first(x)))

    model, data = seeded(Wide()), [(noise(16, 6, seed=seed),) for seed in range(3)]
    passes = ["assign{scheme=w8a8}", "rotate{guard=false}", "apply_plan", "calibrate", "nearest"]
    artifact = qcompiler.compile(model, calibration=data, recipe=Recipe.of("test", passes))
    assert "qc.hadamard" in str(artifact.program)
    result = artifact(*data[0])
    assert isinstance(result, Tensor)
    assert sqnr_db(model(*data[0]), result) > 30
    meanings = load_target("onnxruntime", backends()).backend.meanings()
    meant = evaluate(artifact.program, list(data[0]), kernels=meanings)[0]
    assert sqnr_db(meant, result) > 60


@pytest.mark.parametrize("options", ["tries=0", "samples=0", "block=3", "block=-4", "seed=-1"])
def test_senseless_options_are_refused(options: str) -> None:
    with pytest.raises(SpecError, match="rotate"):
        parse_passes(f"rotate{{{options}}}", catalogue())
