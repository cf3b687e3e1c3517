"""Whole numbers of a graph, such as places and orders, stored as narrow as their values are.

Numbers that never fall along one axis are stored as their steps where these are narrower, and added up again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from qcompiler.ir.types import Dim

if TYPE_CHECKING:
    from qcompiler.backends.onnx.context import Context

# Fewer numbers are not worth an operator.
_FEW = 64
_WIDTHS = (np.uint8, np.uint16, np.int32)


def narrowed(values: np.ndarray) -> np.ndarray:
    """The same numbers in the narrowest type that holds them; steps of rising ones lie in a row before their first.

    Shapes: int64 [...] -> uint8, uint16, int32 or int64 [...], or [1, N] of steps for numbers [N].
    """
    if values.size <= _FEW:
        return values
    whole = _narrowest(values)
    steps = np.diff(values, prepend=values.dtype.type(0)) if values.ndim == 1 else values
    if values.ndim != 1 or steps.min() < 0 or _narrowest(steps).itemsize >= whole.itemsize:
        return values.astype(whole)
    return steps.astype(_narrowest(steps))[np.newaxis]


def widened(context: Context, stored: ir.Value, shape: Sequence[Dim]) -> ir.Value:
    """The int64 numbers of a shape behind an initializer made by `narrowed`."""
    if stored.dtype == ir.DataType.INT64:
        return stored
    wide = context.op("Cast", [stored], {"to": ir.DataType.INT64.value})
    if stored.shape is None or len(stored.shape) == len(shape):
        return wide
    total = context.op("CumSum", [wide, context.constant(np.array(1, dtype=np.int64))])
    return context.op("Reshape", [total, context.ints([-1])])


def _narrowest(values: np.ndarray) -> np.dtype[np.generic]:
    low, high = values.min(), values.max()
    fits = (np.dtype(kind) for kind in _WIDTHS if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
    return next(fits, np.dtype(np.int64))
