"""How each operator and each kernel call is written as C: one small function each, one table per theme."""

from __future__ import annotations

from qcompiler.backends.c.emit import (
    attention,
    binary,
    codebook,
    codes,
    dense,
    einsum,
    elementwise,
    index,
    norm,
    online,
    planes,
    pool,
    products,
    quantizers,
    recurrent,
    reduce,
    resample,
    rotary,
    sampler,
    scan,
    scatter,
    shape,
    volumes,
    weights,
    whole,
)
from qcompiler.backends.c.generator import Emitter

THEMES: tuple[dict[str, Emitter], ...] = (
    elementwise.EMITTERS,
    shape.EMITTERS,
    index.EMITTERS,
    pool.EMITTERS,
    products.EMITTERS,
    norm.EMITTERS,
    attention.EMITTERS,
    reduce.EMITTERS,
    resample.EMITTERS,
    scan.EMITTERS,
    scatter.EMITTERS,
    volumes.EMITTERS,
    online.EMITTERS,
    einsum.EMITTERS,
    recurrent.EMITTERS,
    sampler.EMITTERS,
    quantizers.EMITTERS,
)
EMITTERS: dict[str, Emitter] = {name: emitter for theme in THEMES for name, emitter in theme.items()}
KERNEL_THEMES: tuple[dict[str, Emitter], ...] = (
    dense.KERNELS,
    binary.KERNELS,
    codes.KERNELS,
    weights.KERNELS,
    codebook.KERNELS,
    planes.KERNELS,
    whole.KERNELS,
    rotary.KERNELS,
)
KERNELS: dict[str, Emitter] = {name: emitter for theme in KERNEL_THEMES for name, emitter in theme.items()}
