"""Attention and rotary embeddings as one ONNX operator each: what is recognised, and what they compute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest
import torch

from qcompiler.backends.onnx.audit import audit
from qcompiler.backends.onnx.backend import OnnxBackend
from qcompiler.backends.onnx.cluster import cluster_attention
from qcompiler.backends.onnx.kernels import kernel_emitters
from qcompiler.backends.onnx.session import open_session
from qcompiler.backends.onnx.settings import settings_of
from qcompiler.backends.onnx.writer import save_model, write_model
from qcompiler.backends.reference import MEANINGS
from qcompiler.ir.interp import evaluate
from qcompiler.ir.ops import kernel
from qcompiler.ir.program import Builder, Node, Program, Stage
from qcompiler.ir.types import TensorType
from qcompiler.target import Target
from qcompiler.targets import load_target
from tests.onnx_tools import BOOL, assert_same, build, kinds, run_onnx, sample, typed

Middle = Callable[[Builder, Node], Node]
SIZES = ({"s0": 3, "s1": 5}, {"s0": 1, "s1": 4})
QUERY = typed("s0", "s1", 32)
KEYS = typed("s0", "s1", 16)
OTHER_KEYS = typed("s0", 7, 32)


def target() -> Target:
    return load_target("onnxruntime", {"onnx": OnnxBackend()})


def cut(b: Builder, x: Node, heads: int) -> Node:
    """[B, T, H * E] to [B, H, T, E]."""
    width = int(b.program.shape(x)[-1])
    sizes = [b.call("aten.sym_size.int", x, axis) for axis in (0, 1)]
    split = b.call("aten.reshape", x, [*sizes, heads, width // heads])
    return b.call("aten.permute", split, [0, 2, 1, 3])


def merged(b: Builder, x: Node, like: Node) -> Node:
    """[B, H, T, E] to [B, T, H * E]."""
    heads, width = (int(b.program.shape(x)[axis]) for axis in (1, 3))
    sizes = [b.call("aten.sym_size.int", like, axis) for axis in (0, 1)]
    return b.call("aten.reshape", b.call("aten.permute", x, [0, 2, 1, 3]), [*sizes, heads * width])


def repeated(b: Builder, x: Node) -> Node:
    """Every head twice."""
    batch, length = (b.call("aten.sym_size.int", x, axis) for axis in (0, 2))
    spread = b.call("aten.expand", b.call("aten.unsqueeze", x, 2), [-1, -1, 2, -1, -1])
    heads, width = (int(b.program.shape(x)[axis]) for axis in (1, 3))
    return b.call("aten.reshape", spread, [batch, heads * 2, length, width])


def program_of(
    *types: TensorType,
    heads: tuple[int, int] = (4, 4),
    causal: bool = False,
    scale: float | None = 0.3,
    keys: Middle = lambda b, x: x,
    queries: Middle = lambda b, x: x,
    grouped: bool = False,
) -> Program:
    """Queries, keys, values and perhaps a mask, cut into heads, attended, merged."""

    def body(b: Builder, q: Node, k: Node, v: Node, mask: Node | None = None) -> Node:
        operands = [queries(b, cut(b, q, heads[0])), *(keys(b, cut(b, x, heads[1])) for x in (k, v))]
        keywords = {"scale": scale, "enable_gqa": grouped}
        mixed = b.call("aten.scaled_dot_product_attention", *operands, mask, 0.0, causal, kwargs=keywords)
        return merged(b, mixed, q)

    return build(body, *types)


def clustered(program: Program) -> Program:
    lowered = program.copy()
    lowered.stage = Stage.LOWERED
    cluster_attention(lowered)
    return lowered


def write(program: Program) -> ir.Model:
    return write_model(program, opset=23, kernel_emitters=kernel_emitters(settings_of(target())))


def kernels_of(program: Program) -> list[str]:
    return [str(node.args[0]) for node in program.nodes if node.target is kernel]


def check(program: Program, types: list[TensorType], wanted: list[str]) -> ir.Model:
    """The clustered program means the same in the interpreter and in onnxruntime, for two sets of sizes."""
    lowered = clustered(program)
    assert kernels_of(lowered) == wanted
    model = write(lowered)
    for sizes in SIZES:
        inputs = [sample(type_, sizes, seed) for seed, type_ in enumerate(types)]
        (exact,) = evaluate(program, inputs)
        (simulated,) = evaluate(lowered, inputs, kernels=MEANINGS)
        (found,) = run_onnx(model, inputs)
        torch.testing.assert_close(simulated, exact, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-5)
    return model


CASES = {
    "plain": (program_of, [QUERY] * 3, {}),
    "default scale": (program_of, [QUERY] * 3, {"scale": None}),
    "other length": (program_of, [QUERY, OTHER_KEYS, OTHER_KEYS], {}),
    "wider values": (program_of, [QUERY, QUERY, typed("s0", "s1", 64)], {}),
    "causal": (program_of, [QUERY] * 3, {"causal": True}),
    "causal other length": (program_of, [QUERY, OTHER_KEYS, OTHER_KEYS], {"causal": True}),
    "shared keys": (program_of, [QUERY, KEYS, KEYS], {"heads": (4, 2), "grouped": True}),
    "repeated keys": (program_of, [QUERY, KEYS, KEYS], {"heads": (4, 2), "keys": repeated}),
    "additive mask": (program_of, [QUERY] * 3 + [typed("s1", "s1")], {}),
    "additive mask per head": (program_of, [QUERY] * 3 + [typed("s0", 4, "s1", "s1")], {}),
    "boolean mask": (program_of, [QUERY] * 3 + [typed("s0", 1, "s1", "s1", dtype=BOOL)], {}),
    "mask of keys": (program_of, [QUERY, OTHER_KEYS, OTHER_KEYS, typed("s0", 1, 1, 7)], {}),
}


@pytest.mark.parametrize("name", CASES)
def test_attention_is_one_operator_and_means_the_same(name: str) -> None:
    make, types, options = CASES[name]
    model = check(make(*types, **options), types, ["attention"])
    found = kinds(model)
    assert found.count("Attention") == 1
    assert not {"Transpose", "Reshape", "Softmax", "MatMul"} & set(found)


def test_repeated_keys_are_read_once() -> None:
    program = program_of(QUERY, KEYS, KEYS, heads=(4, 2), keys=repeated)
    assert "Expand" not in kinds(write(clustered(program)))


def test_query_that_sees_no_key_gives_zeros() -> None:
    program = clustered(program_of(QUERY, QUERY, QUERY, typed("s1", "s1", dtype=BOOL)))
    mask = torch.ones(5, 5, dtype=BOOL)
    mask[2] = False
    (found,) = run_onnx(write(program), [*(sample(QUERY, SIZES[0], seed) for seed in range(3)), mask])
    assert torch.equal(found[:, 2], torch.zeros(3, 32))
    assert found[:, 1].abs().sum() > 0


def test_a_mask_is_filled_up_once_for_all_layers() -> None:
    def body(b: Builder, x: Node, keys: Node, mask: Node) -> Node:
        for _ in range(2):
            heads = [cut(b, operand, 4) for operand in (x, keys, keys)]
            mixed = b.call("aten.scaled_dot_product_attention", *heads, mask, 0.0, False, kwargs={"scale": 0.3})
            x = merged(b, mixed, x)
        return x

    types = [QUERY, OTHER_KEYS, typed("s0", 1, 1, 7)]
    model = check(build(body, *types), types, ["attention", "attention"])
    assert kinds(model).count("Expand") == 1


def test_the_call_bears_the_name_of_the_operator() -> None:
    program = program_of(QUERY, QUERY, QUERY)
    named = next(node.name for node in program.nodes if "scaled_dot" in program.op(node))
    assert next(node.name for node in clustered(program).nodes if node.target is kernel) == named


def test_a_negative_scale_stays_matrix_products() -> None:
    check(program_of(*[QUERY] * 3, scale=-0.3), [QUERY] * 3, [])


def test_heads_that_nobody_cut_stay_matrix_products() -> None:
    def body(b: Builder, q: Node, k: Node) -> Node:
        return b.call("aten.scaled_dot_product_attention", q, k, k, None, 0.0, False)

    types = [typed("s0", 4, "s1", 8)] * 2
    check(build(body, *types), types, [])


def test_a_result_with_another_reader_stays_matrix_products() -> None:
    program = program_of(QUERY, QUERY, QUERY)
    mixed = next(node for node in program.nodes if "scaled_dot" in program.op(node))
    program.set_outputs([*program.outputs, mixed])
    assert kernels_of(clustered(program)) == []


def test_attention_is_no_operator_in_an_older_operator_set() -> None:
    assert settings_of(target()).attention_operator
    assert not settings_of(target().with_settings({"opset": 22})).attention_operator


def test_the_audit_shows_attention_as_a_float_layer(tmp_path: Path) -> None:
    program = clustered(program_of(QUERY, QUERY, QUERY))
    save_model(write(program), tmp_path / "model.onnx")
    (layer,) = audit(tmp_path / "model.onnx", program, target())
    assert (layer.op, layer.requested, layer.realised) == ("aten.scaled_dot_product_attention", "float", "Attention")
    assert layer.ok


# -- rotary embeddings ------------------------------------------------------------------------------------------------


def halves_by_split(b: Builder, x: Node) -> tuple[Node, Node]:
    low, high = b.items(b.call("aten.split_with_sizes", x, [4, 4], 3))
    assert low is not None
    assert high is not None
    return low, high


def halves_by_slice(b: Builder, x: Node) -> tuple[Node, Node]:
    return b.call("aten.slice.Tensor", x, 3, 0, 4, 1), b.call("aten.slice.Tensor", x, 3, 4, 2**63 - 1, 1)


def turned(b: Builder, x: Node, cos: Node, sin: Node, halves: Callable[[Builder, Node], tuple[Node, Node]]) -> Node:
    low, high = halves(b, x)
    turn = b.call("aten.cat", [b.call("aten.neg", high), low], 3)
    return b.call("aten.add.Tensor", b.call("aten.mul.Tensor", x, cos), b.call("aten.mul.Tensor", sin, turn))


def tables(b: Builder, length: int = 7, *, doubled: bool = True) -> tuple[Node, Node]:
    angle = torch.rand(length, 4)
    angle = torch.cat([angle, angle if doubled else angle + 1], -1)
    return b.param("cos", angle.cos()), b.param("sin", angle.sin())


STATIC = typed("s0", 7, 32)


def rotary_program(halves: Callable[[Builder, Node], tuple[Node, Node]], *, doubled: bool = True) -> Program:
    def turn(b: Builder, x: Node) -> Node:
        cos, sin = tables(b, doubled=doubled)
        return turned(b, x, cos, sin, halves)

    return program_of(STATIC, STATIC, STATIC, queries=turn)


@pytest.mark.parametrize("halves", [halves_by_split, halves_by_slice])
def test_rotary_embedding_is_one_operator(halves: Callable[[Builder, Node], tuple[Node, Node]]) -> None:
    model = check(rotary_program(halves), [STATIC] * 3, ["rotary", "attention"])
    assert kinds(model).count("RotaryEmbedding") == 1
    assert not {"Transpose", "Neg", "Split", "Slice", "Mul", "Add"} & set(kinds(model))


def test_tables_with_different_halves_stay_elementwise() -> None:
    check(rotary_program(halves_by_split, doubled=False), [STATIC] * 3, [])


def test_halves_the_other_way_round_stay_elementwise() -> None:
    def swapped(b: Builder, x: Node) -> tuple[Node, Node]:
        low, high = halves_by_split(b, x)
        return high, low

    check(rotary_program(swapped), [STATIC] * 3, [])


def test_computed_tables_of_symbolic_length_are_cut_in_half() -> None:
    def body(b: Builder, q: Node, k: Node, v: Node, angle: Node) -> Node:
        both = b.call("aten.unsqueeze", b.call("aten.cat", [angle, angle], 2), 1)
        cos, sin = b.call("aten.cos", both), b.call("aten.sin", both)
        heads = [cut(b, x, 4) for x in (q, k, v)]
        heads[:2] = [turned(b, x, cos, sin, halves_by_slice) for x in heads[:2]]
        mixed = b.call("aten.scaled_dot_product_attention", *heads, None, 0.0, True, kwargs={"scale": 0.3})
        return merged(b, mixed, q)

    types = [QUERY] * 3 + [typed("s0", "s1", 4)]
    model = check(build(body, *types), types, ["rotary", "rotary", "attention"])
    assert kinds(model).count("Slice") == 2


def test_tables_are_filled_up_once_for_all_layers() -> None:
    def body(b: Builder, q: Node, k: Node) -> Node:
        cos, sin = tables(b)
        heads = [turned(b, cut(b, x, 4), cos, sin, halves_by_split) for x in (q, k)]
        mixed = b.call("aten.scaled_dot_product_attention", *heads, cut(b, k, 4), None, 0.0, False)
        return merged(b, mixed, q)

    model = check(build(body, STATIC, STATIC), [STATIC] * 2, ["rotary", "rotary", "attention"])
    assert kinds(model).count("Expand") == 2


# -- norms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [True, False])
def test_rms_norm_is_one_operator_where_the_operator_set_has_it(weighted: bool) -> None:
    def body(b: Builder, x: Node) -> Node:
        weight = b.param("w", torch.rand(32)) if weighted else None
        return b.call("aten.rms_norm", x, [32], weight, 1e-3)

    program = build(body, QUERY)
    assert kinds(assert_same(program, [sample(QUERY, SIZES[0])], opset=23)) == ["RMSNormalization"]


def realised(model: ir.Model, folder: Path) -> list[str]:
    """What onnxruntime makes of it."""
    save_model(model, folder / "model.onnx")
    open_session(folder / "model.onnx", threads=1, optimized=folder / "optimized.onnx")
    return kinds(ir.load(folder / "optimized.onnx"))


def test_a_sum_that_only_a_layer_norm_reads_is_not_fused_into_it(tmp_path: Path) -> None:
    def body(b: Builder, x: Node, y: Node) -> Node:
        return b.call("aten.layer_norm", b.call("aten.add.Tensor", x, y), [32])

    model = assert_same(build(body, QUERY, QUERY), [sample(QUERY, SIZES[0], seed) for seed in range(2)])
    assert realised(model, tmp_path) == ["Sum", "LayerNormalization"]


def test_a_sum_with_other_readers_is_an_add() -> None:
    def body(b: Builder, x: Node, y: Node) -> list[Node]:
        total = b.call("aten.add.Tensor", x, y)
        return [total, b.call("aten.layer_norm", total, [32])]

    model = assert_same(build(body, QUERY, QUERY), [sample(QUERY, SIZES[0], seed) for seed in range(2)])
    assert kinds(model)[0] == "Add"
