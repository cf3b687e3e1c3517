"""The kernel rows of layers whose weight is only stored in a low-bit format, and which compute in float."""

from __future__ import annotations

from qcompiler.plan import Assignment

STORED_ROWS = frozenset({"stored", "stored_transposed"})


def is_stored(assigned: object) -> bool:
    """Whether an operator was told to compute in float on a weight that the file holds packed."""
    return isinstance(assigned, Assignment) and assigned.kernel in STORED_ROWS
