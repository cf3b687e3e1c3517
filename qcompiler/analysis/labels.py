"""Labels of coordinates: which elements of a value change together.

The labels of a value are an int64 tensor of its shape. Elements with the same label always take the same place in a
transform; an axis along which nothing changes (batch, tokens, space) has stride zero, so that labels stay small however
large the value is. A code is `2 * label + parity`; parity 1 carries the inverse transposed transform. Label 0 means
that the element may not change at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

_ZERO = torch.zeros((), dtype=torch.int64)


def fixed(shape: Sequence[int]) -> torch.Tensor:
    """Labels of a value that may not change."""
    return _ZERO.expand(tuple(shape))


def is_fixed(labels: torch.Tensor) -> bool:
    """Whether no element may change; what `settled` returned is told without looking at elements."""
    return labels.data_ptr() == _ZERO.data_ptr() or labels.numel() == 0


def settled(labels: torch.Tensor) -> torch.Tensor:
    """The same labels in the form that `is_fixed` knows."""
    return labels if is_fixed(labels) or bool(core(labels).any()) else fixed(labels.shape)


def varying(labels: torch.Tensor) -> list[int]:
    """Axes along which labels may differ."""
    return [
        axis
        for axis, (size, stride) in enumerate(zip(labels.shape, labels.stride(), strict=True))
        if stride and size > 1
    ]


def core(labels: torch.Tensor, keep: Sequence[int] = ()) -> torch.Tensor:
    """The labels without repetition: axes along which nothing changes have size 1, except those in `keep`."""
    sizes = [
        size if axis in keep or stride else min(size, 1)
        for axis, (size, stride) in enumerate(zip(labels.shape, labels.stride(), strict=True))
    ]
    return labels.as_strided(sizes, labels.stride(), labels.storage_offset())


def along(values: torch.Tensor, shape: Sequence[int], axis: int) -> torch.Tensor:
    """Labels of a value of `shape` that change along one axis as `values` [shape[axis]] do."""
    view = [1] * len(shape)
    view[axis] = -1
    return values.view(view).expand(tuple(shape))


def reshape(labels: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Labels of a reshaped value; stretches of axes along which nothing changes stay free of storage."""
    source = list(labels.shape)
    if 0 in source:
        return labels.reshape(tuple(shape))
    small_source, small_shape = list(source), list(shape)
    for olds, news in _stretches(source, shape):
        if all(labels.stride(axis) == 0 or source[axis] == 1 for axis in olds):
            for axis in olds:
                small_source[axis] = 1
            for axis in news:
                small_shape[axis] = 1
    small = labels.as_strided(small_source, labels.stride(), labels.storage_offset())
    return small.reshape(small_shape).expand(tuple(shape))


def _stretches(source: Sequence[int], shape: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Smallest runs of axes of both shapes that hold equally many elements."""
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(source) or j < len(shape):
        olds, news, left, right = [], [], 1, 1
        while True:
            if left <= right and i < len(source):
                left, i = left * source[i], i + 1
                olds.append(i - 1)
            elif j < len(shape):
                right, j = right * shape[j], j + 1
                news.append(j - 1)
            if left == right or (i >= len(source) and j >= len(shape)):
                break
        found.append((olds, news))
    return found


def concatenated(parts: Sequence[torch.Tensor], axis: int) -> torch.Tensor:
    """Labels of values put behind one another along an axis."""
    quiet = [
        other
        for other in range(parts[0].dim())
        if other != axis and all(part.stride(other) == 0 or part.shape[other] == 1 for part in parts)
    ]
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    small = [_narrow(part, quiet) for part in parts]
    if all(axis not in varying(part) for part in parts):
        first, *rest = (_narrow(part, [axis]) for part in small)
        if all(torch.equal(first, part) for part in rest):
            return first.expand(shape)
    return settled(torch.cat(small, axis).expand(shape))


def _narrow(labels: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
    sizes = [min(size, 1) if axis in axes else size for axis, size in enumerate(labels.shape)]
    return labels.as_strided(sizes, labels.stride(), labels.storage_offset())


def components(count: int, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Connected components of a graph.

    Args:
        count: number of vertices.
        first: int64 [edges].
        second: int64 [edges].

    Returns:
        int64 [count]: the smallest vertex of each vertex's component.
    """
    root = torch.arange(count)
    touched = torch.zeros(count, dtype=torch.bool)
    touched[first], touched[second] = True, True
    members = touched.nonzero().reshape(-1)
    while first.numel():
        left, right = root[first], root[second]
        apart = left != right
        first, second, left, right = first[apart], second[apart], left[apart], right[apart]
        root.scatter_reduce_(0, torch.maximum(left, right), torch.minimum(left, right), "amin")
        before, above = root[members], root[root[members]]
        while not torch.equal(above, before):
            root[members] = above
            before, above = above, root[above]
    return root
