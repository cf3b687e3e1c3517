"""NUPES: exponents follow the distribution, and learning codes and exponent gains 10 % over the exponent alone."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from benchmarks.claims.testbeds import mean_errors, verdict
from qcompiler.passes.solve.learned.nupes import best_exponent, power_spec
from qcompiler.spec import QuantSpec, choose_qparams, dequantize, quantize


def error(weight: Tensor, bits: int, exponent: float) -> float:
    """Squared error of power-exponent rows over the variance of the weight."""
    spec = power_spec(QuantSpec.parse(f"int{bits} sym block=(1,-1) scale=f32"), exponent)
    scale, zero_point = choose_qparams(weight, spec)
    found = dequantize(quantize(weight, scale, zero_point, spec), scale, zero_point, spec)
    return float((found - weight).square().mean() / weight.var())


def main() -> int:
    """Three distributions, then T1 at 3 bits."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(64, 1024, generator=generator)
    chi = torch.randn(3, 64, 1024, generator=generator).square().sum(0) / 3
    uniform = torch.rand(64, 1024, generator=generator) * 2 - 1
    heavy = error(normal / chi.sqrt(), 4, 0.5) / error(normal / chi.sqrt(), 4, 1.0)
    gaussian = error(normal, 3, 0.7) / error(normal, 3, 1.0)
    flat = best_exponent(uniform, QuantSpec.parse("int4 sym block=(1,-1) scale=f32"))
    seen, fresh = (mean_errors("w3a16", ["nupes"]) / mean_errors("w3a16", ["nupes{iterations=0}"])).tolist()
    holds = heavy <= 0.35 and gaussian <= 0.8 and flat > 0.95 and seen <= 0.9
    figures = (
        f"Student t3 at 0.5: {heavy:.3f} of uniform, wanted 0.35; normal at 0.7: {gaussian:.3f}, wanted 0.8; uniform "
        f"picks {flat:.3f}, wanted 0.95; learned {seen:.3f} of the exponent alone, {fresh:.3f} on fresh, wanted 0.9"
    )
    return verdict("nupes", holds, figures)


if __name__ == "__main__":
    sys.exit(main())
