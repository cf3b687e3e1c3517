"""Weights beyond what one file holds, read only when they are written; and older operator sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qcompiler
from qcompiler.backends.onnx.kernels import kernel_emitters
from qcompiler.backends.onnx.session import open_session
from qcompiler.backends.onnx.settings import settings_of
from qcompiler.backends.onnx.writer import save_model, write_model
from qcompiler.errors import UnsupportedError
from qcompiler.ir.fill import Fill
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Builder, Node, Program
from qcompiler.ir.types import TensorType
from qcompiler.job import backends, prepare, run_job
from qcompiler.passes.recipes import Recipe
from qcompiler.targets import load_target
from tests.onnx_tools import F32, build, kinds, run_onnx, single, typed

PAGE = 1 << 16


def filled(layers: int, width: int) -> Program:
    """Linear layers whose weights are recipes, not tensors."""

    def body(b: Builder, x: Node) -> Node:
        for at in range(layers):
            weight = b.param(f"w{at}", Fill("normal", seed=at), TensorType(F32, (width, width)))
            x = b.call("aten.linear", x, weight)
        return x

    return build(body, typed("s0", width))


def test_weights_beyond_a_size_lie_in_one_file_beside(tmp_path: Path) -> None:
    program, x = filled(3, 30), torch.randn(2, 30)
    save_model(write_model(program), tmp_path / "model.onnx", inline_bytes=3 * 3600 - 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert (tmp_path / "model.onnx.data").stat().st_size == 3 * 3600
    session = open_session(tmp_path / "model.onnx")
    torch.testing.assert_close(session.run({"x0": x})[0], evaluate(program, [x])[0])


def test_weights_within_the_size_stay_inside(tmp_path: Path) -> None:
    save_model(write_model(filled(3, 30)), tmp_path / "model.onnx", inline_bytes=3 * 3600)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_large_weights_begin_at_pages(tmp_path: Path) -> None:
    save_model(write_model(filled(2, 520)), tmp_path / "model.onnx", inline_bytes=0)
    model = onnx.load(str(tmp_path / "model.onnx"), load_external_data=False)
    found = [{entry.key: entry.value for entry in item.external_data} for item in model.graph.initializer]
    assert [int(entries["offset"]) % PAGE for entries in found] == [0, 0]


def test_weights_are_made_when_they_are_written_and_not_kept() -> None:
    for value in write_model(filled(4, 16)).graph.initializers.values():
        tensor = value.const_value
        assert isinstance(tensor, ir.LazyTensor)
        assert not np.shares_memory(tensor.numpy(), tensor.numpy())


def test_the_setting_of_a_target_reaches_the_file() -> None:
    target = load_target("onnxruntime", backends()).with_settings({"inline_bytes": 100})
    x = torch.randn(4, 8)
    recipe = Recipe.of("test", ["assign{scheme=w8a8}", "apply_plan", "calibrate", "nearest"])
    artifact = qcompiler.compile(nn.Linear(8, 40).eval(), target, calibration=[(x,)], recipe=recipe)
    assert "model.onnx.data" in artifact.manifest.files
    assert isinstance(artifact(x), Tensor)


# -- older operator sets -----------------------------------------------------------------------------------------

OPSETS = [13, 17, 19, 21]


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(x))
        y = F.max_pool2d(F.relu(y + F.hardswish(self.second(y))), 2)
        return self.head(y.mean((2, 3)))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cut, self.norm = nn.Conv2d(3, 16, 4, stride=4), nn.LayerNorm(16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu")
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.block(self.cut(x).flatten(2).transpose(1, 2))).mean(1))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(30, 32), nn.RMSNorm(32)
        self.query, self.key, self.value = nn.Linear(32, 32), nn.Linear(32, 16), nn.Linear(32, 16)
        self.out, self.head = nn.Linear(32, 32), nn.Linear(32, 30)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        y, (rows, length) = self.norm(x), tokens.shape
        heads = [layer(y).view(rows, length, -1, 8).transpose(1, 2) for layer in (self.query, self.key, self.value)]
        mixed = F.scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=True)
        return self.head(self.norm(x + F.silu(self.out(mixed.transpose(1, 2).reshape(rows, length, 32)))))


MODELS = {
    "convolutions": (Convolutions, torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))),
    "transformer": (Transformer, torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))),
    "decoder": (Decoder, torch.randint(0, 30, (2, 7), generator=torch.Generator().manual_seed(0))),
}


@pytest.mark.parametrize("scheme", ["w8a8", "w4a16g32"])
@pytest.mark.parametrize("name", MODELS)
def test_older_operator_sets_say_the_same(name: str, scheme: str) -> None:
    torch.manual_seed(0)
    kind, x = MODELS[name]
    recipe = Recipe.of("test", [f"assign{{scheme={scheme}}}", "apply_plan", "calibrate", "nearest"])
    job = prepare(kind().eval(), calibration=[(x,)], recipe=recipe)
    quantized = run_job(job)[1]
    results = []
    for opset in (23, *OPSETS):
        target = job.target.with_settings({"opset": opset})
        lowered = target.backend.lower(quantized, target)
        model = write_model(lowered, opset=opset, kernel_emitters=kernel_emitters(settings_of(target)))
        assert model.opset_imports[""] == opset
        results += run(model, x)
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-5, atol=1e-5)


def run(model: ir.Model, x: Tensor) -> list[Tensor]:
    session = open_session(ir.to_proto(model).SerializeToString())
    return session.run(dict(zip(session.inputs, [x], strict=True)))


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_is_written_out_before_there_was_an_operator(approximate: str) -> None:
    program, x = build(single("aten.gelu", approximate=approximate), typed(3, 5)), torch.randn(3, 5)
    model = write_model(program, opset=13)
    assert "Gelu" not in kinds(model)
    torch.testing.assert_close(run_onnx(model, [x])[0], evaluate(program, [x])[0])


def test_what_an_operator_set_lacks_is_refused_by_name() -> None:
    program = build(single("aten.triu", 0), typed(3, 3))
    with pytest.raises(UnsupportedError, match="Trilu cannot be written in operator set 13") as caught:
        write_model(program, opset=13)
    assert "aten.triu" in str(caught.value)
    assert kinds(write_model(program, opset=14)) == ["Trilu"]
