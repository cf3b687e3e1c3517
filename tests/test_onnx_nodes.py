"""A part of the ONNX package's own backend node tests: imported, interpreted, written and run in ONNX Runtime.

`python -m benchmarks.coverage.onnx_nodes` runs all of them.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import qcompiler
from benchmarks.coverage.onnx_cases import NodeCase, check, converted, feed, imported, node_cases, round_trip
from qcompiler.backends.onnx.writer import check_writable
from qcompiler.errors import UnsupportedError
from qcompiler.frontends.onnx_import import import_onnx
from qcompiler.frontends.onnx_ops.resample import Axis, Filter
from qcompiler.ir.interp import evaluate
from qcompiler.ir.parse import parse_program
from qcompiler.ir.program import Builder, Node, Program, Stage
from qcompiler.ir.types import TensorType
from tests import onnx_tools
from tests.onnx_models import build, normal

# One of each operator, and the forms of the wide ones.
_NAMES = """
abs add_uint8 affine_grid_3d_align_corners and_bcast4v3d argmax_no_keepdims_example_select_last_index attention_4d
attention_3d_gqa_softcap attention_4d_with_qk_matmul_softmax attention_4d_gqa_causal_nonpad_decode
attention_local_window_rank1_boolean_mask attention_4d_diff_heads_mask4d_padded_kv averagepool_2d_same_lower
averagepool_2d_ceil_last_window_starts_on_pad averagepool_2d_dilations batchnorm_epsilon
bitshift_right_int32_negative_input bitwise_not_3d blackmanwindow_symmetric cast_FLOAT16_to_FLOAT8E5M2
cast_no_saturate_FLOAT_to_FLOAT8E4M3FNUZ cast_FLOAT_to_INT4 cast_FLOAT_to_FLOAT4E2M1 castlike_FLOAT_to_BFLOAT16
causal_conv_with_state_silu celu center_crop_pad_crop_and_pad clip_min_greater_than_max col2im_5d compress_1
concat_3d_axis_negative_3 constantofshape_int_shape_zero conv_with_autopad_same convinteger_with_padding
convtranspose_autopad_same convtranspose_output_shape cumprod_1d_reverse_exclusive cumsum_2d_negative_axis
deform_conv_with_mask_bias depthtospace_example dequantizelinear_blocked dft_irfft dft_inverse div_int32_trunc
dropout_default_mask dynamicquantizelinear_max_adjusted einsum_batch_diagonal elu eyelike_populate_off_main_diagonal
flatten_negative_axis3 gather_2d_indices gather_elements_negative_indices gathernd_example_int32_batch_dim1
gelu_tanh_2 gemm_all_attributes gridsample_bicubic gridsample_volumetric_bilinear_align_corners_1
group_normalization_epsilon gru_seq_length gru_bidirectional hardmax_one_hot hardsigmoid identity if
instancenorm_epsilon isinf_negative l2normalization_axis_0 layer_normalization_4d_axis_negative_3
linear_attention_gated logsoftmax_large_number loop11 lppool_2d_dilations lrn lstm_with_peepholes lstm_batchwise
lstm_bidirectional matmul_4d_1d matmulinteger maxpool_2d_uint8 maxpool_with_argmax_2d_precomputed_strides
maxunpool_export_with_output_shape melweightmatrix mish mod_float_edge_cases_fmod_0_float32 mvn
nllloss_NCd1d2_with_weight_reduction_sum_ii nonmaxsuppression_suppress_by_IOU_and_scores
nonmaxsuppression_center_point_box_format nonzero_example onehot_out_of_range_indices wrap_pad
constant_pad_negative_axes pow_types_int64_float32 prelu_broadcast qlinearconv qlinearmatmul_3D_int8_float16
quantizelinear_blocked_asymmetric quantizelinear_uint4 range_int32_type_negative_delta
reduce_log_sum_exp_default_axes_keepdims_random reduce_max_empty_set reduce_prod_negative_axes_keepdims_random
reshape_allowzero_reordered reshape_zero_and_negative_dim resize_downsample_scales_cubic_antialias
resize_downsample_sizes_linear_pytorch_half_pixel resize_tf_crop_and_resize_axes_3_2
resize_upsample_scales_linear_half_pixel_symmetric resize_upsample_sizes_nearest_not_smaller
resize_downsample_scales_cubic_A_n0p5_exclude_outside reversesequence_batch rms_normalization_3d_axis1_epsilon
roialign_mode_max rotary_embedding_with_interleaved_rotary_dim scan9_multi_state scatter_elements_with_reduction_min
scatternd_max_with_element_indices sce_mean_weight_ii selu shape_clip_start shrink_soft simple_rnn_bidirectional
rnn_seq_length slice_neg_steps spacetodepth_crd_mode_example split_zero_size_splits_opset18 stft_with_window
swiglu_alpha tensorscatter_circular thresholdedrelu tile top_k_same_values tril_neg unique_not_sorted_without_axis
unsqueeze_unsorted_axes upsample_nearest where_long_example range_float_type_positive_delta_expanded
center_crop_pad_crop_and_pad_expanded layer_normalization_3d_axis1_epsilon_expanded
"""
WHOLE = tuple(_NAMES.split())

# What is not read, and why.
REFUSED = {
    "adam": "opset 1, qcompiler reads 7",
    "ai_onnx_ml_binarizer": "opset 1, qcompiler reads 7",
    "batchnorm_example_training_mode": "only inference with statistics per channel",
    "bernoulli": "does not read: Bernoulli",
    "cast_e8m0_FLOAT_to_FLOAT8E8M0": "element type FLOAT8E8M0",
    "equal_string": "element type STRING",
    "flexattention": "does not read: ai.onnx.preview::FlexAttention",
    "identity_opt": "is not a tensor",
    "image_decoder_decode_jpeg_rgb": "does not read: ImageDecoder",
    "sequence_insert_at_back": "does not read: SequenceInsert",
    "split_to_sequence_1": "does not read: SplitToSequence",
    "string_concat": "does not read: StringConcat",
    "tfidfvectorizer_tf_only_bigrams_skip0": "does not read: TfIdfVectorizer",
    "training_dropout": "training mode is not supported",
}

# What ONNX Runtime, or the newest opset that it takes, has no kernel for.
UNWRITTEN = {"bitcast_float32_to_int32": "aten.view.dtype", "max_int16": "Could not find an implementation for Max"}


def case_of(name: str) -> NodeCase:
    return next(case for case in node_cases() if case.name == f"test_{name}")


@pytest.mark.parametrize("name", WHOLE)
def test_the_results_are_the_expected_ones_here_and_in_onnx_runtime(name: str) -> None:
    outcome, program = check(case_of(name))
    assert outcome.status == "passed", outcome.reason
    assert program is not None
    again = round_trip(case_of(name), program)
    assert again.status == "passed", again.reason


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_refused_by_name(name: str) -> None:
    outcome, _ = check(case_of(name))
    assert outcome.status == "unsupported", outcome.reason
    assert REFUSED[name] in outcome.reason
    assert outcome.where


@pytest.mark.parametrize("name", UNWRITTEN)
def test_what_cannot_be_run_again_is_refused_by_name(name: str) -> None:
    _, program = check(case_of(name))
    assert program is not None
    again = round_trip(case_of(name), program)
    assert again.status == "unsupported"
    assert UNWRITTEN[name] in again.reason


@pytest.mark.parametrize(("name", "opset"), [("clip_default_min", 21), ("squeeze", 21), ("add", 17)])
def test_a_case_in_another_opset(name: str, opset: int) -> None:
    case = converted(case_of(name), opset)
    assert case is not None
    assert case.opset == opset
    assert check(case)[0].status == "passed"


def test_a_text_with_sizes_that_only_a_run_can_tell_reads_back() -> None:
    case = case_of("compress_0")
    program, _ = imported(case)
    text = str(program)
    assert str(parse_program(text)) == text
    assert [tuple(out.shape) for out in evaluate(program, feed(case, program))] == [(2, 2)]


def test_an_attribute_that_is_not_known_is_refused() -> None:
    node = helper.make_node("Softplus", ["x"], ["y"], steepness=2.0)
    with pytest.raises(UnsupportedError, match="attribute 'steepness' is not supported"):
        import_onnx(build([node], {"x": normal(3)}, ["y"], {}))


def test_an_input_that_is_not_known_is_refused() -> None:
    node = helper.make_node("Relu", ["x", "z"], ["y"])
    with pytest.raises(UnsupportedError, match="input 1 is not supported"):
        import_onnx(build([node], {"x": normal(3), "z": normal(3)}, ["y"], {}))


def test_interpolation_rows_add_up_to_one() -> None:
    for coordinates in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel", "half_pixel_symmetric"):
        for kernel in (Filter(), Filter(cubic=True), Filter(smooth=True), Filter(cubic=True, inside=True)):
            matrix = kernel.matrix(Axis(7, 4, 4.5 / 7, coordinates))
            torch.testing.assert_close(matrix.sum(1), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("cubic", [False, True])
def test_interpolation_matrices_agree_with_torch(cubic: bool) -> None:
    x = torch.from_numpy(normal(1, 1, 6, 6)).double()
    matrix = Filter(cubic=cubic).matrix(Axis(6, 9, 1.5, "half_pixel"))
    mode = "bicubic" if cubic else "bilinear"
    expected = torch.nn.functional.interpolate(x, size=(9, 9), mode=mode)
    torch.testing.assert_close(matrix @ x @ matrix.t(), expected)


@pytest.mark.parametrize(
    ("op", "gates", "states"),
    [("aten.lstm.input", 4, 2), ("aten.gru.input", 3, 1), ("aten.rnn_tanh.input", 1, 1), ("aten.rnn_relu.input", 1, 1)],
)
@pytest.mark.parametrize("batch_first", [False, True])
def test_recurrent_layers_of_two_directions_are_written(op: str, gates: int, states: int, batch_first: bool) -> None:
    def body(builder: Builder, x: Node) -> list[Node | None]:
        shapes = [(gates * 3, 4), (gates * 3, 3), (gates * 3,), (gates * 3,)] * 2
        shapes += [(gates * 3, 6), (gates * 3, 3), (gates * 3,), (gates * 3,)] * 2
        params = [builder.param(f"w{i}", torch.from_numpy(normal(*shape))) for i, shape in enumerate(shapes)]
        start = [builder.param(f"h{i}", torch.from_numpy(normal(4, 2, 3))) for i in range(states)]
        hx = start if states == 2 else start[0]
        call = builder.call(op, x, hx, params, True, 2, 0.0, False, True, batch_first)
        return list(builder.items(call))

    shape = (2, 5, 4) if batch_first else (5, 2, 4)
    program = onnx_tools.build(body, TensorType(torch.float32, shape))
    onnx_tools.assert_same(program, [torch.from_numpy(normal(*shape))])


def test_a_recurrent_onnx_model_compiles_around_its_layer() -> None:
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r", "b"], ["y"], hidden_size=8),
        helper.make_node("Squeeze", ["y", "one"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["z"]),
    ]
    weights = {"w": normal(1, 32, 16), "r": normal(1, 32, 8), "b": normal(1, 64), "head": normal(8, 16)}
    constants = {**weights, "one": np.array([1], np.int64)}
    model = build(nodes, {"x": normal(6, 2, 16)}, ["z"], constants)
    samples = [{"x": normal(6, 2, 16)} for _ in range(4)]
    artifact = qcompiler.compile(model, calibration=samples, recipe="w8a8")
    written = {node.op_type for node in onnx.load(artifact.onnx).graph.node}
    assert "LSTM" in written
    assert len(artifact.report.layers) == 1
    assert not artifact.report.fallbacks


def test_what_a_target_cannot_write_is_said_before_calibration() -> None:
    nodes = [helper.make_node("BitCast", ["x"], ["y"], to=TensorProto.INT32)]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "bits",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
            [helper.make_tensor_value_info("y", TensorProto.INT32, [4])],
        ),
        opset_imports=[helper.make_opsetid("", 26)],
    )
    with pytest.raises(UnsupportedError, match=r"'aten\.view\.dtype' cannot be written") as caught:
        qcompiler.compile(model, calibration=[{"x": normal(4)}], recipe="w8a8")
    assert "from module" in caught.value.where
    assert caught.value.step == "write onnx"


def test_every_operator_that_cannot_be_written_is_named() -> None:
    program = Program(stage=Stage.CANONICAL)
    x = program.add_input("x", TensorType(torch.float32, (4, 4)))
    builder = program.append(module="here")
    inverse = builder.call("aten.linalg_inv_ex", x)
    result = builder.call("aten.view.dtype", builder.items(inverse)[0], torch.int32)
    program.set_outputs([result])
    with pytest.raises(UnsupportedError, match=r"'aten.linalg_inv_ex', 'aten.view.dtype'") as caught:
        check_writable(program)
    assert caught.value.where.count("from module here") == 2


def test_a_quantized_model_is_read_as_its_arithmetic() -> None:
    x, scale, zero = normal(3, 4), np.float32(0.05), np.uint8(128)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    model = build(nodes, {"x": x}, ["y"], {"s": np.array(scale), "z": np.array(zero)})
    found = import_onnx(model).run(torch.from_numpy(x))
    codes = np.clip(np.rint(x / scale) + 128, 0, 255)
    torch.testing.assert_close(found, torch.from_numpy((codes - 128) * scale))


def test_a_constant_input_and_a_constant_of_the_model_give_the_same() -> None:
    weights = numpy_helper.to_array(numpy_helper.from_array(normal(1, 12, 4)))
    nodes = [helper.make_node("GRU", ["x", "w", "r"], ["y"], hidden_size=4, linear_before_reset=1)]
    x, recurrent = normal(5, 2, 4), normal(1, 12, 4)
    fixed = import_onnx(build(nodes, {"x": x}, ["y"], {"w": weights, "r": recurrent}))
    free = import_onnx(build(nodes, {"x": x, "w": weights, "r": recurrent}, ["y"], {}))
    first = fixed.run(torch.from_numpy(x))
    second = free.run(*(torch.from_numpy(array) for array in (x, weights, recurrent)))
    torch.testing.assert_close(first, second)
