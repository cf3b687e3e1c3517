"""What each operator does to the labels of its operands: moving them, and the walk that applies all rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch.fx.node import Argument

from qcompiler.analysis import labels as lb
from qcompiler.analysis.relations import EVERYTHING, Mark, Product, Relations
from qcompiler.ir import ops
from qcompiler.ir.program import Node, Program
from qcompiler.ir.types import Dim, SymbolType, TensorType, TupleType

Labels = torch.Tensor | list[torch.Tensor]
Bound = Mapping[str, Argument]
Rule = Callable[["Walk", Node, Bound], Labels]

_VIEWS = frozenset({"aten.permute", "aten.unsqueeze", "aten.squeeze.dims", "aten.slice.Tensor", "aten.select.int"})


class Walk:
    """Applies a rule to every operator of a program in order."""

    def __init__(self, program: Program, rules: Mapping[str, Rule]) -> None:
        self.program = program
        self.rules = rules
        self.relations = Relations(program)
        self._hints: dict[Dim, int] = {}
        self._varying: set[Node] = set()
        self._constants: dict[tuple[Node, Node | None], Labels] = {}

    def run(self) -> Relations:
        """The relations of the whole program."""
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self._varying.add(node)
                self._keep(node, self._fixed_like(node))
            elif self._depends(node):
                self._varying.add(node)
                self._keep(node, self._apply(node))
        for node in self.program.outputs:
            if node in self.relations.values:
                self.relations.freeze(self.relations.values[node], node, "is a result of the program")
        return self.relations

    def _depends(self, node: Node) -> bool:
        if node.op != "call_function" or ops.is_symbolic(node.target):
            return False
        # Rows of a table are written whichever are taken, be it by positions that depend on sizes alone.
        reads = any(source in self._varying for source in node.all_input_nodes)
        return reads or self.program.op(node) == "aten.embedding" or takes_rows(self.program, node)

    def shape(self, node: Node) -> tuple[int, ...]:
        """Shape with example sizes in place of symbols."""
        return tuple(self.size(dim) for dim in cast(TensorType, self.program.type(node)).shape)

    def size(self, dim: Dim) -> int:
        """The example value of a dimension."""
        if isinstance(dim, int):
            return dim
        if dim not in self._hints:
            self._hints[dim] = self.program.dimensions.hint(dim)
        return self._hints[dim]

    def first_shape(self, node: Node) -> tuple[int, ...]:
        """Shape of the first result."""
        type_ = self.program.type(node)
        first = type_.items[0] if isinstance(type_, TupleType) else type_
        return tuple(self.size(dim) for dim in cast(TensorType, first).shape)

    def is_tensor(self, node: Node) -> bool:
        """Whether an operator yields one tensor."""
        return isinstance(self.program.type(node), TensorType)

    def is_float(self, node: Node) -> bool:
        """Whether an operator yields one tensor of reals."""
        type_ = self.program.type(node)
        return isinstance(type_, TensorType) and type_.is_float

    def product(self, node: Node, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """New labels of a product, whose scales are those of both factors together."""
        left, right = torch.broadcast_tensors(lb.core(first), lb.core(second))
        found = self.relations.fresh(left.numel()).view(left.shape)
        flat = (found.reshape(-1), left.reshape(-1), right.reshape(-1))
        self.relations.products.append(Product(*flat, node))
        return found.expand(torch.broadcast_shapes(first.shape, second.shape))

    def value(self, argument: object) -> object:
        """An argument with example sizes in place of symbols and labels in place of tensors."""
        if isinstance(argument, Node):
            type_ = self.program.type(argument)
            return self.size(type_.expr) if isinstance(type_, SymbolType) else self.labels(argument)
        if isinstance(argument, list | tuple):
            return [self.value(item) for item in argument]
        return argument

    def is_constant(self, value: object) -> bool:
        """Whether a value is a node that depends on no input."""
        return isinstance(value, Node) and value not in self._varying

    def labels(self, value: object) -> torch.Tensor:
        """Labels of an operand; constants may not change."""
        node = cast(Node, value)
        found = self.relations.values.get(node)
        return lb.fixed(self.shape(node)) if found is None else found

    def wild(self, value: object, user: Node, met: torch.Tensor | None = None) -> torch.Tensor:
        """Labels of an operand that `user` takes; parameters can change with what they meet.

        Given the labels `met` that a parameter meets element by element, it changes along the axes only along which
        they do.
        """
        node = cast(Node, value)
        if not self.is_constant(node):
            return self.labels(node)
        key = (node, user if node.op == "get_attr" else None)
        if key not in self._constants:
            self._constants[key] = self._constant(node, user, met)
        return cast(torch.Tensor, self._constants[key])

    def _constant(self, node: Node, user: Node, met: torch.Tensor | None) -> Labels:
        if node.op == "get_attr":
            type_ = cast(TensorType, self.program.type(node))
            if not type_.is_float:
                return self._fixed_like(node)
            shape = self.shape(node)
            moving = range(-len(shape), 0) if met is None else [axis - met.dim() for axis in lb.varying(met)]
            small = [size if axis - len(shape) in moving else min(size, 1) for axis, size in enumerate(shape)]
            codes = self.relations.fresh(math.prod(small)).view(small).expand(shape)
            argument = next(name for name, held in self.relations.bind(user).items() if _holds(held, node))
            self.relations.mark(Mark(user, argument, "writer", codes, None, constant=node))
            return codes
        rule = MOVEMENT.get(self.program.op(node))
        return self._fixed_like(node) if rule is None else rule(self, node, self.relations.bind(node))

    def _apply(self, node: Node) -> Labels:
        op = self.program.op(node)
        rule = self.rules.get(op)
        if rule is not None:
            return rule(self, node, self.relations.bind(node))
        return self.refuse(node, f"no rule for {op}")

    def refuse(self, node: Node, reason: str) -> Labels:
        """What an operator without a rule does: nothing it takes may change, nor what it gives."""
        for source in node.all_input_nodes:
            if source in self.relations.values:
                self.relations.freeze(self.relations.values[source], node, reason)
        return self._fixed_like(node)

    def _fixed_like(self, node: Node) -> Labels:
        type_ = self.program.type(node)
        if isinstance(type_, TensorType):
            return lb.fixed(self.shape(node))
        items = type_.items if isinstance(type_, TupleType) else ()
        return [
            lb.fixed([self.size(dim) for dim in item.shape]) if isinstance(item, TensorType) else lb.fixed(())
            for item in items
        ]

    def _keep(self, node: Node, found: Labels) -> None:
        if isinstance(found, list):
            for position, codes in enumerate(found):
                self.parts[(node, position)] = codes
        else:
            self.relations.values[node] = found

    @property
    def parts(self) -> dict[tuple[Node, int], torch.Tensor]:
        """Labels of the results of operators with several."""
        return self.relations.parts


def _holds(argument: object, node: Node) -> bool:
    return argument is node or (isinstance(argument, list | tuple) and any(item is node for item in argument))


def view(walk: Walk, node: Node, bound: Bound) -> Labels:
    """Operators whose result is a view: torch itself moves the labels."""
    first, *rest = bound.values()
    codes = walk.wild(first, node)
    if any(isinstance(item, Node) for item in rest):
        codes = _alike(walk, node, codes, cast(int, bound["dim"]) % codes.dim())
    target = cast(Callable[..., Labels], node.target)
    return target(codes, *(walk.value(item) for item in rest))


def _alike(walk: Walk, node: Node, codes: torch.Tensor, axis: int) -> torch.Tensor:
    """Which elements of the axis are meant is known only in a run, so that they must change alike."""
    if axis not in lb.varying(codes):
        return codes
    small = lb.core(codes)
    first = small.narrow(axis, 0, 1)
    walk.relations.tie(small.narrow(axis, 1, codes.shape[axis] - 1), first, node)
    return first.expand(codes.shape)


def reshape(walk: Walk, node: Node, bound: Bound) -> Labels:
    """Any change of shape that keeps the order of elements."""
    return lb.reshape(walk.wild(bound["self"], node), walk.shape(node))


def expand(walk: Walk, node: Node, bound: Bound) -> Labels:
    """Repeats elements, which keep their label."""
    return walk.wild(bound["self"], node).expand(walk.shape(node))


def split(walk: Walk, node: Node, bound: Bound) -> Labels:
    """Pieces along an axis."""
    sizes = [cast(int, walk.value(size)) for size in cast(list[object], bound["split_sizes"])]
    return list(torch.split(walk.wild(bound["self"], node), sizes, cast(int, bound["dim"])))


def getitem(walk: Walk, node: Node, bound: Bound) -> Labels:
    """One of several results."""
    source, position = cast(Node, node.args[0]), cast(int, node.args[1])
    found = walk.parts.get((source, position))
    return lb.fixed(walk.shape(node)) if found is None else found


def cat(walk: Walk, node: Node, bound: Bound) -> Labels:
    """Values behind one another."""
    shape = walk.shape(node)
    parts = [walk.wild(part, node) for part in cast(list[Node], bound["tensors"])]
    return lb.concatenated([part for part in parts if part.dim() == len(shape)], cast(int, bound["dim"]) % len(shape))


def shuffled(walk: Walk, node: Node, bound: Bound) -> Labels:
    """Elements in another order along axes; a run of the operator on the labels tells which."""
    codes = walk.wild(bound["self"], node)
    rest = [walk.value(item) for name, item in bound.items() if name != "self"]
    small = cast(Callable[..., torch.Tensor], node.target)(lb.core(codes), *rest)
    return small.expand(walk.shape(node))


def repeat(walk: Walk, node: Node, bound: Bound) -> Labels:
    """Copies along axes."""
    shape = walk.shape(node)
    codes = walk.wild(bound["self"], node)
    codes = codes.expand([1] * (len(shape) - codes.dim()) + list(codes.shape))
    moving = set(lb.varying(codes))
    counts = [
        size // old if axis in moving else 1 for axis, (size, old) in enumerate(zip(shape, codes.shape, strict=True))
    ]
    return lb.core(codes).repeat(counts).expand(shape)


def pad(walk: Walk, node: Node, bound: Bound) -> Labels:
    """Zeros around the elements are kept by every matrix; other numbers only by those that move nothing."""
    codes = walk.wild(bound["self"], node)
    if bound["value"] != 0:
        walk.relations.restrict(codes, EVERYTHING, node, "pads with a number that is not zero")
    widths = [cast(int, walk.value(item)) for item in cast(list[object], bound["pad"])]
    moving = lb.varying(codes)
    kept = [width if codes.dim() - 1 - position // 2 in moving else 0 for position, width in enumerate(widths)]
    small = torch.constant_pad_nd(lb.core(codes), kept, 0)
    return small.expand(walk.shape(node))


def pixel_shuffle(walk: Walk, node: Node, bound: Bound) -> Labels:
    """Channels that become neighbouring points change alike."""
    shape, factor = walk.shape(node), cast(int, bound["upscale_factor"])
    codes = walk.wild(bound["self"], node)
    row = walk.relations.row(codes, codes.dim() - 3, node).view(-1, factor * factor)
    walk.relations.tie(row[:, 1:], row[:, :1], node)
    return lb.along(row[:, 0], shape, len(shape) - 3)


def pixel_unshuffle(walk: Walk, node: Node, bound: Bound) -> Labels:
    """Neighbouring points become channels that change alike."""
    shape, factor = walk.shape(node), cast(int, bound["downscale_factor"])
    codes = walk.wild(bound["self"], node)
    row = walk.relations.row(codes, codes.dim() - 3, node)
    return lb.along(row.repeat_interleave(factor * factor), shape, len(shape) - 3)


def index_select(walk: Walk, node: Node, bound: Bound) -> Labels:
    """Chosen elements of an axis; which ones is known where the index is a parameter."""
    codes, axis = walk.wild(bound["self"], node), cast(int, bound["dim"])
    axis %= codes.dim()
    index = walk.program.constant(bound["index"])
    if axis not in lb.varying(codes):
        return codes.narrow(axis, 0, 1).expand(walk.shape(node)) if codes.shape[axis] else lb.fixed(walk.shape(node))
    if index is None:
        return walk.refuse(node, "chooses elements while it runs")
    return lb.core(codes).index_select(axis, index.reshape(-1)).expand(walk.shape(node))


def gather(walk: Walk, node: Node, bound: Bound) -> Labels:
    """Elements chosen while it runs, out of those that change alike."""
    codes, shape = walk.labels(bound["self"]), walk.shape(node)
    moving = lb.varying(codes)
    if cast(int, bound["dim"]) % max(codes.dim(), 1) in moving or any(
        codes.shape[axis] != shape[axis] for axis in moving
    ):
        return walk.refuse(node, "chooses elements while it runs")
    return lb.core(codes).expand(shape)


def takes_rows(program: Program, node: Node) -> bool:
    """Whether an operator indexes the rows of a table of parameters, as an embedding does."""
    if program.op(node) != "aten.index.Tensor":
        return False
    bound = program.bind(node)
    table, indices = cast(Node, bound["self"]), cast(list[Node | None], bound["indices"])
    type_ = program.tensor_type(table)
    return table.op == "get_attr" and type_.is_float and type_.rank == 2 and len(indices) == 1


def index(walk: Walk, node: Node, bound: Bound) -> Labels:
    """Indexing by tensors on axes along which elements change alike, or by parameters."""
    codes, shape = walk.labels(bound["self"]), walk.shape(node)
    if takes_rows(walk.program, node):
        row = walk.relations.fresh(shape[-1])
        walk.relations.close(row.view(1, -1), 1, "general", node, "write")
        walk.relations.mark(Mark(node, "self", "writer", row, 1))
        return lb.along(row, shape, len(shape) - 1)
    indices = list(cast(list[Node | None], bound["indices"]))
    indices += [None] * (codes.dim() - len(indices))
    chosen = [axis for axis, item in enumerate(indices) if item is not None]
    moving = lb.varying(codes)
    known = [slice(None) if item is None else walk.program.constant(item) for item in indices]
    if set(moving) & set(chosen) and all(item is not None for item in known):
        return lb.core(codes, chosen)[tuple(known)].expand(shape)  # pyright: ignore[reportArgumentType]
    if len(moving) > 1 or set(moving) & set(chosen):
        return walk.refuse(node, "chooses elements while it runs")
    if not moving:
        return lb.reshape(lb.core(codes), [1]).expand(shape) if codes.numel() else lb.fixed(shape)
    together = chosen == list(range(chosen[0], chosen[0] + len(chosen)))
    rank = len(shape) - (codes.dim() - len(chosen))
    before = sum(1 for axis in chosen if axis < moving[0])
    place = moving[0] - before + (rank if before or not together else 0)
    return lb.along(lb.core(codes).reshape(-1), shape, place)


MOVEMENT: dict[str, Rule] = {
    **dict.fromkeys(_VIEWS, view),
    "aten.reshape": reshape,
    "aten.expand": expand,
    "aten.split_with_sizes": split,
    "getitem": getitem,
    "aten.cat": cat,
    "aten.flip": shuffled,
    "aten.roll": shuffled,
    "aten.repeat": repeat,
    "aten.constant_pad_nd": pad,
    "aten.pixel_shuffle": pixel_shuffle,
    "aten.pixel_unshuffle": pixel_unshuffle,
    "aten.index_select": index_select,
    "aten.gather": gather,
    "aten.index.Tensor": index,
}
"""Operators that only move elements."""
