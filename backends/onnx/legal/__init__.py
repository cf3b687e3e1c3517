"""The rules by which a quantized ONNX file is brought into the forms that onnxruntime runs in integers."""

from __future__ import annotations

from qcompiler.backends.onnx.legal import activations, movement, products, results
from qcompiler.backends.onnx.legal.edit import Rule

RULES: tuple[Rule, ...] = (
    *products.EARLY,
    *activations.RULES,
    *products.RULES,
    *movement.RULES,
    *results.RUNTIME_RULES,
)
"""In the order in which they are tried: later ones count on what earlier ones wrote."""
