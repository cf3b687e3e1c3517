"""What must fit between an operator with regions, its operands, its results, and the inputs and results of its regions.

A declared type may be wider than what flows: where it says a symbol, any size may come.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.fx.node import Argument

from qcompiler.errors import VerifyError
from qcompiler.ir import ops
from qcompiler.ir.program import Node, Program
from qcompiler.ir.region import Region
from qcompiler.ir.text import print_type
from qcompiler.ir.types import Dim, Dimensions, SymbolType, TensorType, TupleType, Type, symbol_expr

_SCALAR = TensorType(torch.int64, ())
_TRUTH = TensorType(torch.bool, ())
_ANY_SIZE = symbol_expr("any_size")

Bound = Mapping[str, Argument]


@dataclass(frozen=True)
class _Flow:
    """Values that go from one place to another: their types, and the types declared there."""

    what: str
    given: Sequence[Type | None]
    declared: Sequence[Type | None]


def region_problems(node: Node) -> Iterator[str]:
    """Everything that does not fit around one operator with regions."""
    name = ops.op_name(node.target)
    bound = ops.bind(node.target, node.args, node.kwargs)
    for argument in ops.REGION_OPS[name].regions:
        if not isinstance(node.kwargs.get(argument), Region):
            yield f"{name} needs a region as its attribute '{argument}'"
            return
    try:
        for flow in _FLOWS[name](bound, _items(node.meta["type"])):
            yield from _misfits(flow)
    except VerifyError as error:
        yield error.what


def joinable(first: TensorType, second: TensorType) -> bool:
    """Whether there is a type for values of either: whether they differ in sizes at most."""
    return not _clash(first, second, sizes=False)


def joined(dimensions: Dimensions, first: Type | None, second: Type | None) -> Type | None:
    """A type wide enough for values of either; sizes that differ become a new symbol. None when there is no such type.

    Shapes: both of one rank, or there is none.
    """
    if first == second:
        return first
    if not isinstance(first, TensorType) or not isinstance(second, TensorType) or not joinable(first, second):
        return None
    pairs = zip(first.shape, second.shape, strict=True)
    shape = tuple(a if a == b else dimensions.fresh(max(dimensions.hint(a), dimensions.hint(b), 2)) for a, b in pairs)
    return TensorType(first.dtype, shape)


def stacked(type_: TensorType, axis: int, runs: Dim) -> TensorType:
    """The type of results of several runs, along a new axis."""
    shape = list(type_.shape)
    shape.insert(axis, runs)
    return TensorType(type_.dtype, tuple(shape))


def sliced(type_: TensorType, axis: int) -> TensorType:
    """The type of one slice of a tensor."""
    return TensorType(type_.dtype, (*type_.shape[:axis], *type_.shape[axis + 1 :]))


def _cond_flows(bound: Bound, results: Sequence[Type | None]) -> Iterator[_Flow]:
    for argument in ("then", "otherwise"):
        region = _region(bound, argument)
        yield _Flow(f"inputs of region @{region.name}", _types(bound["captures"]), _inputs(region))
        yield _Flow(f"results of region @{region.name}", _outputs(region), results)


def _loop_flows(bound: Bound, results: Sequence[Type | None]) -> Iterator[_Flow]:
    region, carried = _region(bound, "body"), _types(bound["carried"])
    count, outputs, takes = len(carried), _outputs(region), f"inputs of region @{region.name}"
    yield _Flow(takes, [_SCALAR, _TRUTH, *carried, *_types(bound["captures"])], _inputs(region))
    yield _Flow("what one run hands to the next", outputs[1 : 1 + count], _inputs(region)[2 : 2 + count])
    yield _Flow("results of a loop without a run", carried, results[:count])
    rest = [stacked(_tensor(type_), 0, _ANY_SIZE) for type_ in outputs[1 + count :]]
    yield _Flow(f"results of region @{region.name}", [*outputs[1 : 1 + count], *rest], results)
    if not outputs or _tensor(outputs[0]).dtype != torch.bool:
        raise VerifyError(f"region @{region.name} must first yield a truth value: whether to go on")


def _scan_flows(bound: Bound, results: Sequence[Type | None]) -> Iterator[_Flow]:
    region, states = _region(bound, "body"), _types(bound["states"])
    count, outputs = len(states), _outputs(region)
    sequences, axes, result_axes = _types(bound["sequences"]), _integers(bound, "axes"), _integers(bound, "result_axes")
    if len(axes) != len(sequences) or len(result_axes) != len(outputs) - count:
        raise VerifyError("qc.scan needs one axis for each sequence and each stacked result")
    slices = [sliced(_tensor(type_), axis) for type_, axis in zip(sequences, axes, strict=True)]
    yield _Flow(f"inputs of region @{region.name}", [*states, *slices, *_types(bound["captures"])], _inputs(region))
    yield _Flow("what one run hands to the next", outputs[:count], _inputs(region)[:count])
    yield _Flow("results of a scan without a run", states, results[:count])
    pairs = zip(outputs[count:], result_axes, strict=True)
    rest = [stacked(_tensor(type_), axis, _ANY_SIZE) for type_, axis in pairs]
    yield _Flow(f"results of region @{region.name}", [*outputs[:count], *rest], results)


_FLOWS = {"qc.cond": _cond_flows, "qc.loop": _loop_flows, "qc.scan": _scan_flows}


def _misfits(flow: _Flow) -> Iterator[str]:
    if len(flow.given) != len(flow.declared):
        yield f"{flow.what}: {len(flow.declared)} values are declared, {len(flow.given)} come"
        return
    for index, (given, declared) in enumerate(zip(flow.given, flow.declared, strict=True)):
        if _clash(given, declared):
            yield f"{flow.what}: value {index} is declared {print_type(declared)}, {print_type(given)} comes"


def _clash(given: Type | None, declared: Type | None, *, sizes: bool = True) -> bool:
    if not isinstance(given, TensorType) or not isinstance(declared, TensorType):
        return not (isinstance(given, SymbolType) and isinstance(declared, SymbolType))
    if (given.dtype, given.rank, given.spec) != (declared.dtype, declared.rank, declared.spec):
        return True
    pairs = zip(given.shape, declared.shape, strict=True)
    return sizes and any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs)


def _region(bound: Bound, argument: str) -> Program:
    region = bound[argument]
    if not isinstance(region, Region):
        raise VerifyError(f"'{argument}' must be a region")
    return region.program


def _inputs(region: Program) -> list[Type | None]:
    return [region.type(node) for node in region.inputs]


def _outputs(region: Program) -> list[Type | None]:
    return [region.type(node) for node in region.outputs]


def _types(argument: Argument) -> list[Type | None]:
    """Types of a list of nodes."""
    nodes = argument if isinstance(argument, list | tuple) else [argument]
    if not all(isinstance(node, Node) for node in nodes):
        raise VerifyError("the operands of a region must be values, none of them absent")
    return [node.meta["type"] for node in nodes if isinstance(node, Node)]


def _integers(bound: Bound, argument: str) -> list[int]:
    found = bound[argument]
    return [int(item) for item in found if isinstance(item, int)] if isinstance(found, list | tuple) else []


def _items(type_: Type) -> Sequence[Type | None]:
    if not isinstance(type_, TupleType):
        raise VerifyError("an operator with regions yields a tuple")
    return type_.items


def _tensor(type_: Type | None) -> TensorType:
    if not isinstance(type_, TensorType):
        raise VerifyError("regions yield tensors")
    return type_
