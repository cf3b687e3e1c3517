"""Selection of boxes, whose number only a run can tell."""

from __future__ import annotations

import torch

Setting = torch.Tensor | int | float


def non_max_suppression(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    most: Setting,
    overlap: Setting,
    least: Setting | None,
    centred: bool,
) -> torch.Tensor:
    """Picks boxes in order of their scores, leaving out those that overlap with a better one of the same class.

    Args:
        boxes: `[batch, count, 4]`: two opposite corners (row, column, row, column), or centre and size (column, row,
            width, height) when `centred`.
        scores: `[batch, classes, count]`.
        most: boxes to keep per image and class.
        overlap: intersection over union above which a box is left out.
        least: score that a box must exceed, None for no bound.
        centred: how boxes are given.

    Returns:
        int64 `[selected, 3]`: image, class, box; by image, then class, then falling score, the first on ties.
    """
    corners = _corners(boxes.double(), centred)
    rows: list[torch.Tensor] = []
    for image in range(scores.shape[0]):
        for class_ in range(scores.shape[1]):
            kept = _kept(corners[image], scores[image, class_].double(), int(most), float(overlap), least)
            rows += [torch.tensor([image, class_, box]) for box in kept]
    return torch.stack(rows) if rows else torch.zeros(0, 3, dtype=torch.int64)


def _kept(corners: torch.Tensor, scores: torch.Tensor, most: int, overlap: float, least: Setting | None) -> list[int]:
    kept: list[int] = []
    for box in torch.argsort(scores, descending=True, stable=True).tolist():
        if len(kept) >= most:
            break
        if least is not None and float(scores[box]) <= float(least):
            continue
        if all(_overlap(corners[box], corners[other]) <= overlap for other in kept):
            kept.append(box)
    return kept


def _corners(boxes: torch.Tensor, centred: bool) -> torch.Tensor:
    """`[..., 4]`: least row, least column, greatest row, greatest column."""
    if centred:
        column, row, width, height = boxes.unbind(-1)
        ends = (row - height / 2, column - width / 2, row + height / 2, column + width / 2)
        return torch.stack(ends, -1)
    first, second = boxes[..., :2], boxes[..., 2:]
    return torch.cat([torch.minimum(first, second), torch.maximum(first, second)], -1)


def _overlap(first: torch.Tensor, second: torch.Tensor) -> float:
    """Intersection over union."""
    low, high = torch.maximum(first[:2], second[:2]), torch.minimum(first[2:], second[2:])
    shared = float((high - low).clamp(min=0).prod())
    whole = float((first[2:] - first[:2]).prod() + (second[2:] - second[:2]).prod()) - shared
    return shared / whole if whole > 0 else 0.0
