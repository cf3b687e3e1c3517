"""The three small beds on which claims are checked: a linear layer, two layers in a row, a tiny language model.

T1 `linear_layer`: correlated inputs of very different sizes. T2 `second_layer`: a layer behind a quantized one, so that
what it reads differs from what the float model would give it. T3 `tiny_model`: a byte-level language model of the
Python standard library, trained once (some minutes) and then read from `scratch/`, which git ignores.
"""

from __future__ import annotations

import math
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.common import ROOT
from qcompiler.ir.interp import run
from qcompiler.ir.program import Program
from qcompiler.job import prepare, run_job
from qcompiler.passes.recipes import Recipe
from qcompiler.passes.solve.expression import Codes
from qcompiler.passes.solve.layers import Geometry, Inputs, Layer
from qcompiler.passes.solve.second_order import Switches, second_order
from qcompiler.pipeline import Pass
from qcompiler.spec import QuantSpec, choose_qparams, quantize
from qcompiler.stats import Stream

CONTEXT = 64
STEPS = 2500
PLAIN = Switches(act_order=False, guard=False)
"""GPTQ as first published."""


@dataclass(frozen=True)
class LinearBed:
    """A weight and what it multiplies.

    Args:
        weight: [rows, columns].
        train: [tokens, columns], what a solver may see.
        held: [tokens, columns], fresh tokens of the same distribution.
        exact: [tokens, columns], what the float model would give for `train`; the same where nothing precedes.
    """

    weight: Tensor
    train: Tensor
    held: Tensor
    exact: Tensor

    def layer(self, spec: QuantSpec, seed: int = 0) -> Layer:
        """The bed as the problem a layer solver gets."""
        return layer_problem(self.weight, spec, self.train, self.exact, seed)

    def error(self, solved: Tensor, held: bool = False) -> float:
        """`|(solved - weight) x|^2 / |weight x|^2`."""
        inputs = self.held if held else self.train
        return relative_error(inputs @ solved.T, inputs @ self.weight.T)

    def asymmetric_error(self, solved: Tensor) -> float:
        """`|solved x - weight x~|^2 / |weight x~|^2`."""
        return relative_error(self.train @ solved.T, self.exact @ self.weight.T)


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """`|found - wanted|^2 / |wanted|^2`."""
    return float((found - wanted).double().square().sum() / wanted.double().square().sum())


def layer_problem(weight: Tensor, spec: QuantSpec, train: Tensor, exact: Tensor | None = None, seed: int = 0) -> Layer:
    """A linear layer as the problem a layer solver gets; `exact` is the float stream, `train` where None."""
    streams: dict[Stream, Tensor] = {"quantized": train, "float": train if exact is None else exact}
    return Layer("bed", weight, 1, spec, Inputs(lambda stream: [streams[stream]], Geometry()), None, seed)


def per_row(bits: int) -> QuantSpec:
    """Asymmetric integers with one scale per row."""
    return QuantSpec.parse(f"uint{bits} asym block=(1,-1) scale=f32")


def nearest_value(layer: Layer) -> Tensor:
    """A layer's weight on the nearest grid values, ranges by the extremes."""
    scale, zero_point = choose_qparams(layer.weight, layer.spec)
    codes = quantize(layer.weight, scale, zero_point, layer.spec)
    return Codes(layer.spec, codes, scale, zero_point).value()


def two_layer_share(spec: QuantSpec, switches: Switches, seeds: int = 3) -> float:
    """The error of a method to the float stream on T2, as a share of `PLAIN`, which solves layer 1; mean over seeds."""
    total = 0.0
    for seed in range(seeds):
        bed = second_layer(seed, lambda first: second_order(PLAIN)(first.layer(spec)).value())
        layer = bed.layer(spec)
        found, plain = second_order(switches)(layer), second_order(PLAIN)(layer)
        total += bed.asymmetric_error(found.value()) / bed.asymmetric_error(plain.value())
    return total / seeds


def linear_layer(
    seed: int, rows: int = 64, columns: int = 128, tokens: int = 512, scales: Tensor | None = None
) -> LinearBed:
    """T1. `x = diag(s) (0.9 F z / sqrt(r) + 0.436 e)`, r = columns / 8, s_j = exp(0.7 normal); `w_ij` normal / sqrt(n)
    times exp(0.3 normal) per column. `scales` replaces s.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    rank = columns // 8
    factors, sizes = normal(columns, rank), torch.exp(0.7 * normal(columns)) if scales is None else scales

    def draw() -> Tensor:
        mixed = 0.9 * normal(tokens, rank) @ factors.T / math.sqrt(rank) + 0.436 * normal(tokens, columns)
        return mixed * sizes

    weight = normal(rows, columns) / math.sqrt(columns) * torch.exp(0.3 * normal(columns))
    train, held = draw(), draw()
    return LinearBed(weight, train, held, train)


def second_layer(seed: int, solve: Callable[[LinearBed], Tensor], activation_bits: int = 0) -> LinearBed:
    """T2. Layer 1 is T1 with 128 rows, quantized by `solve`; layer 2 is random, 64 x 128, and reads relu of layer 1,
    rounded per token to `activation_bits` when positive.
    """
    first = linear_layer(seed, rows=128)
    solved = solve(first)
    generator = torch.Generator().manual_seed(seed + 1000)
    weight = torch.randn(64, 128, generator=generator) / math.sqrt(128)

    def after(inputs: Tensor, matrix: Tensor) -> Tensor:
        return functional.relu(inputs @ matrix.T)

    def rounded(x: Tensor) -> Tensor:
        if not activation_bits:
            return x
        spec = QuantSpec.parse(f"uint{activation_bits} asym block=(1,-1) scale=f32")
        scale, zero_point = choose_qparams(x, spec)
        return Codes(spec, quantize(x, scale, zero_point, spec), scale, zero_point).value()

    train, held = rounded(after(first.train, solved)), rounded(after(first.held, solved))
    return LinearBed(weight, train, held, after(first.train, first.weight))


class RootMeanSquareNorm(nn.Module):
    """x / sqrt(mean(x^2)) times a learned factor."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[-1],), self.weight, 1e-5)


