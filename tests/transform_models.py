"""Tiny models, one of each kind of symmetry, with random weights in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qcompiler.data import Inputs
from qcompiler.frontends.torch_trace import Dynamic, trace_module
from qcompiler.ir.program import Program
from qcompiler.job import backends
from qcompiler.passes.canonical import CANONICAL
from qcompiler.pipeline import Context, run_passes
from qcompiler.targets import load_target
from tests.torch_models import noise, seeded

WIDTH, HEADS, TOKENS = 16, 4, 5


class RmsNorm(nn.Module):
    """Root-mean-square norm as language models write it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def rotary(x: Tensor) -> Tensor:
    """Rotary embedding of [.., tokens, size]."""
    size = x.shape[-1]
    angle = torch.arange(x.shape[-2])[:, None] / 10 ** (torch.arange(size // 2) / size)
    cos, sin = (table.repeat(1, 2).to(x.dtype) for table in (angle.cos(), angle.sin()))
    turned = torch.cat((-x[..., size // 2 :], x[..., : size // 2]), dim=-1)
    return x * cos + turned * sin


def heads(x: Tensor, count: int) -> Tensor:
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


class LlamaLayer(nn.Module):
    """Grouped-query attention with rotary embedding, gated feed-forward, root-mean-square norms."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = RmsNorm(WIDTH), RmsNorm(WIDTH)
        self.query = nn.Linear(WIDTH, WIDTH, bias=False)
        self.key, self.value = (nn.Linear(WIDTH, WIDTH // 2, bias=False) for _ in range(2))
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.gate, self.up = (nn.Linear(WIDTH, 24, bias=False) for _ in range(2))
        self.down = nn.Linear(24, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k = rotary(heads(self.query(y), HEADS)), rotary(heads(self.key(y), HEADS // 2))
        k, v = (part.repeat_interleave(2, dim=1) for part in (k, heads(self.value(y), HEADS // 2)))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
    """Layers between an embedding and a head."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, WIDTH)
        self.layers = nn.ModuleList(LlamaLayer() for _ in range(layers))
        self.norm, self.head = RmsNorm(WIDTH), nn.Linear(WIDTH, 11, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


class TiedLlama(Llama):
    """One layer; the head is the embedding."""

    def __init__(self) -> None:
        super().__init__(layers=1)
        self.head.weight = self.embedding.weight


class VitLayer(nn.Module):
    """Norms first, one projection for query, key and value, scaled branches, GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)
        self.scale = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*qkv.unbind(0)).transpose(1, 2).flatten(2)
        x = x + self.scale * self.out(mixed)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Vit(nn.Module):
    """Patches by convolution, a class token, learned positions."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.zeros(1, 5, WIDTH))
        self.layers = nn.ModuleList((VitLayer(),))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 7)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), dim=1) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)[:, 0])


class Bert(nn.Module):
    """Norms behind the residual sums, over tokens and positions; attention in products that no pass can name."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(11, WIDTH), nn.Embedding(TOKENS, WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3))
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norms[0](self.embedding(ids) + self.positions(torch.arange(ids.shape[1])))
        q, k, v = (heads(part(x), HEADS) for part in (self.query, self.key, self.value))
        shares = torch.softmax(q @ k.transpose(-1, -2) / 2.0, dim=-1)
        mixed = (shares.where(shares > 0.01, 0.0) @ v).transpose(1, 2).flatten(2)
        x = self.norms[1](x + self.out(mixed))
        return self.norms[2](x + self.down(F.gelu(self.up(x))))


class DepthwiseCnn(nn.Module):
    """Pointwise and depthwise convolutions with batch norms, ReLU and a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.wide, self.narrow = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.norms = nn.ModuleList((nn.BatchNorm2d(8), nn.BatchNorm2d(16), nn.BatchNorm2d(8)))
        self.head = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.norms[0](self.stem(image)))
        y = F.relu(self.depthwise(F.relu(self.norms[1](self.wide(x)))))
        x = F.relu(x + self.norms[2](self.narrow(y)))
        return self.head(x.mean((2, 3)))


