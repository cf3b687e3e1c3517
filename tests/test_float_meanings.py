"""Operators that stay in float, in the order of onnxruntime: equal to the bit, on one thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import qcompiler
from qcompiler.backends.onnx.session import open_session
from qcompiler.backends.onnx.settings import Settings
from qcompiler.backends.reference import MEANINGS
from qcompiler.backends.reference.attention import attention as real_attention
from qcompiler.backends.reference.floats import FLOAT_MEANINGS, LINEAR_MEANINGS, activation, norm
from qcompiler.backends.reference.floats.attention import attention, rotary, scaled_dot_product_attention
from qcompiler.backends.reference.floats.fused import accumulate, fused
from qcompiler.backends.reference.floats.product import block_of, linear, matmul, product
from qcompiler.backends.reference.floats.softmax import softmax
from qcompiler.ir.interp import evaluate
from tests.kernel_bench import Bench
from tests.kernel_calls import weight_only

MICROSOFT = "com.microsoft"
Tensors = Mapping[str, torch.Tensor]


def drawn(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def ran(
    nodes: Sequence[onnx.NodeProto], inputs: Tensors, constants: Tensors | None = None, opset: int = 23
) -> torch.Tensor:
    """What onnxruntime says of nodes whose result is called `y`."""
    helper = onnx.helper
    graph = helper.make_graph(
        list(nodes),
        "floats",
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(x.shape)) for name, x in inputs.items()],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(x.numpy(), name) for name, x in (constants or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    return open_session(model.SerializeToString(), threads=1).run(dict(inputs))[0]


def node(kind: str, *inputs: str, domain: str = "", **attributes: object) -> onnx.NodeProto:
    return onnx.helper.make_node(kind, list(inputs), ["y"], domain=domain, **attributes)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 15, 16, 17, 19, 20, 31, 64, 65, 100, 129, 257])
def test_norms_of_every_length(size):
    x, w, b = drawn(40, size, scale=3) + 1, drawn(size, seed=1), drawn(size, seed=2)
    options = {"axis": -1, "epsilon": 1e-5}
    rms = ran([node("RMSNormalization", "x", "w", **options)], {"x": x, "w": w})
    layer = ran([node("LayerNormalization", "x", "w", "b", **options)], {"x": x, "w": w, "b": b})
    bare = ran([node("LayerNormalization", "x", "w", **options)], {"x": x, "w": w})
    assert torch.equal(norm.rms_norm(x, [size], w, 1e-5), rms)
    assert torch.equal(norm.layer_norm(x, [size], w, b), layer)
    assert torch.equal(norm.layer_norm(x, [size], w), bare)


def test_norms_over_several_axes_are_norms_of_rows():
    x, w = drawn(4, 3, 8), drawn(3, 8, seed=1)
    assert torch.equal(
        norm.rms_norm(x, [3, 8], w, 1e-6), norm.rms_norm(x.flatten(1), [24], w.flatten(), 1e-6).view_as(x)
    )


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 16, 17, 40, 48, 49, 100, 300])
def test_softmax_of_every_length(size):
    x = drawn(30, size, scale=20)
    x[0, : size // 2] = torch.finfo(torch.float32).min
    assert torch.equal(softmax(x, -1), ran([node("Softmax", "x", axis=-1)], {"x": x}))


def test_softmax_along_another_axis():
    x = drawn(2, 5, 3)
    assert torch.equal(softmax(x, 1), softmax(x.transpose(1, 2), -1).transpose(1, 2))


def test_narrower_vectors_add_up_in_another_order():
    x = drawn(200, 100, scale=3)
    narrow, wide = softmax(x, -1, lanes=8), softmax(x, -1, lanes=16)
    assert not torch.equal(narrow, wide)
    assert torch.allclose(narrow, wide, rtol=1e-6)


@given(
    st.integers(2, 24),
    st.sampled_from([1, 2, 3, 17, 33, 64, 127, 128, 129, 200, 257, 520, 1030]),
    st.sampled_from([2, 3, 8, 16, 17, 32, 33, 64, 65, 128, 130, 300]),
)
@settings(deadline=None, max_examples=25)
def test_products_of_every_shape(rows, terms, columns):
    a, b = drawn(2, rows, terms), drawn(2, terms, columns, seed=1)
    assert torch.equal(matmul(a, b), ran([node("MatMul", "a", "b")], {"a": a, "b": b}))


@pytest.mark.parametrize(("terms", "columns"), [(1, 3), (4, 5), (7, 8), (63, 5), (130, 33)])
def test_products_of_one_row(terms, columns):
    a, b = drawn(3, 1, terms), drawn(3, terms, columns, seed=1)
    assert torch.equal(product(a, b), ran([node("MatMul", "a", "b")], {"a": a, "b": b}))


def test_products_with_a_factor():
    a, b = drawn(2, 9, 300), drawn(2, 40, 300, seed=1)
    found = ran([node("FusedMatMul", "a", "b", domain=MICROSOFT, transB=1, alpha=0.3)], {"a": a, "b": b})
    assert torch.equal(product(a, b.transpose(1, 2), 0.3), found)


def test_blocks_grow_where_the_result_is_narrow():
    assert [block_of(300, width) for width in (300, 128, 64, 32, 16, 8)] == [128, 128, 256, 512, 1024, 1024]


@pytest.mark.parametrize(("rows", "terms", "columns"), [(5, 64, 64), (3, 300, 40), (1, 600, 8), (4, 257, 1)])
def test_linear_layers(rows, terms, columns):
    x, w, b = drawn(rows, terms), drawn(columns, terms, seed=1), drawn(columns, seed=2)
    found = ran([node("Gemm", "x", "w", "b", transB=1)], {"x": x}, {"w": w, "b": b})
    assert torch.equal(linear(x, w, b), found)


@pytest.mark.parametrize(
    "number", ["int4 sym group=16", "uint4 asym group=32", "uint3 asym group=32", "int8 sym channel"]
)
@pytest.mark.parametrize("seed", range(4))
def test_linear_layers_of_quantized_weights(number, seed):
    bench = Bench(seed, Settings(opset=21))
    weight_only(bench, number=number)
    session, _ = bench.session()
    for round_ in (0, 3, 6):
        bench.redraw(round_)
        meant = evaluate(bench.program, bench.feeds, kernels={**MEANINGS, **LINEAR_MEANINGS})[0]
        if len(bench.feeds[0]) > 1:
            assert torch.equal(meant, bench.ran(session))


@pytest.mark.parametrize("mask", ["none", "float", "bool"])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(("heads", "groups", "queries", "keys", "width"), [(4, 4, 5, 5, 8), (4, 2, 7, 9, 16)])
def test_attention_as_one_operator(mask, is_causal, heads, groups, queries, keys, width):
    q, k, v = (
        drawn(2, queries, heads * width),
        drawn(2, keys, groups * width, seed=1),
        drawn(2, keys, groups * 8, seed=2),
    )
    bias = drawn(2, 1, queries, keys, seed=3)
    bias = {"none": None, "float": bias, "bool": bias > -1}[mask]
    options = {"q_num_heads": heads, "kv_num_heads": groups, "scale": 0.25, "is_causal": int(is_causal)}
    names = ["q", "k", "v", *([] if bias is None else ["m"])]
    constants = {} if bias is None else {"m": bias}
    found = ran([node("Attention", *names, **options)], {"q": q, "k": k, "v": v}, constants)
    meant = attention(q, k, v, bias, op="", query_heads=heads, key_heads=groups, scale=0.25, is_causal=is_causal)
    assert torch.equal(meant, found)


@pytest.mark.parametrize("is_causal", [False, True])
def test_attention_as_matrix_products_is_attention(is_causal):
    q, k, v = drawn(2, 4, 6, 8), drawn(2, 2, 6, 8, seed=1), drawn(2, 2, 6, 8, seed=2)
    found = scaled_dot_product_attention(q, k, v, is_causal=is_causal, enable_gqa=True)
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=is_causal, enable_gqa=True)
    assert torch.allclose(found, wanted, atol=1e-6)
    hidden = torch.zeros(6, 6, dtype=torch.bool)
    assert not scaled_dot_product_attention(q, k, v, hidden, enable_gqa=True).any()


@pytest.mark.parametrize("half", [2, 8, 15, 32])
def test_rotary_embeddings(half):
    x, cos, sin = drawn(2, 5, 6 * half), drawn(2, 5, half, seed=1), drawn(2, 5, half, seed=2)
    found = ran([node("RotaryEmbedding", "x", "c", "s", num_heads=3)], {"x": x, "c": cos, "s": sin})
    tables = [torch.cat([table, table], -1).unsqueeze(1) for table in (cos, sin)]
    assert torch.equal(rotary(x, *tables, op="", heads=3), found)


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0, 30.0])
@pytest.mark.parametrize("kind", ["Sigmoid", "Tanh", "Erf", "Gelu", "Gelu tanh", "Silu"])
def test_activations(kind, scale):
    x = drawn(257, scale=scale)
    name, _, approximate = kind.partition(" ")
    meant = {
        "Sigmoid": activation.sigmoid,
        "Tanh": activation.tanh,
        "Erf": activation.erf,
        "Silu": activation.silu,
        "Gelu": lambda x: activation.gelu(x, approximate=approximate or "none"),
    }[name]
    nodes = [node(name, "x", **({"approximate": approximate} if approximate else {}))]
    if name == "Silu":
        nodes = [onnx.helper.make_node("Sigmoid", ["x"], ["s"]), node("Mul", "x", "s")]
    assert torch.equal(meant(x), ran(nodes, {"x": x}))


def test_a_sum_half_way_between_two_numbers_is_rounded_once():
    a, b = torch.tensor([1 + 2.0**-12]), torch.tensor([1 + 2.0**-12])
    c = torch.tensor([2.0**-60])
    assert fused(a, b, c).item() == 1 + 2.0**-11 + 2.0**-23
    assert fused(a, b, -c).item() == 1 + 2.0**-11
    assert accumulate(torch.tensor([[2.0**-30, 1 + 2.0**-12]]), torch.tensor([[2.0**-30], [1 + 2.0**-12]])).item() == (
        1 + 2.0**-11 + 2.0**-23
    )


def test_other_dtypes_are_torchs():
    x = drawn(2, 4, 16).double()
    assert torch.equal(softmax(x, -1), torch.softmax(x, -1))
    assert torch.equal(norm.rms_norm(x, [16]), torch.rms_norm(x, [16]))
    options = {"query_heads": 2, "key_heads": 2, "scale": 0.5, "is_causal": False}
    assert torch.equal(attention(x, x, x, None, op="", **options), real_attention(x, x, x, None, op="", **options))


def test_keys_are_operators_or_kernels():
    for name in (*FLOAT_MEANINGS, *LINEAR_MEANINGS):
        assert name in MEANINGS or name.startswith("aten.")


class Block(torch.nn.Module):
    """A transformer block of normalizations, attention and a gate, whose linear layers can be quantized."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norms = torch.nn.ModuleList([torch.nn.RMSNorm(32), torch.nn.LayerNorm(32)])
        self.mix, self.out = torch.nn.Linear(32, 96), torch.nn.Linear(32, 32)
        self.wide, self.gate, self.narrow = torch.nn.Linear(32, 64), torch.nn.Linear(32, 64), torch.nn.Linear(64, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = [part.unflatten(-1, (4, 8)).transpose(1, 2) for part in self.mix(self.norms[0](x)).chunk(3, -1)]
        mixed = torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        y = self.norms[1](x)
        return x + self.narrow(torch.nn.functional.silu(self.gate(y)) * self.wide(y))


def test_a_transformer_simulates_itself_bit_for_bit():
    batches = [(drawn(4, 12, 32, seed=seed),) for seed in range(3)]
    artifact = qcompiler.compile(Block().eval(), calibration=batches, recipe="w8a8")
    for (x,) in batches:
        real, meant = artifact(x), artifact.simulate(x)
        assert isinstance(real, torch.Tensor)
        assert isinstance(meant, torch.Tensor)
        assert torch.equal(real, meant)
