"""Micro-kernels of the C generator for x86: AVX2, AVX-512 with VNNI and VPOPCNTDQ, AMX."""
