"""Every code block of the documentation runs, and does what the page shows; `pytest --bless` writes what it shows."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from tests.doc_blocks import LANGUAGES, ROOT, Reader, blocks, difference
from tests.doc_catalogue import catalogue_page, missing_solvers

DOCS = ROOT / "docs"
CHAPTERS = sorted(DOCS.glob("*.md"))
PAGES = [*CHAPTERS, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
TOUR = DOCS / "tour.md"
START = (
    "compile benchmarks/zoo/models.py:digits_cnn --calibration benchmarks/zoo/digits_calibration.npz "
    "--dump-dir run -o digits_int8"
)
TOOLS = {
    "generated-c": ("gcc", "cmake", "aarch64-linux-gnu-gcc", "qemu-aarch64-static"),
    "generated-cuda": ("g++", "nvcc"),
}
"""Programs that the blocks of a page call; without them it cannot be followed."""
_LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)#\s]+)(?:#[^)]*)?\)")


def _name(page: Path) -> str:
    return page.stem


@pytest.fixture(scope="module")
def after_the_tour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the first command of the tour leaves behind."""
    home = tmp_path_factory.mktemp("tour")
    (home / "benchmarks").symlink_to(ROOT / "benchmarks")
    here = Path.cwd()
    os.chdir(home)
    try:
        assert Reader(home, "start").command(f"qcompiler {START}")
    finally:
        os.chdir(here)
    return home


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_block_does_what_the_page_shows(
    page: Path, after_the_tour: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bless: bool
) -> None:
    missing = [tool for tool in TOOLS.get(page.stem, ()) if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"there is no {', '.join(missing)}")
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    if page in CHAPTERS and page != TOUR:
        for folder in ("run", "digits_int8"):
            shutil.copytree(after_the_tour / folder, tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    torch.manual_seed(0)
    text = page.read_text()
    found = Reader(tmp_path, page.stem).page(text)
    if bless:
        page.write_text(found)
        return
    assert difference(text, found) == "", f"{page.name}: if it is right, `pytest tests/test_docs.py --bless`"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_blocks_say_what_they_are(page: Path) -> None:
    assert [block.line for block in blocks(page.read_text()) if block.language not in LANGUAGES] == []


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in _LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_chapter_is_in_the_contents() -> None:
    contents = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert sorted(name for entry in contents for name in entry.values()) == [page.name for page in CHAPTERS]


def test_nothing_is_fetched_when_a_page_is_read() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert settings["theme"]["font"] is False
    assert not {"extra_javascript", "extra_css"} & set(settings)


def test_the_catalogue_is_the_code(bless: bool) -> None:
    page = DOCS / "catalogue.md"
    if bless:
        page.write_text(catalogue_page())
    assert page.read_text() == catalogue_page()
    assert missing_solvers() == set()


@pytest.mark.parametrize(
    ("shown", "found", "differs"),
    [
        ("43.6 dB in 12 s", "43.9 dB in 900 s", False),
        ("43.6 dB", "12.1 dB", True),
        ("as QLinearConv", "as Conv", True),
        ("a  1", "a 1", False),
        ("digest(0123456789abcdef)", "digest(fedcba9876543210)", False),
        ("one", "one\ntwo", True),
    ],
)
def test_what_may_differ(shown: str, found: str, differs: bool) -> None:
    assert bool(difference(shown, found)) == differs
