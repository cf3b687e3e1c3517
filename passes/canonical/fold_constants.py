"""Constant folding: what depends on parameters alone becomes a parameter.

Formula   p' = round_dtype(op_float64(p...)), kept when rounding moves no value by more than one unit of float32
Shapes    any static; results above `limit_mib`, or above four times their inputs and not small, stay computed, except
          those that only look at a parameter (transposes, slices, reshapes)
Promise   Exact within 1e-5: each folded float32 value is rounded once (6e-8 of its size), which later layers amplify
Needs     nothing
Source    own
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.fx.node import map_arg

from qcompiler.ir.fill import Fill
from qcompiler.ir.interp import widen_dtypes
from qcompiler.ir.ops import dequantize, is_symbolic
from qcompiler.ir.program import Node, Program, Stage
from qcompiler.ir.types import TensorType
from qcompiler.passes.canonical.site import is_random
from qcompiler.pipeline import Context, Exact, Promise

Value = torch.Tensor | Fill

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
        folded: dict[Node, Value] = {}
        for node in program.nodes:
            value = self.value(program, node, folded)
            if value is not None:
                folded[node] = value
        for node, value in folded.items():
            if any(user not in folded for user in node.users):
                type_ = program.tensor_type(node) if isinstance(value, Fill) else None
                constant = program.before(node, self.name).param(_name(program, node), value, type_)
                program.replace(node, constant)
        return program

    def value(self, program: Program, node: Node, folded: dict[Node, Value]) -> Value | None:
        """The value of a node when it is constant and worth keeping, in the dtype of its type.

        What only looks at a parameter that lies in a file stays there.
        """
        type_ = program.type(node)
        maker = _maker(node)
        if not isinstance(type_, TensorType) or is_symbolic(maker.target) or is_random(maker):
            return None
        if maker.target is dequantize:
            return None  # what is stored in few bits stays so
        sources = maker.all_input_nodes
        if not all(isinstance(dim, int) for dim in type_.shape) or not all(_known(program, s, folded) for s in sources):
            return None
        given = {s: folded[s] if s in folded else program.rounded(s) for s in sources}
        size = _size(type_)
        if size > max(4 * sum(_size(program.tensor_type(source)) for source in sources), SMALL):
            return None
        view = _view(program, node, given)
        if view is not None:
            return view
        if size * type_.dtype.itemsize > self.limit_mib * 2**20:
            return None
        inputs = {source: _tensor(value, program.tensor_type(source)) for source, value in given.items()}
        if any(tensor.is_meta for tensor in inputs.values()):
            return _compute(node, {source: tensor.to("meta") for source, tensor in inputs.items()}, widen=False)
        if not type_.dtype.is_floating_point:
            return _compute(node, inputs, widen=False)
        return _rounded(_compute(node, inputs, widen=True), type_.dtype)


def _tensor(value: Value, type_: TensorType) -> torch.Tensor:
    return value.materialize(type_) if isinstance(value, Fill) else value


def _size(type_: TensorType) -> int:
    return math.prod(int(dim) for dim in type_.shape)


def _known(program: Program, node: Node, folded: dict[Node, Value]) -> bool:
    if node in folded:
        return True
    value = program.params.get(str(node.target)) if node.op == "get_attr" else None
    return value is not None and not (isinstance(value, Fill) and value.kind in ("digest", "unset"))


def _view(program: Program, node: Node, given: dict[Node, Value]) -> Value | None:
    """The result of a node that only looks at its one argument, found without reading it; None for any other node."""
    if len(given) != 1 or not _may_alias(_maker(node)):
        return None
    ((source, value),) = given.items()
    type_ = program.tensor_type(source)
    if isinstance(value, torch.Tensor) or value.stored is None:
        tensor = _tensor(value, type_)
        result = _compute(node, {source: tensor}, widen=False)
        return result if _shares(result, tensor) else None
    if type_.dtype.is_complex:
        return None
    layout = value.stored.layout(tuple(int(dim) for dim in type_.shape), type_.dtype)
    result = _compute(node, {source: layout}, widen=False)
    if not _shares(result, layout) or result.dtype != layout.dtype:
        return None
    return Fill("file", stored=value.stored.viewed(result))


def _shares(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.untyped_storage()._cdata == b.untyped_storage()._cdata


def _may_alias(node: Node) -> bool:
    """Whether the operator may return a view of its argument."""
    schema = getattr(node.target, "_schema", None)
    return isinstance(schema, torch.FunctionSchema) and any(item.alias_info for item in schema.returns)


def _maker(node: Node) -> Node:
    """The call that computes a value: the tuple-valued one for a part of a tuple."""
    source = node.args[0] if node.target is operator.getitem else node
    return source if isinstance(source, Node) and source.op == "call_function" else node


def _compute(node: Node, inputs: dict[Node, torch.Tensor], widen: bool) -> torch.Tensor:
    maker = _maker(node)
    if maker is not node:
        return _compute(maker, inputs, widen)[node.args[1]]  # pyright: ignore[reportArgumentType, reportCallIssue]

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
