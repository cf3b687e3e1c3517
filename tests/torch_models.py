"""What the tests of whole compilations share: tiny torch models, seeded data, and a measure of likeness."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qcompiler.frontends.torch_export import quiet


class TinyCnn(nn.Module):
    """Stem with batch norm, one residual block, global pooling, head: 3x8x8 images to 5 scores."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(image)))
        x = F.relu(x + self.body(x))
        return self.head(x.mean((2, 3)))


class TinyEncoder(nn.Module):
    """One transformer block over rows of 16 features; a dict of all rows and of scores of their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.out = nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        x = self.norm1(rows)
        q, k, v = (part(x).unflatten(-1, (2, 8)).transpose(1, 2) for part in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        rows = rows + self.out(mixed)
        rows = rows + self.down(F.gelu(self.up(self.norm2(rows))))
        return {"rows": rows, "scores": self.head(rows.mean(1))}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seeded(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in eval mode with weights of its own seed, and batch norms that do something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if not value.is_floating_point():
                continue
            spread = 0.2 if value.dim() < 2 else 1 / math.sqrt(value[0].numel())
            offset = 1.0 if name.endswith("running_var") or (value.dim() < 2 and "norm" in name) else 0.0
            value.copy_(offset + spread * torch.randn(value.shape, generator=generator).clamp(-2, 2))
    return model.eval()


def export_onnx(model: nn.Module, example: Tensor, path: Path) -> Path:
    with quiet():
        exported = torch.onnx.export(
            model, (example,), dynamo=True, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), verbose=False
        )
    assert exported is not None
    onnx.save(exported.model_proto, str(path))
    return path


def sqnr_db(wanted: Tensor, got: Tensor) -> float:
    wanted, got = wanted.detach().double(), got.detach().double()
    return 10 * math.log10(float(wanted.square().sum() / (wanted - got).square().sum().clamp_min(1e-30)))
