"""Attention of generated C: close to exact results, and the same bits on every level."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from qcompiler.backends.c.isa import Isa
from tests.c_floats import FASTER, Kernel, Wanted, check_close, check_same, normal, wide
from tests.c_harness import Value

every_mask = pytest.mark.parametrize("masking", ["none", "mask", "keep", "causal"])


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
        cases.append((case, batch * groups * -(-shared * length // 32), exact.numpy()))
    return cases


def kernel(masking: str) -> Kernel:
    return "attention", lambda: attention_cases(masking), 2e-6


@every_mask
def test_is_close_to_the_exact_result(masking: str) -> None:
    check_close(kernel(masking))


@pytest.mark.parametrize("isa", FASTER, ids=lambda isa: isa.value)
@pytest.mark.parametrize("masking", ["keep", "causal"])
def test_every_level_gives_the_same_bits(masking: str, isa: Isa) -> None:
    check_same(kernel(masking), isa)


@pytest.mark.parametrize("masking", ["mask", "keep"])
def test_keys_behind_the_last_one_seen_are_not_read(masking: str) -> None:
    keys, seen, depth = 150, 67, 20
    q, k, v = normal(1, 2, depth), normal(2, keys, depth), normal(3, keys, depth)
    exact = (wide(q) @ wide(k)[:seen].T).softmax(-1) @ wide(v)[:seen]
    k[seen:], v[seen:] = np.nan, np.inf
    hides = np.arange(keys) >= seen
    mask: Value = np.where(hides, -np.inf, 0).astype(np.float32) if masking == "mask" else (~hides).astype(np.uint8)
    case: dict[str, Value] = {"query": q, "key": k, "value": v, "out": np.zeros((2, depth), np.float32)}
    case |= {f"{name}_steps.row": depth for name in ("query", "key", "value", "out")}
    case |= {"key_heads": 1, "shared": 1, "length": 2, "keys": keys, "depth": depth, "width": depth, "scale": 1.0}
    case[masking] = mask
    check_close(("attention", lambda: [(case, 1, exact.numpy())], 2e-6))


def test_stays_inside_its_memory() -> None:
    check_same(kernel("keep"), Isa.AVX2, sanitize=True)
