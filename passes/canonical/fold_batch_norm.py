"""Batch norm in inference goes into the weights of its neighbour; where it cannot, it becomes a product and a sum.

Formula   s = gamma / sqrt(var + eps), t = beta - mean s;  norm(conv(x, W, b)) = conv(x, s W, s b + t);
          conv(norm(x), W, b) = conv(x, W s, b + W t) where nothing is padded or t = 0;  else x s + t
Shapes    s, t [C]; W scaled along its output axis (or its input axis); constants [C, 1, ...] where nothing folds
Promise   Exact within 1e-5: computed in float64, each weight rounded once to its dtype (6e-8 of its size for float32,
          which deep networks amplify)
Needs     normalized spelling
Source    Ioffe and Szegedy 2015 (arXiv:1502.03167); Jacob et al. 2018 (arXiv:1712.05877), section 3.2
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from qcompiler.errors import VerifyError
from qcompiler.ir.fill import is_absent
from qcompiler.ir.program import Node, Program, Stage
from qcompiler.passes.canonical.fuse_linear_bias import CONVOLUTIONS, TRANSPOSED
from qcompiler.pipeline import Context, Exact, Promise

BATCH_NORM = "aten.batch_norm"
_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Affine:
    """`x * scale + shift` per channel, in float64."""

    scale: torch.Tensor
    shift: torch.Tensor


@dataclass(frozen=True)
class FoldBatchNorm:
    """Folds batch norms into convolutions and linear layers."""

    name: ClassVar[str] = "fold_batch_norm"
    needs: ClassVar[Stage] = Stage.TRACED
    gives: ClassVar[Stage] = Stage.TRACED
    promise: ClassVar[Promise] = Exact(1e-5)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program without batch norms."""
        outputs = set(program.outputs)
        for norm in program.nodes:
            if program.op(norm) != BATCH_NORM:
                continue
            affine = affine_of(program, norm)
            source = norm.args[0]
            if affine is None or not isinstance(source, Node):
                ctx.refuse(norm, "its statistics, weight or bias are no constants", "export the model in eval mode")
                self.compute(program, norm)
            elif self.fold(program, norm, source, affine, outputs):
                program.replace(norm, source)
            else:
                ctx.refuse(norm, *_obstacle(program, norm, source, outputs), depth=1)
                self.apply(program, norm, source, affine)
        return program

    def fold(self, program: Program, norm: Node, source: Node, affine: Affine, outputs: set[Node]) -> bool:
        """Folds into the layer in front or the one behind; False where neither can take it."""
        alone = source not in outputs and len(source.users) == 1
        if alone and self.into_producer(program, source, affine):
            return True
        return norm not in outputs and self.into_consumer(program, norm, affine)

    def into_producer(self, program: Program, layer: Node, affine: Affine) -> bool:
        """Scales the output channels of the layer in front; False when it is none with constant weights."""
        op = program.op(layer)
        if op not in (*CONVOLUTIONS, "aten.linear") or not _constant_layer(program, layer):
            return False
        if op == "aten.linear" and program.tensor_type(layer).rank != 2:
            return False
        weight = _weight(program, layer).double()
        groups = _groups(program, layer)
        if op in TRANSPOSED:
            split = weight.unflatten(0, (groups, -1))
            scale = affine.scale.reshape(groups, 1, -1, *[1] * (weight.dim() - 2))
            weight = (split * scale).flatten(0, 1)
        else:
            weight = weight * affine.scale.reshape(-1, *[1] * (weight.dim() - 1))
        bias = _bias(program, layer)
        shift = affine.shift if bias is None else bias.double() * affine.scale + affine.shift
        self.store(program, layer, weight, shift)
        return True

    def into_consumer(self, program: Program, norm: Node, affine: Affine) -> bool:
        """Scales the input channels of the only layer behind; False where that is not exact."""
        users = list(norm.users)
        layer = users[0] if len(users) == 1 else norm
        op = program.op(layer)
        direct = op == "aten.linear" or (op in CONVOLUTIONS and op not in TRANSPOSED)
        if not direct or layer.args[0] is not norm or not _constant_layer(program, layer):
            return False
        if op == "aten.linear" and program.tensor_type(norm).rank != 2:
            return False
        if op != "aten.linear" and any(layer.args[4]) and _acts(affine.shift):  # pyright: ignore[reportArgumentType]
            return False
        weight = _weight(program, layer).double()
        groups = _groups(program, layer)
        split = weight.unflatten(0, (groups, -1))
        per_group = (groups, 1, -1, *[1] * (weight.dim() - 2))
        scaled = (split * affine.scale.reshape(per_group)).flatten(0, 1)
        moved = (split * affine.shift.reshape(per_group)).flatten(0, 1).flatten(1).sum(1)
        bias = _bias(program, layer)
        self.store(program, layer, scaled, moved if bias is None else moved + bias.double())
        return True

    def store(self, program: Program, layer: Node, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Gives a layer new weights that it alone reads; without need no bias is added."""
        old = layer.args[1]
        if not isinstance(old, Node):
            return
        dtype = program.tensor_type(old).dtype
        program.set_param(program.own_param(layer, old, self.name), weight.to(dtype))
        known = layer.args[2]
        if isinstance(known, Node):
            program.set_param(program.own_param(layer, known, self.name), bias.to(dtype))
        elif _acts(bias):
            name = str(old.target).removesuffix("weight").removesuffix(".") or layer.name
            node = program.before(layer, self.name).param(f"{name}.bias", bias.to(dtype))
            program.set_args(layer, (*layer.args[:2], node, *layer.args[3:]), layer.kwargs)

    def apply(self, program: Program, norm: Node, source: Node, affine: Affine) -> None:
        """Writes the norm as a product and a sum with constants; half precision is computed in float32."""
        builder = program.before(norm, self.name)
        dtype = program.tensor_type(source).dtype
        wide = torch.float32 if dtype in _HALF else dtype
        shape = [-1] + [1] * (program.tensor_type(source).rank - 2)
        scale = builder.param(f"{norm.name}.scale", affine.scale.reshape(shape).to(wide))
        shift = builder.param(f"{norm.name}.shift", affine.shift.reshape(shape).to(wide))
        value = source if wide == dtype else builder.call("aten._to_copy", source, kwargs={"dtype": wide})
        value = builder.call("aten.mul.Tensor", value, scale, name=f"{norm.name}_scaled")
        value = builder.call("aten.add.Tensor", value, shift, name=f"{norm.name}_shifted")
        program.replace(norm, value if wide == dtype else builder.call("aten._to_copy", value, kwargs={"dtype": dtype}))

    def compute(self, program: Program, norm: Node) -> None:
        """Writes a norm whose statistics are no constants as arithmetic."""
        x, weight, bias, mean, variance, _, _, eps, _ = norm.args
        builder = program.before(norm, self.name)
        rank = program.tensor_type(x).rank if isinstance(x, Node) else 0

        def column(value: object) -> Node:
            return builder.call("aten.reshape", value, [-1] + [1] * (rank - 2))

        deviation = builder.call("aten.sqrt", builder.call("aten.add.Tensor", variance, eps))
        value = builder.call("aten.sub.Tensor", x, column(mean))
        value = builder.call("aten.div.Tensor", value, column(deviation))
        if isinstance(weight, Node):
            value = builder.call("aten.mul.Tensor", value, column(weight))
        if isinstance(bias, Node):
            value = builder.call("aten.add.Tensor", value, column(bias))
        program.replace(norm, value)


def affine_of(program: Program, norm: Node) -> Affine | None:
    """Scale and shift of a batch norm; None when a statistic is no parameter."""
    _, weight, bias, mean, variance, _, _, eps, _ = norm.args
    found = [_constant(program, value) for value in (weight, bias, mean, variance)]
    gamma, beta, center, spread = (None if tensor is None else tensor.double() for tensor in found)
    if center is None or spread is None or not isinstance(eps, int | float):
        return None
    if any(value is not None and tensor is None for value, tensor in ((weight, gamma), (bias, beta))):
        return None
    scale = (spread + eps).rsqrt() * (1.0 if gamma is None else gamma)
    return Affine(scale, (0.0 if beta is None else beta) - center * scale)


def _obstacle(program: Program, norm: Node, source: Node, outputs: set[Node]) -> tuple[str, str]:
    """Why a norm is folded neither forward nor backward, and what would change that."""
    op = program.op(source) or "no operator"
    if op not in (*CONVOLUTIONS, "aten.linear"):
        front = f"in front of it stands %{source.name}, {op}, which is no layer"
    elif source in outputs or len(source.users) != 1:
        front = f"%{source.name} in front of it has other readers"
    else:
        front = f"%{source.name} in front of it has no constant float32 weights, or more than one axis of rows"
    users = list(norm.users)
    if norm in outputs or len(users) != 1:
        return f"{front}; it has several readers itself", "let one layer alone write or read it"
    behind = program.op(users[0]) or "the result"
    return f"{front}; behind it, %{users[0].name}, {behind}, cannot take it", "let one layer alone write or read it"


def _constant(program: Program, value: object) -> torch.Tensor | None:
    """The value of a parameter; without its numbers when those of any weight are absent: shapes still follow."""
    tensor = program.constant(value)
    if tensor is None or not any(is_absent(other) for other in program.params.values()):
        return tensor
    return tensor.to("meta")


def _acts(shift: torch.Tensor) -> bool:
    """Whether adding it may change anything."""
    return shift.is_meta or bool(shift.any())


def _constant_layer(program: Program, layer: Node) -> bool:
    weight, bias = layer.args[1], layer.args[2]
    full = all(isinstance(value, Node) and value.op == "get_attr" for value in (weight, bias) if value is not None)
    return full and isinstance(weight, Node) and program.tensor_type(weight).dtype not in _HALF


def _weight(program: Program, layer: Node) -> torch.Tensor:
    weight = _constant(program, layer.args[1])
    if weight is None:
        raise VerifyError(f"the weight of '%{layer.name}' is no constant")
    return weight


def _bias(program: Program, layer: Node) -> torch.Tensor | None:
    return _constant(program, layer.args[2])


def _groups(program: Program, layer: Node) -> int:
    groups = program.bind(layer).get("groups", 1)
    return int(groups) if isinstance(groups, int) else 1
