"""Where branches can stand: layers whose weights will be quantized, by the value they read, and the edits.

A layer is a linear or a convolution without groups with a constant weight. Layers that read one value with the same
numbers make one *port*: they share a smoothing vector and samples of what they read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from qcompiler.analysis.weights import CONVOLUTIONS
from qcompiler.branch import join
from qcompiler.certificate import hide
from qcompiler.ir.program import Builder, Node, Program
from qcompiler.pipeline import Context
from qcompiler.plan import Assignment
from qcompiler.reducers import Samples
from qcompiler.spec import QuantSpec
from qcompiler.stats import Request

ROWS = 1024
"""Rows of a value that methods look at for linears."""
IMAGES = 8
"""Samples of a value that methods look at for convolutions."""
_HALF_LIMIT = 32768.0


@dataclass(frozen=True, eq=False)
class BranchLayer:
    """A layer at which a branch can stand.

    Args:
        node: the operator.
        weight: float64 [out, in, *kernel].
        spec: what the weight will be; None when nothing is known of it.
        window: arguments of a convolution behind the bias; none for a linear.
    """

    node: Node
    weight: Tensor
    spec: QuantSpec | None
    window: tuple[object, ...] = ()

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """Input and weight to output, without the bias."""
        if not self.window:
            return torch.nn.functional.linear(x, weight.to(x))
        return self.node.target(x, weight.to(x), None, *self.window)  # pyright: ignore[reportCallIssue]

    @property
    def matrix(self) -> Tensor:
        """The weight as [out, in * kernel]."""
        return self.weight.flatten(1)


@dataclass(frozen=True, eq=False)
class BranchPort:
    """A value, and the layers that read it with the same numbers.

    Args:
        source: whose value it is.
        layers: in graph order.
        spec: what the value will be as the layers read it; None when it stays float.
    """

    source: Node
    layers: tuple[BranchLayer, ...]
    spec: QuantSpec | None

    @property
    def axis(self) -> int:
        """Of the channels in the value, counted from the end."""
        return -(max(len(layer.weight.shape) for layer in self.layers) - 1)

    @property
    def channels(self) -> int:
        """Of the value."""
        return int(self.layers[0].weight.shape[1])

    def along(self, vector: Tensor) -> Tensor:
        """A vector per channel in a shape that broadcasts to the value."""
        return vector.reshape(-1, *[1] * (-self.axis - 1))


@dataclass(frozen=True, eq=False)
class Split:
    """A weight in two parts: `left @ right` in float beside what is left of it.

    Args:
        left: float64 [out, rank].
        right: float64 [rank, in * kernel].
    """

    left: Tensor
    right: Tensor

    @property
    def product(self) -> Tensor:
        """[out, in * kernel]."""
        return self.left @ self.right


def ports(program: Program) -> list[BranchPort]:
    """All ports in graph order; with nothing assigned every linear and convolution counts, its formats unknown."""
    assigned = any(isinstance(node.meta.get("assignment"), Assignment) for node in program.nodes)
    found: dict[tuple[Node, QuantSpec | None, int], list[BranchLayer]] = {}
    for node in program.nodes:
        layer = _layer(program, node, assigned)
        if layer is not None:
            spec = _assigned(node).get("input")
            source = cast(Node, program.bind(node)["input"])
            found.setdefault((source, spec, len(layer.weight.shape)), []).append(layer)
    return [BranchPort(source, tuple(layers), spec) for (source, spec, _), layers in found.items()]


def requests_of(program: Program) -> list[Request]:
    """Samples of the values of all ports."""
    return [Request(port.source.name, samples_of(program, port)) for port in ports(program)]


def samples_of(program: Program, port: BranchPort) -> Samples:
    """Rows for linears, whole samples for convolutions."""
    if not port.layers[0].window:
        return Samples(-1, ROWS)
    return Samples(program.tensor_type(port.source).rank + port.axis, IMAGES)


def sampled_ports(program: Program, ctx: Context) -> Iterator[tuple[BranchPort, Tensor | None]]:
    """The ports, each with samples of what its layers read; None where there is no calibration data."""
    places = ports(program)
    for number, port in enumerate(places, 1):
        yield port, ctx.stats.answers.get(Request(port.source.name, samples_of(program, port)))
        ctx.progress(number, len(places))


def source_now(program: Program, port: BranchPort) -> Node:
    """What the layers of a port read: a layer that was the source may have got a branch since."""
    return cast(Node, program.bind(port.layers[0].node)["input"])


def now(program: Program, port: BranchPort) -> BranchPort:
    """The port with the weights that its layers have now."""
    weights = [program.exact(cast(Node, program.bind(layer.node)["weight"])) for layer in port.layers]
    layers = [replace(layer, weight=weight) for layer, weight in zip(port.layers, weights, strict=True)]
    return replace(port, layers=tuple(layers))


def multiply(program: Program, port: BranchPort, source: Node, factor: Tensor, name: str, step: str) -> Node:
    """A value times a number per channel, float64 [channels]."""
    builder, shaped = program.after(source, step), port.along(factor)
    param = builder.param(f"{name}.factor", shaped.to(program.tensor_type(source).dtype))
    program.set_exact(param, shaped)
    return builder.call("aten.mul.Tensor", source, param, name=name)


def set_weight(program: Program, layer: BranchLayer, weight: Tensor, step: str, source: Node | None = None) -> None:
    """Gives a layer a new weight in float64, and another value to read where one is given.

    The weight may have another number of input channels only if the value has it too.
    """
    node = layer.node
    old = cast(Node, program.bind(node)["weight"])
    if weight.shape == layer.weight.shape:
        if source is not None:
            program.redirect(node, cast(Node, node.args[0]), source)
        program.set_exact(program.own_param(node, old, step), weight)
        return
    param = program.before(node, step).param(str(old.target), weight.to(program.tensor_type(old).dtype))
    program.set_exact(param, weight)
    program.set_args(node, (source or node.args[0], param, *node.args[2:]), node.kwargs)


def in_half(split: Split) -> Split:
    """The factors rounded to half precision; as they were where they are too large for it."""
    if max(float(part.abs().max()) if part.numel() else 0.0 for part in (split.left, split.right)) > _HALF_LIMIT:
        return split
    return Split(split.left.half().double(), split.right.half().double())


def add_branches(
    program: Program, layers: Sequence[BranchLayer], splits: Sequence[Split], half: bool, step: str
) -> None:
    """Puts the branches of layers beside them; layers with the same right factor share its product.

    Args:
        program: edited; the weights are set elsewhere.
        layers: that read one value.
        splits: of their weights, in order.
        half: whether the factors are stored in half precision; they must be exact in it (`in_half`).
        step: name of the pass.
    """
    inner: dict[int, Node] = {}
    for layer, split in zip(layers, splits, strict=True):
        node = layer.node
        after = program.after(node, step)
        source = cast(Node, program.bind(node)["input"])
        if id(split.right) not in inner:
            down = split.right.reshape(-1, *layer.weight.shape[1:])
            before = program.before(node, step)
            factor = _factor(before, f"{node.name}.branch.right", down, program, node, half)
            inner[id(split.right)] = before.call(
                node.target, source, factor, None, *layer.window, name=f"{node.name}_narrow"
            )
        up = split.left.reshape(*split.left.shape, *[1] * (layer.weight.dim() - 2))
        factor = _factor(after, f"{node.name}.branch.left", up, program, node, half)
        branch = after.call(node.target, inner[id(split.right)], factor, None, name=f"{node.name}_branch")
        join(program, node, branch, step)
        hide(node)
        _end_at(node)


def _factor(builder: Builder, name: str, value: Tensor, program: Program, node: Node, half: bool) -> Node:
    dtype = program.tensor_type(node).dtype
    exact_half = half and bool((value.half().double() == value).all())
    if exact_half and dtype in (torch.float32, torch.float64):
        return builder.call("aten._to_copy", builder.param(name, value.half()), kwargs={"dtype": dtype})
    param = builder.param(name, value.to(dtype))
    program.set_exact(param, value)
    return param


def _end_at(node: Node) -> None:
    """Lets the result of a layer's kernel, if it is quantized, end at the layer: behind it stands a sum."""
    assigned = node.meta.get("assignment")
    if isinstance(assigned, Assignment) and assigned.result is not None:
        node.meta["assignment"] = replace(assigned, result_at=node.name)


def _layer(program: Program, node: Node, assigned: bool) -> BranchLayer | None:
    op = program.op(node)
    if op != "aten.linear" and op not in CONVOLUTIONS:
        return None
    bound, spec = program.bind(node), _assigned(node).get("weight")
    weight = bound["weight"]
    if not isinstance(weight, Node) or weight.op != "get_attr" or not program.tensor_type(weight).is_float:
        return None
    if (assigned and spec is None) or bound.get("groups", 1) != 1:
        return None
    window = () if op == "aten.linear" else tuple(bound[name] for name in ("stride", "padding", "dilation"))
    return BranchLayer(node, program.exact(weight), spec, window)


def _assigned(node: Node) -> dict[str, QuantSpec]:
    assigned = node.meta.get("assignment")
    return dict(assigned.inputs) if isinstance(assigned, Assignment) else {}
