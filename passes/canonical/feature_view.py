"""What a value holds of a projection's output features, followed through operators that only rearrange and pick."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from qcompiler.ir.ops import GETITEM
from qcompiler.ir.program import Node, Program
from qcompiler.ir.types import Dim


@dataclass(frozen=True)
class View:
    """What a value holds of a projection.

    Args:
        axes: for each axis of the value, which leading axis of the projection it is; None for one over features.
        features: the output features it holds, one axis per feature axis of the value, in the value's order.
    """

    axes: tuple[int | None, ...]
    features: torch.Tensor

    def feature_axis(self, axis: int) -> int | None:
        """Position of an axis of the value among its feature axes; None for a leading axis."""
        return None if self.axes[axis] is not None else self.axes[:axis].count(None)

    def without(self, axis: int, features: torch.Tensor) -> View:
        """The view after a feature axis is gone."""
        return View((*self.axes[:axis], *self.axes[axis + 1 :]), features)


def step(program: Program, view: View, user: Node) -> View | None:
    """What `user` holds of the projection when its operand holds `view`; None when it computes or mixes axes."""
    follow = _STEPS.get(program.op(user))
    return None if follow is None else follow(program, view, user)


def permutation(view: View) -> list[int]:
    """The axes of `[leading..., features...]` in the order of the view."""
    leading = len(view.axes) - view.axes.count(None)
    return [
        leading + view.axes[:axis].count(None) if source is None else source for axis, source in enumerate(view.axes)
    ]


def _permute(program: Program, view: View, user: Node) -> View | None:
    dims = program.bind(user)["dims"]
    if not isinstance(dims, list | tuple):
        return None
    order = [int(axis) % len(view.axes) for axis in dims]  # pyright: ignore[reportArgumentType]
    features = [position for axis in order if (position := view.feature_axis(axis)) is not None]
    return View(tuple(view.axes[axis] for axis in order), view.features.permute(features))


def _reshape(program: Program, view: View, user: Node) -> View | None:
    """Feature axes may be cut and joined among themselves; leading ones must stay."""
    before, after = list(program.shape(user.all_input_nodes[0])), list(program.shape(user))
    axes: list[int | None] = []
    features: list[int] = []
    while before or after:
        source = view.axes[len(view.axes) - len(before)] if before else None
        if source is not None:
            if not after or after.pop(0) != before.pop(0):
                return None
            axes.append(source)
            continue
        run = _run(view, before)
        made = _same_product(after, run)
        if not made:
            return None
        axes += [None] * len(made)
        features += made
        del before[: len(run)], after[: len(made)]
    return View(tuple(axes), view.features.reshape(features))


def _run(view: View, left: list[Dim]) -> list[Dim]:
    """The sizes of the feature axes that stand next to each other at the front of what is left."""
    start = len(view.axes) - len(left)
    count = next((i for i, source in enumerate(view.axes[start:]) if source is not None), len(left))
    return left[:count]


def _same_product(after: list[Dim], run: list[Dim]) -> list[int]:
    """The static sizes at the front of `after` that multiply to those of `run`, ones that follow included; or none."""
    wanted, made = 1, []
    for dim in run:
        wanted *= int(dim)
    total = 1
    for dim in after:
        if not isinstance(dim, int) or (total == wanted and dim != 1):
            break
        made.append(dim)
        total *= dim
    return made if total == wanted else []


def _squeeze(program: Program, view: View, user: Node) -> View | None:
    dims = program.bind(user)["dim"]
    axes = [int(axis) % len(view.axes) for axis in dims] if isinstance(dims, list | tuple) else []  # pyright: ignore[reportArgumentType]
    positions = [view.feature_axis(axis) for axis in axes]
    if None in positions:
        return None
    kept = tuple(source for axis, source in enumerate(view.axes) if axis not in axes)
    sizes = [size for position, size in enumerate(view.features.shape) if position not in positions]
    return View(kept, view.features.reshape(sizes))


def _select(program: Program, view: View, user: Node) -> View | None:
    bound = program.bind(user)
    axis, index = bound["dim"], bound["index"]
    position = view.feature_axis(axis % len(view.axes)) if isinstance(axis, int) else None
    if position is None or not isinstance(axis, int) or not isinstance(index, int):
        return None
    return view.without(axis % len(view.axes), view.features.select(position, index))


def _slice(program: Program, view: View, user: Node) -> View | None:
    bound = program.bind(user)
    axis, start, end, stride = (bound[name] for name in ("dim", "start", "end", "step"))
    position = view.feature_axis(axis % len(view.axes)) if isinstance(axis, int) else None
    if position is None or not isinstance(start, int | None) or not isinstance(end, int | None):
        return None
    size = view.features.shape[position]
    rows = torch.arange(size)[slice(start, end, stride if isinstance(stride, int) else 1)]
    return View(view.axes, view.features.index_select(position, rows)) if rows.numel() else None


def _item(program: Program, view: View, user: Node) -> View | None:
    """One result of a split."""
    split, index = user.args[0], user.args[1]
    bound = program.bind(split) if isinstance(split, Node) else {}
    sizes, axis = bound.get("split_sizes"), bound.get("dim")
    position = view.feature_axis(axis % len(view.axes)) if isinstance(axis, int) else None
    if position is None or not isinstance(sizes, list | tuple) or not isinstance(index, int):
        return None
    if not all(isinstance(size, int) for size in sizes):
        return None
    return View(view.axes, view.features.split([int(size) for size in sizes], position)[index])  # pyright: ignore[reportArgumentType]


_STEPS: Mapping[str, Callable[[Program, View, Node], View | None]] = {
    "aten.permute": _permute,
    "aten.reshape": _reshape,
    "aten.squeeze.dims": _squeeze,
    "aten.select.int": _select,
    "aten.slice.Tensor": _slice,
    GETITEM: _item,
}
