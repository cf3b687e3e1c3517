"""From a quantized program to a file that onnxruntime runs in integers: lowering, emission, audit, sessions."""

from __future__ import annotations

from dataclasses import replace

import onnx
import pytest
import torch
from onnx import TensorProto

from qcompiler.backends.onnx.audit import integer_share
from qcompiler.backends.onnx.realised import Realised, read_back
from qcompiler.backends.onnx.session import open_session
from qcompiler.errors import InputError, UnsupportedError, VerifyError
from qcompiler.ir.fill import Fill
from qcompiler.ir.interp import evaluate
from qcompiler.ir.parse import parse_program
from qcompiler.ir.program import Builder, Node
from qcompiler.ir.types import TensorType
from qcompiler.measure import sqnr_db
from qcompiler.passes.allocate import Assign
from qcompiler.passes.calibrate import Calibrate
from qcompiler.passes.lower import ApplyPlan
from qcompiler.passes.solve import Nearest, WeightRanges
from qcompiler.pipeline import Context, Options, run_passes
from tests.onnx_quantized import BACKEND, IMAGE, JETSON, ORT, ROWS, block, quantize, ready, residual, seeded, simulate
from tests.onnx_tools import build, typed

SCHEMES = ["w8a8", "w8a8_dynamic", "w4a8", "w8a16", "w4a16g16"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_lowering_keeps_the_function(scheme):
    quantized, lowered, batch = ready(block, scheme=scheme)
    assert sqnr_db(evaluate(quantized, [batch])[0], simulate(lowered, batch)) > 50


def test_lowering_keeps_the_function_of_convolutions():
    quantized, lowered, batch = ready(residual)
    assert sqnr_db(evaluate(quantized, [batch])[0], simulate(lowered, batch)) > 50


def test_simulation_is_what_ships(tmp_path):
    _, lowered, batch = ready(residual)
    BACKEND.emit(lowered, ORT, tmp_path)
    (shipped,) = BACKEND.runner(tmp_path)([batch])
    assert torch.equal(simulate(lowered, batch), shipped)


@pytest.mark.parametrize(("size", "factors"), [(None, [2.0, 2.0]), ([16, 16], None)])
def test_resizing_survives_the_change_to_channels_last(tmp_path, size, factors):

    def body(b: Builder, x: Node) -> Node:
        ones = [1, 1]
        y = b.call("aten.conv2d", x, b.param("w1", seeded((8, 3, 3, 3), 1)), None, ones, ones, ones, 1)
        y = b.call("aten.leaky_relu", y, 0.1)
        y = b.call("aten.upsample_bilinear2d.vec", y, size, False, factors)
        return b.call("aten.conv2d", y, b.param("w2", seeded((8, 8, 3, 3), 2)), None, ones, ones, ones, 1)

    batch = seeded((4, 3, 8, 8), 11, 1.0)
    lowered = BACKEND.lower(quantize(build(body, IMAGE), batch), ORT)
    BACKEND.emit(lowered, ORT, tmp_path)
    (shipped,) = BACKEND.runner(tmp_path)([batch])
    assert sqnr_db(simulate(lowered, batch), shipped) > 35


@pytest.mark.parametrize("scheme", ["w8a8", "w8a8_dynamic", "w4a8"])
@pytest.mark.parametrize("form", ["gemm", "contrib"])
def test_integer_linears_ship_as_simulated(tmp_path, scheme, form):
    target = replace(ORT, settings={**ORT.settings, "linear": form})
    _, lowered, batch = ready(block, target, scheme)
    BACKEND.emit(lowered, target, tmp_path)
    (shipped,) = BACKEND.runner(tmp_path)([batch])
    assert sqnr_db(simulate(lowered, batch), shipped) > 60


def test_kernel_calls_bear_the_names_of_their_operators():
    quantized, lowered, _ = ready(block)
    names = {node.name: lowered.op(node) for node in lowered.nodes}
    assert names["up"] == names["down"] == "qc.kernel"
    assert {"up", "down"} <= {node.name for node in quantized.nodes}


def test_absorbed_activations_are_limits():
    _, lowered, _ = ready(residual)
    calls = [node for node in lowered.nodes if node.args and node.args[0] == "conv"]
    assert [call.kwargs["low"] for call in calls] == [0, 0, 0]
    assert not [node for node in lowered.nodes if lowered.op(node) in ("aten.relu", "aten.clamp")]


def test_lowered_text_parses_back():
    _, lowered, _ = ready(block)
    text = str(lowered)
    assert str(parse_program(text)) == text


def test_audit_finds_everything_in_integers(tmp_path):
    _, lowered, _ = ready(residual)
    BACKEND.emit(lowered, ORT, tmp_path)
    layers = BACKEND.audit(lowered, ORT, tmp_path)
    assert all(layer.ok for layer in layers), layers
    assert [layer.realised for layer in layers if layer.op == "aten.conv2d"] == ["QLinearConv"] * 3
    assert {"QLinearAdd", "NhwcMaxPool", "QLinearGlobalAveragePool", "QGemm"} <= {layer.realised for layer in layers}
    assert integer_share(layers, ("aten.conv", "aten.linear")) == 1


def test_audit_catches_a_silent_fallback(tmp_path):
    trap = replace(ORT, settings={**ORT.settings, "linear": "matmul", "bias": "float"})
    lowered = BACKEND.lower(quantize(build(block, typed("s0", 24)), seeded((4, 24), 11, 1.0), target=trap), trap)
    BACKEND.emit(lowered, trap, tmp_path)
    fallen = {layer.name: layer for layer in BACKEND.audit(lowered, trap, tmp_path) if not layer.ok}
    assert set(fallen) == {"up"}
    assert "Gemm" in fallen["up"].realised
    assert "bias" in fallen["up"].reason
    assert fallen["up"].mend


def test_audit_names_float_layers_and_why(tmp_path):
    target = replace(ORT, kernels=tuple(kernel for kernel in ORT.kernels if kernel.name != "conv"))
    _, lowered, _ = ready(residual, target)
    BACKEND.emit(lowered, target, tmp_path)
    layers = [layer for layer in BACKEND.audit(lowered, target, tmp_path) if layer.op == "aten.conv2d"]
    assert [layer.requested for layer in layers] == ["float"] * 3
    assert all("Conv" in layer.realised for layer in layers)


def test_audit_shows_the_accuracy_level(tmp_path):
    fast = replace(ORT, settings={**ORT.settings, "weight_only": "fast"})
    for target, level in ((ORT, 0), (fast, 4)):
        _, lowered, _ = ready(block, target, "w4a16g16")
        BACKEND.emit(lowered, target, tmp_path)
        realised = {layer.realised for layer in BACKEND.audit(lowered, target, tmp_path) if layer.requested != "float"}
        assert realised == {f"MatMulNBits accuracy_level={level}"}


def test_exact_weight_only_shows_the_dequantization(tmp_path):
    _, lowered, _ = ready(block, scheme="w8a16")
    BACKEND.emit(lowered, ORT, tmp_path)
    realised = {layer.realised for layer in BACKEND.audit(lowered, ORT, tmp_path) if layer.requested != "float"}
    assert realised == {"DequantizeLinear, Gemm"}


def test_weights_are_stored_narrow(tmp_path):
    _, lowered, _ = ready(block, scheme="w8a8")
    BACKEND.emit(lowered, ORT, tmp_path)
    graph = onnx.load(str(tmp_path / "model.onnx")).graph
    stored = {tuple(item.dims): item.data_type for item in graph.initializer if len(item.dims) == 2}
    assert set(stored.values()) == {TensorProto.INT8}
    assert set(stored) == {(24, 32), (32, 24)}


def test_a_bias_beyond_int32_widens_its_channel(tmp_path):
    def body(b: Builder, x: Node) -> Node:
        weight = seeded((4, 24), 1)
        weight[2] *= 1e-9
        return b.call("aten.linear", x, b.param("w", weight), b.param("b", torch.tensor([0.1, -0.2, 5.0, 0.3])))

    batch = seeded((4, 5, 24), 2, 1.0)
    program = build(body, ROWS)
    lowered = BACKEND.lower(quantize(program, batch), ORT)
    BACKEND.emit(lowered, ORT, tmp_path)
    (shipped,) = BACKEND.runner(tmp_path)([batch])
    assert (shipped[..., 2] - 5).abs().max() < 1e-4
    assert sqnr_db(evaluate(program, [batch])[0], shipped) > 35


def test_broken_pattern_is_refused_with_the_node():
    quantized, _, _ = ready(block)
    reader = next(node for node in quantized.nodes if node.name == "down")
    dequantize = next(source for source in reader.all_input_nodes if source.op == "call_function")
    quantized.redirect(reader, dequantize, quantized.before(reader).call("aten.neg", dequantize))
    with pytest.raises(VerifyError, match="%down cannot become a kernel call"):
        BACKEND.lower(quantized, ORT)


def test_scales_that_were_never_set_are_refused():
    quantized, _, _ = ready(block)
    name = next(name for name in quantized.params if name.endswith("x0.scale"))
    quantized.params[name] = Fill("unset")
    with pytest.raises(InputError, match="never set"):
        BACKEND.lower(quantized, ORT)


def test_lowering_leaves_its_input_alone():
    quantized, _, batch = ready(block)
    text, before = str(quantized), evaluate(quantized, [batch])[0]
    BACKEND.lower(quantized, ORT)
    assert str(quantized) == text
    assert torch.equal(evaluate(quantized, [batch])[0], before)


def test_free_dimensions_stay_free(tmp_path):
    program = build(block, typed("s0", "s1", 24))
    lowered = BACKEND.lower(quantize(program, seeded((2, 3, 24), 1, 1.0)), ORT)
    BACKEND.emit(lowered, ORT, tmp_path)
    run = BACKEND.runner(tmp_path)
    for shape in ((2, 3, 24), (1, 7, 24), (5, 1, 24)):
        batch = seeded(shape, 3, 1.0)
        assert sqnr_db(simulate(lowered, batch), run([batch])[0]) > 60


def test_same_program_same_bytes(tmp_path):
    _, lowered, _ = ready(residual)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        assert BACKEND.emit(lowered, ORT, tmp_path / folder) == ["model.onnx"]
    assert (tmp_path / "a/model.onnx").read_bytes() == (tmp_path / "b/model.onnx").read_bytes()


# -- sessions ----------------------------------------------------------------------------------------------------------


def test_session_from_bytes(tmp_path):
    _, lowered, batch = ready(block)
    BACKEND.emit(lowered, ORT, tmp_path)
    path = tmp_path / "model.onnx"
    wanted = open_session(path, threads=1).run({"x0": batch})
    assert torch.equal(wanted[0], open_session(path.read_bytes()).run({"x0": batch})[0])


def test_session_takes_views(tmp_path):
    _, lowered, batch = ready(block)
    BACKEND.emit(lowered, ORT, tmp_path)
    session = open_session(tmp_path / "model.onnx")
    view = batch.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(session.run({"x0": view})[0], session.run({"x0": batch})[0])


def test_session_errors_say_what_is_wrong(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(InputError, match="cannot load"):
        open_session(tmp_path / "broken.onnx")
    with pytest.raises(InputError, match="cannot load"):
        open_session(tmp_path / "none.onnx")
    _, lowered, batch = ready(block)
    BACKEND.emit(lowered, ORT, tmp_path)
    session = open_session(tmp_path / "model.onnx")
    with pytest.raises(InputError, match="x0"):
        session.run({})
    with pytest.raises(InputError, match="could not run"):
        session.run({"x0": batch[..., :3]})


def test_read_back_finds_float_operators(tmp_path):
    def body(b: Builder, x: Node) -> Node:
        y = b.call("aten.linear", x, b.param("w", seeded((24, 24), 1)), b.param("b", seeded((24,), 2)), name="one")
        return b.call("aten.softmax.int", y, -1, name="two")

    quantized = quantize(build(body, ROWS), seeded((4, 5, 24), 1, 1.0))
    lowered = BACKEND.lower(quantized, ORT)
    BACKEND.emit(lowered, ORT, tmp_path)
    found = read_back(tmp_path / "model.onnx")
    assert found["one"].main == "QGemm"
    assert found["two"].main == "Softmax"


def test_numbered_siblings_keep_what_runs_for_them(tmp_path):
    ones, zeros = [1, 1], [0, 0]

    def body(b: Builder, x: Node) -> Node:
        y = b.call("aten.conv2d", x, b.param("w1", seeded((16, 3, 3, 3), 1)), None, ones, zeros, ones, 1, name="conv")
        y = b.call("aten.softplus", y)
        return b.call(
            "aten.conv2d", y, b.param("w2", seeded((16, 16, 3, 3), 2)), None, ones, zeros, ones, 1, name="conv_1"
        )

    BACKEND.emit(build(body, IMAGE), ORT, tmp_path)
    found = read_back(tmp_path / "model.onnx")
    assert [found[name].main for name in ("conv", "conv_1")] == ["Conv", "Conv"]


def test_sizes_computed_beside_a_product_do_not_hide_it():
    assert Realised(("Shape", "Concat", "QGemm", "Reshape")).main == "QGemm"


def test_half_precision_is_refused_with_what_to_do():
    def body(b: Builder, x: Node) -> Node:
        return b.call("aten.linear", x, b.param("w", seeded((24, 24), 1).half()), None)

    with pytest.raises(UnsupportedError, match=r"works in float32, the model in float16: convert it with \.float"):
        Assign("w8a8").run(build(body, typed("s0", 24, dtype=torch.float16)), Context(ORT))


def test_inputs_that_nothing_reads(tmp_path):
    def body(b: Builder, x: Node, unused: Node) -> Node:
        del unused
        return block(b, x)

    program = build(body, ROWS, TensorType(torch.float32, (2,)))
    batch = [seeded((4, 5, 24), 1, 1.0), torch.zeros(2)]
    passes = [Assign(), ApplyPlan(), Calibrate(), WeightRanges(), Nearest()]
    quantized, _ = run_passes(program, passes, Context(ORT), [batch], Options(check="off"))
    lowered = BACKEND.lower(quantized, ORT)
    BACKEND.emit(lowered, ORT, tmp_path)
    wanted = evaluate(lowered, batch, kernels=BACKEND.meanings())[0]
    assert sqnr_db(wanted, BACKEND.runner(tmp_path)(batch)[0]) > 60


def test_jetson_files_run_here_for_checks(tmp_path):
    """Rearranged codes behind a convolution, which onnxruntime itself cannot fuse when they are signed."""

    def body(b: Builder, x: Node) -> Node:
        y = b.call("aten.conv2d", x, b.param("w", seeded((8, 3, 2, 2), 1)), b.param("b", seeded((8,), 2)), [2, 2])
        tokens = b.call("aten.permute", b.call("aten.reshape", y, [-1, 8, 16]), [0, 2, 1])
        return b.call("aten.add.Tensor", tokens, b.param("place", seeded((16, 8), 3)))

    batch = seeded((4, 3, 8, 8), 4, 1.0)
    lowered = BACKEND.lower(quantize(build(body, IMAGE), batch, target=JETSON), JETSON)
    BACKEND.emit(lowered, JETSON, tmp_path)
    assert sqnr_db(simulate(lowered, batch), BACKEND.runner(tmp_path)([batch])[0]) > 40
