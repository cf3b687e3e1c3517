"""Methods that a user names in one word, `a|b`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from qcompiler.errors import SpecError
from qcompiler.pass_text import Named

_Method = TypeVar("_Method", bound=Named)


def chosen(text: str, methods: Sequence[_Method], kind: str) -> tuple[_Method, ...]:
    """The methods behind names with `|` between them.

    Raises:
        SpecError: for an unknown name; `kind` says what it should be.
    """
    known = {method.name: method for method in methods}
    names = [name.strip() for name in text.split("|")]
    for name in names:
        if name not in known:
            raise SpecError(f"there is no {kind} '{name}'", mend=f"methods: {', '.join(known)}")
    return tuple(known[name] for name in names)
