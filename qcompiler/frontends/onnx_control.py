"""Control flow of ONNX: `If`, `Loop` and `Scan` become operators with regions.

What a subgraph reads of the graphs around it becomes an input of its region. Sizes that differ between branches or from
run to run become symbols of their own; what has no type that says so, such as branches of different ranks, is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import onnx_ir
import sympy
import torch

from qcompiler.errors import UnsupportedError
from qcompiler.frontends.onnx_branches import BranchesDifferError, Decisions
from qcompiler.frontends.onnx_load import live_nodes
from qcompiler.frontends.onnx_ops.context import Emitter, Known, OpContext, Sizes, Value
from qcompiler.ir.nodes import identifier
from qcompiler.ir.program import Node, Program, Signature
from qcompiler.ir.region import Region
from qcompiler.ir.region_rules import joinable, joined, sliced, stacked
from qcompiler.ir.text import print_type
from qcompiler.ir.types import Dim, TensorType, TupleType, Type, dim_symbols

_FIX_SIZES = (
    "if the condition follows from a free dimension, fix it: import_onnx(..., sizes={name: size}); "
    "else export the model without the branch"
)


class Block(Protocol):
    """What imports the nodes of one graph into one program."""

    program: Program
    emitter: Emitter
    values: dict[onnx_ir.Value, Value]
    frame: Frame | None

    @property
    def decided(self) -> Decisions:
        """Which branch to take where the types of both do not fit together."""
        ...

    def nodes(self, nodes: Sequence[onnx_ir.Node]) -> None:
        """Imports nodes in order."""
        ...

    def value(self, value: onnx_ir.Value) -> Value:
        """What an ONNX value became."""
        ...

    def nested(self, program: Program) -> Block:
        """What imports the nodes of a graph inside this one; its emitter and frame are still to be set."""
        ...


@dataclass
class Frame:
    """How a region reaches what lies around it.

    Args:
        block: imports the region.
        around: imports the graph around it.
        captures: values of that graph that the region reads; shared by the regions of one operator.
        own: number of inputs that are not captures.
    """

    block: Block
    around: Block
    captures: list[Node]
    own: int = 0

    def value(self, value: onnx_ir.Value) -> Value:
        """A value of the graphs around, as the region sees it."""
        found = self.around.value(value)
        return self.capture(found) if isinstance(found, Node) else found

    def size(self, dim: sympy.Expr) -> Node:
        """A symbol of the graphs around, as the region sees it."""
        found = self.around.emitter.size(dim)
        if not isinstance(found, Node):
            raise UnsupportedError(f"the size '{dim}' is not computed by any operator", step="import onnx")
        return self.capture(found)

    def capture(self, node: Node) -> Node:
        """The input that stands for a value of the graph around."""
        if node not in self.captures:
            self.captures.append(node)
        self.fill()
        return self.block.program.inputs[self.own + self.captures.index(node)]

    def fill(self) -> None:
        """Gives the region an input for every capture."""
        for node in self.captures[len(self.block.program.inputs) - self.own :]:
            add_input(self.block, node.name, self.around.program.type(node))


def add_input(block: Block, name: str, type_: Type) -> Node:
    """An input whose sizes the region can read."""
    node = block.program.add_input(name, type_)
    if isinstance(type_, TensorType):
        block.emitter.remember_shape(node)
    return node


@dataclass
class _Body:
    """A subgraph that was imported."""

    block: Block
    results: list[Value]
    foreign: set[str]

    @property
    def types(self) -> list[TensorType]:
        program = self.block.program
        return [program.tensor_type(node) for node in program.outputs]


def branch(block: Block, context: OpContext) -> list[Value | None]:
    """The results of an `If`; a branch that a known condition chooses is imported in place."""
    condition = context.known(0)
    chosen = block.decided.get(context.node)
    if condition is not None or chosen is not None:
        graph = _subgraph(context, chosen or ("then_branch" if bool(condition) else "else_branch"))
        block.nodes(live_nodes(graph))
        return [block.value(value) for value in graph.outputs]
    pred = context.tensor(0)
    captures: list[Node] = []
    then = _import_body(block, context, "then_branch", [], captures)
    otherwise = _import_body(block, context, "else_branch", [], captures)
    pairs = list(zip(then.types, otherwise.types, strict=True))
    for first, second in pairs:
        if not joinable(first, second) and _follows_from_sizes(block.program, pred):
            raise BranchesDifferError(_no_type(context, first, second), context.node)
    types = [_join(block, context, a, b) for a, b in pairs]
    regions = {"then": _region(then), "otherwise": _region(otherwise)}
    return _emit(block, context, "qc.cond", (pred, captures), regions, types, then.foreign | otherwise.foreign)


def _follows_from_sizes(program: Program, node: Node) -> bool:
    """Whether a value depends on sizes and constants alone."""
    if node.op != "call_function":
        return node.op == "get_attr"
    # what the sizes are read from does not matter
    sources = [source for source in node.all_input_nodes if isinstance(program.type(source), TensorType)]
    return all(_follows_from_sizes(program, source) for source in sources)


def loop(block: Block, context: OpContext) -> list[Value | None]:
    """The results of a `Loop`."""
    trip_count = context.optional(0)
    condition = None if context.has(1) and _is_true(context.value(1)) else context.optional(1)
    carried = [context.tensor(index) for index in range(2, len(context.inputs))]
    first = [block.program.tensor_type(node) for node in carried]
    fixed: list[Type] = [TensorType(torch.int64, ()), TensorType(torch.bool, ())]
    body, captures, types = _settled(block, context, fixed, first, [])
    count = len(carried)
    runs = _runs(block, context, body)
    rest = [stacked(type_, 0, runs) for type_ in body.types[1 + count :]]
    results = [_join(block, context, a, b) for a, b in zip(first, types, strict=True)] + rest
    given = (trip_count, condition, carried, captures)
    return _emit(block, context, "qc.loop", given, {"body": _region(body)}, results, body.foreign)


def scan(block: Block, context: OpContext) -> list[Value | None]:
    """The results of a `Scan`; opset 8 has it over the second axis of a batch."""
    batched = context.version < 9
    if batched and context.has(0):
        raise context.refuse("sequence lengths are not supported", mend="convert the model to a newer opset")
    given = [context.tensor(index) for index in range(1 if batched else 0, len(context.inputs))]
    count = len(given) - context.integer("num_scan_inputs")
    if not batched:
        return _scan(block, context, given[:count], given[count:])
    dimensions, known = block.program.dimensions, set(block.program.dimensions.symbols)
    captures: list[Node] = []
    inner = _enter(block, f"{context.name}_sample", captures, len(given))
    types = [block.program.tensor_type(node) for node in given]
    nodes = [add_input(inner, node.name, sliced(type_, 0)) for node, type_ in zip(given, types, strict=True)]
    results = _scan(inner, replace(context, emitter=inner.emitter), nodes[:count], nodes[count:])
    body = _leave(inner, [result for result in results if result is not None], set(dimensions.symbols) - known)
    made = [stacked(type_, 0, types[0].shape[0]) for type_ in body.types]
    attributes = {
        "body": _region(body),
        "axes": [0] * len(given),
        "reverse": [0] * len(given),
        "result_axes": [0] * len(made),
        "result_reverse": [0] * len(made),
    }
    return _emit(block, context, "qc.scan", ([], given, captures), attributes, made, body.foreign)


def _scan(block: Block, context: OpContext, states: list[Node], sequences: list[Node]) -> list[Value | None]:
    count, program = len(states), block.program
    ranks = [context.rank(node) for node in sequences]
    given_axes = context.integers("scan_input_axes") or [0] * len(sequences)
    axes = [context.axis(axis, rank) for axis, rank in zip(given_axes, ranks, strict=True)]
    first = [program.tensor_type(node) for node in states]
    slices = [sliced(program.tensor_type(node), axis) for node, axis in zip(sequences, axes, strict=True)]
    body, captures, types = _settled(block, context, [], first, slices)
    made = body.types[count:]
    given_axes = context.integers("scan_output_axes") or [0] * len(made)
    result_axes = [context.axis(axis, type_.rank + 1) for axis, type_ in zip(given_axes, made, strict=True)]
    directions = context.integers("scan_input_directions") or context.integers("directions")
    attributes = {
        "body": _region(body),
        "axes": axes,
        "reverse": directions or [0] * len(axes),
        "result_axes": result_axes,
        "result_reverse": context.integers("scan_output_directions") or [0] * len(result_axes),
    }
    runs = context.shape(sequences[0])[axes[0]]
    rest = [stacked(type_, axis, runs) for type_, axis in zip(made, result_axes, strict=True)]
    results = [_join(block, context, a, b) for a, b in zip(first, types, strict=True)] + rest
    return _emit(block, context, "qc.scan", (states, sequences, captures), attributes, results, body.foreign)


CONTROL: dict[str, Callable[[Block, OpContext], list[Value | None]]] = {"If": branch, "Loop": loop, "Scan": scan}


def _settled(
    block: Block,
    context: OpContext,
    before: Sequence[Type],
    first: Sequence[TensorType],
    after: Sequence[Type],
) -> tuple[_Body, list[Node], list[TensorType]]:
    """The body of a loop with inputs wide enough for every run, its captures, and the types of the carried inputs."""
    types, free, known = list(first), set[str](), set(block.program.dimensions.symbols)
    while True:
        captures: list[Node] = []
        body = _import_body(block, context, "body", [*before, *types, *after], captures)
        # a loop yields first whether to go on
        handed = body.types[1 if before else 0 :]
        wider = [_widened(block, context, a, b, free) for a, b in zip(types, handed, strict=False)]
        if wider == types:
            body.foreign = set(block.program.dimensions.symbols) - known
            return body, captures, types
        types = wider


def _widened(block: Block, context: OpContext, declared: TensorType, given: TensorType, free: set[str]) -> TensorType:
    """The declared type, with a symbol of `free` for each size that another run may change."""
    if not joinable(declared, given):
        raise _no_type(context, declared, given)
    shape: list[Dim] = []
    for mine, other in zip(declared.shape, given.shape, strict=True):
        if mine == other or str(mine) in free:
            shape.append(mine)
            continue
        symbol = block.program.dimensions.fresh(max(block.program.dimensions.hint(other), 2))
        free.add(str(symbol))
        shape.append(symbol)
    return TensorType(declared.dtype, tuple(shape))


def _join(block: Block, context: OpContext, first: TensorType, second: TensorType) -> Type:
    found = joined(block.program.dimensions, first, second)
    if found is None:
        raise _no_type(context, first, second)
    return found


def _no_type(context: OpContext, first: TensorType, second: TensorType) -> UnsupportedError:
    what = f"a value is {print_type(first)} or {print_type(second)}, as the data decide"
    return context.refuse(f"{what}; no type says both", _FIX_SIZES)


def _import_body(
    block: Block, context: OpContext, attribute: str, types: Sequence[Type], captures: list[Node]
) -> _Body:
    """Imports a subgraph; its first inputs have the given types, the others are captures."""
    graph = _subgraph(context, attribute)
    known = set(block.program.dimensions.symbols)
    inner = _enter(block, f"{context.name}_{attribute.removesuffix('_branch')}", captures, len(types))
    nodes = [add_input(inner, value.name or "input", type_) for value, type_ in zip(graph.inputs, types, strict=True)]
    for value, node in zip(graph.inputs, nodes, strict=True):
        wanted, own = len(value.shape or ()), inner.program.type(node)
        vector = isinstance(own, TensorType) and own.rank == 0 and wanted == 1
        inner.values[value] = inner.emitter.call("aten.reshape", node, [1]) if vector else node
    inner.nodes(live_nodes(graph))
    results = [inner.value(value) for value in graph.outputs]
    return _leave(inner, results, set(block.program.dimensions.symbols) - known)


def _enter(block: Block, name: str, captures: list[Node], own: int) -> Block:
    """What imports a region inside the graph that `block` imports; its first `own` inputs are still to come."""
    inner = block.nested(Program(identifier(name), block.program.stage, dimensions=block.program.dimensions))
    inner.frame = Frame(inner, block, captures, own)
    inner.emitter = block.emitter.nested(inner.program, inner.frame.size)
    return inner


def _leave(inner: Block, results: list[Value], foreign: set[str]) -> _Body:
    inner.program.set_outputs([inner.emitter.tensor(result) for result in results])
    inner.program.erase_dead()
    return _Body(inner, results, foreign)


def _subgraph(context: OpContext, attribute: str) -> onnx_ir.Graph:
    found = context.attribute(attribute)
    if found is None:
        raise context.refuse(f"it lacks its subgraph '{attribute}'", "the graph is damaged; export the model again")
    return found.as_graph()


def _region(body: _Body) -> Region:
    """The finished region of a body, all captures of its operator among its inputs."""
    frame = body.block.frame
    if frame is not None:
        frame.fill()
    program = body.block.program
    program.signature = Signature.flat(len(program.inputs), len(program.outputs))
    program.edits = 0
    return Region(program)


def _runs(block: Block, context: OpContext, body: _Body) -> Dim:
    """How often a loop runs: a number or a size when nothing but the trip count decides, else a new symbol."""
    count = context.value(0) if context.has(0) else None
    begins = not context.has(1) or _is_true(context.value(1))
    goes_on = body.results[0]
    unbroken = begins and (_is_true(goes_on) or goes_on is body.block.program.inputs[1])
    if unbroken and isinstance(count, Known):
        return max(int(count.tensor), 0)
    if unbroken and isinstance(count, Sizes) and count.items.size == 1:
        return count.items.item()
    return block.program.dimensions.fresh(2)


def _is_true(value: Value) -> bool:
    return isinstance(value, Known) and bool(value.tensor)


def _emit(
    block: Block,
    context: OpContext,
    op: str,
    args: Sequence[object],
    attributes: Mapping[str, object],
    types: Sequence[Type],
    foreign: set[str],
) -> list[Value | None]:
    """Adds the operator; sizes of its results that only its regions know become symbols."""
    declared = tuple(_escaped(block, type_, foreign) for type_ in types)
    node = context.emitter.call(op, *args, kwargs=attributes, type_=TupleType(declared))
    results = [context.emitter.call("getitem", node, index) for index in range(len(declared))]
    for result in results:
        context.emitter.remember_shape(result)
    return list(results)


def _escaped(block: Block, type_: Type, foreign: set[str]) -> Type:
    if not isinstance(type_, TensorType):
        return type_
    dimensions = block.program.dimensions
    hints = [max(dimensions.hint(dim), 2) for dim in type_.shape]
    shape = [
        dimensions.fresh(hint) if dim_symbols(dim) & foreign else dim
        for dim, hint in zip(type_.shape, hints, strict=True)
    ]
    return TensorType(type_.dtype, tuple(shape))
