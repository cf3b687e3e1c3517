"""Sizes in one spelling: integers where known, else arithmetic on `sym_size` of the program's inputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from typing import cast

import sympy
from torch.utils._sympy.functions import FloorDiv, Mod, PythonMod

from qcompiler.ir.program import Node, Program
from qcompiler.ir.types import Dim, SymbolType, TensorType, symbol_expr

Size = int | Node

_CHAINS: dict[type, str] = {sympy.Add: "sym.add", sympy.Mul: "sym.mul"}
_PAIRS: dict[type, str] = {FloorDiv: "sym.floordiv", Mod: "sym.mod", PythonMod: "sym.mod"}


@dataclass
class Sizes:
    """Makes one node per size expression; nodes are visited in execution order, so the first use comes first."""

    program: Program
    step: str
    made: dict[Dim, Node] = field(default_factory=dict)
    sources: dict[str, tuple[Node, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names: dict[Dim, str] = {symbol_expr(name): name for name in self.program.dimensions.symbols}
        for node in self.program.inputs:
            type_ = self.program.type(node)
            for axis, dim in enumerate(type_.shape if isinstance(type_, TensorType) else ()):
                if dim in names:
                    self.sources.setdefault(names[dim], (node, axis))

    def size(self, dim: Dim, user: Node) -> Size | None:
        """`dim` as an argument of `user`; None when it cannot be computed from input sizes."""
        if isinstance(dim, int) or dim.is_Integer:
            return int(dim)
        if not self._spellable(dim):
            return None
        if dim not in self.made:
            self.made[dim] = self._make(dim, user)
        return self.made[dim]

    def canonical(self, node: Node, user: Node) -> Size:
        """The size that a symbolic node stands for; the node itself when it has no other spelling."""
        type_ = self.program.type(node)
        if not isinstance(type_, SymbolType) or isinstance(type_.expr, int) or not self._spellable(type_.expr):
            return type_.expr if isinstance(type_, SymbolType) and isinstance(type_.expr, int) else node
        if type_.expr not in self.made and self._is_spelled(node, type_.expr, user):
            self.made[type_.expr] = node
        found = self.size(type_.expr, user)
        return node if found is None else found

    def learn(self, user: Node) -> None:
        """Takes note of the sizes that `user` reads already, so that they are not made a second time."""
        for source in user.all_input_nodes:
            if isinstance(self.program.type(source), SymbolType):
                self.canonical(source, user)

    def _is_spelled(self, node: Node, dim: sympy.Expr, user: Node) -> bool:
        """Whether a symbolic node reads as `size` would write it."""
        op = self.program.op(node)
        if dim.is_Symbol:
            return op == "aten.sym_size.int" and tuple(node.args) == self.sources[str(dim)]
        if op != _PAIRS.get(type(dim), _CHAINS.get(type(dim))) or len(dim.args) != 2:
            return False
        operands = [self.canonical(arg, user) if isinstance(arg, Node) else arg for arg in node.args]
        return operands == [self.size(part, user) for part in self._parts(dim)] and operands == list(node.args)

    def _spellable(self, dim: Dim) -> bool:
        if isinstance(dim, int) or dim.is_Integer:
            return True
        if dim.is_Symbol:
            return str(dim) in self.sources
        return type(dim) in (*_CHAINS, *_PAIRS) and all(self._spellable(part) for part in self._parts(dim))

    def _parts(self, dim: sympy.Expr) -> list[sympy.Expr]:
        """Operands; those of commutative operators in the order in which their symbols first appear in the inputs."""
        operands = cast(list[sympy.Expr], list(dim.args))
        if type(dim) in _PAIRS:
            return operands
        order: dict[object, int] = {symbol_expr(name): position for position, name in enumerate(self.sources)}
        return sorted(
            operands,
            key=lambda part: (
                part.is_number,
                sorted(order.get(s, len(order)) for s in part.free_symbols),
                len(str(part)),
            ),
        )

    def _make(self, dim: sympy.Expr, user: Node) -> Node:
        if dim.is_Symbol:
            node, axis = self.sources[str(dim)]
            return self._call(user, "aten.sym_size.int", node, axis)
        operands = [self.size(part, user) for part in self._parts(dim)]
        if type(dim) in _PAIRS:
            return self._call(user, _PAIRS[type(dim)], *operands)
        return reduce(lambda total, part: self._call(user, _CHAINS[type(dim)], total, part), operands)  # pyright: ignore[reportArgumentType, reportReturnType]

    def _call(self, user: Node, op: str, *args: object) -> Node:
        return self.program.before(user, self.step).call(op, *args, name=op.split(".")[1])
