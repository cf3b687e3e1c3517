"""Small models in C, written by hand, as the generator would hand them over."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from qcompiler.backends.c.isa import LEVELS, Isa
from qcompiler.backends.c.kernels import MICRO_KERNELS
from qcompiler.backends.c.module import Layer, Module, Port, Recorded
from qcompiler.backends.c.packing import blocked
from qcompiler.backends.c.project import write_project

ROWS, DEPTH, COLUMNS = 37, 19, 21
NASTY = 'x*/ #error "??/ \\\n int y; /* `$(rm)` \u202e\U0001f600'
"""A name that would break out of a comment, a string, a shell or a page."""

_AFFINE = """/* Every number times its own factor: float [6, 5]. */
static void layer_scale(const qc_context *c) {
    const float *x = (const float *)c->inputs[0];
    const float *factor = (const float *)(const void *)c->weights;
    float *y = (float *)(void *)(c->arena + 64);
    for (size_t i = 0; i < 30; ++i) y[i] = x[i] * factor[i];
}"""
_PLUS = """/* Plus one. */
static void layer_plus(const qc_context *c) {
    const float *y = (const float *)(const void *)(c->arena + 64);
    float *z = (float *)c->outputs[0];
    for (size_t i = 0; i < 30; ++i) z[i] = y[i] + 1.0f;
}"""
_PRODUCT = """/* Sums of products of codes: [{rows}, {depth}] -> int32 [{rows}, {columns}]. */
static void layer_product(const qc_context *c) {{
    const qc_gemm_i8_args args = {{
        .input = (const qc_act *)c->inputs[0],
        .width = {rows},
        .inner_stride = {depth},
        .weight = (const int8_t *)(c->weights + {weight}),
        .columns = {columns},
        .taps = 1,
        .depth = {depth},
        .block_columns = {block_columns},
        .block_depth = {block_depth},
        .out = c->outputs[0],
        .out_stride = {columns},
        .epilogue = {{.finish = QC_INT32, .bias = (const int32_t *)(const void *)c->weights}},
    }};
    QC_RUN(c, gemm_i8, &args, {rows});
}}"""


@dataclass(frozen=True)
class Model:
    """A model, and what it computes for one set of inputs."""

    module: Module
    recorded: Recorded

    def write(self, folder: Path) -> Path:
        """Writes it into a new folder."""
        folder.mkdir()
        write_project(self.module, folder, self.recorded)
        return folder


def affine(isa: Isa = Isa.PORTABLE, threads: bool = True, title: str = "x", seed: int = 0) -> Model:
    """Plain loops: `x * factor + 1` for float [6, 5], the factor random, an arena of 192 bytes."""
    random = np.random.default_rng(seed)
    x, factor = random.standard_normal((2, 6, 5), dtype=np.float32)
    layers = (Layer("layer_scale", _AFFINE), Layer("layer_plus", _PLUS))
    ports = (Port("x", title, torch.float32, (6, 5)),), (Port("y", "y", torch.float32, (6, 5)),)
    module = Module("affine", *ports, layers, (), factor.tobytes(), 192, isa, (), threads)
    return Model(module, Recorded([x], [x * factor + np.float32(1)]))


def product(isa: Isa, dispatched: tuple[Isa, ...] = (), threads: bool = True) -> Model:
    """One integer product by the micro-kernel of the level."""
    random = np.random.default_rng(1)
    # Versions that are chosen among share one order of weights; portable C reads any.
    layout = MICRO_KERNELS["gemm_i8"].layout((*dispatched, isa)[0])
    activations = np.uint8 if LEVELS[isa].architecture == "x86" else np.int8
    info = np.iinfo(activations)
    x = random.integers(info.min, info.max + 1, (ROWS, DEPTH), dtype=activations)
    weight = random.integers(-128, 128, (COLUMNS, DEPTH), dtype=np.int8)
    bias = np.zeros(64, dtype=np.int32)
    bias[:COLUMNS] = random.integers(-1000, 1000, COLUMNS)
    text = _PRODUCT.format(
        rows=ROWS,
        depth=DEPTH,
        columns=COLUMNS,
        weight=bias.nbytes,
        block_columns=layout.columns,
        block_depth=layout.depth,
    )
    inputs = (Port("codes", "codes", torch.from_numpy(x).dtype, x.shape),)
    outputs = (Port("sums", "sums", torch.int32, (ROWS, COLUMNS)),)
    weights = bias.tobytes() + blocked(weight, layout).tobytes()
    layers = (Layer("layer_product", text),)
    module = Module("product", inputs, outputs, layers, ("gemm_i8",), weights, 0, isa, dispatched, threads)
    wanted = x.astype(np.int32) @ weight.T.astype(np.int32) + bias[:COLUMNS]
    return Model(module, Recorded([x], [wanted]))