class Block(nn.Module):
    """Causal attention and a gated MLP, each behind a norm and beside a skip connection."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = RootMeanSquareNorm(width), RootMeanSquareNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        heads = [part(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v)]
        mixed = functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        y = self.norm2(x)
        return x + self.down(functional.silu(self.gate(y)) * self.up(y))


class TinyModel(nn.Module):
    """T3: three blocks of width 96 over bytes; [batch, time <= 64] int64 to logits [batch, time, 256]."""

    def __init__(self, width: int = 96, blocks: int = 3) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(256, width), nn.Parameter(torch.zeros(CONTEXT, width))
        self.blocks = nn.ModuleList(Block(width, 4, 256) for _ in range(blocks))
        self.norm, self.head = RootMeanSquareNorm(width), nn.Linear(width, 256, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids) + self.position[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


@cache
def text() -> tuple[Tensor, Tensor]:
    """Bytes of the standard library's modules: what to train on, and the last tenth, which is held out."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    data = torch.frombuffer(bytearray(b"".join(path.read_bytes() for path in files)), dtype=torch.uint8).long()
    cut = len(data) * 9 // 10
    return data[:cut], data[cut:]


@cache
def tiny_model() -> TinyModel:
    """T3, trained; the first call trains it and keeps it in `scratch/`."""
    path = ROOT / "scratch" / "tiny_model.safetensors"
    torch.manual_seed(0)
    model = TinyModel()
    if not path.is_file():
        _train(model, text()[0])
        path.parent.mkdir(exist_ok=True)
        save_file(model.state_dict(), path)
    model.load_state_dict(load_file(path))
    return model.eval()


def _train(model: TinyModel, data: Tensor) -> None:
    for parameter in model.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.05)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS, 1e-4)
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        windows = _windows(data, torch.randint(len(data) - CONTEXT - 1, (24,), generator=generator))
        loss = functional.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def _windows(data: Tensor, starts: Tensor) -> Tensor:
    return data[starts[:, None] + torch.arange(CONTEXT + 1)]


def calibration_tokens(tokens: int = 8192, seed: int = 0, batch: int = 16) -> list[Tensor]:
    """Windows of the training text in batches [16, 64]."""
    data = text()[0]
    generator = torch.Generator().manual_seed(seed + 100)
    starts = torch.randint(len(data) - CONTEXT - 1, (tokens // CONTEXT,), generator=generator)
    return list(_windows(data, starts)[:, :-1].split(batch))


def held_out_loss(call: Callable[[Tensor], object], windows: int = 512) -> float:
    """Mean next-byte cross-entropy in nats over windows spread evenly over the held-out text."""
    data = text()[1]
    picked = _windows(data, torch.linspace(0, len(data) - CONTEXT - 2, windows).long())
    total = 0.0
    with torch.no_grad():
        for part in picked.split(64):
            logits = call(part[:, :-1])
            assert isinstance(logits, Tensor)
            total += float(functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum"))
    return total / (windows * CONTEXT)


def quantized(
    model: nn.Module, samples: Sequence[Tensor], scheme: str, passes: Sequence[str | Pass], keep: str = ""
) -> Program:
    """A model at stage quantized: assigned, planned, then `passes`; run it with `qcompiler.ir.interp.run`."""
    kept = f", keep={keep}" if keep else ""
    recipe = Recipe.of("claim", [f"assign{{scheme={scheme}{kept}}}", "apply_plan", *passes])
    job = prepare(model, "simulation", calibration=[(sample,) for sample in samples], recipe=recipe)
    return run_job(job)[1]


def tiny_loss(scheme: str, passes: Sequence[str | Pass], tokens: int = 8192, windows: int = 512) -> float:
    """Held-out loss of T3 with all linears of its blocks quantized; embedding and head stay float."""
    program = quantized(tiny_model(), calibration_tokens(tokens), scheme, passes, "embedding|head")
    return held_out_loss(lambda ids: run(program, ids), windows)


def bed_errors(bed: LinearBed, scheme: str, passes: Sequence[str | Pass]) -> tuple[float, float]:
    """T1 solved by passes: relative error on the tokens they saw and on fresh ones; `quantized` on a lone linear."""
    layer = nn.Linear(bed.weight.shape[1], bed.weight.shape[0], bias=False).eval()
    layer.weight.data.copy_(bed.weight)
    program = quantized(layer, list(bed.train.split(64)), scheme, passes)
    with torch.no_grad():
        found = [(run(program, x), x @ bed.weight.T) for x in (bed.train, bed.held)]
    train, held = (relative_error(value, wanted) for value, wanted in found if isinstance(value, Tensor))
    return train, held


def mean_errors(scheme: str, passes: Sequence[str | Pass], seeds: int = 3, rows: int = 32, columns: int = 64) -> Tensor:
    """`bed_errors` over seeds, the geometric mean: [seen, fresh]."""
    found = [bed_errors(linear_layer(seed, rows, columns), scheme, passes) for seed in range(seeds)]
    return torch.tensor(found).log().mean(0).exp()


def verdict(method: str, holds: bool, figures: str) -> int:
    """Prints one line and gives the exit code."""
    print(f"{method}: {'holds' if holds else 'does not hold'}: {figures}")
    return 0 if holds else 1
