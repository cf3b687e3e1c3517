"""CUDA C++ that kernels are written in, and the kernels; nothing here is Python."""
