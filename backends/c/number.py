"""Numbers as C writes them, exactly."""

from __future__ import annotations

import math

import numpy as np


def float_text(value: float) -> str:
    """A float32 constant that reads back to the same bits."""
    single = float(np.float32(value))
    if math.isnan(single):
        return "NAN"
    if math.isinf(single):
        return "INFINITY" if single > 0 else "-INFINITY"
    text = np.format_float_scientific(np.float32(value), unique=True, trim="0", exp_digits=1)
    plain = repr(single) if single == int(single) and abs(single) < 1e6 else text
    return f"{plain}f"


def integer_text(value: int) -> str:
    """A constant of 64 bits; the least one cannot be written as the negative of a constant."""
    if value == -(2**63):
        return "INT64_MIN"
    return str(value) if abs(value) < 2**31 else f"INT64_C({value})"
