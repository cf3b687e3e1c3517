"""Rules for products: weights, zero points and biases."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qcompiler.backends.onnx.legal.edit import (
    Editor,
    Grid,
    Rule,
    dtype_of,
    grid_of,
    input_at,
    known,
    limits,
    maker,
    number,
    only_reader,
    plain_gemm,
    readers,
)

_MOST_BIAS = 2**31 - 1


def fold_weight_quantizer(editor: Editor, node: ir.Node) -> bool:
    """QuantizeLinear of a constant becomes the codes themselves."""
    grid = grid_of(node) if node.op_type == "QuantizeLinear" else None
    reals = known(node.inputs[0])
    if grid is None or reals is None:
        return False
    low, high = limits(grid.dtype) or (0, 0)
    scale, zero = (_spread(values, reals.ndim, _axis(node, reals.ndim)) for values in (grid.scale, grid.zero))
    codes = np.clip(np.rint(reals.astype(np.float32) / scale).astype(np.int64) + zero, low, high)
    stored = editor.constant(codes.astype(grid.dtype.numpy()), node.inputs[0].name or "weight")  # pyright: ignore[reportOptionalMemberAccess]
    editor.replace(node.outputs[0], stored)
    return True


def write_weight_zero_point(editor: Editor, node: ir.Node) -> bool:
    """The zero point of a stored weight that Gemm or MatMul reads, when it was left out."""
    fits = node.op_type == "DequantizeLinear" and input_at(node, 2) is None and known(node.inputs[0]) is not None
    grid = grid_of(node) if fits else None
    if grid is None or not any(reader.op_type in ("Gemm", "MatMul") for reader in readers(node.outputs[0])):
        return False
    zeros = editor.constant(np.zeros(grid.scale.shape, grid.dtype.numpy()), f"{node.inputs[0].name}.zeros")  # pyright: ignore[reportOptionalMemberAccess]
    node.resize_inputs(3)
    node.replace_input_with(2, zeros)
    return True


def give_bias_to_convolution(editor: Editor, node: ir.Node) -> bool:
    """A constant that is added behind a convolution, one number per channel, becomes its bias."""
    if node.op_type != "Add":
        return False
    for product, constant in (tuple(node.inputs), tuple(reversed(node.inputs))):
        conv, bias = maker(product, "Conv"), known(constant)
        if conv is None or bias is None or input_at(conv, 2) is not None or only_reader(conv.outputs[0], "Add") is None:
            continue
        shape = dict(enumerate(reversed(bias.shape)))
        spatial = _rank(conv.inputs[1]) - 2
        channels = shape.get(spatial, 1)
        if grid_of(maker(conv.inputs[0], "DequantizeLinear")) is None or channels != bias.size:
            continue
        wide = np.broadcast_to(bias.reshape(-1), (_outer(conv),)).astype(np.float32).copy()
        conv.resize_inputs(3)
        conv.replace_input_with(2, editor.constant(wide, "bias"))
        editor.replace(node.outputs[0], conv.outputs[0])
        return True
    return False


def requantize_bias(editor: Editor, node: ir.Node) -> bool:
    """An int32 bias whose scale is not input scale times weight scale: Conv stays float, Gemm computes nonsense."""
    product = node.op_type == "Conv" or (node.op_type == "Gemm" and plain_gemm(node))
    found = _operands(node) if product else None
    stored = maker(input_at(node, 2), "DequantizeLinear")
    if found is None or stored is None or dtype_of(stored.inputs[0]) != ir.DataType.INT32:
        return False
    codes, scale = known(stored.inputs[0]), known(stored.inputs[1])
    if codes is None or scale is None:
        return False
    wanted = _bias_scale(*found)
    same = scale.size in (1, wanted.size) and bool((scale.reshape(-1) == wanted.reshape(-1)).all())
    if scale.dtype == np.float32 and same:
        return False
    node.replace_input_with(2, _coded_bias(editor, node, codes.astype(np.float64) * scale, wanted))
    return True


def code_bias_of_gemm(editor: Editor, node: ir.Node) -> bool:
    """A float bias of a Gemm whose result is not quantized."""
    found = _operands(node) if node.op_type == "Gemm" and plain_gemm(node) else None
    bias = known(input_at(node, 2))
    if found is None or bias is None or not _per_column(bias, _outer(node)) or _is_quantized(node.outputs[0]):
        return False
    wanted = _bias_scale(*found)
    node.replace_input_with(2, _coded_bias(editor, node, np.broadcast_to(bias.reshape(-1), _outer(node)), wanted))
    return True


def matmul_with_bias_as_gemm(editor: Editor, node: ir.Node) -> bool:
    """MatMul with a stored matrix and a bias behind it: one Gemm over all rows, bias in int32."""
    product, bias = _biased(node)
    found = _operands(product) if product is not None else None
    if product is None or bias is None or found is None or _is_quantized(node.outputs[0]):
        return False
    x, w = found
    weight = known(w.node.inputs[0])
    if weight is None or weight.ndim != 2 or not _per_column(bias, weight.shape[1]):
        return False
    source, inner, outer = x.node.inputs[0], weight.shape[0], weight.shape[1]
    flat = editor.before(node, "Reshape", [source, editor.constant(np.array([-1, inner]), "rows")])
    reals = editor.before(node, "DequantizeLinear", [flat, *x.node.inputs[1:]])
    stored = _coded_bias(editor, node, np.broadcast_to(bias.reshape(-1), outer), _bias_scale(x, w))
    y = editor.before(node, "Gemm", [reals, product.inputs[1], stored])
    ends = [editor.constant(np.array([end]), "end") for end in (0, -1)]
    leading = editor.before(node, "Slice", [editor.before(node, "Shape", [source]), *ends])
    width = editor.constant(np.array([outer]), "width")
    shape = editor.before(node, "Concat", [leading, width], {"axis": 0})
    editor.replace(node.outputs[0], editor.before(node, "Reshape", [y, shape]))
    return True


def dynamic_product_in_integers(editor: Editor, node: ir.Node) -> bool:
    """A run-time scale and a bias: MatMulInteger, scaled back by hand, is what becomes one kernel."""
    product, bias = _biased(node)
    gemm = node.op_type == "Gemm" and plain_gemm(node) and known(input_at(node, 2)) is not None
    product, bias = (node, known(node.inputs[2])) if gemm else (product, bias)
    found = _dynamic_operands(product) if product is not None else None
    if product is None or bias is None or found is None:
        return False
    chosen, w = found
    codes, weight = known(w.node.inputs[0]), w.node.inputs[0]
    if codes is None or codes.ndim != 2 or not _per_column(bias, _outer(product)):
        return False
    if number(product, "transB", 0):
        weight = editor.constant(codes.T.copy(), "weight")
    zero = editor.constant(_flat(w.zero).astype(w.dtype.numpy()), "zeros")
    total = editor.before(node, "MatMulInteger", [chosen.outputs[0], weight, chosen.outputs[2], zero])
    reals = editor.before(node, "Cast", [total], {"to": ir.DataType.FLOAT.value})
    factor = editor.before(node, "Mul", [chosen.outputs[1], editor.constant(_flat(w.scale), "scales")])
    scaled = editor.before(node, "Mul", [reals, factor])
    added = editor.constant(np.broadcast_to(bias.reshape(-1), _outer(product)).astype(np.float32).copy(), "bias")
    editor.replace(node.outputs[0], editor.before(node, "Add", [scaled, added]))
    return True


def _biased(node: ir.Node) -> tuple[ir.Node | None, np.ndarray | None]:
    """The MatMul and the constant that an Add joins; a bias has one number per column."""
    if node.op_type != "Add":
        return None, None
    for product, constant in (tuple(node.inputs), tuple(reversed(node.inputs))):
        found, bias = maker(product, "MatMul"), known(constant)
        if found is None or bias is None or only_reader(found.outputs[0], "Add") is None:
            continue
        if bias.ndim and bias.shape[-1] == bias.size:
            return found, bias
    return None, None


def _per_column(bias: np.ndarray, columns: int) -> bool:
    """Whether a bias has one number, or one per column of the result."""
    return bias.size == 1 or (bias.shape[-1] == bias.size == columns)


def _operands(node: ir.Node) -> tuple[Grid, Grid] | None:
    """The static grids of input and stored weight of a product."""
    x, w = (grid_of(maker(value, "DequantizeLinear")) for value in node.inputs[:2])
    if x is None or w is None or not x.single or known(w.node.inputs[0]) is None:
        return None
    return x, w


def _dynamic_operands(node: ir.Node) -> tuple[ir.Node, Grid] | None:
    """The DynamicQuantizeLinear and the stored weight of a product."""
    reals = maker(node.inputs[0], "DequantizeLinear")
    chosen = maker(reals.inputs[0], "DynamicQuantizeLinear") if reals is not None else None
    w = grid_of(maker(node.inputs[1], "DequantizeLinear"))
    whole = chosen is not None and reals is not None and reals.inputs[1] is chosen.outputs[1]
    return (chosen, w) if chosen is not None and w is not None and whole else None


def _coded_bias(editor: Editor, node: ir.Node, reals: np.ndarray, scale: np.ndarray) -> ir.Value:
    """DequantizeLinear of a bias as int32 codes."""
    codes = np.clip(np.rint(reals.astype(np.float64) / scale.astype(np.float64)), -_MOST_BIAS, _MOST_BIAS)
    inputs = [editor.constant(codes.astype(np.int32), "bias"), editor.constant(scale, "bias.scale")]
    return editor.before(node, "DequantizeLinear", inputs, {"axis": 0} if scale.size > 1 else {})


def _bias_scale(x: Grid, w: Grid) -> np.ndarray:
    """Input scale times weight scale in float32, as the kernels compute it."""
    return np.asarray(x.scale.reshape(()) * _flat(w.scale), np.float32)


def _flat(values: np.ndarray) -> np.ndarray:
    """A vector, or a scalar when there is only one value."""
    return values.reshape(-1) if values.size > 1 else values.reshape(())


def _is_quantized(value: ir.Value) -> bool:
    found = readers(value)
    return bool(found) and not value.is_graph_output() and all(node.op_type == "QuantizeLinear" for node in found)


def _axis(node: ir.Node, rank: int) -> int:
    return int(number(node, "axis", 1)) % max(rank, 1)


def _spread(values: np.ndarray, rank: int, axis: int) -> np.ndarray:
    return values.reshape(()) if values.size == 1 else values.reshape([-1 if i == axis else 1 for i in range(rank)])


def _rank(value: ir.Value | None) -> int:
    codes = maker(value, "DequantizeLinear")
    weight = known(codes.inputs[0] if codes is not None else value)
    return weight.ndim if weight is not None else 0


def _outer(node: ir.Node) -> int:
    """How many output channels a Conv or Gemm with a stored weight has."""
    stored = maker(node.inputs[1], "DequantizeLinear")
    weight = known(stored.inputs[0] if stored is not None else node.inputs[1])
    shape = (1, 1) if weight is None else weight.shape
    return int(shape[0] if node.op_type == "Conv" or number(node, "transB", 0) else shape[1])


EARLY: tuple[Rule, ...] = (
    Rule(
        "fold_weight_quantizer",
        "a weight that is stored in float and quantized at run time is four times as large in the file",
        fold_weight_quantizer,
    ),
    Rule(
        "write_weight_zero_point",
        "a weight whose zero point is left out keeps Gemm in float",
        write_weight_zero_point,
    ),
    Rule(
        "give_bias_to_convolution",
        "an addition behind a convolution keeps both in float",
        give_bias_to_convolution,
    ),
)
RULES: tuple[Rule, ...] = (
    Rule(
        "requantize_bias",
        "int32 bias codes of another scale than input times weight keep Conv in float and make Gemm wrong",
        requantize_bias,
    ),
    Rule("code_bias_of_gemm", "a float bias keeps a Gemm without quantized result in float", code_bias_of_gemm),
    Rule(
        "matmul_with_bias_as_gemm",
        "MatMul and Add become a float Gemm before integer patterns are looked for",
        matmul_with_bias_as_gemm,
    ),
    Rule(
        "dynamic_product_in_integers",
        "MatMul and Add with a run-time scale become a float Gemm",
        dynamic_product_in_integers,
    ),
)
