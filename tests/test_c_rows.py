"""Softmax, norms, attention, rotary embedding, Hadamard products and pools of generated C: close to exact results, and
the same bits on every level.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from qcompiler.backends.c.isa import Isa
from qcompiler.hadamard import core, hadamard, multiply, random_signs
from tests.c_harness import Case, Offsets, Value, run_kernel

FASTER = (Isa.AVX2, Isa.AVX512, Isa.NEON, Isa.NEON32)
Wanted = tuple[Case, int, np.ndarray]
"""Arguments, number of tasks, exact results."""


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def wide(x: np.ndarray) -> Tensor:
    return torch.from_numpy(x).double()


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


def attention_cases(masking: str) -> list[Wanted]:
    cases: list[Wanted] = []
    sizes = ((1, 1, 1, 1, 1, 4, 4), (2, 2, 2, 5, 9, 20, 12), (1, 1, 3, 7, 70, 33, 40), (1, 2, 1, 20, 130, 64, 64))
    for batch, groups, shared, length, keys, depth, width in sizes:
        heads = groups * shared
        q = normal(1, batch, length, heads, depth)
        k, v = normal(2, batch, keys, groups, depth), normal(3, batch, keys, groups, width)
        mask = normal(4, batch, length, keys)
        keep = (np.random.default_rng(5).random((length, keys)) < 0.6).astype(np.uint8)
        keep[0] = 0
        past = max(keys - length, 0)
        score = torch.einsum("blhe,bshe->bhls", wide(q), wide(k).repeat_interleave(shared, 2)) / math.sqrt(depth)
        if masking == "mask":
            score = score + wide(mask)[:, None]
        if masking == "keep":
            score = score.masked_fill(torch.from_numpy(keep == 0), -torch.inf)
        if masking == "causal":
            score = score.masked_fill(torch.ones(length, keys).triu(past + 1).bool(), -torch.inf)
        exact = torch.einsum("bhls,bshf->blhf", score.softmax(-1).nan_to_num(), wide(v).repeat_interleave(shared, 2))
        case: dict[str, Value] = {"query": q, "key": k, "value": v, "out": np.zeros(exact.shape, np.float32)}
        for name, count, rows, size in (
            ("query", heads, length, depth),
            ("key", groups, keys, depth),
            ("value", groups, keys, width),
            ("out", heads, length, width),
        ):
            case |= {
                f"{name}_steps.batch": rows * count * size,
                f"{name}_steps.head": size,
                f"{name}_steps.row": count * size,
            }
        case |= {"key_heads": groups, "shared": shared, "length": length, "keys": keys, "depth": depth, "width": width}
        case |= {"scale": 1 / math.sqrt(depth)}
        if masking == "mask":
            case |= {"mask": mask, "mask_steps.batch": length * keys, "mask_steps.row": keys}
        if masking == "keep":
            case |= {"keep": keep, "keep_steps.row": keys}
        if masking == "causal":
            case |= {"causal": 1, "past": past}
        cases.append((case, batch * groups * -(-shared * length // 16), exact.numpy()))
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


def windows(seed: int, channels: int, taps: int, bytes_each: int) -> tuple[np.ndarray, Offsets]:
    """Places of the pixels in each of five windows of seven pixels, and pointers to them."""
    picked = np.random.default_rng(seed).integers(0, 7, (5, taps))
    return picked, Offsets("input", picked.reshape(-1) * channels * bytes_each)


def pool_cases(mean: int) -> list[Wanted]:
    cases: list[Wanted] = []
    for channels, taps in ((1, 1), (20, 4), (130, 9)):
        x = normal(channels, 7, channels)
        picked, rows = windows(channels, channels, taps, 4)
        seen = x[picked].astype(np.float64)
        case: Case = {
            "input": x,
            "rows": rows,
            "channels": channels,
            "taps": taps,
            "mean": mean,
            "out": np.zeros((5, channels), np.float32),
            "out_stride": channels,
        }
        cases.append((case, 5, seen.mean(1) if mean else seen.max(1)))
    return cases


KERNELS: dict[str, tuple[str, Callable[[], list[Wanted]], float]] = {
    "softmax": ("softmax", lambda: softmax_cases(0), 2e-7),
    "log_softmax": ("softmax", lambda: softmax_cases(1), 1e-5),
    "layer_norm": ("norm", lambda: norm_cases(1), 3e-6),
    "rms_norm": ("norm", lambda: norm_cases(0), 2e-6),
    "group_norm": ("group_norm", group_norm_cases, 3e-6),
    "attention": ("attention", lambda: attention_cases(""), 2e-6),
    "masked attention": ("attention", lambda: attention_cases("mask"), 2e-6),
    "attention to some": ("attention", lambda: attention_cases("keep"), 2e-6),
    "causal attention": ("attention", lambda: attention_cases("causal"), 2e-6),
    "rotary": ("rotary", rotary_cases, 1e-6),
    "hadamard": ("hadamard", hadamard_cases, 3e-6),
    "maximum": ("pool_f32", lambda: pool_cases(0), 0.0),
    "mean": ("pool_f32", lambda: pool_cases(1), 1e-6),
}
every_kernel = pytest.mark.parametrize("kernel", list(KERNELS))


def results(kernel: str, isa: Isa, sanitize: bool = False) -> list[np.ndarray]:
    name, make, _ = KERNELS[kernel]
    cases = make()
    return run_kernel(name, isa, [case for case, _, _ in cases], [(0, tasks) for _, tasks, _ in cases], "out", sanitize)


@every_kernel
def test_is_close_to_the_exact_result(kernel: str) -> None:
    _, make, bound = KERNELS[kernel]
    for found, (_, _, exact) in zip(results(kernel, Isa.PORTABLE), make(), strict=True):
        np.testing.assert_allclose(found, exact, rtol=0, atol=bound)


@every_kernel
@pytest.mark.parametrize("isa", FASTER, ids=lambda isa: isa.value)
def test_every_level_gives_the_same_bits(kernel: str, isa: Isa) -> None:
    for found, portable in zip(results(kernel, isa), results(kernel, Isa.PORTABLE), strict=True):
        np.testing.assert_array_equal(found.view(np.uint32), portable.view(np.uint32))


@pytest.mark.parametrize("kernel", ["group_norm", "attention to some", "hadamard"])
def test_stays_inside_its_memory(kernel: str) -> None:
    for found, portable in zip(results(kernel, Isa.AVX2, sanitize=True), results(kernel, Isa.PORTABLE), strict=True):
        np.testing.assert_array_equal(found, portable)
