"""PT2-LLM: on T1 with 256 columns and row means, iterative fitting lowers the weight error step by step, alignment
the output error to 0.95 and less, and to 0.75 and less of 2-bit integers; with planted clusters reordering helps, and
it is never worse.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from benchmarks.claims.testbeds import LinearBed, linear_layer, nearest_value, verdict
from qcompiler.passes.solve.lowbit import Pt2Llm
from qcompiler.passes.solve.lowbit.pt2llm import refits, threshold_fit
from qcompiler.spec import QuantSpec

SPEC = QuantSpec.parse("uint2 asym block=(1,128) scale=f16")


def with_means(seed: int) -> LinearBed:
    """T1 whose rows have means."""
    bed = linear_layer(seed, columns=256)
    return replace(
        bed, weight=bed.weight + 0.3 / 16 * torch.randn(64, 1, generator=torch.Generator().manual_seed(seed))
    )


def with_clusters(seed: int) -> LinearBed:
    """T1 whose columns gather around two patterns."""
    bed, generator = linear_layer(seed, columns=256), torch.Generator().manual_seed(seed)
    patterns = 1.5 * torch.randn(64, 2, generator=generator)
    which = torch.randint(2, (256,), generator=generator)
    return replace(bed, weight=(torch.randn(64, 256, generator=generator) + patterns[:, which]) / 16)


def fitting(weight: Tensor) -> list[float]:
    """Weight error of the first fit and of every refit."""
    start = threshold_fit(weight)
    return [
        float((fit.value() - weight).square().sum() / weight.square().sum()) for fit in (start, *refits(start, weight))
    ]


def main() -> int:
    """The worst shares of four seeds; the mean one for clusters."""
    falls, monotone, aligned, two_bits, orders, feedback = [], True, [], [], [], []
    for seed in range(4):
        bed = with_means(seed)
        layer = bed.layer(SPEC)
        errors = fitting(bed.weight[:, :128])
        monotone &= all(after <= before + 1e-6 for before, after in pairwise(errors))
        falls.append(errors[-1] / errors[0])
        plain, found = (bed.error(Pt2Llm(align, False, False, "none").solve(layer).value()) for align in (False, True))
        aligned.append(found / plain)
        two_bits.append(found / bed.error(nearest_value(layer)))
        fed = [bed.error(Pt2Llm(True, False, on).solve(layer).value(), True) for on in (False, True)]
        feedback.append(fed[1] / fed[0])
        clusters = with_clusters(seed)
        apart, together = (
            clusters.error(Pt2Llm(reorder=on, feedback=False).solve(clusters.layer(SPEC)).value(), True)
            for on in (False, True)
        )
        orders.append(together / apart)
    mean = sum(orders) / len(orders)
    holds = monotone and max(falls) < 1 and max(aligned) <= 0.95 and max(two_bits) <= 0.75
    figures = f"fitting {max(falls):.3f} of the first fit, monotone {monotone}; aligned {max(aligned):.3f} (0.95), "
    figures += (
        f"{max(two_bits):.3f} of 2-bit integers (0.75); reordered {mean:.3f} on average, {max(orders):.3f} at worst"
    )
    figures += f"; codes with feedback {max(feedback):.3f}"
    return verdict("pt2llm", holds and mean < 0.97 and max(orders) <= 1.03, figures)


if __name__ == "__main__":
    sys.exit(main())
