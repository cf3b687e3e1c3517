"""What runs in front of a quantizer, in the same kernel: norms, activations, gated products, changes of basis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from qcompiler.backends.cuda.kernels import KERNELS
from qcompiler.backends.cuda.kernels.quantizers import Activation, Kind, choose, choose_activation
from qcompiler.backends.cuda.kernels.row import Instance
from qcompiler.backends.cuda.layer import Argument, Weight
from qcompiler.backends.cuda.online import online_of
from qcompiler.ir import ops
from qcompiler.ir.program import Node, Program
from qcompiler.ir.types import TensorType

QUANTIZERS = (ops.quantize, ops.choose_qparams)
"""What reads reals to find codes, or their scales."""
_FLOATS: dict[Kind, torch.dtype] = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}
_NORM = "norm_quantize"
_ACTIVATE = "activate_quantize"
_NORMS = ("aten.layer_norm", "aten.rms_norm")


class Front(Protocol):
    """An operator on rows that a quantizer's kernel does before it finds codes."""

    @property
    def kernel(self) -> str:
        """Name of the kernel that does it and quantizes."""
        ...

    @property
    def weights(self) -> dict[str, Tensor]:
        """What the kernel reads besides activations, by names that no product has."""
        ...

    def widths(self, width: int) -> tuple[int, ...]:
        """Of the rows that it reads, an input each, to make one of `width`."""
        ...

    def instance(self, kind: Kind, width: int) -> Instance:
        """Which of its functions; raises UnsupportedError when there is none."""
        ...

    def arguments(self, sources: Sequence[Argument]) -> dict[str, Argument]:
        """Of the kernel, beside those of any quantizer; `sources` are its inputs, the first one the quantizer's."""
        ...


@dataclass(frozen=True)
class Source:
    """What the kernel that quantizes reads.

    Args:
        nodes: whose values are its inputs.
        front: what it does before.
        kept: the node in front, when others read its value too: the kernel yields it besides.
    """

    nodes: tuple[Node, ...]
    front: Front | None = None
    kept: Node | None = None


@dataclass(frozen=True)
class Norm:
    """A layer norm or a root-mean-square norm of rows.

    Args:
        centred: layer norm.
        weight: [width] or None for ones.
        bias: [width] or None for zeros.
        eps: added to the mean square.
    """

    centred: bool
    weight: Tensor | None
    bias: Tensor | None
    eps: float

    def __str__(self) -> str:
        return "layer norm" if self.centred else "rms norm"

    @property
    def kernel(self) -> str:
        """See `Front`."""
        return _NORM

    @property
    def weights(self) -> dict[str, Tensor]:
        """See `Front`."""
        given = {"norm_weight": self.weight, "norm_bias": self.bias}
        return {name: value.reshape(-1).float() for name, value in given.items() if value is not None}

    def widths(self, width: int) -> tuple[int, ...]:
        """See `Front`."""
        return (width,)

    def instance(self, kind: Kind, width: int) -> Instance:
        """See `Front`."""
        return choose(KERNELS[_NORM], kind, width)

    def arguments(self, sources: Sequence[Argument]) -> dict[str, Argument]:
        """See `Front`."""
        parts: dict[str, Argument] = {name.removeprefix("norm_"): Weight(weight=name) for name in self.weights}
        return parts | {"centred": int(self.centred), "eps": self.eps}


@dataclass(frozen=True)
class Activated:
    """An activation of rows, or its product with other rows or one for all: `f(x)`, `f(x) * gate`, `f(x) * factor`.

    Args:
        activation: f.
        stored: widths of the rows that are read, one for each input; x is part of the first, the gate of the last.
        column: where x begins.
        gate_column: where the gate begins; None where there is none.
        factor: [width], in the floats of the rows; None where there is none.
    """

    activation: Activation
    stored: tuple[int, ...]
    column: int = 0
    gate_column: int | None = None
    factor: Tensor | None = None

    def __str__(self) -> str:
        name = self.activation.replace("_", " by ")
        if self.factor is not None:
            return "scaled" if self.activation == "plain" else f"scaled {name}"
        if self.gate_column is None:
            return name
        return "product" if self.activation == "plain" else f"gated {name}"

    @property
    def kernel(self) -> str:
        """See `Front`."""
        return _ACTIVATE

    @property
    def weights(self) -> dict[str, Tensor]:
        """See `Front`."""
        return {} if self.factor is None else {"gate": self.factor}

    def widths(self, width: int) -> tuple[int, ...]:
        """See `Front`."""
        return self.stored

    def instance(self, kind: Kind, width: int) -> Instance:
        """See `Front`."""
        return choose_activation(self.activation, kind, width)

    def arguments(self, sources: Sequence[Argument]) -> dict[str, Argument]:
        """See `Front`."""
        found: dict[str, Argument] = {"stride": self.stored[0], "column": self.column}
        if self.factor is not None:
            found |= {"gate": Weight(weight="gate")}
        if self.gate_column is not None:
            found |= {"gate": sources[-1], "gate_stride": self.stored[-1], "gate_column": self.gate_column}
        return found


def front_of(program: Program, node: Node, kind: Kind) -> Source:
    """What a quantizer of `node` reads in truth, and what its kernel does before.

    A value that others than quantizers read stays, unless the kernel can yield it besides.
    """
    if node.op != "call_function":
        return Source((node,))
    read = any(user.target not in QUANTIZERS for user in node.users)
    found = _norm(program, node)
    if found is not None:
        return Source(found.nodes, found.front, node if read else None)
    if read:
        return Source((node,))
    found = _activated(program, node, kind)
    if found is not None:
        return found
    source, online = online_of(program, node, kind)
    return Source((source,), online)


