"""UDFC: what a quantized or pruned channel lost is put together from the others, in the weights of the next layer.

Formula   channel i of the float layer ~ sum_j S_ji channel j of what is there; `V'_j = sum_i S_ji V_i`. For white
          inputs S = (K + d I)^-1 k, K and k the second moments of the channels behind the activation: for a relu in
          closed form `|u||v| / 2 pi (sin t + (pi - t) cos t)`, t the angle of two rows; with biases that matter, and
          for other activations, over random normal inputs
Shapes    S [channels there, channels]; V the next layer's weight, one slice per input channel
Promise   Lossy; no data is looked at. Weights that no such pair holds go to the nearest grid value
Needs     layers in a row with at most an activation between them, one reader each
Source    Bai et al. 2023, "Unified Data-Free Compression: Pruning and Quantization without Fine-Tuning"
          (arXiv:2308.07209), whose S ignores the activation and was measured to do harm; Cho and Saul 2009, "Kernel
          Methods for Deep Learning" (the closed form)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.ir.fill import Shelf
from qcompiler.ir.interp import compute
from qcompiler.ir.program import Node, Program, Stage
from qcompiler.passes.solve.decompose import nearest_codes, no_inputs
from qcompiler.passes.solve.driver import finite_weight
from qcompiler.passes.solve.front_to_back import layer_of, readers_of, settle, share_ranges
from qcompiler.passes.solve.layers import Geometry, geometry_of
from qcompiler.pipeline import Context, Lossy, Promise

_RELU = "aten.relu"
_ACTIVATIONS = frozenset(
    {_RELU, "aten.gelu", "aten.silu", "aten.sigmoid", "aten.tanh", "aten.hardswish", "aten.leaky_relu", "aten.elu"}
)
_GRID = frozenset({"qc.quantize", "qc.dequantize"})
_DAMPING = 1e-3
_SMALL_BIAS = 0.3
_SAMPLES = 4096


@dataclass(frozen=True)
class Pair:
    """A layer whose channels only the next one reads.

    Args:
        layer: makes the channels.
        activation: between them, None for none.
        following: reads them.
        weights: parameter of the layer, parameter of the next one.
        bias: parameter of the layer, None without.
        geometries: of both.
    """

    layer: Node
    activation: Node | None
    following: Node
    weights: tuple[Node, Node]
    bias: Node | None
    geometries: tuple[Geometry, Geometry]


def pairs(program: Program) -> list[Pair]:
    """All such layers, in order."""
    found = [_pair(program, node) for node in program.nodes]
    return [pair for pair in found if pair is not None]


def _pair(program: Program, layer: Node) -> Pair | None:
    geometry, weight = _ungrouped(program, layer), _own_weight(program, layer)
    if geometry is None or weight is None:
        return None
    activation, node = None, _only_user(program, layer)
    while node is not None and (program.op(node) in _GRID or (program.op(node) in _ACTIVATIONS and activation is None)):
        activation = node if program.op(node) in _ACTIVATIONS else activation
        node = _only_user(program, node)
    if node is None:
        return None
    following, other = _ungrouped(program, node), _own_weight(program, node)
    bias = program.bind(layer).get("bias") if following is not None else None
    fixed = bias is None or (isinstance(bias, Node) and bias.op == "get_attr" and len(bias.users) == 1)
    if following is None or other is None or not fixed or bool(geometry.kernel) != bool(following.kernel):
        return None
    return Pair(layer, activation, node, (weight, other), cast("Node | None", bias), (geometry, following))


def _only_user(program: Program, node: Node) -> Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].op == "call_function" and node not in program.outputs else None


def _ungrouped(program: Program, node: Node) -> Geometry | None:
    geometry = geometry_of(program, node)
    return geometry if geometry is not None and geometry.groups == 1 else None


def _own_weight(program: Program, node: Node) -> Node | None:
    """The float parameter behind a layer's weight, when nobody else reads it."""
    weight = program.bind(node).get("weight")
    while isinstance(weight, Node) and program.op(weight) in _GRID and len(weight.users) == 1:
        weight = weight.args[0]
    if not isinstance(weight, Node) or weight.op != "get_attr" or len(weight.users) != 1:
        return None
    return weight if program.tensor_type(weight).spec is None else None


def relu_moments(left: Tensor, right: Tensor) -> Tensor:
    """`E relu(u x) relu(v x)` of rows u of `left` and v of `right` for white normal x, [rows, rows]."""
    sizes = left.norm(dim=1)[:, None] * right.norm(dim=1)
    cosine = ((left @ right.T) / torch.where(sizes > 0, sizes, 1.0)).clamp(-1, 1)
    angle = cosine.acos()
    return sizes / (2 * math.pi) * (angle.sin() + (math.pi - angle) * cosine)


def mixing(kept: Tensor, wanted: Tensor) -> Tensor:
    """S from the moments among the channels that are there [m, m], and of them with the channels wanted [m, n]."""
    damping = _DAMPING * kept.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
    damped = kept.double() + damping * torch.eye(len(kept), dtype=torch.float64)
    return torch.linalg.solve(damped, wanted.double()).float()


