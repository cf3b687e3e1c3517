"""The console on which tables are printed."""

from __future__ import annotations

from rich.console import Console

PLAIN_WIDTH = 140


def make_console() -> Console:
    """The terminal at its own width, or a plain page of 140 columns when the output goes elsewhere."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    return console
