"""Micro-kernels of the C generator for ARM: NEON, dot products, matrix multiplication (i8mm), armv7 NEON."""
