"""ONNX with explicit quantization: lowering to kernels, writing, and reading back what onnxruntime runs."""
