"""Which operators of torch stay whole: those that the compiler reads as one; torch's rules take all others apart."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.export import default_decompositions

WHOLE = (
    "__and__.Scalar", "__and__.Tensor", "__or__.Scalar", "__or__.Tensor", "__xor__.Scalar", "__xor__.Tensor",
    "_prelu_kernel", "_scaled_dot_product_flash_attention_for_cpu", "_unsafe_view", "_upsample_bicubic2d_aa.vec",
    "_upsample_bilinear2d_aa.vec", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "adaptive_max_pool1d", "addcdiv", "addcmul", "all", "all.dim", "all.dims", "arange", "arange.start",
    "avg_pool1d", "baddbmm", "celu", "clamp_max", "clamp_min", "clip", "concat", "concatenate", "conv1d",
    "conv1d.padding", "conv2d", "conv2d.padding", "conv3d", "conv3d.padding", "conv_transpose1d",
    "conv_transpose2d.input", "conv_transpose3d.input", "cudnn_batch_norm", "detach", "diff", "einsum",
    "empty_like", "expand_copy", "fill.Scalar", "floor_divide", "glu", "group_norm", "hardsigmoid", "hardswish",
    "instance_norm", "layer_norm", "lerp.Scalar", "linalg_det", "linear", "log_softmax.int", "logsumexp",
    "masked_fill.Scalar", "masked_fill.Tensor", "matmul", "max.other", "max_pool1d", "max_pool2d", "max_pool3d",
    "meshgrid", "meshgrid.indexing", "min.other", "mish", "mv", "new_empty", "new_full", "new_ones", "new_zeros",
    "norm.ScalarOpt_dim", "ones", "ones_like", "pad", "pixel_shuffle", "pixel_unshuffle", "prelu",
    "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "relu6", "repeat_interleave.self_int",
    "replication_pad1d", "replication_pad2d", "replication_pad3d", "rms_norm", "roll", "rsub.Scalar", "rsub.Tensor",
    "scaled_dot_product_attention", "select_scatter", "selu", "silu", "softmax.int", "softplus", "split.Tensor",
    "square", "squeeze", "squeeze.dim", "stack", "std", "std.correction", "std.dim", "sum", "sym_size.int", "t",
    "tile", "transpose.int", "tril", "triu", "true_divide.Tensor", "type_as", "unbind.int", "unsafe_split.Tensor",
    "upsample_bicubic2d.vec", "upsample_linear1d.vec", "upsample_nearest1d.vec", "upsample_nearest3d.vec",
    "upsample_trilinear3d.vec", "var", "var.dim", "where.Scalar", "where.ScalarOther", "where.ScalarSelf", "zero",
    "zeros", "zeros_like",
)  # fmt: skip
"""Names without `aten.` of the operators that torch could take apart, and need not."""


def decompositions() -> dict[torch._ops.OperatorBase, Callable[..., object]]:
    """Torch's own rules for taking operators apart, without those for operators that stay whole."""
    table = default_decompositions()
    return {target: rule for target, rule in table.items() if _name(target) not in WHOLE}


def _name(target: torch._ops.OperatorBase) -> str:
    return str(target).removeprefix("aten.").removesuffix(".default")
