"""How each operator is written as ONNX: one small function per operator, one table per theme."""

from __future__ import annotations

from qcompiler.backends.onnx.context import Emitter
from qcompiler.backends.onnx.ops import (
    activation,
    attention,
    control,
    counted,
    create,
    elementwise,
    index,
    linear,
    norm,
    online,
    pool,
    quant,
    recurrent,
    reduce,
    shape,
    symbol,
)

THEMES: tuple[dict[str, Emitter], ...] = (
    elementwise.EMITTERS,
    activation.EMITTERS,
    linear.EMITTERS,
    attention.EMITTERS,
    norm.EMITTERS,
    online.EMITTERS,
    shape.EMITTERS,
    index.EMITTERS,
    pool.EMITTERS,
    reduce.EMITTERS,
    create.EMITTERS,
    symbol.EMITTERS,
    control.EMITTERS,
    counted.EMITTERS,
    recurrent.EMITTERS,
    quant.EMITTERS,
)
EMITTERS: dict[str, Emitter] = {name: emitter for theme in THEMES for name, emitter in theme.items()}