def _norm(program: Program, node: Node) -> Source | None:
    """A norm of rows with constant parameters."""
    if program.op(node) not in _NORMS:
        return None
    bound = program.bind(node)
    source, shape, eps = bound["input"], bound["normalized_shape"], bound["eps"]
    given = [bound[name] for name in ("weight", "bias") if bound.get(name) is not None]
    known = all(program.constant(value) is not None for value in given)
    rows = isinstance(shape, list | tuple) and len(shape) == 1
    if not isinstance(source, Node) or not known or not rows or not _single(program, source, node):
        return None
    weight, bias = (program.constant(bound.get(name)) for name in ("weight", "bias"))
    least = float(eps) if isinstance(eps, int | float) else torch.finfo(torch.float32).eps
    return Source((source,), Norm(program.op(node) == _NORMS[0], _detached(weight), _detached(bias), least))


def _activated(program: Program, node: Node, kind: Kind) -> Source | None:
    """An activation, or a product of which one factor may be an activation read by nobody else."""
    if program.op(node) != "aten.mul.Tensor":
        activation, source = _activation(program, node)
        return None if activation == "plain" else _parts(program, activation, source)
    bound = program.bind(node)
    first, second = bound["self"], bound["other"]
    if not isinstance(first, Node) or not isinstance(second, Node) or not _single(program, first, second):
        return None
    shape = program.shape(node)
    for one, other in ((first, second), (second, first)):
        factor = _factor(program, other, shape[-1])
        if factor is not None and program.shape(one) == shape:
            return _scaled(_parts(program, *_alone(program, one)), factor.to(_FLOATS[kind]))
    if program.shape(first) != shape or program.shape(second) != shape:
        return None
    for one, other in ((first, second), (second, first)):
        activation, source = _alone(program, one)
        if activation != "plain":
            return _parts(program, activation, source, other)
    return _parts(program, "plain", first, second)


def _factor(program: Program, node: Node, width: object) -> Tensor | None:
    """A constant row of so many numbers."""
    value = program.constant(node)
    row = value is not None and value.dim() > 0 and value.shape[-1] == value.numel() == width
    return value.detach().reshape(-1) if value is not None and row else None


def _scaled(source: Source | None, factor: Tensor) -> Source | None:
    """The same times a row."""
    if source is None or not isinstance(source.front, Activated):
        return None
    return replace(source, front=replace(source.front, factor=factor))


def _alone(program: Program, node: Node) -> tuple[Activation, Node]:
    """The same as `_activation` of a value that has one reader; nothing of others, which stay."""
    return _activation(program, node) if len(node.users) == 1 else ("plain", node)


def _activation(program: Program, node: Node) -> tuple[Activation, Node]:
    """The activation that a node is, and what it reads; `plain` and the node itself when it is none."""
    kinds: dict[str, Activation] = {"aten.relu": "relu", "aten.silu": "silu", "aten.gelu": "gelu"}
    found = kinds.get(program.op(node))
    if found is None:
        return "plain", node
    bound = program.bind(node)
    source = bound["self"]
    if not isinstance(source, Node):
        return "plain", node
    return ("gelu_tanh" if bound.get("approximate") == "tanh" else found), source


def _parts(program: Program, activation: Activation, *nodes: Node) -> Source | None:
    """What a kernel reads for an activation of the first of some values and the product with the others."""
    found = [_part(program, node) for node in nodes]
    sources = tuple(dict.fromkeys(whole for whole, _ in found))
    widths = [program.shape(source)[-1] for source in sources]
    stored = tuple(width for width in widths if isinstance(width, int))
    if len(stored) < len(widths) or not _single(program, *sources):
        return None
    columns = [column for _, column in found]
    return Source(sources, Activated(activation, stored, columns[0], columns[1] if len(columns) > 1 else None))


def _part(program: Program, node: Node) -> tuple[Node, int]:
    """The value of which a node is consecutive columns, and the first of them; else the node itself."""
    op = program.op(node)
    if op == "aten.slice.Tensor":
        bound = program.bind(node)
        whole, first = bound["self"], bound["start"]
        if isinstance(whole, Node) and isinstance(first, int) and first >= 0 and bound["step"] == 1:
            return (whole, first) if _is_last(program, whole, bound["dim"]) else (node, 0)
    if op == ops.GETITEM and program.op(node.all_input_nodes[0]) == "aten.split_with_sizes":
        bound, index = program.bind(node.all_input_nodes[0]), node.args[1]
        whole, sizes = bound["self"], bound["split_sizes"]
        if isinstance(whole, Node) and isinstance(sizes, list | tuple) and isinstance(index, int):
            before = [size for size in sizes[:index] if isinstance(size, int)]
            known = len(before) == index and _is_last(program, whole, bound["dim"])
            return (whole, sum(before)) if known else (node, 0)
    return node, 0


def _is_last(program: Program, node: Node, axis: object) -> bool:
    return axis in (-1, program.tensor_type(node).rank - 1)


def _single(program: Program, *nodes: Node) -> bool:
    """Whether all values are float32 in the program: those are what libraries pass in floats of their own."""
    types = [program.type(node) for node in nodes]
    return all(isinstance(type_, TensorType) and type_.dtype == torch.float32 for type_ in types)


def _detached(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.detach()
