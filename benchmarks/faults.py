"""Faults put into quantized programs, one at a time: each knows where it is and what it is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from qcompiler.explain.weight_faults import rearranged
from qcompiler.ir import ops
from qcompiler.ir.program import Node, Program
from qcompiler.report.explanation import FindingKind
from qcompiler.spec import QuantSpec, choose_qparams, quantize


@dataclass(frozen=True)
class Fault:
    """One fault.

    Args:
        kind: what the explainer should call it.
        tensors: names of parameters or values of the float program, any of which is the right place.
        values: new values of parameters, by the name of their node in the quantized program.
        text: what was done.
    """

    kind: FindingKind
    tensors: frozenset[str]
    values: Mapping[str, Tensor]
    text: str

    def applied(self, program: Program) -> Program:
        """The program with the fault."""
        changed = program.copy()
        for node in changed.param_nodes:
            if node.name in self.values:
                changed.set_param(node, self.values[node.name], changed.tensor_type(node).spec)
        return changed


@dataclass(frozen=True)
class Weight:
    """A weight of codes with one level of scales."""

    codes: Node
    scale: Node
    zero_point: Node | None
    spec: QuantSpec
    reader: Node
    exact: Tensor


_Item = TypeVar("_Item")
Injector = Callable[[Program, Program, torch.Generator], Fault | None]


def weights(reference: Program, quantized: Program) -> list[Weight]:
    """Weights of linear layers and convolutions that became codes under the name that they had."""
    floats = {node.name: node for node in reference.param_nodes}
    found: list[Weight] = []
    for node in quantized.nodes:
        if node.target is not ops.dequantize:
            continue
        bound = quantized.bind(node)
        codes, scale, zero, spec = bound["codes"], bound["scale"], bound["zero_point"], bound["spec"]
        if not isinstance(codes, Node) or not isinstance(scale, Node) or not isinstance(spec, QuantSpec):
            continue
        if codes.op == scale.op == "get_attr" and codes.name in floats and quantized.tensor_type(codes).rank > 1:
            exact = reference.param(floats[codes.name])
            zero_node = zero if isinstance(zero, Node) else None
            found.append(Weight(codes, scale, zero_node, spec, next(iter(node.users)), exact))
    return found


def activations(quantized: Program) -> list[Node]:
    """Quantize nodes of static activations."""
    nodes = [node for node in quantized.nodes if node.target is ops.quantize]
    return [node for node in nodes if isinstance(node.args[1], Node) and node.args[1].op == "get_attr"]


def bad_scale(reference: Program, quantized: Program, draw: torch.Generator) -> Fault | None:
    """A scale 2 to 8 times too large or too small, of a weight or of an activation."""
    factor = float(2 ** (1 + 2 * torch.rand((), generator=draw)))
    factor = factor if _number(2, draw) else 1 / factor
    static = activations(quantized)
    if static and _number(2, draw):
        node = _pick(static, draw)
        scale = node.args[1]
        if not isinstance(scale, Node):
            return None
        places = frozenset(other.all_input_nodes[0].name for other in static if other.args[1] is scale)
    else:
        weight = _pick(weights(reference, quantized), draw)
        scale, places = weight.scale, frozenset({weight.codes.name})
    values = {scale.name: quantized.param(scale) * factor}
    return Fault("bad scale", places, values, f"scale of {sorted(places)[0]} times {factor:.3g}")


def saturated_channel(reference: Program, quantized: Program, draw: torch.Generator) -> Fault | None:
    """One output channel of a weight whose range ends at a tenth to a third of what it needs."""
    weight = _pick(weights(reference, quantized), draw)
    scale = quantized.param(weight.scale).clone()
    if scale.shape[0] < 2:
        return None
    channel, factor = _number(scale.shape[0], draw), 0.1 + 0.2 * float(torch.rand((), generator=draw))
    scale[channel] *= factor
    codes = quantize(weight.exact, scale, _value(quantized, weight.zero_point), weight.spec)
    values = {weight.scale.name: scale, weight.codes.name: codes}
    text = f"channel {channel} of {weight.codes.name} cut off at {factor:.2f}"
    return Fault("saturated channel", frozenset({weight.codes.name}), values, text)


def wrong_zero_point(reference: Program, quantized: Program, draw: torch.Generator) -> Fault | None:
    """A zero point that is off by an eighth to a half of the grid."""
    static = [node for node in activations(quantized) if isinstance(node.args[2], Node)]
    asymmetric = [weight for weight in weights(reference, quantized) if weight.zero_point is not None]
    part = (0.125 + 0.375 * float(torch.rand((), generator=draw))) * (1 if _number(2, draw) else -1)
    if static and (not asymmetric or _number(2, draw)):
        node = _pick(static, draw)
        zero, spec = node.args[2], node.kwargs["spec"]
        places = frozenset(other.all_input_nodes[0].name for other in static if other.args[2] is zero)
    elif asymmetric:
        weight = _pick(asymmetric, draw)
        zero, spec, places = weight.zero_point, weight.spec, frozenset({weight.codes.name})
    else:
        return None
    if not isinstance(zero, Node) or not isinstance(spec, QuantSpec):
        return None
    steps = max(1, round(abs(part) * 2**spec.bits)) * (1 if part > 0 else -1)
    value = quantized.param(zero)
    moved = (value + steps).clamp(spec.format.lowest, spec.format.highest)
    moved = (value - steps).clamp(spec.format.lowest, spec.format.highest) if torch.equal(moved, value) else moved
    return Fault("wrong zero point", places, {zero.name: moved}, f"zero point of {sorted(places)[0]} by {steps}")


def swapped_axis(reference: Program, quantized: Program, draw: torch.Generator) -> Fault | None:
    """A weight stored with two axes exchanged."""
    weight = _pick(weights(reference, quantized), draw)
    found = list(rearranged(quantized.param(weight.codes)))
    if not found:
        return None
    name, codes = _pick(found, draw)
    text = f"{name} of {weight.codes.name}"
    return Fault("swapped axis", frozenset({weight.codes.name}), {weight.codes.name: codes.contiguous()}, text)


def wrong_group_axis(reference: Program, quantized: Program, draw: torch.Generator) -> Fault | None:
    """Scales computed along, or read in the order of, another axis than the codes are."""
    weight = _pick(weights(reference, quantized), draw)
    scale = quantized.param(weight.scale)
    table = scale.squeeze()
    if table.dim() == 2:
        mixed = table.T.reshape(scale.shape).contiguous()
        values = {weight.scale.name: mixed}
    elif scale.numel() == weight.exact.shape[1] and weight.zero_point is None:
        other, _ = choose_qparams(weight.exact.transpose(0, 1), weight.spec)
        if not isinstance(other, Tensor):
            return None
        values = {weight.scale.name: other, weight.codes.name: quantize(weight.exact, other, None, weight.spec)}
    else:
        return None
    return Fault("wrong group axis", frozenset({weight.codes.name}), values, f"scales of {weight.codes.name}")


def stale_norm(reference: Program, quantized: Program, draw: torch.Generator) -> Fault | None:
    """Statistics of other data in a normalisation: its own parameters, or weight and bias that it was folded into."""
    norms = [node for node in reference.nodes if "norm" in reference.op(node)]
    names = {node.name: node for node in quantized.param_nodes}
    if norms:
        node = _pick(norms, draw)
        params = [item for item in node.all_input_nodes if item.op == "get_attr" and item.name in names]
        if not params:
            return None
        values = {item.name: _stale(reference.param(item), draw) for item in params}
        return Fault("stale norm statistics", frozenset(values), values, f"parameters of {node.name}")
    folded = [item for item in weights(reference, quantized) if "conv" in quantized.op(item.reader)]
    weight = _pick(folded, draw)
    bias = quantized.bind(weight.reader).get("bias")
    if not isinstance(bias, Node) or bias.op != "get_attr":
        return None
    scale, value = quantized.param(weight.scale), quantized.param(bias)
    ratio = torch.exp(0.3 * torch.randn(len(value), generator=draw))
    moved = ratio * value + 0.3 * value.std() * torch.randn(len(value), generator=draw)
    shaped = scale * ratio.reshape([-1] + [1] * (scale.dim() - 1))
    places = frozenset({weight.codes.name, bias.name})
    values = {weight.scale.name: shaped, bias.name: moved}
    return Fault("stale norm statistics", places, values, f"statistics folded into {weight.codes.name}")


INJECTORS: Mapping[str, Injector] = {
    "bad scale": bad_scale,
    "saturated channel": saturated_channel,
    "wrong zero point": wrong_zero_point,
    "swapped axis": swapped_axis,
    "wrong group axis": wrong_group_axis,
    "stale norm statistics": stale_norm,
}


def _stale(value: Tensor, draw: torch.Generator) -> Tensor:
    noise = torch.randn(value.shape, generator=draw)
    return value * torch.exp(0.3 * noise) + 0.1 * value.std() * torch.randn(value.shape, generator=draw)


def _value(program: Program, node: Node | None) -> Tensor | None:
    return None if node is None else program.param(node)


def _number(below: int, draw: torch.Generator) -> int:
    return int(torch.randint(0, below, (), generator=draw))


def _pick(items: Sequence[_Item], draw: torch.Generator) -> _Item:
    return items[_number(len(items), draw)]
