"""The arithmetic of the benchmarks."""

import numpy as np
import pytest

from benchmarks.compile_cost import Cost, summary
from benchmarks.speed import share_of, speedups


def test_a_speedup_is_the_median_of_the_ratios_within_rounds() -> None:
    seconds = np.array([[2.0, 1.0], [8.0, 2.0], [3.0, 1.0]])
    assert speedups(seconds) == [1.0, 3.0]


def test_the_share_counts_matrix_kernels_only() -> None:
    assert share_of({"QGemm": 3, "Conv": 1, "Relu": 7, "QLinearConv": 2}) == "5/6"


def test_a_row_compares_medians() -> None:
    runs = [Cost(cpu, 9.0, peak, 50.0, 30.0, 1.0) for cpu, peak in ((2.0, 100.0), (4.0, 300.0), (3.0, 200.0))]
    base = [Cost(6.0, 9.0, 400.0, 50.0, 30.0, 1.0)]
    row = summary("model", "ours", runs, base)
    assert row["CPU ratio"] == pytest.approx(0.5)
    assert row["peak ratio"] == pytest.approx(0.5)
