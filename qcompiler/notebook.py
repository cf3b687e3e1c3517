"""Values as they look in a notebook: tables whose names are escaped, and pages in a frame of their own."""

from __future__ import annotations

import tempfile
import webbrowser
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import islice
from pathlib import Path

MOST_ROWS = 60
_HEIGHT = 720


@dataclass(frozen=True)
class Shown:
    """A page that is looked at: in a notebook as the value of a cell, elsewhere with `open` or `save`.

    Args:
        html: the whole page.
    """

    html: str = field(repr=False)

    def _repr_html_(self) -> str:
        frame = f'style="width:100%;height:{_HEIGHT}px;border:1px solid #8884;border-radius:8px"'
        return f'<iframe {frame} sandbox="allow-scripts" srcdoc="{escape(self.html)}"></iframe>'

    def save(self, path: str | Path) -> Path:
        """Writes the page; it needs neither network nor other files."""
        Path(path).write_text(self.html, encoding="utf-8")
        return Path(path)

    def open(self) -> Path:
        """Opens the page in the browser, from a temporary file that stays."""
        path = self.save(Path(tempfile.mkdtemp(prefix="qcompiler-page-")) / "page.html")
        webbrowser.open(path.as_uri())
        return path


def table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]], count: int, note: str = "") -> str:
    """An HTML table of the first rows.

    Args:
        caption: one line above it.
        headings: of the columns.
        rows: texts, one per column; of more than `MOST_ROWS` only as many are looked at.
        count: of all rows.
        note: one line below it.
    """
    cell = 'style="text-align:left"'
    head = "".join(f"<th {cell}>{escape(text)}</th>" for text in headings)
    body = "".join(
        "<tr>" + "".join(f"<td {cell}>{escape(text)}</td>" for text in row) + "</tr>" for row in islice(rows, MOST_ROWS)
    )
    more = f"and {count - MOST_ROWS} more" if count > MOST_ROWS else ""
    below = "".join(f"<p>{escape(line)}</p>" for line in (more, note) if line)
    return f"<p><b>{escape(caption)}</b></p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}"
