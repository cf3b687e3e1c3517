"""Free sizes stay free: from torch, through the passes, to named dimensions of the ONNX file, float and quantized."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qcompiler
from qcompiler.backends.onnx.writer import write_model
from qcompiler.job import backends
from qcompiler.measure import output_sqnr_db
from qcompiler.passes.canonical import CANONICAL
from qcompiler.pipeline import Context, run_passes
from qcompiler.targets import load_target
from tests.onnx_tools import run_onnx
from tests.torch_models import TinyCnn, TinyEncoder, noise, seeded

CONTEXT = Context(load_target("onnxruntime", backends()))
Inputs = dict[str, Tensor]


class Decoder(nn.Module):
    """Tokens to scores: rotary positions, a causal mask, two query heads for one key head, tied embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(32, 16)
        self.norm = nn.RMSNorm(16, eps=1e-6)
        self.query, self.out = nn.Linear(16, 16), nn.Linear(16, 16)
        self.key, self.value = nn.Linear(16, 8), nn.Linear(16, 8)

    def forward(self, ids: Tensor) -> Tensor:
        rows = self.table(ids)
        x = self.norm(rows)
        angles = torch.arange(ids.shape[1])[:, None] * torch.tensor([1.0, 0.1, 0.01, 0.001])
        cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
        q, k, v = (part(x).unflatten(-1, (-1, 8)).transpose(1, 2) for part in (self.query, self.key, self.value))
        q, k = (t * cos + torch.cat([-t[..., 4:], t[..., :4]], -1) * sin for t in (q, k))
        mixed = F.scaled_dot_product_attention(q, k.expand_as(q), v.expand_as(q), is_causal=True)
        rows = rows + self.out(mixed.transpose(1, 2).flatten(2))
        return F.linear(rows, self.table.weight)


class Masked(nn.Module):
    """Rows with a padding mask, averaged over what is there."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, rows: Tensor, mask: Tensor) -> Tensor:
        weights = mask.to(rows.dtype).unsqueeze(-1)
        rows = rows + self.down(F.gelu(self.up(rows)))
        return (rows * weights).sum(1) / weights.sum(1)


class Upscaler(nn.Module):
    """Images to images of twice the size."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return F.pixel_shuffle(self.last(F.relu(self.first(image))), 2) + F.interpolate(image, scale_factor=2.0)


@dataclass(frozen=True)
class Case:
    """A model, its inputs at a batch and a length, and which axes of its inputs and results must stay free."""

    model: nn.Module
    inputs: Callable[[int, int], Inputs]
    free: dict[str, tuple[int, ...]]
    result: tuple[int, ...]


def _tokens(batch: int, length: int) -> Inputs:
    return {"ids": torch.randint(0, 32, (batch, length), generator=torch.Generator().manual_seed(0))}


def _masked(batch: int, length: int) -> Inputs:
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[0, -1] = 0
    return {"rows": noise(batch, length, 8), "mask": mask}


CASES = {
    "decoder": Case(seeded(Decoder()), _tokens, {"ids": (0, 1)}, (0, 1)),
    "encoder": Case(seeded(TinyEncoder()), lambda b, n: {"rows": noise(b, n, 16)}, {"rows": (0, 1)}, (0, 1)),
    "masked rows": Case(seeded(Masked()), _masked, {"rows": (0, 1), "mask": (0, 1)}, (0,)),
    "upscaler": Case(
        seeded(Upscaler()), lambda b, n: {"image": noise(b, 3, n, n + 2)}, {"image": (0, 2, 3)}, (0, 2, 3)
    ),
    "classifier": Case(seeded(TinyCnn()), lambda b, n: {"image": noise(b, 3, n, n)}, {"image": (0, 2, 3)}, (0,)),
}


def free_axes(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(axis for axis, dim in enumerate(value.type.tensor_type.shape.dim) if not dim.HasField("dim_value"))


def eager(case: Case, inputs: Inputs) -> list[Tensor]:
    with torch.no_grad():
        result = case.model(**inputs)
    return list(result.values()) if isinstance(result, dict) else [result]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_float_file_runs_at_other_sizes(case: Case) -> None:
    program, _ = run_passes(qcompiler.trace(case.model, case.inputs(2, 6)), CANONICAL, CONTEXT)
    model = write_model(program, opset=23)
    graph = ir.to_proto(model).graph
    assert {value.name: free_axes(value) for value in graph.input} == case.free
    assert free_axes(graph.output[0]) == case.result
    assert all(dim.dim_param for value in graph.input for dim in value.type.tensor_type.shape.dim if not dim.dim_value)
    for batch, length in ((1, 9), (5, 4)):
        inputs = case.inputs(batch, length)
        found = run_onnx(model, [inputs[name] for name in program.input_names])
        for ours, theirs in zip(found, eager(case, inputs), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_quantized_file_runs_at_other_sizes(case: Case, tmp_path: Path) -> None:
    samples = [case.inputs(2, 6) for _ in range(2)]
    artifact = qcompiler.compile(case.model, calibration=samples, recipe="w8a8", output=tmp_path / "out")
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    assert {value.name: free_axes(value) for value in graph.input} == case.free
    for batch, length in ((1, 9), (5, 4)):
        inputs = case.inputs(batch, length)
        found = artifact(**inputs)
        first = next(iter(found.values())) if isinstance(found, dict) else found
        assert isinstance(first, Tensor)
        assert output_sqnr_db([eager(case, inputs)[0]], [first]) > 15
