"""Scaled dot-product attention: the matrix products that are written mean what the interpreter says."""

from __future__ import annotations

import pytest
import torch

from qcompiler.backends.onnx.writer import write_model
from qcompiler.ir.program import Builder, Node
from qcompiler.ir.types import TensorType
from tests.onnx_tools import (
    BOOL,
    Body,
    Case,
    assert_same,
    build,
    kinds,
    run_onnx,
    sample,
    typed,
)


def attention(**keywords: object) -> Body:
    return lambda b, q, k, v, mask=None: b.call(
        "aten.scaled_dot_product_attention", q, k, v, mask, 0.0, keywords.get("is_causal", False),
        kwargs={key: value for key, value in keywords.items() if key != "is_causal"},
    )  # fmt: skip


KEYS = typed("s0", 4, "s1", 8)
ATTENTION: list[Case] = [
    ("plain", attention(), [typed("s0", 4, 7, 8), KEYS, KEYS]),
    ("scale", attention(scale=0.7), [KEYS, KEYS, KEYS]),
    ("causal", attention(is_causal=True), [KEYS, KEYS, KEYS]),
    ("causal static", attention(is_causal=True), [typed("s0", 4, 3, 8)] + [typed("s0", 4, 5, 8)] * 2),
    ("grouped queries", attention(enable_gqa=True), [typed("s0", 8, "s1", 8), KEYS, KEYS]),
    ("grouped causal", attention(enable_gqa=True, is_causal=True), [typed("s0", 8, "s1", 8), KEYS, KEYS]),
    ("boolean mask", attention(), [KEYS, KEYS, KEYS, typed("s0", 1, "s1", "s1", dtype=BOOL)]),
    ("additive mask", attention(), [KEYS, KEYS, KEYS, typed("s1", "s1")]),
    ("three axes", attention(), [typed("s0", "s1", 8)] * 3),
]


@pytest.mark.parametrize(("body", "types"), [pytest.param(b, t, id=n) for n, b, t in ATTENTION])
def test_attention_matches_the_interpreter(body: Body, types: list[TensorType]) -> None:
    program = build(body, *types)
    for sizes in ({"s0": 3, "s1": 5}, {"s0": 1, "s1": 4}):
        assert_same(program, [sample(type_, sizes, seed) for seed, type_ in enumerate(types)])


def test_query_that_sees_no_key_gives_zeros() -> None:
    program = build(attention(), KEYS, KEYS, KEYS, typed("s1", "s1", dtype=BOOL))
    inputs = [sample(KEYS, {"s0": 1, "s1": 5}, seed) for seed in range(3)]
    mask = torch.ones(5, 5, dtype=BOOL)
    mask[2] = False
    (result,) = run_onnx(write_model(program), [*inputs, mask])
    assert torch.equal(result[:, :, 2], torch.zeros(1, 4, 8))


def test_causal_mask_is_written_once_for_all_layers() -> None:
    def layers(b: Builder, q: Node, k: Node, v: Node) -> object:
        call = attention(is_causal=True)
        return call(b, call(b, q, k, v), k, v)

    assert kinds(write_model(build(layers, KEYS, KEYS, KEYS))).count("Range") == 1
