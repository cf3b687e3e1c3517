"""The rules by which a quantized ONNX file is brought into the forms that onnxruntime runs in integers."""

from __future__ import annotations

from qcompiler.backends.onnx.legal import activations, movement, products, results
from qcompiler.backends.onnx.legal.edit import Rule

RUNTIME_RULES: tuple[Rule, ...] = (*results.RUNTIME_RULES, *movement.RUNTIME_RULES)
"""For files that are written in good forms: what onnxruntime would make of them nevertheless."""
RULES: tuple[Rule, ...] = (
    *products.EARLY,
    *activations.RULES,
    *products.RULES,
    *movement.RULES,
    *RUNTIME_RULES,
)
"""In the order in which they are tried: later ones count on what earlier ones wrote."""
