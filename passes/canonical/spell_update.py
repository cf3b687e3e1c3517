"""Spelling rules for writes into a part of a tensor: the parts that stay and the new one, side by side."""

from __future__ import annotations

import torch

from qcompiler.ir.program import Node
from qcompiler.passes.canonical.site import Result, Rule, Site
from qcompiler.passes.canonical.sizes import Sizes
from qcompiler.passes.canonical.spell_identity import END
from qcompiler.passes.canonical.spell_shape import bound


def copy(site: Site) -> Result:
    """`copy` as its source, in the shape and dtype of what it overwrites."""
    x = site.tensor("self")
    source = site.cast(site.tensor("src"), site.dtype(x))
    return source if site.shape(source) == site.shape(x) else site.call("aten.expand_as", source, x)


def select_scatter(site: Site) -> Result:
    """`select_scatter` as `slice_scatter` of one row."""
    x, index = site.tensor("self"), site.arguments["index"]
    if not isinstance(index, int):
        return None
    axis = site.axis("dim", site.rank(x))
    row = site.call("aten.unsqueeze", site.tensor("src"), axis)
    return site.call("aten.slice_scatter", x, row, axis, index, END if index == -1 else index + 1)


def slice_scatter(sizes: Sizes) -> Rule:
    """`slice_scatter` as `cat` of what stands before the new rows, these and what follows.

    Rows with a step between them are picked from old and new ones side by side.
    """

    def rule(site: Site) -> Result:
        x, source = site.tensor("self"), site.tensor("src")
        axis = site.axis("dim", site.rank(x))
        size = site.shape(x)[axis]
        start = 0 if site.arguments["start"] is None else bound(site.arguments["start"], size)
        end = END if site.arguments["end"] is None else bound(site.arguments["end"], size)
        if isinstance(end, int) and isinstance(size, int) and end >= size:
            end = END
        if site.dtype(source) != site.dtype(x):
            return None
        if isinstance(start, int) and isinstance(end, int) and 0 <= end <= start:
            return x
        if site.integer("step") != 1:
            return _interleaved(site, sizes, axis, start, end)
        parts = [*_rows(site, x, axis, 0, start), source, *_rows(site, x, axis, end, END)]
        made = parts[0] if len(parts) == 1 else site.call("aten.cat", parts, axis)
        return made if site.shape(made) == site.shape(x) else None

    return rule


def _interleaved(site: Site, sizes: Sizes, axis: int, start: object, end: object) -> Node | None:
    """Old rows and new ones in one tensor, and for each place the number of the row that belongs there."""
    x, step = site.tensor("self"), site.integer("step")
    size = sizes.size(site.shape(x)[axis], site.node)
    if size is None or not isinstance(start, int) or not isinstance(end, int) or start < 0 or end < 0:
        return None
    places = site.call("aten.arange.start_step", 0, size, 1, kwargs={"dtype": torch.int64})
    behind = site.call("aten.sub.Tensor", places, start)
    hit = site.call("aten.eq.Scalar", site.call("aten.remainder.Scalar", behind, step), 0)
    for test, limit, needless in (("aten.ge.Scalar", start, 0), ("aten.lt.Scalar", end, END)):
        if limit != needless:
            hit = site.call("aten.logical_and", hit, site.call(test, places, limit))
    new = site.call("aten.add.Tensor", site.call("aten.floor_divide", behind, step), size)
    rows = site.call("aten.where.self", hit, new, places)
    return site.call("aten.index_select", site.call("aten.cat", [x, site.tensor("src")], axis), axis, rows)


def index_put(site: Site) -> Result:
    """Writes by a mask as a choice; indexed axes that stand behind others are moved to the front."""
    indices = site.arguments["indices"]
    places = list(indices) if isinstance(indices, list | tuple) else []
    first = places[0] if places else None
    if isinstance(first, Node) and site.dtype(first) == torch.bool:
        return _where(site, first, places)
    axes = [axis for axis, place in enumerate(places) if place is not None]
    if not axes or axes[0] == 0 or axes != list(range(axes[0], axes[-1] + 1)):
        return None
    return _in_front(site, [place for place in places if isinstance(place, Node)], axes)


def _where(site: Site, mask: Node, places: list[object]) -> Node | None:
    x, values = site.tensor("self"), site.tensor("values")
    behind = site.rank(x) - site.rank(mask)
    if site.flag("accumulate") or site.rank(values) > behind or any(place is not None for place in places[1:]):
        return None
    for _ in range(behind):
        mask = site.call("aten.unsqueeze", mask, site.rank(mask))
    return site.call("aten.where.self", mask, values, x)


