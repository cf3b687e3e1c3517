"""What the operators with regions compute: a branch, a loop and a scan, over bodies that are called like functions.

Source: the operators If, Loop and Scan of the ONNX standard.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

Number = torch.Tensor | int | bool


class Body(Protocol):
    """A region as an operator sees it."""

    def __call__(self, *inputs: object) -> list[object]:
        """The results of the region."""
        ...

    def __len__(self) -> int:
        """Number of results."""
        ...

    def nothing(self, result: int) -> torch.Tensor:
        """Result `result` stacked over no runs at all: its first axis has size 0."""
        ...


def cond(pred: Number, captures: Sequence[object], then: Body, otherwise: Body) -> list[object]:
    """The results of one of two regions.

    Args:
        pred: tensor with one element, or a truth value.
        captures: inputs of both regions.
        then: runs when `pred` holds.
        otherwise: runs when it does not.
    """
    return (then if bool(pred) else otherwise)(*captures)


def loop(
    trip_count: Number | None,
    condition: Number | None,
    carried: Sequence[object],
    captures: Sequence[object],
    body: Body,
) -> list[object]:
    """Runs a region again and again; what it yields beside the carried values is stacked along a new first axis.

    Args:
        trip_count: most runs; None for no limit.
        condition: whether to begin at all; None for yes.
        carried: first values of what each run hands to the next.
        captures: further inputs, the same for every run.
        body: (number of the run, condition, *carried, *captures) to (whether to go on, *carried, *stacked).

    Returns:
        the last carried values, then the stacked ones.
    """
    states, going = list(carried), condition is None or bool(condition)
    runs: list[list[object]] = []
    while going and (trip_count is None or len(runs) < int(trip_count)):
        again, *results = body(torch.tensor(len(runs)), torch.tensor(True), *states, *captures)
        going, states = bool(again), results[: len(states)]
        runs.append(results[len(states) :])
    return states + _stacked(runs, body, 1 + len(states))


def scan(
    states: Sequence[object],
    sequences: Sequence[torch.Tensor],
    captures: Sequence[object],
    body: Body,
    axes: Sequence[int],
    reverse: Sequence[int],
    result_axes: Sequence[int],
    result_reverse: Sequence[int],
) -> list[object]:
    """Runs a region over the slices of some tensors, all of them at once.

    Args:
        states: first values of what each run hands to the next.
        sequences: what is cut into slices.
        captures: further inputs, the same for every run.
        body: (*states, *slices, *captures) to (*states, *stacked).
        axes: for each sequence, the axis along which it is cut.
        reverse: for each sequence, 1 to begin with its last slice.
        result_axes: for each stacked result, the axis along which the runs lie.
        result_reverse: for each stacked result, 1 to put the first run last.

    Returns:
        the last states, then the stacked results.
    """
    cut = [
        list(reversed(sequence.unbind(axis))) if backward else list(sequence.unbind(axis))
        for sequence, axis, backward in zip(sequences, axes, reverse, strict=True)
    ]
    states = list(states)
    runs: list[list[object]] = []
    for slices in zip(*cut, strict=True):
        results = body(*states, *slices, *captures)
        states = results[: len(states)]
        runs.append(results[len(states) :])
    stacked = _stacked(runs, body, len(states))
    turned = [value.flip(0) if back else value for value, back in zip(stacked, result_reverse, strict=True)]
    return states + [value.movedim(0, axis) for value, axis in zip(turned, result_axes, strict=True)]


def _stacked(runs: Sequence[Sequence[object]], body: Body, first: int) -> list[torch.Tensor]:
    """What the runs yielded, each result along a new first axis; `first` is the first such result of the body."""
    if runs:
        return [torch.stack(values) for values in zip(*runs, strict=True)]  # pyright: ignore[reportArgumentType]
    return [body.nothing(result) for result in range(first, len(body))]
