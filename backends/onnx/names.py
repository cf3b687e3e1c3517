"""Names that ONNX and onnxruntime give to things, stated once."""

from __future__ import annotations

MICROSOFT = "com.microsoft"
"""The operator set of onnxruntime's own operators."""
