"""Names of the model as identifiers that are given once each."""

from __future__ import annotations

import re

from qcompiler.backends.c.names import is_name


class Names:
    """Identifiers that are given once each."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, wanted: str) -> str:
        """`wanted` as an identifier, with a number behind it when another has it."""
        base = identifier(wanted)
        name, count = base, 1
        while name in self._taken:
            name, count = f"{base}_{count}", count + 1
        self._taken.add(name)
        return name


def identifier(text: str) -> str:
    """Letters, digits and single underscores; never a word of C, nor a name of the runtime's."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_") or "value"
    return name if is_name(name) else f"m_{name}"
