"""Complex numbers become pairs of reals, which every target knows.

Formula   (a + bi)(c + di) = (ac - bd) + (ad + bc)i; polar(r, t) = r cos t + r sin t i; what only moves numbers moves
          both parts alike
Shapes    any; `view_as_real` puts the parts side by side on a new last axis
Promise   Exact, float64 rounding apart
Needs     normalized spelling
Source    own
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from qcompiler.ir.program import Node, Program, Stage, map_nodes
from qcompiler.ir.types import TensorType
from qcompiler.passes.canonical import fourier
from qcompiler.passes.canonical.sizes import Sizes
from qcompiler.pipeline import Context, Exact, Promise

Pair = tuple[Node, Node]


@dataclass(frozen=True)
class SplitComplex:
    """Computes complex numbers as real and imaginary parts; operators without a rule stay, with all that feeds them."""

    name: ClassVar[str] = "split_complex"
    needs: ClassVar[Stage] = Stage.TRACED
    gives: ClassVar[Stage] = Stage.TRACED
    promise: ClassVar[Promise] = Exact()

    def run(self, program: Program, ctx: Context) -> Program:
        """The program in real numbers."""
        split = _Split(program, self.name, Sizes(program, self.name))
        for node in program.param_nodes:
            if _is_complex(program, node) and node.users:
                split.param(node)
        for node in program.nodes:
            split.visit(node)
        program.erase_dead()
        return program


@dataclass
class _Split:
    """The parts of every complex value met so far."""

    program: Program
    step: str
    sizes: Sizes
    parts: dict[Node, Pair] = field(default_factory=dict)

    def param(self, node: Node) -> None:
        value = self.program.param(node)
        builder = self.program.before(node, self.step)
        name = str(node.target)
        real = builder.param(f"{name}_real", value.real.contiguous())
        self.parts[node] = real, builder.param(f"{name}_imag", value.imag.contiguous())

    def visit(self, node: Node) -> None:
        """Splits one node, or reads its real result from parts."""
        op = self.program.op(node)
        if _is_complex(self.program, node):
            made = self.moved(node) if op in _MOVES else self.computed(node, op)
            if made is not None:
                self.parts[node] = made
        elif op in _READS and node.args[0] in self.parts:
            read = _READS[op](_Maker(self, node), self.parts[node.args[0]])  # pyright: ignore[reportArgumentType]
            if read is not None:
                self.program.replace(node, read)

    def moved(self, node: Node) -> Pair | None:
        """The same movement of both parts."""
        sources = [source for source in node.all_input_nodes if _is_complex(self.program, source)]
        if not all(source in self.parts for source in sources):
            return None
        make = _Maker(self, node)

        def part(index: int) -> Node:
            args = [map_nodes(a, lambda n: self.parts[n][index] if n in self.parts else n) for a in node.args]
            return make(self.program.op(node), *args)

        return part(0), part(1)

    def computed(self, node: Node, op: str) -> Pair | None:
        """Both parts by the rule of the operator."""
        bound = self.program.bind(node)
        if op not in _RULES or any(
            isinstance(value, Node) and _is_complex(self.program, value) and value not in self.parts
            for value in bound.values()
        ):
            return None
        return _RULES[op](_Maker(self, node), bound)


@dataclass
class _Maker:
    """Adds real operators in front of a node."""

    split: _Split
    node: Node

    def __call__(self, op: str, *args: object, dtype: torch.dtype | None = None) -> Node:
        kwargs = {} if dtype is None else {"dtype": dtype}
        builder = self.split.program.before(self.node, self.split.step)
        return builder.call(op, *args, kwargs=kwargs, name=op.split(".")[1].strip("_"))

    def rank(self, node: Node) -> int:
        return self.split.program.tensor_type(node).rank

    def size(self, node: Node, axis: int) -> int | Node | None:
        return self.split.sizes.size(self.split.program.shape(node)[axis], self.node)

    def dtype(self, node: Node) -> torch.dtype:
        return self.split.program.tensor_type(node).dtype

    def pair(self, value: object) -> tuple[object, object | None]:
        """Parts of an operand; the imaginary one is None where there is none."""
        if isinstance(value, Node) and value in self.split.parts:
            return self.split.parts[value]
        return (value.real, value.imag) if isinstance(value, complex) else (value, None)


Bound = Mapping[str, object]
_Rule = Callable[[_Maker, Bound], Pair | None]


def _is_complex(program: Program, node: Node) -> bool:
    type_ = program.type(node)
    return isinstance(type_, TensorType) and type_.dtype.is_complex


def _view_as_complex(make: _Maker, bound: Bound) -> Pair:
    x = bound["self"]
    last = make.rank(x) - 1  # pyright: ignore[reportArgumentType]
    return make("aten.select.int", x, last, 0), make("aten.select.int", x, last, 1)


def _polar(make: _Maker, bound: Bound) -> Pair:
    length, angle = bound["abs"], bound["angle"]
    return (
        make("aten.mul.Tensor", length, make("aten.cos", angle)),
        make("aten.mul.Tensor", length, make("aten.sin", angle)),
    )


def _complex(make: _Maker, bound: Bound) -> Pair | None:
    real, imaginary = bound["real"], bound["imag"]
    return (real, imaginary) if isinstance(real, Node) and isinstance(imaginary, Node) else None


def _product(make: _Maker, bound: Bound) -> Pair | None:
    (a, b), (c, d) = make.pair(bound["self"]), make.pair(bound["other"])
    if b is None:
        (a, b), (c, d) = (c, d), (a, b)
    real, imaginary = make("aten.mul.Tensor", a, c), make("aten.mul.Tensor", b, c)
    if d is None:
        return real, imaginary
    return (
        make("aten.sub.Tensor", real, make("aten.mul.Tensor", b, d)),
        make("aten.add.Tensor", make("aten.mul.Tensor", a, d), imaginary),
    )


def _sum(op: str) -> _Rule:
    def rule(make: _Maker, bound: Bound) -> Pair | None:
        (a, b), (c, d) = make.pair(bound["self"]), make.pair(bound["other"])
        if bound["alpha"] != 1 or b is None or d is None:
            return None
        return make(op, a, c), make(op, b, d)

    return rule


def _conjugate(make: _Maker, bound: Bound) -> Pair | None:
    real, imaginary = make.pair(bound["self"])
    return (real, make("aten.neg", imaginary)) if isinstance(real, Node) else None


def _side_by_side(make: _Maker, pair: Pair) -> Node:
    last = make.rank(pair[0])
    return make("aten.cat", [make("aten.unsqueeze", part, last) for part in pair], last)


def _length(make: _Maker, pair: Pair) -> Node:
    squares = [make("aten.mul.Tensor", part, part) for part in pair]
    return make("aten.sqrt", make("aten.add.Tensor", *squares))


def _cast(make: _Maker, bound: Bound) -> Pair | None:
    """Real numbers as complex ones; complex ones in another precision."""
    dtype = bound["dtype"]
    real, imaginary = make.pair(bound["self"])
    if not isinstance(dtype, torch.dtype) or not isinstance(real, Node):
        return None
    real = make("aten._to_copy", real, dtype=dtype.to_real())
    if isinstance(imaginary, Node):
        return real, make("aten._to_copy", imaginary, dtype=dtype.to_real())
    return real, make("aten.mul.Tensor", real, 0.0)


def _fourier(make: _Maker, bound: Bound) -> Pair | None:
    pair = make.pair(bound["self"])
    axes, normalization = _integers(bound["dim"]), int(str(bound["normalization"]))
    return fourier.transform(make, pair, axes, normalization, bool(bound["forward"]))  # pyright: ignore[reportArgumentType]


def _fourier_of_reals(make: _Maker, bound: Bound) -> Pair | None:
    x = bound["self"]
    axes, normalization = _integers(bound["dim"]), int(str(bound["normalization"]))
    if not isinstance(x, Node):
        return None
    found = fourier.transform(make, (x, make("aten.mul.Tensor", x, 0.0)), axes, normalization, True)
    axis = axes[-1] % make.rank(x)
    end = make.size(make.node, axis)
    if found is None or end is None:
        return None
    real, imaginary = (make("aten.slice.Tensor", part, axis, 0, end, 1) for part in found)
    return real, imaginary


def _reals_of_fourier(make: _Maker, pair: Pair) -> Node | None:
    bound = make.split.program.bind(make.node)
    axes, normalization = _integers(bound["dim"]), int(str(bound["normalization"]))
    size = bound["last_dim_size"]
    found = fourier.transform(make, pair, axes[:-1], normalization, False)
    if found is None or not isinstance(size, int):
        return None
    return fourier.from_half(make, found, axes[-1], size, normalization)


def _integers(argument: object) -> list[int]:
    return [item for item in argument if isinstance(item, int)] if isinstance(argument, list | tuple) else []


_MOVES = frozenset(
    f"aten.{name}"
    for name in (
        "reshape", "permute", "unsqueeze", "squeeze.dims", "expand", "slice.Tensor", "select.int", "cat",
        "index.Tensor", "index_select", "repeat", "flip", "roll",
    )
)  # fmt: skip
_RULES: Mapping[str, _Rule] = {
    "aten.view_as_complex": _view_as_complex,
    "aten.polar": _polar,
    "aten.complex": _complex,
    "aten.mul.Tensor": _product,
    "aten.add.Tensor": _sum("aten.add.Tensor"),
    "aten.sub.Tensor": _sum("aten.sub.Tensor"),
    "aten._to_copy": _cast,
    "aten._fft_c2c": _fourier,
    "aten._fft_r2c": _fourier_of_reals,
    "aten._conj": _conjugate,
    "aten.conj_physical": _conjugate,
    "aten._conj_physical": _conjugate,
}
_READS: Mapping[str, Callable[[_Maker, Pair], Node | None]] = {
    "aten._fft_c2r": _reals_of_fourier,
    "aten.view_as_real": _side_by_side,
    "aten.real": lambda make, pair: pair[0],
    "aten.imag": lambda make, pair: pair[1],
    "aten.abs": _length,
}
