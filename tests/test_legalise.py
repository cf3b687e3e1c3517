"""Forms that onnxruntime runs in float, brought into forms that it runs in integers: each rule, and all together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper

from qcompiler.backends.onnx.foreign import audit_file
from qcompiler.backends.onnx.legal import RULES
from qcompiler.backends.onnx.legalise import legalise, legalise_file
from qcompiler.backends.onnx.matrix.patterns import Pattern, patterns
from qcompiler.backends.onnx.matrix.sketch import Sketch, codes
from qcompiler.backends.onnx.realised import code_readers, optimized_graph
from qcompiler.backends.onnx.session import open_session
from qcompiler.errors import InputError

EXACT = {"session.qdq_matmulnbits_accuracy_level": "0"}
STEP = 0.02
GOLDEN = {
    "MatMul u8 x s8 channel, bias added behind, float out": ("matmul_with_bias_as_gemm", "QGemm"),
    "MatMul u8 x s8 channel, bias added behind, rank 3, float out": ("matmul_with_bias_as_gemm", "QGemm"),
    "Gemm u8 x s8 channel, float bias, float out": ("code_bias_of_gemm", "QGemm"),
    "Gemm u8 x s8 channel, weight zero point left out, int32 bias, float out": ("write_weight_zero_point", "QGemm"),
    "Gemm u8 x s8 channel, int32 bias, relu, u8 out": ("limit_codes", "QGemm"),
    "Conv u8 x s8 channel, relu, u8 out": ("limit_codes", "QLinearConv"),
    "Conv u8 x s8 channel, clip, u8 out": ("limit_codes", "QLinearConv"),
    "Conv u8 x s8 channel, bias added behind, u8 out": ("give_bias_to_convolution", "QLinearConv"),
    "Conv s8 x s8 channel, 2 readers, s8 out": ("write_unsigned", "QLinearConv"),
    "MatMul s8 x s8 channel, 3 readers, float out": ("write_unsigned", "MatMulIntegerToFloat"),
    "MatMul u8 dynamic x s8 channel, bias added behind, float out": (
        "dynamic_product_in_integers",
        "DynamicQuantizeMatMul",
    ),
    "Gemm u8 dynamic x s8 channel, float bias, float out": ("dynamic_product_in_integers", "DynamicQuantizeMatMul"),
    "Conv u8 x f32, u8 out": ("keep_in_float", "Conv"),
    "Gemm u8 x f32, u8 out": ("keep_in_float", "Gemm"),
    "ConvTranspose u8 x f32, u8 out": ("keep_in_float", "ConvTranspose"),
    "ReduceMean u8, u8 out": ("mean_as_pool", "QLinearGlobalAveragePool"),
    "Gather of a dequantized u4 block table": ("look_up_codes", "GatherBlockQuantized"),
    "MatMul f32 x s4 block, float out": ("pack_exactly", "MatMulNBits accuracy_level=0"),
    "MatMul f32 x u4 block, float out": ("pack_exactly", "MatMulNBits accuracy_level=0"),
    "MatMul f32 x s4 block, stored [N, K], float out": ("pack_exactly", "MatMulNBits accuracy_level=0"),
    "Gemm f32 x s4 block, stored [N, K], float out": ("pack_exactly", "MatMulNBits accuracy_level=0"),
}
KNOWN = {pattern.name: pattern for pattern in patterns()}


def run(model: onnx.ModelProto) -> list[np.ndarray]:
    session = open_session(model.SerializeToString(), threads=1, entries=EXACT).inner
    generator = np.random.default_rng(1)
    feeds = {item.name: generator.standard_normal(item.shape).astype(np.float32) for item in session.get_inputs()}
    return [np.asarray(result) for result in session.run(None, feeds)]


def legalised(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    inside = ir.serde.deserialize_model(copy)
    changes = legalise(inside)
    return ir.serde.serialize_model(inside), [change.rule for change in changes]


def kernels(model: onnx.ModelProto, folder: Path) -> list[str]:
    path = folder / "model.onnx"
    onnx.save(model, path)
    layers = audit_file(path)
    assert all(layer.ok for layer in layers), layers
    return [layer.realised for layer in layers]


@pytest.mark.parametrize("name", GOLDEN)
def test_a_silent_fallback_becomes_its_kernel(tmp_path, name):
    rule, kernel = GOLDEN[name]
    before = KNOWN[name].model()
    after, rules = legalised(before)
    assert rule in rules
    assert set(kernels(after, tmp_path)) == {kernel}


@pytest.mark.parametrize("name", [*GOLDEN, "Pad u8, u8 out", "Gather of a dequantized s8 table"])
def test_rules_keep_the_function(name):
    before = KNOWN[name].model()
    after, rules = legalised(before)
    assert rules
    for wanted, found in zip(run(before), run(after), strict=True):
        assert wanted.shape == found.shape
        # integer kernels round a tie of a quantized result otherwise than float ones
        assert np.abs(wanted - found).max() <= STEP * 1.001


@pytest.mark.parametrize(
    "name",
    [
        "Conv u8 x s8 channel, int32 bias, u8 out",
        "Conv u8 x s8 channel, relu, u8 out zero point 0",
        "Gemm u8 x s8 channel, int32 bias, float out",
        "MatMul u8 x s8 channel, float out",
        "Conv + Conv, relu, codes between",
        "MatMul u16 x s8 channel, u16 out",
    ],
)
def test_good_forms_and_hopeless_ones_are_left_alone(name):
    assert legalised(KNOWN[name].model())[1] == []


def conv_with_wrong_bias(g: Sketch) -> list[str]:
    x = g.pair(g.input((1, 4, 6, 6)), "u8")
    grid = [g.constant(np.full(8, 0.01)), g.constant(np.zeros(8), "s8")]
    w = g.op("DequantizeLinear", [g.constant(codes((8, 4, 3, 3), "s8"), "s8"), *grid], {"axis": 0})
    bias = g.op("DequantizeLinear", [g.constant(np.full(8, 40), "s32"), g.constant(np.array(0.01))])
    return [g.pair(g.op("Conv", [x, w, bias]), "u8")]


def gemm_with_wrong_bias(g: Sketch) -> list[str]:
    x = g.pair(g.input((4, 16)), "u8")
    grid = [g.constant(np.full(8, 0.01)), g.constant(np.zeros(8), "s8")]
    w = g.op("DequantizeLinear", [g.constant(codes((16, 8), "s8"), "s8"), *grid], {"axis": 1})
    bias = g.op("DequantizeLinear", [g.constant(np.full(8, 100), "s32"), g.constant(np.array(0.01))])
    return [g.op("Gemm", [x, w, bias])]


@pytest.mark.parametrize(("body", "kernel"), [(conv_with_wrong_bias, "QLinearConv"), (gemm_with_wrong_bias, "QGemm")])
def test_a_bias_on_another_scale_is_requantized(tmp_path, body: Callable[[Sketch], Sequence[str]], kernel):
    before = Pattern("wrong bias", body).model()
    after, rules = legalised(before)
    assert rules == ["requantize_bias"]
    assert kernels(after, tmp_path) == [kernel]
    session = {"session.disable_quant_qdq": "1"}
    path = tmp_path / "plain.onnx"
    onnx.save(before, path)
    meant = open_session(path, threads=1, entries=session).inner
    feed = {
        item.name: np.random.default_rng(1).standard_normal(item.shape).astype(np.float32)
        for item in meant.get_inputs()
    }
    (found,) = open_session(after.SerializeToString(), threads=1).inner.run(None, feed)
    (wanted,) = meant.run(None, feed)
    assert np.abs(np.asarray(wanted) - np.asarray(found)).max() <= STEP * 1.001


def integer_gemm(g: Sketch) -> str:
    x = g.pair(g.input((4, 16)), "u8")
    grid = [g.constant(np.full(8, 0.01)), g.constant(np.zeros(8), "s8")]
    w = g.op("DequantizeLinear", [g.constant(codes((16, 8), "s8"), "s8"), *grid], {"axis": 1})
    scale = g.constant(np.full(8, np.float32(0.01) * np.float32(STEP)))
    bias = g.op("DequantizeLinear", [g.constant(np.full(8, 100), "s32"), scale], {"axis": 0})
    return g.op("Gemm", [x, w, bias])


@pytest.mark.parametrize(("kind", "code_bound"), [("Relu", False), ("Tanh", False), ("Relu", True)])
def test_a_float_activation_does_not_swallow_an_integer_gemm(kind, code_bound):
    def body(g: Sketch) -> list[str]:
        result = g.op(kind, [integer_gemm(g)])
        return [g.op("Neg", [g.pair(result, "u8") if code_bound else result])]

    before = Pattern("activation", body).model()
    after, rules = legalised(before)
    running = {node.op_type for node in optimized_graph(after.SerializeToString()).node}
    assert "QGemm" in running
    assert not running & {"FusedGemm", "Gemm"}
    if not code_bound:
        assert "part_from_activation" in rules
        assert np.abs(run(before)[0] - run(after)[0]).max() <= STEP * 1.001


def test_a_pool_in_float_stays_in_front_of_its_quantizer():
    def body(g: Sketch) -> list[str]:
        pooled = g.op("MaxPool", [g.op("Abs", [g.input((1, 4, 8, 8))])], {"kernel_shape": [2, 2], "strides": [2, 2]})
        return [g.op("Neg", [g.pair(pooled, "u8")])]

    before = Pattern("pool", body).model()
    after, rules = legalised(before)
    assert rules == ["pool_reals"]
    for model, in_float in ((before, False), (after, True)):
        running = optimized_graph(model.SerializeToString())
        (pool,) = (node for node in running.node if node.op_type == "MaxPool")
        assert (pool.name not in code_readers(running)) == in_float
    assert np.array_equal(run(before)[0], run(after)[0])


def test_float_weights_behind_a_quantizer_are_stored_as_codes():
    def body(g: Sketch) -> list[str]:
        w = g.pair(g.constant(np.linspace(-1, 1, 8 * 16).reshape(16, 8)), "s8")
        return [g.op("MatMul", [g.pair(g.input((4, 16)), "u8"), w])]

    before = Pattern("float weight", body).model()
    after, rules = legalised(before)
    assert rules == ["fold_weight_quantizer"]
    stored = [numpy_helper.to_array(item) for item in after.graph.initializer if list(item.dims) == [16, 8]]
    assert [item.dtype for item in stored] == [np.int8]
    assert all(np.array_equal(a, b) for a, b in zip(run(before), run(after), strict=True))


def test_free_dimensions_and_names_are_kept(tmp_path):
    def body(g: Sketch) -> list[str]:
        x = g.pair(g.input(("batch", "length", 16)), "u8")
        grid = [g.constant(np.full(8, 0.01)), g.constant(np.zeros(8), "s8")]
        w = g.op("DequantizeLinear", [g.constant(codes((16, 8), "s8"), "s8"), *grid], {"axis": 1})
        return [g.op("Add", [g.op("MatMul", [x, w]), g.constant(np.ones(8))])]

    before = Pattern("free", body).model()
    source, result = tmp_path / "a.onnx", tmp_path / "b.onnx"
    onnx.save(before, source)
    changes = legalise_file(source, result)
    assert [str(change).partition(" ")[0] for change in changes] == ["matmul_with_bias_as_gemm"]
    names = [item.name for item in onnx.load(str(result)).graph.output]
    assert names == [item.name for item in before.graph.output]
    feed = {"x0": np.random.default_rng(0).standard_normal((2, 5, 16)).astype(np.float32)}
    (wanted,), (found,) = (open_session(path).inner.run(None, feed) for path in (source, result))
    assert np.allclose(np.asarray(wanted), np.asarray(found), atol=1e-4)


def test_a_signed_constant_follows_the_activations(tmp_path):
    def body(g: Sketch) -> list[str]:
        constant = g.dequantize(g.constant(codes((4, 16), "s8"), "s8"), g.grid("s8"))
        return [g.pair(g.op("Add", [g.pair(g.input((4, 16)), "s8"), constant]), "s8")]

    before = Pattern("constant", body).model()
    after, rules = legalised(before)
    assert set(rules) == {"write_unsigned", "write_unsigned_constant"}
    assert kernels(after, tmp_path) == ["QLinearAdd"]
    assert all(np.array_equal(a, b) for a, b in zip(run(before), run(after), strict=True))


def test_a_bias_per_row_is_no_bias():
    def body(g: Sketch) -> list[str]:
        grid = [g.constant(np.full(4, 0.01)), g.constant(np.zeros(4), "s8")]
        w = g.op("DequantizeLinear", [g.constant(codes((16, 4), "s8"), "s8"), *grid], {"axis": 1})
        return [g.op("Gemm", [g.pair(g.input((4, 16)), "u8"), w, g.constant(np.ones((4, 1)))])]

    assert legalised(Pattern("rows", body).model())[1] == []


def test_old_operator_sets_are_refused():
    with pytest.raises(InputError, match="opset 12"):
        legalised(Pattern("old", lambda g: [g.op("Relu", [g.input((4,))])], opset=12).model())


def test_samples_give_results_their_scales(tmp_path):
    source, result = tmp_path / "a.onnx", tmp_path / "b.onnx"
    onnx.save(KNOWN["Conv + Conv, relu, nothing between"].model(), source)
    names = [item.name for item in onnx.load(str(source)).graph.input]
    feed = {each: torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(2)) for each in names}
    rules = [change.rule for change in legalise_file(source, result, [feed])]
    assert set(rules) == {"quantize_result"}
    assert [layer.realised for layer in audit_file(result)] == ["QLinearConv", "QLinearConv", "QLinearAdd"]
    plain = {"session.disable_quant_qdq": "1"}
    (wanted,), (found,) = (open_session(path, entries=plain).run(feed) for path in (source, result))
    assert (wanted - found).square().mean() < 1e-3 * wanted.square().mean()


def test_rules_have_names_and_reasons():
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.reason for rule in RULES)


def test_no_onnx_file_is_refused(tmp_path):
    (tmp_path / "no.onnx").write_bytes(b"no model at all")
    with pytest.raises(InputError, match="no ONNX file"):
        legalise_file(tmp_path / "no.onnx", tmp_path / "out.onnx")