def reconstruct(
    weight: Tensor,
    there: Tensor,
    bias: tuple[Tensor, Tensor] | None,
    activation: Callable[[Tensor], Tensor] | None,
    seed: int,
) -> Tensor:
    """S for the rows that are there in place of the rows of a weight.

    Args:
        weight: [channels, columns].
        there: [channels there, columns].
        bias: of the weight and of the rows that are there.
        activation: what follows; None for a relu.
        seed: of the random inputs, where they are needed.
    """
    small = bias is None or bool((bias[0].abs() <= _SMALL_BIAS * weight.norm(dim=1)).all())
    if activation is None and small:
        return mixing(relu_moments(there, there), relu_moments(there, weight))
    inputs = torch.randn(_SAMPLES, weight.shape[1], generator=torch.Generator().manual_seed(seed))
    whole, rest = inputs @ weight.T, inputs @ there.T
    if bias is not None:
        whole, rest = whole + bias[0], rest + bias[1]
    act = activation or torch.relu
    whole, rest = act(whole), act(rest)
    return mixing(rest.T @ rest / _SAMPLES, rest.T @ whole / _SAMPLES)


def folded(program: Program, pair: Pair, there: Tensor, kept: Tensor | None, seed: int) -> Tensor:
    """The weight of the next layer of a pair for the rows that are there.

    Args:
        program: not touched.
        pair: the layers; the weight of the first one is still the float one.
        there: [channels there, columns], as a matrix.
        kept: int64, which channels are left; None for all.
        seed: see `reconstruct`.
    """
    weight = pair.geometries[0].matrix(finite_weight(program, pair.weights[0]).float())
    bias = None if pair.bias is None else program.param(pair.bias).float()
    biases = None if bias is None else (bias, bias if kept is None else bias[kept])
    mix = reconstruct(weight, there, biases, _activation(program, pair), seed)
    old = finite_weight(program, pair.weights[1])
    matrix = pair.geometries[1].matrix(old.float()).unflatten(1, (len(weight), -1))
    mixed = torch.einsum("ji,oit->ojt", mix, matrix).flatten(1)
    return pair.geometries[1].weight(mixed).to(old.dtype).contiguous()


def _activation(program: Program, pair: Pair) -> Callable[[Tensor], Tensor] | None:
    node = pair.activation
    if node is None:
        return lambda x: x
    if program.op(node) == _RELU:
        return None
    source = node.all_input_nodes[0]
    return lambda x: cast(Tensor, compute(program, node, {source: x}))


@dataclass(frozen=True)
class Udfc:
    """Nearest values, each layer's loss made up for in the next one."""

    name: ClassVar[str] = "udfc"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with codes in place of float weights.

        Raises:
            InputError: when a weight holds NaN or infinity.
        """
        readers, installs, shelf, folds = readers_of(program), [], Shelf(), 0
        share_ranges(program, [reader.site for reader in readers])
        following = {pair.layer: pair for pair in pairs(program)}
        for reader in readers:
            found = None
            if reader.solvable:
                layer = layer_of(program, reader, no_inputs(), ctx.seed)
                found = nearest_codes(layer)
                if reader.node in following:
                    pair = following[reader.node]
                    program.set_param(pair.weights[1], folded(program, pair, found.value(), None, ctx.seed))
                    folds += 1
            installs.append(settle(program, reader, found, shelf)[1])
            ctx.progress(len(installs), len(readers))
        for install in installs:
            install(program, self.name)
        ctx.log(f"{len(readers)} weights by {self.name}, {folds} made up for in the next layer")
        return program


@dataclass(frozen=True)
class UdfcPrune:
    """Removes the smallest channels between two layers and rebuilds them from the others.

    Args:
        share: of the channels that go.
    """

    share: float = 0.3
    name: ClassVar[str] = "udfc_prune"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Lossy()

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise SpecError(f"a share of {self.share} of the channels", mend="give a number from 0 to below 1")

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with fewer channels.

        Raises:
            InputError: when a weight holds NaN or infinity.
        """
        removed = 0
        for pair in pairs(program):
            geometry, param = pair.geometries[0], pair.weights[0]
            old = finite_weight(program, param)
            matrix = geometry.matrix(old.float())
            gone = int(self.share * len(matrix))
            kept = matrix.norm(dim=1).argsort(stable=True)[gone:].sort().values
            if not gone:
                continue
            self.rebuild(program, pair, kept, folded(program, pair, matrix[kept], kept, ctx.seed))
            removed += gone
        ctx.log(f"{removed} channels removed")
        return program

    def rebuild(self, program: Program, pair: Pair, kept: Tensor, following: Tensor) -> None:
        """Puts a pair with fewer channels in the place of the old one."""
        builder, geometry = program.before(pair.following, self.name), pair.geometries[0]
        old = program.param(pair.weights[0])
        weight = geometry.weight(geometry.matrix(old)[kept]).contiguous()
        first = builder.param(str(pair.weights[0].target), weight)
        second = builder.param(str(pair.weights[1].target), following)
        args = [pair.layer.args[0], first, *pair.layer.args[2:]]
        if pair.bias is not None:
            bias = builder.param(str(pair.bias.target), program.param(pair.bias)[kept])
            args = [bias if arg is pair.bias else arg for arg in args]
        node = builder.call(pair.layer.target, *args, kwargs=pair.layer.kwargs)
        if pair.activation is not None:
            source = pair.activation
            node = builder.call(source.target, node, *source.args[1:], kwargs=source.kwargs)
        last = pair.following
        program.replace(last, builder.call(last.target, node, second, *last.args[2:], kwargs=last.kwargs))
        program.erase_dead()
