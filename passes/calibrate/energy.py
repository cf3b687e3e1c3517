"""How much an error in each channel of a value weighs: the energy of the weights that will multiply it.

Formula   linear, convolution: e_c = sum over outputs and taps of W[:, c]^2; a value read by several
          operators gets the sum; operators that keep channels apart (activations, pools, residual adds) pass
          on what their readers say
Shapes    one weight per channel
Source    own; the expected squared error of W @ e for independent errors e
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from qcompiler.analysis.weights import TRANSPOSED, float_weight, spatial_axes
from qcompiler.ir import ops
from qcompiler.ir.program import Node, Program
from qcompiler.ir.types import TensorType
from qcompiler.passes.calibrate.method import Energy

Found = tuple[int, Tensor]

_CHANNELWISE = frozenset(
    f"aten.{name}"
    for name in (
        *(
            "relu",
            "gelu",
            "silu",
            "clamp",
            "hardswish",
            "hardsigmoid",
            "sigmoid",
            "tanh",
            "leaky_relu",
            "elu",
            "mish",
        ),
        *("prelu", "add.Tensor", "sub.Tensor", "maximum", "minimum", "neg", "mean.dim"),
        *(
            "max_pool1d",
            "max_pool2d",
            "max_pool3d",
            "avg_pool1d",
            "avg_pool2d",
            "avg_pool3d",
            "adaptive_avg_pool2d",
        ),
        *("upsample_nearest2d.vec", "upsample_bilinear2d.vec", "constant_pad_nd", "slice.Tensor"),
    )
)


def channel_energies(program: Program) -> dict[Node, Energy]:
    """The energy of every value that weights multiply later on, at once or behind channelwise operators."""
    found: dict[Node, Found] = {}
    for node in reversed([*program.inputs, *program.nodes]):
        # by name: the order of users changes when a program is copied, and with it the last digit of the sum
        for user in sorted(node.users, key=lambda user: user.name):
            part = _seen_through(program, node, user, found)
            if part is None:
                continue
            known = found.get(node)
            if known is None:
                found[node] = part
            elif known[0] == part[0] and known[1].shape == part[1].shape:
                found[node] = (part[0], known[1] + part[1])
    return {node: Energy(axis, tuple(weights.tolist())) for node, (axis, weights) in found.items()}


def _seen_through(program: Program, node: Node, user: Node, found: Mapping[Node, Found]) -> Found | None:
    """What `user` says of the channels of `node`, which it reads."""
    type_ = program.type(node)
    if user.op != "call_function" or not isinstance(type_, TensorType):
        return None
    spatial = spatial_axes(program, user)
    if spatial is not None:
        own = _operator_energy(program, user, spatial) if program.bind(user)["input"] is node else None
        return None if own is None else (type_.rank - 1 - spatial, own)
    if user not in found:
        return None
    axis, weights = found[user]
    moved = _moved_axis(program, node, user, axis)
    fits = moved is not None and moved < type_.rank and type_.shape[moved] == len(weights)
    return (moved, weights) if moved is not None and fits else None


def _operator_energy(program: Program, node: Node, spatial: int) -> Tensor | None:
    weight = float_weight(program, node)
    if weight is None:
        return None
    squares = weight.double().square()
    if spatial:
        squares = squares.flatten(2).sum(2)
    if program.op(node) in TRANSPOSED:
        return squares.sum(1)
    groups = program.bind(node).get("groups", 1)
    return squares.unflatten(0, (int(str(groups)), -1)).sum(1).flatten()


def _moved_axis(program: Program, node: Node, user: Node, axis: int) -> int | None:
    """Where the channel axis of the result of `user` lies in `node`."""
    if user.target in (ops.quantize, ops.dequantize):
        return axis
    op, bound = program.op(user), program.bind(user)
    if op == "aten.permute":
        return _integers(bound["dims"])[axis]
    before, after = program.shape(node), program.shape(user)
    if op == "aten.reshape":
        behind = after[axis + 1 :]
        found = [i for i, size in enumerate(before) if size == after[axis] and _same_count(before[i + 1 :], behind)]
        return found[0] if len(found) == 1 else None
    if op not in _CHANNELWISE:
        return None
    if op == "aten.mean.dim" and not bound["keepdim"]:
        gone = [dim % len(before) for dim in _integers(bound["dim"]) or range(len(before))]
        return [i for i in range(len(before)) if i not in gone][axis]
    return axis if len(before) == len(after) else None


def _integers(argument: object) -> list[int]:
    """The plain integers of a list argument; none of an absent one."""
    return [item for item in argument if isinstance(item, int)] if isinstance(argument, list | tuple) else []


def _same_count(one: tuple[object, ...], two: tuple[object, ...]) -> bool:
    """Whether two lists of sizes multiply to the same, as far as ones and order do not matter."""
    return sorted(str(size) for size in one if size != 1) == sorted(str(size) for size in two if size != 1)
