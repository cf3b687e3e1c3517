"""Small programs, one operator or a few each, for the tests of generated C."""

from __future__ import annotations

import torch

from qcompiler.ir.program import Builder, Node
from tests.onnx_tools import BOOL, I64, IMAGE, Body, Case, X, parameters, single, typed

NAN, INF = float("nan"), float("inf")
ROWS = typed(5, 7)


def then(*steps: tuple[object, ...]) -> Body:
    """A body that calls one operator after the other, each on the result of the one before."""

    def body(b: Builder, x: Node) -> Node:
        for op, *arguments in steps:
            x = b.call(str(op), x, *arguments)
        return x

    return body


def attention(b: Builder, q: Node, k: Node, v: Node, *mask: Node, **keywords: object) -> Node:
    return b.call("aten.scaled_dot_product_attention", q, k, v, *mask, kwargs=keywords)


def heads_inside(b: Builder, *tensors: Node) -> Node:
    """Heads beside each other in a row, as projections leave them, and merged again."""
    split = [b.call("aten.permute", b.call("aten.reshape", x, [2, 5, 4, 3]), [0, 2, 1, 3]) for x in tensors]
    mixed = b.call("aten.permute", attention(b, *split), [0, 2, 1, 3])
    return b.call("aten.reshape", mixed, [2, 5, 12])


def summed(kind: str) -> Body:
    def body(b: Builder, x: Node, i: Node, y: Node) -> Node:
        return b.call("aten.scatter_reduce.two", x, 1, i, y, kind)

    return body


