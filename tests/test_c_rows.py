"""Softmax, norms, rotary embedding, Hadamard products and pools of generated C: close to exact results, and
the same bits on every level.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from qcompiler.backends.c.isa import Isa
from qcompiler.hadamard import core, hadamard, multiply, random_signs
from tests.c_floats import FASTER, WINDOWS, Kernel, Wanted, Window, check_close, check_same, normal, wide
from tests.c_harness import Case, Value


def softmax_cases(logarithm: int) -> list[Wanted]:
    cases: list[Wanted] = []
    for rows, width in ((1, 1), (3, 5), (4, 16), (5, 33), (2, 100)):
        x = normal(width, rows, width) * 10
        exact = functional.log_softmax(wide(x), -1) if logarithm else functional.softmax(wide(x), -1)
        case: Case = {
            "input": x,
            "input_stride": width,
            "width": width,
            "logarithm": logarithm,
            "out": np.zeros_like(x),
            "out_stride": width,
        }
        cases.append((case, rows, exact.numpy()))
    return cases


def norm_cases(centred: int) -> list[Wanted]:
    cases: list[Wanted] = []
    for rows, width in ((1, 1), (3, 5), (4, 16), (5, 33), (2, 100)):
        x, weight, bias = normal(width, rows, width) + 3, normal(1, width), normal(2, width)
        args = (wide(x), [width], wide(weight))
        exact = functional.layer_norm(*args, wide(bias), 1e-5) if centred else functional.rms_norm(*args, 1e-5)
        case: dict[str, Value] = {
            "input": x,
            "input_stride": width,
            "width": width,
            "centred": centred,
            "eps": 1e-5,
            "weight": weight,
            "out": np.zeros_like(x),
            "out_stride": width,
        }
        cases.append((case | {"bias": bias} if centred else case, rows, exact.numpy()))
    return cases


def group_norm_cases() -> list[Wanted]:
    cases: list[Wanted] = []
    for images, positions, channels, groups in ((1, 1, 4, 2), (2, 9, 6, 3), (1, 30, 40, 4), (2, 7, 17, 17)):
        x, weight, bias = normal(channels, images, positions, channels) + 1, normal(1, channels), normal(2, channels)
        exact = functional.group_norm(wide(x).mT, groups, wide(weight), wide(bias), 1e-5).mT
        case: Case = {
            "input": x,
            "positions": positions,
            "channels": channels,
            "groups": groups,
            "eps": 1e-5,
            "weight": weight,
            "bias": bias,
            "scratch": np.zeros((images, 2, -(-channels // 16) * 16), np.float32),
            "out": np.zeros_like(x),
        }
        cases.append((case, images, exact.numpy()))
    return cases


def rotary_cases() -> list[Wanted]:
    cases: list[Wanted] = []
    for batch, length, heads, depth in ((1, 1, 1, 2), (2, 3, 4, 10), (1, 5, 2, 64)):
        x, angle = normal(1, batch, length, heads, depth), normal(2, length, depth)
        low, high = wide(x).chunk(2, -1)
        exact = wide(x) * wide(np.cos(angle))[:, None] + torch.cat([-high, low], -1) * wide(np.sin(angle))[:, None]
        row = heads * depth
        case: Case = {
            "input": x,
            "input_batch": length * row,
            "input_row": row,
            "input_head": depth,
            "cos": np.cos(angle),
            "sin": np.sin(angle),
            "table_row": depth,
            "length": length,
            "heads": heads,
            "depth": depth,
            "out": np.zeros_like(x),
            "out_batch": length * row,
            "out_row": row,
            "out_head": depth,
        }
        cases.append((case, batch * length, exact.numpy()))
    return cases


def hadamard_cases() -> list[Wanted]:
    cases: list[Wanted] = []
    for width, block in ((1, 1), (8, 2), (16, 16), (96, 32), (256, 128), (24, 12), (80, 40), (768, 768), (344, 172)):
        x, signs, size = normal(width, 3, width), random_signs(width, 1).float().numpy(), core(block)
        exact = multiply(wide(x) * wide(signs), block)
        case: Case = {
            "input": x,
            "input_stride": width,
            "width": width,
            "block": block,
            "core": size,
            "matrix": hadamard(size).numpy(),
            "signs": signs,
            "scale": float(np.float32(1 / math.sqrt(block))),
            "out": np.zeros_like(x),
            "out_stride": width,
        }
        cases.append((case, 3, exact.numpy()))
    return cases


def pool_cases(mean: int) -> list[Wanted]:
    cases: list[Wanted] = []
    dilated = ((8, 7), Window((3, 2), (2, 1), (1, 1), (2, 3)))
    for channels, (image, window) in zip((1, 20, 130, 64, 7), (*WINDOWS, *(() if mean else (dilated,))), strict=False):
        x = normal(channels, 2, *image, channels)
        given = wide(x).permute(0, 3, 1, 2)
        exact = (
            functional.avg_pool2d(given, *window.arguments(), count_include_pad=False)
            if mean
            else functional.max_pool2d(given, *window.arguments(), window.dilation)
        )
        exact = exact.permute(0, 2, 3, 1).contiguous().numpy()
        case: Case = {
            "input": x,
            **window.fields(image, exact.shape[1:3], channels),
            "channels": channels,
            "mean": mean,
            "out": np.zeros(exact.shape, np.float32),
            "out_stride": channels,
        }
        cases.append((case, exact.size // channels, exact))
    return cases


KERNELS: dict[str, Kernel] = {
    "softmax": ("softmax", lambda: softmax_cases(0), 2e-7),
    "log_softmax": ("softmax", lambda: softmax_cases(1), 1e-5),
    "layer_norm": ("norm", lambda: norm_cases(1), 3e-6),
    "rms_norm": ("norm", lambda: norm_cases(0), 2e-6),
    "group_norm": ("group_norm", group_norm_cases, 3e-6),
    "rotary": ("rotary", rotary_cases, 1e-6),
    "hadamard": ("hadamard", hadamard_cases, 3e-6),
    "maximum": ("pool_f32", lambda: pool_cases(0), 0.0),
    "mean": ("pool_f32", lambda: pool_cases(1), 1e-6),
}


@pytest.mark.parametrize("kernel", list(KERNELS))
def test_is_close_to_the_exact_result(kernel: str) -> None:
    check_close(KERNELS[kernel])


@pytest.mark.parametrize("kernel", list(KERNELS))
@pytest.mark.parametrize("isa", FASTER, ids=lambda isa: isa.value)
def test_every_level_gives_the_same_bits(kernel: str, isa: Isa) -> None:
    check_same(KERNELS[kernel], isa)


@pytest.mark.parametrize("kernel", ["softmax", "rms_norm"])
def test_so_does_an_older_arm(kernel: str) -> None:
    check_same(KERNELS[kernel], Isa.NEON32)


@pytest.mark.parametrize("kernel", ["group_norm", "hadamard"])
def test_stays_inside_its_memory(kernel: str) -> None:
    check_same(KERNELS[kernel], Isa.AVX2, sanitize=True)
