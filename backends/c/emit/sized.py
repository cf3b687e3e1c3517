"""Which operators are written for sizes that every call of the model chooses.

Their emitters only add, multiply, divide and print sizes: what a size makes of the code is right for every choice.
An operator that is not named here is refused where such a size reaches it.
"""

from __future__ import annotations

from qcompiler.backends.c.emit import attention, elementwise, quantizers, resample

SIZED: frozenset[str] = frozenset(
    [
        *elementwise.EMITTERS,
        *attention.EMITTERS,
        *quantizers.EMITTERS,
        *(f"aten.{name}" for name in (
            # moved
            "reshape", "permute", "transpose.int", "expand", "slice.Tensor", "select.int", "squeeze", "squeeze.dim",
            "squeeze.dims", "unsqueeze", "split_with_sizes", "unbind.int", "flip", "cat", "stack", "constant_pad_nd",
            "repeat", "pixel_shuffle", "pixel_unshuffle", "roll",
            # made
            "full", "full_like", "zeros", "zeros_like", "ones", "ones_like", "new_full", "new_zeros", "new_ones",
            "arange", "arange.start", "arange.start_step",
            # picked
            "embedding", "index_select", "gather", "index.Tensor",
            # written
            "index_put", "scatter.src", "scatter.value", "scatter_add", "slice_scatter",
            # products
            "conv1d", "conv2d", "linear", "matmul", "bmm", "mm", "einsum",
            "conv_transpose1d", "conv_transpose2d.input",
            # norms
            "layer_norm", "rms_norm", "group_norm", "instance_norm", "softmax.int", "log_softmax.int",
            # windows
            "max_pool1d", "max_pool2d", "max_pool2d_with_indices", "avg_pool1d", "avg_pool2d",
            # reductions
            "sum", "sum.dim_IntList", "mean", "mean.dim", "amax", "amin", "max", "min", "any", "any.dim", "all",
            "all.dim", "argmax", "argmin", "max.dim", "min.dim", "var.correction", "std.correction",
            "any.dims", "all.dims", "prod", "prod.dim_int", "logsumexp", "linalg_vector_norm",
            # along an axis
            "cumsum", "cumprod", "sort", "sort.stable", "argsort", "argsort.stable", "topk", "tril", "triu",
        )),
        *(op for op in resample.EMITTERS if "upsample" in op or "adaptive" in op),
        "qc.hadamard", "qc.kronecker",
        # kernels
        "conv", "linear", "linear_dynamic", "add", "mul", "cat", "table", "average_pool", "global_mean", "carry",
        "limit", "pad", "resize", "lookup", "softmax", "layer_norm", "rms_norm", "matmul", "rotary_heads",
        "conv_binary", "linear_binary", "linear_bits",
        "embedding_weight_only", "linear_weight_only", "linear_codebook",
    ]
)  # fmt: skip
