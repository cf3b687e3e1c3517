"""Epilogues of the integer kernels of generated C: arguments for tests, and what numpy makes of integer sums."""

from __future__ import annotations

import numpy as np

from qcompiler.backends.c.isa import LEVELS, Isa
from tests.c_harness import Case, Value

CODES, REALS, REALS_BIASED, CODES_BIASED, INT32 = range(5)
FINISHES = (CODES, REALS, REALS_BIASED, CODES_BIASED, INT32)


def act_dtype(isa: Isa) -> type:
    """What 8-bit activations are stored as where a version runs."""
    return np.uint8 if LEVELS[isa].architecture == "x86" else np.int8


def out_dtype(isa: Isa, finish: int) -> type:
    if finish == INT32:
        return np.int32
    return act_dtype(isa) if finish in (CODES, CODES_BIASED) else np.float32


def make_epilogue(
    isa: Isa, finish: int, rows: int, wide: int, random: np.random.Generator, dynamic: bool
) -> dict[str, Value]:
    """Arguments of an epilogue; `dynamic` ones have a scale and a zero point for each row."""
    info = np.iinfo(act_dtype(isa))
    low, high = sorted(random.integers(info.min, info.max + 1, 2))
    fields: dict[str, Value] = {
        "epilogue.finish": finish,
        "epilogue.bias": random.integers(-(2**20), 2**20, wide, dtype=np.int32),
        "epilogue.factor": (random.random(wide) * 10.0 ** -random.integers(2, 6)).astype(np.float32),
        "epilogue.float_bias": random.standard_normal(wide).astype(np.float32),
        "epilogue.zero_point": float(random.integers(low, high + 1)),
        "epilogue.low": float(low),
        "epilogue.high": float(high),
        "epilogue.scale": 0.3,
    }
    scale = (random.random(rows) * 2).astype(np.float32)
    zero = random.integers(info.min, info.max + 1, rows, dtype=np.int32)
    column_sum = random.integers(-(2**12), 2**12, wide, dtype=np.int32)
    fields["epilogue.row_scale"] = scale if dynamic else None
    fields["epilogue.row_zero"] = zero if dynamic else None
    fields["epilogue.column_sum"] = column_sum if dynamic else None
    return fields


def finished(case: Case, sums: np.ndarray) -> np.ndarray:
    """What the epilogue of a case makes of sums [rows, columns]."""

    def vector(name: str) -> np.ndarray:
        return np.asarray(case[f"epilogue.{name}"])[: sums.shape[1]]

    def number(name: str) -> np.float32:
        value = case[f"epilogue.{name}"]
        assert isinstance(value, float)
        return np.float32(value)

    finish = case["epilogue.finish"]
    total = sums.astype(np.int64) + vector("bias")
    factor = vector("factor")
    if case["epilogue.row_scale"] is not None:
        total = total - np.asarray(case["epilogue.row_zero"])[:, None].astype(np.int64) * vector("column_sum")
        factor = np.asarray(case["epilogue.row_scale"])[:, None] * factor
    if finish == INT32:
        return total.astype(np.int32)
    reals = total.astype(np.float32) * factor
    if finish in (REALS_BIASED, CODES_BIASED):
        reals = reals + vector("float_bias")
    if finish in (REALS, REALS_BIASED):
        return reals
    steps = reals / number("scale") if finish == CODES_BIASED else reals
    return np.clip(np.round(steps) + number("zero_point"), number("low"), number("high"))