STRIDED: list[Case] = [
    ("softmax of columns", then(("aten.permute", [0, 2, 1]), ("aten.softmax.int", 1)), [X]),
    ("norm of a slice", then(("aten.slice.Tensor", 2, 1, 6, 2), ("aten.layer_norm", [3])), [X]),
    ("sum of a flip", then(("aten.flip", [1, 2]), ("aten.sum.dim_IntList", [2])), [X]),
    ("mean over channels of an image", then(("aten.permute", [0, 2, 3, 1]), ("aten.mean.dim", [3])), [IMAGE]),
    ("sum over space of channels-last", then(("aten.max_pool2d", [1, 1]), ("aten.sum.dim_IntList", [2, 3])), [IMAGE]),
    ("long rows", single("aten.sum.dim_IntList", [1]), [typed(3, 1000)]),
    ("long columns", single("aten.mean.dim", [0]), [typed(300, 17)]),
    (
        "convolution of a permuted image",
        lambda b, x: parameters("aten.conv2d", (5, 6, 3, 3), rest=(None, [1, 1], [1, 1]))(
            b, b.call("aten.permute", x, [0, 3, 1, 2])
        ),
        [IMAGE],
    ),
    ("sort of columns", lambda b, x: b.items(b.call("aten.sort", b.call("aten.permute", x, [1, 0]), 0)), [ROWS]),
    ("running sum of columns", single("aten.cumsum", 0), [ROWS]),
    ("running product", single("aten.cumprod", 1), [ROWS]),
    (
        "gather of a permuted one",
        lambda b, x, i: b.call("aten.gather", b.call("aten.permute", x, [1, 0]), 0, i),
        [ROWS, typed(3, 5, dtype=I64)],
    ),
    (
        "matmul of heads",
        lambda b, x, y: b.call(
            "aten.matmul", b.call("aten.permute", x, [0, 2, 1, 3]), b.call("aten.permute", y, [0, 2, 3, 1])
        ),
        [typed(2, 5, 3, 4), typed(2, 6, 3, 4)],
    ),
    ("matmul with one matrix", single("aten.matmul"), [typed(2, 3, 5, 4), typed(4, 6)]),
    ("matmul with a vector", single("aten.matmul"), [typed(2, 5, 4), typed(4)]),
    ("matmul broadcast", single("aten.matmul"), [typed(2, 1, 5, 4), typed(3, 4, 2)]),
]
ATTENTION: list[Case] = [
    ("attention", attention, [typed(2, 4, 5, 8), typed(2, 4, 7, 8), typed(2, 4, 7, 6)]),
    ("attention of three axes", attention, [typed(2, 5, 8), typed(2, 7, 8), typed(2, 7, 6)]),
    ("causal", lambda b, q, k, v: attention(b, q, k, v, is_causal=True), [typed(1, 2, 70, 8)] * 3),
    ("scaled", lambda b, q, k, v: attention(b, q, k, v, scale=0.3), [typed(1, 2, 5, 8)] * 3),
    (
        "grouped",
        lambda b, q, k, v: attention(b, q, k, v, enable_gqa=True),
        [typed(2, 6, 5, 8), typed(2, 2, 7, 8), typed(2, 2, 7, 8)],
    ),
    ("added mask", attention, [*[typed(2, 4, 5, 8)] * 3, typed(2, 1, 5, 5)]),
    ("added mask of one row", attention, [*[typed(2, 4, 5, 8)] * 3, typed(1, 5)]),
    ("mask of truth", attention, [*[typed(2, 4, 5, 8)] * 3, typed(1, 1, 5, 5, dtype=BOOL)]),
    ("mask over queries", attention, [*[typed(2, 4, 5, 8)] * 3, typed(2, 1, 5, 1)]),
    ("heads inside", heads_inside, [typed(2, 5, 12)] * 3),
]
MORE: list[Case] = [
    ("var of everything", single("aten.var.correction", correction=1), [X]),
    ("std", single("aten.std.correction", [1], correction=1, keepdim=True), [X]),
    ("logsumexp", single("aten.logsumexp", [1]), [X]),
    ("logsumexp kept", single("aten.logsumexp", [1, 2], True), [X]),
    ("acos", then(("aten.tanh",), ("aten.acos",)), [X]),
    ("asin", then(("aten.tanh",), ("aten.asin",)), [X]),
    ("atanh", then(("aten.tanh",), ("aten.atanh",)), [X]),
    ("atan2", single("aten.atan2"), [X, X]),
    (
        "kronecker",
        lambda b, x: b.call("qc.kronecker", x, b.param("l", torch.rand(2, 2)), b.param("r", torch.rand(3, 3))),
        [X],
    ),
    ("kronecker from the right", lambda b, x: b.call("qc.kronecker", x, None, b.param("r", torch.rand(3, 3))), [X]),
    ("hadamard", single("qc.hadamard", None, 4), [typed("s0", 5, 8)]),
    (
        "hadamard of twelve",
        lambda b, x: b.call("qc.hadamard", x, b.param("s", torch.rand(24).sub(0.5).sign()), 12),
        [typed("s0", 24)],
    ),
    (
        "conv_transpose1d dilated",
        parameters("aten.conv_transpose1d", (4, 3, 3), (3,), rest=([3], [2], [1], 1, [2])),
        [X],
    ),
    (
        "conv_transpose2d shorter than its stride",
        parameters("aten.conv_transpose2d.input", (4, 3, 2, 1), rest=(None, [3, 2])),
        [IMAGE],
    ),
    (
        "conv_transpose3d",
        parameters("aten.conv_transpose3d.input", (2, 3, 2, 3, 2), rest=(None, [1, 2, 2], [0, 1, 0])),
        [typed(1, 2, 3, 4, 3)],
    ),
    (
        "conv3d strided",
        parameters("aten.conv3d", (4, 1, 3, 2, 2), (4,), rest=([2, 1, 2], [1, 1, 0], [1, 2, 1], 2)),
        [typed(2, 2, 5, 4, 4)],
    ),
    ("linear1d", single("aten.upsample_linear1d.vec", [11], True, None), [X]),
    ("trilinear", single("aten.upsample_trilinear3d.vec", None, False, [2.0, 1.5, 1.0]), [typed(1, 2, 2, 4, 3)]),
    ("average of what is left", single("aten.avg_pool2d", [3, 2], [2, 2], [1, 0], True), [IMAGE]),
    (
        "einsum of three",
        lambda b, x, y, z: b.call("aten.einsum", "bi,bj,bij->b", [x, y, z]),
        [typed(3, 4), typed(3, 5), typed(3, 4, 5)],
    ),
    ("einsum with dots", lambda b, x, y: b.call("aten.einsum", "...ij,jk->...ki", [x, y]), [X, typed(6, 2)]),
    ("einsum of a diagonal", lambda b, x: b.call("aten.einsum", "bii->b", [x]), [typed(2, 4, 4)]),
    ("einsum outer", lambda b, x, y: b.call("aten.einsum", "i,j->ij", [x, y]), [typed(4), typed(5)]),
]
MOVES: list[Case] = [
    (
        "scatter a tensor",
        lambda b, x, i, y: b.call("aten.scatter.src", x, 1, i, y),
        [typed(3, 4), typed(3, 1, dtype=I64), typed(3, 4)],
    ),
    (
        "scatter and add",
        lambda b, x, i, y: b.call("aten.scatter_add", x, 0, i, y),
        [typed(4, 3, dtype=I64), typed(2, 3, dtype=I64), typed(2, 3, dtype=I64)],
    ),
    *[
        (f"scatter {kind}", summed(kind), [typed(3, 4), typed(3, 6, dtype=I64), typed(3, 6)])
        for kind in ("amax", "amin")
    ],
    (
        "put and add",
        lambda b, x, i, v: b.call("aten.index_put", x, [i], v, True),
        [typed(5, 3, dtype=I64), typed(6, dtype=I64), typed(6, 3, dtype=I64)],
    ),
    (
        "put at pairs",
        lambda b, x, i, j, v: b.call("aten.index_put", x, [i, j], v),
        [typed(5, 6), typed(1, dtype=I64), typed(2, dtype=I64), typed(2)],
    ),
    (
        "put where a mask is set",
        lambda b, x, m: b.call("aten.index_put", x, [m], b.param("v", torch.tensor(7.0))),
        [typed(5, 3), typed(5, dtype=BOOL)],
    ),
    (
        "index a permuted one",
        lambda b, x, i, j: b.call("aten.index.Tensor", b.call("aten.permute", x, [2, 0, 1]), [None, i, j]),
        [typed(4, 5, 6), typed(3, 1, dtype=I64), typed(2, dtype=I64)],
    ),
    (
        "index booleans",
        lambda b, x, i: b.call("aten.index.Tensor", x, [i]),
        [typed(4, 3, dtype=BOOL), typed(2, 2, dtype=I64)],
    ),
    ("topk smallest", lambda b, x: b.items(b.call("aten.topk", x, 2, 0, False)), [ROWS]),
    ("argsort", single("aten.argsort", 0), [ROWS]),
    (
        "sort whole numbers stably",
        lambda b, x: b.items(b.call("aten.sort.stable", x, kwargs={"stable": True, "dim": 1, "descending": True})),
        [typed(3, 9, dtype=I64)],
    ),
    ("repeat_interleave flat", single("aten.repeat_interleave.self_int", 2), [ROWS]),
    ("reflection_pad1d", single("aten.reflection_pad1d", [2, 3]), [X]),
    ("replication_pad2d", single("aten.replication_pad2d", [1, 0, 2, 3]), [IMAGE]),
    ("exact nearest", single("aten._upsample_nearest_exact2d.vec", [5, 9], None), [IMAGE]),
    ("slice_scatter with steps", single("aten.slice_scatter", 1, -4, 9, 2), [typed(3, 4), typed(3, 2)]),
    ("tril of flags", single("aten.tril", 1), [typed(4, 6, dtype=BOOL)]),
    (
        "shifts",
        lambda b, x: b.call(
            "aten.bitwise_left_shift.Tensor_Scalar", b.call("aten.bitwise_right_shift.Tensor_Scalar", x, 1), 3
        ),
        [typed(9, dtype=I64)],
    ),
    (
        "remainder of negative ones",
        then(("aten.sub.Tensor", 2), ("aten.remainder.Scalar", -3)),
        [typed(3, 7, dtype=I64)],
    ),
    ("floor_divide", then(("aten.sub.Tensor", 2), ("aten.floor_divide", 3)), [typed(3, 7, dtype=I64)]),
    ("largest whole number", then(("aten.sub.Tensor", 9), ("aten.amax", [0])), [typed(3, 7, dtype=I64)]),
    ("largest flag", single("aten.amax", [0]), [typed(3, 7, dtype=BOOL)]),
    ("any of everything", single("aten.any"), [typed(3, 7, dtype=BOOL)]),
    ("infinite", single("aten.isinf"), [ROWS]),
    ("finite", single("aten.isfinite"), [ROWS]),
]
ODD = torch.tensor([[NAN, 1.0, -2.0, INF, 0.5], [-INF, 3.0, 3.0, -0.0, 2.0]])
ODDLY: list[Case] = [
    (name, body, [typed(2, 5)])
    for name, body in {
        "relu": single("aten.relu"),
        "clamp": single("aten.clamp", -1.0, 1.0),
        "amax": single("aten.amax", [1]),
        "max.dim": lambda b, x: b.items(b.call("aten.max.dim", x, 1)),
        "argmin": single("aten.argmin", 1),
        "sort": lambda b, x: b.items(b.call("aten.sort", x, 1)),
        "sort down": lambda b, x: b.items(b.call("aten.sort", x, 1, True)),
        "isnan": single("aten.isnan"),
        "isinf": single("aten.isinf"),
        "sign": single("aten.sign"),
        "exp": single("aten.exp"),
        "sigmoid": single("aten.sigmoid"),
        "floor": single("aten.floor"),
        "logsumexp": single("aten.logsumexp", [1]),
        "norm": single("aten.linalg_vector_norm", INF, [1]),
        "remainder": single("aten.remainder.Scalar", 1.5),
        "maximum": lambda b, x: b.call("aten.maximum", x, b.param("zero", torch.zeros(1))),
    }.items()
]


