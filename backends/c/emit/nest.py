"""Loops that are written out: over the elements of a result, with whatever stands inside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from qcompiler.backends.c.generator import Generator
from qcompiler.backends.c.value import Value

TAB = "    "
Loop = tuple[str, int]


def nested(loops: Sequence[Loop], body: Sequence[str]) -> list[str]:
    """`body` within loops, outermost first, each a variable that counts up to a number."""
    lines = [
        f"{TAB * depth}for (ptrdiff_t {name} = 0; {name} < {size}; ++{name}) {{"
        for depth, (name, size) in enumerate(loops)
    ]
    lines += [f"{TAB * len(loops)}{line}" for line in body]
    return lines + [f"{TAB * depth}}}" for depth in reversed(range(len(loops)))]


def names(rank: int) -> list[str]:
    """A variable for each axis."""
    return [f"i{axis}" for axis in range(rank)]


def place(value: Value, indices: Sequence[str]) -> str:
    """The element of a value at indices, from its first one."""
    terms = [
        index if stride == 1 else f"{index} * {stride}"
        for index, size, stride in zip(indices, value.shape, value.strides, strict=True)
        if stride and size != 1
    ]
    return " + ".join(terms) or "0"


def over(value: Value, order: Sequence[int] | None = None) -> list[Loop]:
    """A loop for every axis, in the order of memory, the variables those of `names`."""
    return [(f"i{axis}", value.shape[axis]) for axis in (value.order if order is None else order)]


def declared(generator: Generator, out: Value, inputs: Mapping[str, Value], name: str = "out") -> list[str]:
    """Pointers to what a block reads and writes."""
    lines = [f"{out.element} *{name} = {generator.pointer(out)};"]
    return lines + [f"const {each.element} *{key} = {generator.pointer(each)};" for key, each in inputs.items()]


def block(generator: Generator, lines: Sequence[str]) -> None:
    """Writes lines into a scope of their own."""
    generator.write("{", *(f"{TAB}{line}" for line in lines), "}")


def each(generator: Generator, out: Value, inputs: Mapping[str, Value], body: Sequence[str]) -> None:
    """Runs `body` for every element of `out`; indices are `i0`, `i1`, ..."""
    block(generator, [*declared(generator, out, inputs), *nested(over(out), body)])


@contextmanager
def looped(generator: Generator, loops: Sequence[Loop]) -> Iterator[None]:
    """Puts whatever is written meanwhile into loops."""
    lines = generator.drafts[-1].lines
    start = len(lines)
    yield
    lines[start:] = nested(loops, lines[start:])


def images(generator: Generator, *values: Value) -> Iterator[list[str]]:
    """Addresses of the values of one image after the other, for what is written meanwhile.

    The first axis counts images: each is written on its own, or all in a loop where only a call tells how many.
    """
    count = values[0].shape[0]
    if isinstance(count, int):
        for image in range(count):
            yield [generator.pointer(value.sliced(0, image, 1)) for value in values]
        return
    with looped(generator, [("image", count)]):
        yield [moved(generator, value, f"image * {value.strides[0]}") for value in values]


def taps(generator: Generator, steps: Sequence[int]) -> str:
    """Address of the offsets of taps, as `qc_gemm_i8.h` has them: constants, or made where only a call tells them."""
    if all(isinstance(step, int) for step in steps):
        return generator.pointer(generator.constant(np.array(steps, dtype=np.int32), "int32_t"))
    name = f"taps_{len(generator.drafts[-1].lines)}"
    generator.write(f"const int32_t {name}[] = {{{', '.join(f'(int32_t){step}' for step in steps)}}};")
    return name


def moved(generator: Generator, value: Value, step: str) -> str:
    """Address of the element so many elements behind the first."""
    address = generator.pointer(value)
    return address if step == "0" else f"{address} + {step}"
