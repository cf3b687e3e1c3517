"""Codes between layers: bytes in memory, and what other operators read of them.

Stored codes are signed bytes: an unsigned code less half its range. A layer yields `rows`, [..., width], or an `image`,
channels-last, [images, height, width, channels]; the last axis is filled up to whole chunks of 16 bytes, whose values
mean nothing. `plain` codes have the shape that the program says, often as a view.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from qcompiler.backends.cuda.integer_packing import CHUNK
from qcompiler.formats import Integer
from qcompiler.ir.program import Builder, Node
from qcompiler.ir.types import Dim
from qcompiler.spec import QuantSpec

Form = Literal["rows", "image", "plain"]
IMAGE_RANK = 4
SIGNAL_RANK = 3
"""Of what is an image of height 1 in memory."""
_TO_PLAIN, _TO_IMAGE = [0, 3, 1, 2], [0, 2, 3, 1]


@dataclass(frozen=True)
class Stored:
    """A value of the program as bytes.

    Args:
        node: int8.
        form: how it lies in memory.
        width: of its last axis without what fills it up; of an image its channels.
        spec: of the codes.
        rank: axes in the program.
    """

    node: Node
    form: Form
    width: int
    spec: QuantSpec
    rank: int = IMAGE_RANK


def shift_of(spec: QuantSpec) -> int:
    """What is stored less the code."""
    number = spec.format
    return -(1 << (number.bits - 1)) if isinstance(number, Integer) and not number.signed else 0


def filled(width: int) -> int:
    """Codes of a row with those that fill it up."""
    return -(-width // CHUNK) * CHUNK


def stored_shape(shape: tuple[Dim, ...], form: Form) -> tuple[Dim, ...]:
    """Of the bytes of a value of the program whose last axis in memory has a known size."""
    if form == "plain":
        return shape
    flat = len(shape) == SIGNAL_RANK
    image = (*shape[:2], 1, *shape[2:]) if flat else shape
    moved = tuple(image[axis] for axis in _TO_IMAGE) if form == "image" else shape
    return (*moved[:-1], filled(int(moved[-1])))


def plain(builder: Builder, stored: Stored) -> Node:
    """The codes in the shape of the program."""
    node = stored.node
    if stored.form == "plain":
        return node
    if stored.width != builder.program.shape(node)[-1]:
        node = builder.call("aten.slice.Tensor", node, -1, 0, stored.width)
    if stored.form == "rows":
        return node
    node = builder.call("aten.permute", node, _TO_PLAIN)
    return builder.call("aten.squeeze.dims", node, [2]) if stored.rank == SIGNAL_RANK else node


def brought(builder: Builder, stored: Stored, form: Literal["rows", "image"]) -> Stored:
    """The same codes in another form."""
    if stored.form == form:
        return stored
    node = plain(builder, stored)
    rank = len(builder.program.shape(node))
    if form == "image":
        node = builder.call("aten.permute", as_image(builder, node), _TO_IMAGE)
    width = int(builder.program.shape(node)[-1])
    if filled(width) != width:
        node = builder.call("aten.constant_pad_nd", node, [0, filled(width) - width], 0)
    return Stored(node, form, width, stored.spec, rank)


def as_image(builder: Builder, node: Node) -> Node:
    """A value of the program with a height."""
    flat = len(builder.program.shape(node)) == SIGNAL_RANK
    return builder.call("aten.unsqueeze", node, 2) if flat else node


def numbers(builder: Builder, stored: Stored) -> Node:
    """The codes as the program counts them, in floats."""
    node = builder.call("aten._to_copy", plain(builder, stored), kwargs={"dtype": torch.float32})
    shift = shift_of(stored.spec)
    return builder.call("aten.add.Tensor", node, -shift) if shift else node
