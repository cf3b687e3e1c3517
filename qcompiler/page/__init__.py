"""The page: what a compilation or a run did, as one HTML file that needs no network."""

from __future__ import annotations

from qcompiler.page.data import PageData, page_data
from qcompiler.page.render import html, program_page

__all__ = ["PageData", "html", "page_data", "program_page"]
