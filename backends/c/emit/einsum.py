"""Sums of products over named axes, as products of matrices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from qcompiler.backends.c.emit.products import product_of
from qcompiler.backends.c.emit.reduce import added
from qcompiler.backends.c.generator import Emitted, Emitter, Generator
from qcompiler.backends.c.value import Value
from qcompiler.backends.lowering.call import Call

_DOTS = "..."
_FIRST_UNNAMED = 0x100
"""Axes that dots stand for get letters that no equation can hold, counted from the last axis."""


@dataclass(frozen=True)
class Named:
    """A tensor whose axes have names.

    Args:
        value: the tensor.
        names: a letter per axis, each once.
    """

    value: Value
    names: str

    @property
    def sizes(self) -> dict[str, int]:
        """Size by name."""
        return dict(zip(self.names, self.value.shape, strict=True))

    def ordered(self, names: str) -> Named:
        """Axes in the order of `names`; missing ones have one element."""
        missing = [name for name in names if name not in self.names]
        wide = replace(
            self.value,
            shape=(*self.value.shape, *[1] * len(missing)),
            strides=(*self.value.strides, *[0] * len(missing)),
            border=0,
        )
        known = self.names + "".join(missing)
        return Named(wide.permuted([known.index(name) for name in names]), names)


def einsum(generator: Generator, call: Call) -> Emitted:
    """Operands are multiplied from left to right; axes are summed over as soon as nothing needs them any more."""
    equation = call.text("equation").replace(" ", "")
    left, _, right = equation.partition("->")
    nodes = [node for node in call.nodes("tensors") if node is not None]
    values = [generator.settled(generator.operand(node)) for node in nodes]
    if any(value.element != "float" for value in values):
        raise call.unsupported("tensors that are not of floats")
    written = left.split(",")
    pairs = [(len(value.shape), text) for value, text in zip(values, written, strict=True)]
    dots = max((rank - len(text.replace(_DOTS, "")) for rank, text in pairs if _DOTS in text), default=0)
    operands = [_diagonal(value, _spelled(text, len(value.shape))) for value, text in zip(values, written, strict=True)]
    if "->" in equation:
        result = right.replace(_DOTS, _unnamed(dots))
    else:
        used = "".join(operand.names for operand in operands)
        single = [name for name in set(used) if used.count(name) == 1 and ord(name) < _FIRST_UNNAMED]
        result = _unnamed(dots) + "".join(sorted(single))
    found = operands[0]
    for index, operand in enumerate(operands[1:], 1):
        needed = result + "".join(later.names for later in operands[index + 1 :])
        found = _product(generator, found, operand, needed)
    return _summed(generator, found, result).ordered(result).value


def _unnamed(count: int) -> str:
    return "".join(chr(_FIRST_UNNAMED + count - 1 - i) for i in range(count))


def _spelled(text: str, rank: int) -> str:
    return text.replace(_DOTS, _unnamed(rank - len(text.replace(_DOTS, ""))))


def _diagonal(value: Value, names: str) -> Named:
    """A name that stands twice walks along the diagonal."""
    once = "".join(dict.fromkeys(names))
    shape = tuple(value.shape[names.index(name)] for name in once)
    strides = tuple(sum(s for s, other in zip(value.strides, names, strict=True) if other == name) for name in once)
    return Named(replace(value, shape=shape, strides=strides, border=0), once)


def _summed(generator: Generator, operand: Named, needed: str) -> Named:
    """Without the axes that nothing needs."""
    gone = [axis for axis, name in enumerate(operand.names) if name not in needed]
    if not gone:
        return operand
    kept = "".join(name for name in operand.names if name in needed)
    shape = [operand.sizes[name] for name in kept]
    return Named(added(generator, operand.value, gone, shape), kept)


def _product(generator: Generator, left: Named, right: Named, needed: str) -> Named:
    """A product of matrices: names of both that are needed number them, those that are not are summed over."""
    left = _summed(generator, left, needed + right.names)
    right = _summed(generator, right, needed + left.names)
    both = [name for name in left.names if name in right.names]
    lead = "".join(name for name in both if name in needed)
    inner = "".join(name for name in both if name not in needed)
    rows = "".join(name for name in left.names if name not in both)
    columns = "".join(name for name in right.names if name not in both)
    sizes = {**left.sizes, **{name: size for name, size in right.sizes.items() if size != 1 or name not in left.sizes}}
    one = _matrices(generator, left, sizes, (lead, rows, inner))
    other = _matrices(generator, right, sizes, (lead, inner, columns))
    product = product_of(generator, one, other)
    names = lead + rows + columns
    shape = tuple(sizes[name] for name in names)
    return Named(product.reshaped(shape) or product, names)


def _matrices(generator: Generator, operand: Named, sizes: Mapping[str, int], names: tuple[str, str, str]) -> Value:
    """Axes merged to [lead..., rows, columns], copied where no view can say it."""
    lead, rows, columns = names
    joined = lead + rows + columns
    ordered = operand.ordered(joined).value.expanded([sizes[name] for name in joined])
    shape = (
        *(sizes[name] for name in lead),
        math.prod(sizes[name] for name in rows),
        math.prod(sizes[name] for name in columns),
    )
    return ordered.reshaped(shape) or generator.copied(ordered, range(len(ordered.shape))).reshaped(shape) or ordered


EMITTERS: dict[str, Emitter] = {"aten.einsum": einsum}
