"""Elementwise arithmetic as loops: expressions over strided values, in as few loops as their strides allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qcompiler.backends.c.value import Element, Value

Pointer = Callable[[Value], str]


@dataclass(frozen=True, eq=False)
class Computed:
    """A tensor that is not in memory: one C expression per element.

    Args:
        element: C type of the result.
        shape: fixed sizes.
        template: C expression in which `{0}`, `{1}`, ... stand for elements of `parts`.
        parts: what it is computed from, broadcast to `shape`.
        shift: as for `Value`.
    """

    element: Element
    shape: tuple[int, ...]
    template: str
    parts: tuple[Computed | Value, ...]
    shift: int = 0


Operand = Computed | Value


def leaves(operand: Operand) -> list[Value]:
    """The values in memory behind an operand, each once."""
    if isinstance(operand, Value):
        return [operand]
    found: list[Value] = []
    for part in operand.parts:
        found += [leaf for leaf in leaves(part) if leaf not in found]
    return found


def weight(operand: Operand) -> int:
    """Number of operations behind an operand."""
    return 0 if isinstance(operand, Value) else 1 + sum(weight(part) for part in operand.parts)


def loop(out: Value, operand: Operand, pointer: Pointer) -> list[str]:
    """Lines of C that write every element of `out`.

    Args:
        out: where to; its shape is that of the operand.
        operand: what to.
        pointer: C expression of the address of a value's first element.
    """
    inputs = leaves(operand)
    aliased = any(leaf.buffer is out.buffer for leaf in inputs)
    restrict = "" if aliased else "restrict "
    lines = [f"{out.element} *{restrict}out = {pointer(out)};"]
    lines += [f"const {leaf.element} *{restrict}x{i} = {pointer(leaf)};" for i, leaf in enumerate(inputs)]
    fitted = [leaf.expanded(out.shape) for leaf in inputs]
    nest = _nest(out, fitted)
    for depth, (size, _) in enumerate(nest):
        lines.append(f"{'    ' * depth}for (ptrdiff_t i{depth} = 0; i{depth} < {size}; ++i{depth}) {{")
    inner = "    " * len(nest)
    places = [f"x{i}[{_index(nest, i + 1)}]" for i in range(len(inputs))]
    statements, result = _statements(operand, inputs, places)
    lines += [f"{inner}{line}" for line in statements]
    lines.append(f"{inner}out[{_index(nest, 0)}] = {_cast(result, out.element)};")
    lines += [f"{'    ' * depth}}}" for depth in reversed(range(len(nest)))]
    return lines


def _cast(text: str, element: Element) -> str:
    return text if element == "float" else f"({element})({text})"


def _nest(out: Value, inputs: Sequence[Value]) -> list[tuple[int, tuple[int, ...]]]:
    """Loops from the outermost to the innermost: size, and the stride of each operand."""
    nest: list[tuple[int, tuple[int, ...]]] = []
    for axis in out.order:
        size = out.shape[axis]
        strides = (out.strides[axis], *(value.strides[axis] for value in inputs))
        if size == 1:
            continue
        if nest and all(outer == inner * size for outer, inner in zip(nest[-1][1], strides, strict=True)):
            nest[-1] = (nest[-1][0] * size, strides)
        else:
            nest.append((size, strides))
    return nest


def _index(nest: Sequence[tuple[int, tuple[int, ...]]], position: int) -> str:
    terms = []
    for depth, (_, strides) in enumerate(nest):
        if strides[position]:
            terms.append(f"i{depth}" if strides[position] == 1 else f"i{depth} * {strides[position]}")
    return " + ".join(terms) or "0"


def _statements(operand: Operand, inputs: Sequence[Value], places: Sequence[str]) -> tuple[list[str], str]:
    """Temporaries in order, each operation once, and the name of the last."""
    names: dict[int, str] = {}
    lines: list[str] = []

    def name_of(each: Operand) -> str:
        if isinstance(each, Value):
            return places[inputs.index(each)]
        if id(each) not in names:
            text = each.template.format(*map(name_of, each.parts))
            names[id(each)] = f"t{len(names)}"
            lines.append(f"const {each.element} {names[id(each)]} = {_cast(text, each.element)};")
        return names[id(each)]

    return lines, name_of(operand)