def _in_front(site: Site, places: list[Node], axes: list[int]) -> Node:
    x, values, rank = site.tensor("self"), site.tensor("values"), site.rank(site.tensor("self"))
    order = [*axes, *(axis for axis in range(rank) if axis not in axes)]
    width = max(site.rank(place) for place in places)
    while site.rank(values) < rank - len(axes) + width:
        values = site.call("aten.unsqueeze", values, 0)
    first = axes[0]
    turned = [*range(first, first + width), *range(first), *range(first + width, site.rank(values))]
    written = site.call(
        "aten.index_put",
        site.call("aten.permute", x, order),
        places,
        site.call("aten.permute", values, turned),
        site.flag("accumulate"),
    )
    return site.call("aten.permute", written, [order.index(axis) for axis in range(rank)])


def masked_scatter(sizes: Sizes) -> Rule:
    """Values put one after the other where a mask is set, as a choice between old ones and values looked up.

    The value for a place is the one whose number is the count of set places up to it.
    """

    def rule(site: Site) -> Result:
        x, source = site.tensor("self"), site.tensor("source")
        shape = [sizes.size(dim, site.node) for dim in site.shape(x)]
        if any(size is None for size in shape):
            return None
        mask = site.call("aten.expand_as", site.tensor("mask"), x)
        counts = site.call("aten.cumsum", site.cast(site.call("aten.reshape", mask, [-1]), torch.int64), 0)
        places = site.call("aten.clamp", site.call("aten.sub.Tensor", counts, 1), 0)
        values = site.call("aten.index_select", site.call("aten.reshape", source, [-1]), 0, places)
        return site.call("aten.where.self", mask, site.call("aten.reshape", values, shape), x)

    return rule


def scatter_add(site: Site) -> Result:
    """`scatter_add` as the general form."""
    arguments = [site.arguments[name] for name in ("self", "dim", "index", "src")]
    return site.call("aten.scatter_reduce.two", *arguments, "sum")


def diagonal(site: Site) -> Result:
    """`diagonal` of known length as a look-up of its places."""
    x, offset = site.tensor("self"), site.integer("offset")
    length, rank = site.shape(site.node)[-1], site.rank(x)
    if not isinstance(length, int):
        return None
    axes = [site.axis(name, rank) for name in ("dim1", "dim2")]
    front = site.call("aten.permute", x, [*axes, *(axis for axis in range(rank) if axis not in axes)])
    starts = max(-offset, 0), max(offset, 0)
    places = [site.constant(f"{site.node.name}_places", torch.arange(start, start + length)) for start in starts]
    found = site.call("aten.index.Tensor", front, places)
    return site.call("aten.permute", found, [*range(1, rank - 1), 0])


def _rows(site: Site, x: Node, axis: int, start: object, end: object) -> list[Node]:
    """Tensors that side by side are `x[start:end]`; the parts of a `cat` themselves where the cuts lie between them."""
    if start == end:
        return []
    if isinstance(start, int) and isinstance(end, int) and site.program.op(x) == "aten.cat" and x.args[1] == axis:
        whole = _whole_parts(site, x, axis, start, end)
        if whole is not None:
            return whole
    return [site.call("aten.slice.Tensor", x, axis, start, end, 1)]


def _whole_parts(site: Site, x: Node, axis: int, start: int, end: int) -> list[Node] | None:
    """The parts of a `cat` that lie between `start` and `end`; None when a cut goes through one."""
    found: list[Node] = []
    place = 0
    tensors = x.args[0]
    for part in tensors if isinstance(tensors, list | tuple) else ():
        if not isinstance(part, Node):
            return None
        size = site.shape(part)[axis]
        if not isinstance(size, int):
            return None
        if place < end and start < place + size:
            if start > place or end < place + size:
                return None
            found.append(part)
        place += size
    return found or None


def update_rules(sizes: Sizes) -> dict[str, Rule]:
    """Rules for writes and for what reads like one."""
    return {
        "aten.copy": copy,
        "aten.select_scatter": select_scatter,
        "aten.slice_scatter": slice_scatter(sizes),
        "aten.index_put": index_put,
        "aten.masked_scatter": masked_scatter(sizes),
        "aten.scatter_add": scatter_add,
        "aten.diagonal": diagonal,
    }
