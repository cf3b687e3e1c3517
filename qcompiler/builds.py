"""What a backend says of files that are built before they run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable


@runtime_checkable
class Builds(Protocol):
    """A backend whose files are sources: built before they run, and perhaps for another machine."""

    def shipped(self, files: Sequence[str]) -> Sequence[str]:
        """Of the emitted files, those whose size is the size of the model on the device."""
        ...

    def obstacle(self, folder: Path) -> str:
        """Why the emitted files cannot run on this machine, and what to install; empty where they can."""
        ...


@runtime_checkable
class Tells(Protocol):
    """A backend that says in the report what its files hold."""

    def tell(self, folder: Path) -> Sequence[str]:
        """One line each, of the emitted files."""
        ...
