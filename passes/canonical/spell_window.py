"""Spelling rules for windows: padding that copies, overlapping cuts, adaptive pools."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from qcompiler.ir.program import Node
from qcompiler.ir.types import Dim
from qcompiler.passes.canonical.site import Result, Rule, Site
from qcompiler.passes.canonical.sizes import Size, Sizes
from qcompiler.passes.canonical.spell_identity import END
from qcompiler.passes.canonical.spell_reduce import spatial
from qcompiler.passes.canonical.spell_shape import pad

_COPYING = {"reflect": "reflection", "replicate": "replication"}


def copying_pad(site: Site) -> Result:
    """`pad` by its mode: reflection, replication, or the other end of the axis."""
    mode, amounts = site.arguments["mode"], site.arguments["pad"]
    if mode == "constant" or not isinstance(amounts, list | tuple) or not any(amounts):
        return pad(site)
    if isinstance(mode, str) and mode in _COPYING:
        return site.call(f"aten.{_COPYING[mode]}_pad{len(amounts) // 2}d", site.tensor("self"), amounts)
    return _wrapped(site, site.integers("pad"))


def _wrapped(site: Site, amounts: Sequence[int]) -> Node | None:
    """Each axis continued by its other end; a negative amount cuts."""
    x = site.tensor("self")
    for place in range(0, len(amounts), 2):
        axis = site.rank(x) - 1 - place // 2
        before, after = amounts[place : place + 2]
        ends = [site.call("aten.slice.Tensor", x, axis, -before, END, 1)] if before > 0 else []
        tails = [site.call("aten.slice.Tensor", x, axis, 0, after, 1)] if after > 0 else []
        if before < 0 or after < 0:
            x = site.call("aten.slice.Tensor", x, axis, max(-before, 0), after if after < 0 else END, 1)
        x = site.call("aten.cat", [*ends, x, *tails], axis) if ends or tails else x
    return x


def unfold(sizes: Sizes) -> Rule:
    """`unfold` as a look-up of every window's places; the places within a window become the last axis."""

    def rule(site: Site) -> Result:
        x, width, step = site.tensor("self"), site.integer("size"), site.integer("step")
        axis = site.axis("dimension", site.rank(x))
        count = sizes.size(site.shape(site.node)[axis], site.node)
        if count is None:
            return None
        kwargs = {"dtype": torch.int64}
        starts = site.call("aten.mul.Tensor", site.call("aten.arange.start_step", 0, count, 1, kwargs=kwargs), step)
        inside = site.call("aten.arange.start_step", 0, width, 1, kwargs=kwargs)
        places = site.call("aten.add.Tensor", site.call("aten.unsqueeze", starts, 1), inside)
        windows = site.call("aten.index.Tensor", x, [None] * axis + [places])
        order = [place for place in range(site.rank(x) + 1) if place != axis + 1]
        return site.call("aten.permute", windows, [*order, axis + 1])

    return rule


def adaptive_average(sizes: Sizes, count: int, fixed: Rule) -> Rule:
    """Adaptive averaging of an axis whose size is free as a product with a matrix made for that size."""

    def rule(site: Site) -> Result:
        found = fixed(site)
        x, _, before = spatial(site, count)
        after = site.arguments["output_size"]
        if found is not None or all(isinstance(size, int) for size in before) or not isinstance(after, list | tuple):
            return found
        matrices = [_averaging(site, sizes, big, small) for big, small in zip(before, after, strict=True)]
        if count > 2 or any(matrix is None for matrix in matrices):
            return None
        x = site.call("aten.matmul", x, matrices[-1])
        return x if count == 1 else site.call("aten.matmul", site.call("aten.permute", matrices[0], [1, 0]), x)

    return rule


def _averaging(site: Site, sizes: Sizes, before: Dim, after: object) -> Node | None:
    """Matrix [before, after]: column j averages floor(j * before / after) up to ceil((j + 1) * before / after)."""
    length = sizes.size(before, site.node)
    if length is None or not isinstance(after, int):
        return None
    cells, places = _numbers(site, after), site.call("aten.unsqueeze", _numbers(site, length), 1)
    start = site.call("aten.floor_divide", site.call("aten.mul.Tensor", cells, length), after)
    reach = site.call("aten.mul.Tensor", site.call("aten.add.Tensor", cells, 1), length)
    end = site.call("aten.floor_divide", site.call("aten.add.Tensor", reach, after - 1), after)
    late, early = site.call("aten.ge.Tensor", places, start), site.call("aten.lt.Tensor", places, end)
    dtype = site.dtype(site.node)
    inside = site.cast(site.call("aten.logical_and", late, early), dtype)
    return site.call("aten.div.Tensor", inside, site.cast(site.call("aten.sub.Tensor", end, start), dtype))


def _numbers(site: Site, count: Size) -> Node:
    return site.call("aten.arange.start_step", 0, count, 1, kwargs={"dtype": torch.int64})


def adaptive_maximum(count: int, single: Rule) -> Rule:
    """Adaptive maximum of known sizes as the maximum of each window, axis by axis."""

    def rule(site: Site) -> Result:
        found = single(site)
        x, axes, before = spatial(site, count)
        read = any(user.args[1] == 1 and user.users for user in site.node.users)
        if found is not None or read or not all(isinstance(size, int) for size in before):
            return found
        for axis, size, cells in zip(axes, before, site.integers("output_size"), strict=True):
            windows = [(cell * int(size) // cells, -(-(cell + 1) * int(size) // cells)) for cell in range(cells)]
            parts = [
                site.call("aten.amax", site.call("aten.slice.Tensor", x, axis, start, end, 1), [axis], True)
                for start, end in windows
            ]
            x = site.call("aten.cat", parts, axis)
        return x, None

    return rule


def window_rules(sizes: Sizes, known: dict[str, Rule]) -> dict[str, Rule]:
    """Rules for windows; `known` holds those for pools of fixed sizes, which come first."""
    averages = [(f"aten.{kind}adaptive_avg_pool{count}d", count) for kind in ("", "_") for count in (1, 2, 3)]
    maxima = [(f"aten.adaptive_max_pool{count}d", count) for count in (1, 2, 3)]
    return {
        "aten.pad": copying_pad,
        "aten.unfold": unfold(sizes),
        **{name: adaptive_average(sizes, count, known[name]) for name, count in averages if name in known},
        **{name: adaptive_maximum(count, known[name]) for name, count in maxima},
    }
