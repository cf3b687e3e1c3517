"""The scales and zero points of a quantized Program: which nodes hold them, whether they are set, and setting
them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from qcompiler.errors import VerifyError
from qcompiler.ir import ops
from qcompiler.ir.fill import is_unset
from qcompiler.ir.program import Node, Program, all_nodes
from qcompiler.spec import QuantSpec, Scales


@dataclass(frozen=True)
class Qparams:
    """The nodes behind one grid.

    Args:
        scales: one node per level, innermost first.
        zero_point: None when symmetric.
    """

    scales: tuple[Node, ...]
    zero_point: Node | None

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes."""
        return self.scales if self.zero_point is None else (*self.scales, self.zero_point)


def quantizers(program: Program) -> list[Node]:
    """The quantize nodes in order."""
    return [node for node in program.nodes if node.target is ops.quantize]


def qparams_of(program: Program, node: Node) -> Qparams:
    """The scales and zero point that a quantize or dequantize node reads."""
    bound = program.bind(node)
    zero_point = bound["zero_point"]
    return Qparams(tuple(all_nodes(bound["scale"])), zero_point if isinstance(zero_point, Node) else None)


def stored_spec(program: Program, value: object) -> QuantSpec | None:
    """The numbers of a weight that its checkpoint stores as codes, when `value` is such a weight, dequantized."""
    if not isinstance(value, Node) or value.target is not ops.dequantize:
        return None
    codes = program.bind(value)["codes"]
    return program.tensor_type(codes).spec if isinstance(codes, Node) and codes.op == "get_attr" else None


def is_static(qparams: Qparams) -> bool:
    """Whether all of them are parameters, not computed at run time."""
    return all(node.op == "get_attr" for node in qparams.nodes)


def is_set(program: Program, qparams: Qparams) -> bool:
    """Whether all of them have values."""
    return not any(is_unset(program.params[str(node.target)]) for node in qparams.nodes)


def set_qparams(program: Program, qparams: Qparams, scale: Scales, zero_point: torch.Tensor) -> None:
    """Gives the parameters of a grid their values; a symmetric grid has no use for the zero point.

    Raises:
        VerifyError: when there are other than one node per level of scales.
    """
    scales = (scale,) if isinstance(scale, torch.Tensor) else scale
    if len(scales) != len(qparams.scales):
        raise VerifyError(f"{len(scales)} levels of scales for {len(qparams.scales)} parameters")
    for node, value in zip(qparams.scales, scales, strict=True):
        program.set_param(node, value)
    if qparams.zero_point is not None:
        program.set_param(qparams.zero_point, zero_point)


def qparam_values(program: Program, qparams: Qparams) -> tuple[Scales, torch.Tensor | None]:
    """The values of a static grid, as `spec.quantize` takes them.

    Raises:
        InputError: when one was never set.
    """
    scales = tuple(program.param(node) for node in qparams.scales)
    zero_point = None if qparams.zero_point is None else program.param(qparams.zero_point)
    return scales[0] if len(scales) == 1 else scales, zero_point
