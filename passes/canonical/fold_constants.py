"""Constant folding: what depends on parameters alone becomes a parameter.

Formula   p' = round_dtype(op_float64(p...)), kept when rounding moves no value by more than one unit of float32
Shapes    any static; results above `limit_mib`, or above four times their inputs and not small, stay computed, except
          those that only look at a parameter (transposes, slices, reshapes)
Promise   Exact within 1e-5: each folded float32 value is rounded once (6e-8 of its size), which later layers amplify
Needs     nothing
Source    own
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.fx.node import map_arg

from qcompiler.ir.fill import Fill
from qcompiler.ir.interp import widen_dtypes
from qcompiler.ir.ops import is_symbolic
from qcompiler.ir.program import Node, Program, Stage
from qcompiler.ir.types import TensorType
from qcompiler.passes.canonical.site import is_random
from qcompiler.pipeline import Context, Exact, Promise

SMALL = 2**16
ROUNDING = 2.0**-23


@dataclass(frozen=True)
class FoldConstants:
    """Computes constant subgraphs ahead of time.

    Args:
        limit_mib: largest computed result that is kept as a parameter.
    """

    limit_mib: int = 64
    name: ClassVar[str] = "fold_constants"
    needs: ClassVar[Stage] = Stage.TRACED
    gives: ClassVar[Stage] = Stage.TRACED
    promise: ClassVar[Promise] = Exact(1e-5)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with constants computed."""
        folded: dict[Node, torch.Tensor] = {}
        for node in program.nodes:
            value = self.value(program, node, folded)
            if value is not None:
                folded[node] = value
        for node, value in folded.items():
            if any(user not in folded for user in node.users):
                constant = program.before(node, self.name).param(_name(program, node), value)
                program.replace(node, constant)
        return program

    def value(self, program: Program, node: Node, folded: dict[Node, torch.Tensor]) -> torch.Tensor | None:
        """The value of a node when it is constant and worth keeping, in the dtype of its type."""
        type_ = program.type(node)
        if not isinstance(type_, TensorType) or is_symbolic(node.target) or is_random(node):
            return None
        sources = node.all_input_nodes
        if not all(isinstance(dim, int) for dim in type_.shape) or not all(_known(program, s, folded) for s in sources):
            return None
        inputs = {source: folded[source] if source in folded else program.param(source) for source in sources}
        size = torch.Size(type_.shape).numel()  # pyright: ignore[reportArgumentType]
        if size > max(4 * sum(tensor.numel() for tensor in inputs.values()), SMALL):
            return None
        exact = _compute(node, inputs, type_.dtype, widen=False)
        if any(exact.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr() for tensor in inputs.values()):
            return exact
        if size * type_.dtype.itemsize > self.limit_mib * 2**20:
            return None
        if not type_.dtype.is_floating_point:
            return exact
        wide = _compute(node, inputs, type_.dtype, widen=True)
        return _rounded(wide, type_.dtype)


def _known(program: Program, node: Node, folded: dict[Node, torch.Tensor]) -> bool:
    if node in folded:
        return True
    value = program.params.get(str(node.target)) if node.op == "get_attr" else None
    return value is not None and not (isinstance(value, Fill) and value.kind in ("digest", "unset"))


def _compute(node: Node, inputs: dict[Node, torch.Tensor], dtype: torch.dtype, widen: bool) -> torch.Tensor:
    def feed(source: Node) -> torch.Tensor:
        tensor = inputs[source].detach()
        return tensor.double() if widen and tensor.is_floating_point() else tensor

    args, kwargs = map_arg((node.args, node.kwargs), feed)  # pyright: ignore[reportGeneralTypeIssues, reportArgumentType]
    if widen:
        args, kwargs = widen_dtypes(args), widen_dtypes(kwargs)
    with torch.no_grad():
        return node.target(*args, **kwargs)  # pyright: ignore[reportCallIssue]


def _rounded(wide: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | None:
    """`wide` in `dtype`, None when that loses more than float32 would."""
    value = wide.to(dtype)
    gap = (value.double() - wide.double()).abs()
    fits = (gap <= ROUNDING * wide.double().abs()) | (value.double() == wide.double()) | wide.isnan()
    return value if bool(fits.all()) else None


def _name(program: Program, node: Node) -> str:
    """The name of the parameter that the value comes from, when there is one, else the node's own."""
    sources = [source for source in node.all_input_nodes if source.op == "get_attr"]
    return str(sources[0].target) if len(sources) == 1 and len(node.all_input_nodes) == 1 else node.name
