"""The static memory plan: buffers that are not needed at the same time share memory.

Source: Pisarchyk and Lee 2020, "Efficient Memory Management for Deep Neural Net Inference" (greedy by size).
"""

from __future__ import annotations

from collections.abc import Sequence

from qcompiler.backends.c.module import ALIGNMENT
from qcompiler.backends.c.value import Buffer

SLACK = 256
"""Bytes behind the last buffer that kernels may read, `QC_SLACK` of `qc_base.h`."""


def plan(buffers: Sequence[Buffer]) -> int:
    """Gives every arena buffer its place, the largest first; returns the size of the arena in bytes."""
    placed: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda each: (-each.size, each.first)):
        busy = sorted(
            ((other.place, other.place + aligned(other.size)) for other in placed if _together(buffer, other)),
        )
        place = 0
        for start, end in busy:
            if place + aligned(buffer.size) <= start:
                break
            place = max(place, end)
        buffer.place = place
        placed.append(buffer)
    top = max((buffer.place + aligned(buffer.size) for buffer in placed), default=0)
    return aligned(top + SLACK)


def aligned(size: int) -> int:
    """The next multiple of the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _together(one: Buffer, other: Buffer) -> bool:
    return one.first <= other.last and other.first <= one.last
