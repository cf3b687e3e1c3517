"""The matrix: what onnxruntime makes of every pattern of quantization, as data per version."""