def recurrent(
    op: str, gates: int, layers: int = 1, *, both: bool = False, first: bool = False, states: int = 1
) -> Case:
    """A recurrent layer of 5 inputs and 6 states over sequences of 4."""
    sides = 2 if both else 1

    def body(b: Builder, x: Node, *starts: Node) -> list[Node | None]:
        generator = torch.Generator().manual_seed(3)
        shapes = [
            shape
            for layer in range(layers)
            for _ in range(sides)
            for shape in ((gates * 6, 5 if layer == 0 else 6 * sides), (gates * 6, 6), (gates * 6,), (gates * 6,))
        ]
        weights = [b.param(f"{op}{i}", torch.randn(shape, generator=generator) / 3) for i, shape in enumerate(shapes)]
        given = list(starts) if states > 1 else starts[0]
        return b.items(b.call(f"aten.{op}.input", x, given, weights, True, layers, 0.0, False, both, first))

    x = typed(2, 4, 5) if first else typed(4, 2, 5)
    return f"{op} of {layers}", body, [x, *[typed(layers * sides, 2, 6)] * states]


MORE += [
    (
        "max_pool2d beside positions",
        lambda b, x: b.items(b.call("aten.max_pool2d_with_indices", x, [3, 2], [2, 2], [1, 1]))[0],
        [IMAGE],
    ),
    *[
        (
            f"grid_sampler {mode} {padding} {corners}",
            single("aten.grid_sampler_2d", mode, padding, corners),
            [IMAGE, typed("s0", 5, 3, 2)],
        )
        for mode, padding, corners in ((0, 0, False), (0, 1, True), (0, 2, False), (0, 2, True), (1, 0, False))
    ],
    recurrent("lstm", 4, 2, both=True, states=2),
    recurrent("gru", 3, 1, first=True),
    recurrent("rnn_tanh", 1, 2),
    recurrent("rnn_relu", 1, 1, both=True),
]
MOVES += [("cat with nothing", lambda b, x: b.call("aten.cat", [b.param("none", torch.zeros(0)), x], 1), [X])]
