"""Norm re-estimation and bias tuning: two convolutions with folded norms at 3 bits get their moments back to 2 %, codes
bit for bit; tuning biases brings the result closer on fresh data.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmarks.claims.testbeds import quantized, relative_error, verdict
from qcompiler.ir.interp import run
from qcompiler.ir.program import Program
from qcompiler.passes.solve.learned.norm_reestimation import Moments
from qcompiler.stats import Request, collect


def network() -> nn.Module:
    """Two convolutions with norms, and a head."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )
    for _ in range(20):
        model(images(1)[0])
    return model.eval()


def images(count: int, seed: int = 0) -> list[Tensor]:
    """Smooth noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = [torch.randn(32, 3, 4, 4, generator=generator) for _ in range(count)]
    return [nn.functional.interpolate(part, scale_factor=4, mode="bilinear") for part in coarse]


def worst(program: Program, wanted: Program, data: Sequence[Tensor]) -> float:
    """Largest error of the mean or the spread of a channel behind a convolution, in units of its spread."""
    names = [node.name for node in wanted.nodes if wanted.op(node) == "aten.conv2d"]
    requests = [Request(name, Moments(1)) for name in names]
    batches = [[x] for x in data]
    exact, found = collect(wanted, requests, batches), collect(program, requests, batches)
    gaps = []
    for request in requests:
        (mean, square), (other, other_square) = exact.answers[request], found.answers[request]
        spread, other_spread = ((b - a.square()).sqrt() for a, b in ((mean, square), (other, other_square)))
        gaps += [((mean - other).abs() / spread).max(), ((spread - other_spread).abs() / spread).max()]
    return float(torch.stack(gaps).max())


def main() -> int:
    """Moments before and after, codes, and the error with tuned biases."""
    model, data, fresh = network(), images(8), images(4, 1)
    plain, mended, tuned, exact = (
        quantized(model, data, "w3a16_sym", passes)
        for passes in (
            ["nearest"],
            ["nearest", "norm_reestimation"],
            ["nearest", "norm_reestimation", "bias_tuning"],
            [],
        )
    )
    before, after = worst(plain, exact, data), worst(mended, exact, data)
    codes = [name for name in plain.params if name.endswith("weight")]
    same = all(torch.equal(tensor(plain, name), tensor(mended, name)) for name in codes)
    x = torch.cat(fresh)
    with torch.no_grad():
        gaps = [relative_error(result(program, x), model(x)) for program in (plain, mended, tuned)]
    figures = (
        f"moments off by {before:.1%} before, {after:.2%} after, wanted 2 %; codes {'kept' if same else 'changed'}; "
        f"error on fresh data {gaps[0]:.4f}, mended {gaps[1]:.4f}, with tuned biases {gaps[2]:.4f}"
    )
    return verdict("norm_reestimation", after <= 0.02 and same and gaps[1] < gaps[0] and gaps[2] < gaps[0], figures)


def tensor(program: Program, name: str) -> Tensor:
    """A parameter."""
    value = program.params[name]
    return value if isinstance(value, Tensor) else torch.zeros(())


def result(program: Program, x: Tensor) -> Tensor:
    """The program's result."""
    found = run(program, x)
    return found if isinstance(found, Tensor) else torch.zeros(())


if __name__ == "__main__":
    sys.exit(main())
