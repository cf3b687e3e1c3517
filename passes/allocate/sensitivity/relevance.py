"""Layer-wise relevance propagation: how much of the chosen class's score comes through each unit.

Formula   R at the result is the score of the chosen class, for other results |y|. What is linear hands it on by x+ of
          d/dx f(x+, w+) R / f(x+, w+); functions of one value and norms hand it on as it is; products halve it between
          their factors, each half by x dy/dx R / y, positive parts, brought back to half. A unit's score is the sum of
          |R| at the activations that its operators read, as a part of that of all operators with weights
Shapes    float64 [options, samples] per unit
Promise   not below 0; relevance is kept from value to value but for biases; unknown operators are refused by name
Needs     calibration data
Source    Ranjan and Savakis 2024, "LRP-QViT"; the rule for what is linear is the z+ of Montavon et al. 2017,
          "Explaining NonLinear Classification Decisions with Deep Taylor Decomposition"
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from qcompiler.analysis.weights import spatial_axes
from qcompiler.errors import UnsupportedError
from qcompiler.ir import ops
from qcompiler.ir.interp import compute
from qcompiler.ir.program import Node, Program
from qcompiler.passes.allocate.problem import Unit
from qcompiler.passes.allocate.sensitivity import gradients as gr
from qcompiler.passes.allocate.sensitivity.method import Harm, Place, Subject, graded

_AS_IT_IS = frozenset(
    {
        "aten.relu",
        "aten.gelu",
        "aten.silu",
        "aten.sigmoid",
        "aten.tanh",
        "aten.hardswish",
        "aten.hardsigmoid",
        "aten.clamp",
        "aten.leaky_relu",
        "aten.elu",
        "aten.prelu",
        "aten.softplus",
        "aten.mish",
        "aten.erf",
        "aten.softmax.int",
        "aten.log_softmax.int",
        "aten.layer_norm",
        "aten.rms_norm",
        "aten.group_norm",
        "aten.instance_norm",
        "aten.exp",
        "aten.log",
        "aten.sqrt",
        "aten.rsqrt",
        "aten.reciprocal",
        "aten.neg",
        "aten.abs",
        "aten.sin",
        "aten.cos",
        "aten.floor",
        "aten.ceil",
        "aten.round",
        "aten.sign",
        "aten.pow.Tensor_Scalar",
        "aten._to_copy",
    }
)
_LINEAR = frozenset(
    {
        "aten.linear",
        "aten.conv1d",
        "aten.conv2d",
        "aten.conv3d",
        "aten.conv_transpose1d",
        "aten.conv_transpose2d.input",
        "aten.conv_transpose3d.input",
        "aten.add.Tensor",
        "aten.reshape",
        "aten.permute",
        "aten.unsqueeze",
        "aten.squeeze.dims",
        "aten.expand",
        "aten.cat",
        "aten.split_with_sizes",
        "aten.slice.Tensor",
        "aten.select.int",
        "aten.index_select",
        "aten.gather",
        "aten.index.Tensor",
        "aten.where.self",
        "aten.constant_pad_nd",
        "aten.repeat",
        "aten.flip",
        "aten.roll",
        "aten.pixel_shuffle",
        "aten.pixel_unshuffle",
        "aten.max_pool1d",
        "aten.max_pool2d",
        "aten.max_pool3d",
        "aten.avg_pool1d",
        "aten.avg_pool2d",
        "aten.avg_pool3d",
        "aten.adaptive_avg_pool2d",
        "aten.mean.dim",
        "aten.sum.dim_IntList",
        "aten.amax",
        "aten.amin",
        "aten.cumsum",
        "aten.maximum",
        "aten.minimum",
        "aten.upsample_nearest2d.vec",
        "aten.upsample_bilinear2d.vec",
        "aten.upsample_bicubic2d.vec",
    }
)
_PRODUCTS = frozenset({"aten.mul.Tensor", "aten.div.Tensor", "aten.sub.Tensor", "aten.matmul"}) | {
    "aten.scaled_dot_product_attention"
}
_SMALL = 1e-9


@dataclass(frozen=True)
class Relevance:
    """Units through which the decision comes need more bits; loss as of `fisher`."""

    loss: gr.Kind = "auto"
    name: ClassVar[str] = "lrp"
    needs_data: ClassVar[bool] = True
    judged_by: ClassVar[Harm] = "auto"

    def losses(self, subject: Subject, units: Sequence[Unit]) -> Iterator[Tensor]:
        """See `Sensitivity`."""
        program = subject.program
        layers = [node for node in program.nodes if spatial_axes(program, node) is not None]
        scores: list[list[float]] = [[] for _ in units]
        parts = gr.samples(subject)
        for number, part in enumerate(parts, 1):
            read = read_relevance(program, part.inputs, gr.kind_of(program, self.loss), part.label)
            whole = sum(_read_by(read, node) for node in layers) or 1.0
            for unit, column in zip(units, scores, strict=True):
                column.append(sum(_read_by(read, subject.nodes[name]) for name in unit.nodes) / whole)
            subject.ctx.progress(number, len(parts))
        for unit, column in zip(units, scores, strict=True):
            yield graded(subject, unit, torch.tensor(column))


def read_relevance(
    program: Program, inputs: Sequence[Tensor], kind: gr.Kind = "auto", label: Tensor | None = None
) -> dict[Place, Tensor]:
    """Relevance of each activation as each operator reads it.

    Args:
        program: at stage canonical.
        inputs: flat.
        kind: `divergence` starts from one class's score, `squares` from the size of all results.
        label: the classes to start from; those ranked first when None.

    Raises:
        UnsupportedError: naming an operator that there is no rule for.
    """
    values: dict[Node, object] = dict(zip(program.inputs, inputs, strict=True))
    values |= {node: compute(program, node, {}) for node in program.param_nodes}
    order = [node for node in program.graph.nodes if node.op == "call_function"]
    with torch.no_grad():
        for node in order:
            values[node] = compute(program, node, values)
    live = _live(order, set(program.inputs))
    waiting: dict[Node, object] = {}
    for node in program.outputs:
        value = values[node]
        if isinstance(value, Tensor) and value.is_floating_point():
            waiting[node] = _start(value, gr.kind_of(program, kind), label)
    read: dict[Place, Tensor] = {}
    for node in reversed(order):
        if node in waiting and node in live:
            for source, part in _handed_on(program, node, values, waiting.pop(node), live).items():
                read[node, source] = part if isinstance(part, Tensor) else torch.zeros(())
                waiting[source] = _added(waiting.get(source), part)
    return read


def _start(value: Tensor, kind: gr.Kind, label: Tensor | None) -> Tensor:
    if kind != "divergence":
        return value.abs()
    classes = value.argmax(-1) if label is None else label.reshape(value.shape[:-1])
    return torch.nn.functional.one_hot(classes, value.shape[-1]).to(value.dtype) * value.abs()


def _live(order: Sequence[Node], inputs: set[Node]) -> set[Node]:
    """Nodes that depend on an input."""
    found = set(inputs)
    for node in order:
        if any(source in found for source in node.all_input_nodes):
            found.add(node)
    return found


def _handed_on(
    program: Program, node: Node, values: Mapping[Node, object], relevance: object, live: set[Node]
) -> dict[Node, object]:
    """The relevance of what a node reads from that of its result."""
    read = [source for source in node.all_input_nodes if source in live and _floating(values[source])]
    op = program.op(node)
    if op == ops.GETITEM:
        source = node.all_input_nodes[0]
        return {source: {int(str(node.args[1])): relevance}}
    if not read:
        return {}
    if op in _AS_IT_IS:
        return {read[0]: relevance}
    if op in _LINEAR:
        return _pulled(program, node, values, relevance, read, positive=True)
    if op in _PRODUCTS:
        return _pulled(program, node, values, relevance, read, positive=False)
    raise UnsupportedError(
        f"relevance has no rule for '{node.name}' ({op})",
        where=f"from module {program.origin(node).module or '(top)'}",
        mend="choose another sensitivity",
    )


def _pulled(
    program: Program,
    node: Node,
    values: Mapping[Node, object],
    relevance: object,
    read: Sequence[Node],
    positive: bool,
) -> dict[Node, object]:
    """`x dy/dx R / y`, of positive parts and without biases for what is linear; else each factor gets its share."""
    sources = {source: values[source] for source in node.all_input_nodes}
    if positive:
        bias = program.bind(node).get("bias")
        sources = {source: _positive(value, source is bias) for source, value in sources.items()}
    leaves = {
        source: value.detach().requires_grad_() for source in read if isinstance(value := sources[source], Tensor)
    }
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        made = compute(program, node, {**sources, **leaves})
        pairs = _pairs(made, relevance)
        total = torch.stack([(value * _over(part, value.detach())).sum() for value, part in pairs]).sum()
        slopes = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
    shares = [leaf.detach() * slope for leaf, slope in zip(leaves.values(), slopes, strict=True)]
    if not positive:
        whole = sum(float(part.sum()) for _, part in pairs)
        shares = [_scaled(share.clamp(min=0.0), whole / len(shares)) for share in shares]
    return dict(zip(leaves, shares, strict=True))


def _pairs(made: object, relevance: object) -> list[tuple[Tensor, Tensor]]:
    """Each tensor of a result with its relevance."""
    if isinstance(made, Tensor) and isinstance(relevance, Tensor):
        return [(made, relevance)]
    if isinstance(made, list | tuple) and isinstance(relevance, dict):
        return [(made[index], part) for index, part in relevance.items()]
    return []


def _over(relevance: Tensor, value: Tensor) -> Tensor:
    """A quotient that is 0 where nothing can be told."""
    return torch.where(value.abs() > _SMALL, relevance / torch.where(value.abs() > _SMALL, value, 1.0), 0.0)


def _scaled(share: Tensor, wanted: float) -> Tensor:
    total = float(share.sum())
    return share * (wanted / total) if total > 0 else share


def _positive(value: object, bias: bool) -> object:
    if not (isinstance(value, Tensor) and value.is_floating_point()):
        return value
    return torch.zeros_like(value) if bias else value.clamp(min=0.0)


def _added(one: object, other: object) -> object:
    if isinstance(one, dict) and isinstance(other, dict):
        return {**one, **{index: _added(one.get(index), part) for index, part in other.items()}}
    return one + other if isinstance(one, Tensor) and isinstance(other, Tensor) else other


def _floating(value: object) -> bool:
    return (isinstance(value, Tensor) and value.is_floating_point()) or isinstance(value, list | tuple)


def _read_by(read: Mapping[Place, Tensor], node: Node) -> float:
    return sum(float(part.abs().sum()) for (reader, _), part in read.items() if reader is node)