class Dit(nn.Module):
    """A diffusion transformer block: shift, scale and gate of every norm come from a condition."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 6)
        self.modulation = nn.Linear(8, 6 * WIDTH)
        self.norm1, self.norm2 = (nn.LayerNorm(WIDTH, elementwise_affine=False) for _ in range(2))
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x = self.first(x)
        parts = self.modulation(F.silu(condition))[:, None].chunk(6, dim=-1)
        y = self.norm1(x) * (1 + parts[0]) + parts[1]
        q, k, v = (heads(part, HEADS) for part in self.qkv(y).chunk(3, dim=-1))
        x = x + parts[2] * self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        y = self.norm2(x) * (1 + parts[3]) + parts[4]
        x = x + parts[5] * self.down(F.gelu(self.up(y), approximate="tanh"))
        return self.last(x)


class UNet(nn.Module):
    """Group norms and SiLU, one level down and up, the skipped values concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm1, self.norm2 = nn.GroupNorm(2, 8), nn.GroupNorm(2, 24)
        self.down, self.up = nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Conv2d(24, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.first(image)
        y = self.down(F.silu(self.norm1(x)))
        y = F.interpolate(self.up(F.relu(y)), scale_factor=2.0)
        return self.last(F.silu(self.norm2(torch.cat((y, x), dim=1))))


class Mamba(nn.Module):
    """One selective state-space mixer over three steps, unrolled."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.states, self.rank = 12, 4, 4
        self.embedding, self.norm = nn.Embedding(11, WIDTH), RmsNorm(WIDTH)
        self.into = nn.Linear(WIDTH, 2 * self.inner, bias=False)
        self.mix = nn.Conv1d(self.inner, self.inner, 3, padding=2, groups=self.inner)
        self.select = nn.Linear(self.inner, self.rank + 2 * self.states, bias=False)
        self.step = nn.Linear(self.rank, self.inner)
        self.decay = nn.Parameter(torch.zeros(self.inner, self.states))
        self.skip = nn.Parameter(torch.ones(self.inner))
        self.out, self.head = nn.Linear(self.inner, WIDTH, bias=False), nn.Linear(WIDTH, 11, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        stream = self.embedding(ids)
        x, z = self.into(self.norm(stream)).chunk(2, dim=-1)
        u = F.silu(self.mix(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        low, b, c = self.select(u).split((self.rank, self.states, self.states), dim=-1)
        delta = F.softplus(self.step(low))
        state = torch.zeros(u.shape[0], self.inner, self.states, dtype=u.dtype)
        rows: list[Tensor] = []
        for t in range(3):
            change = delta[:, t, :, None] * -torch.exp(self.decay)
            state = torch.exp(change) * state + (delta[:, t] * u[:, t])[..., None] * b[:, t, None, :]
            rows.append((state @ c[:, t, :, None]).squeeze(-1) + self.skip * u[:, t])
        stream = stream + self.out(torch.stack(rows, dim=1) * F.silu(z))
        return self.head(self.norm(stream))


@dataclass(frozen=True)
class Kind:
    """A model and its inputs."""

    make: Callable[[], nn.Module]
    inputs: Callable[[int], list[Tensor]]
    dynamic: Dynamic = "none"


def ids(seed: int, length: int = TOKENS) -> list[Tensor]:
    return [torch.randint(0, 11, (2, length), generator=torch.Generator().manual_seed(seed))]


def image(seed: int) -> list[Tensor]:
    return [noise(2, 3, 8, 8, seed=seed).double()]


KINDS: Mapping[str, Kind] = {
    "llama": Kind(Llama, ids),
    "tied llama": Kind(TiedLlama, ids, "auto"),
    "vit": Kind(Vit, image),
    "bert": Kind(Bert, ids, "auto"),
    "depthwise cnn": Kind(DepthwiseCnn, image),
    "dit": Kind(Dit, lambda seed: [noise(2, TOKENS, 6, seed=seed).double(), noise(2, 8, seed=seed + 1).double()]),
    "unet": Kind(UNet, image),
    "mamba": Kind(Mamba, lambda seed: ids(seed, 3)),
}


@lru_cache
def canonical(kind: str) -> Program:
    """The canonical program of a kind of model; not to be edited."""
    entry = KINDS[kind]
    model = seeded(entry.make()).double()
    program = trace_module(model, Inputs(*entry.inputs(0)), entry.dynamic)
    return run_passes(program, CANONICAL, Context(load_target("simulation", backends())))[0]


def batches(kind: str, count: int = 2) -> list[list[Tensor]]:
    """Calibration data of a kind of model."""
    return [KINDS[kind].inputs(seed) for seed in range(count)]
