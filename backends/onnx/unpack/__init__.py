"""Weights in any number format, packed in the file at their own width and taken apart by standard operators.

Nothing here depends on an input, so that onnxruntime computes it once, when it loads the file: the file stays small,
the memory holds the float weight, and the layer runs at the speed of floats. The operators stand in the graph itself
and not in a function of their own: the runtime would copy a function's body in before it folds constants, and names
and provenance of the nodes would be lost to the audit.
"""

from qcompiler.backends.onnx.unpack.dequantize import unpacked
from qcompiler.backends.onnx.unpack.rows import is_stored

__all__ = ["is_stored", "unpacked"]
