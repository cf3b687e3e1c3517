"""The code blocks of the documentation: found, run, compared with what the page shows, and written anew.

`python` runs; `console` runs its `$` lines; a `text` block right behind a `python` block is what that printed; `qir` is
parsed and verified; a block with a `title`, of any language, is written to the file of that name; `sh` holds commands
of the reader's own shell, which must name things that exist.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from qcompiler.cli.app import run
from qcompiler.ir.parse import parse_program
from qcompiler.ir.verify import verify

ROOT = Path(__file__).resolve().parents[1]
LANGUAGES = frozenset({"c", "cmake", "console", "python", "qir", "sh", "text", "yaml"})
ROOM = 0.35
"""How far a shown number may be from the one found: relative to it; half a unit always passes."""
_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_TITLE = re.compile(r'title="([^"]+)"')
_DIGEST = re.compile(r"\b(?=[0-9a-f]*[a-f])[0-9a-f]{12,}\b|digest\([0-9a-f]+\)")
_NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?: ?(?P<unit>ms|us|s|MB|GB)\b)?")


class Differs(AssertionError):
    """A page does not show what happens."""


@dataclass(frozen=True)
class Block:
    """One fenced block: where it stands, what it is, and its text without indentation."""

    language: str
    title: str
    text: str
    line: int
    span: tuple[int, int]
    indent: str


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page."""
    found = []
    for match in _FENCE.finditer(page):
        language, _, rest = match["info"].strip().partition(" ")
        title = _TITLE.search(rest)
        line = page.count("\n", 0, match.start()) + 1
        text = textwrap.dedent(match["text"]) if match["indent"] else match["text"]
        found.append(Block(language, title[1] if title else "", text, line, match.span("text"), match["indent"]))
    return found


@dataclass
class Reader:
    """Somebody who follows a page in a folder, block by block."""

    folder: Path
    name: str
    printed: str | None = None
    code: int = 0
    module: types.ModuleType = field(init=False)

    def __post_init__(self) -> None:
        self.module = types.ModuleType(f"page_{self.name}")

    def page(self, text: str) -> str:
        """Runs a page; returns it with what happened in the place of what it shows.

        Raises:
            Differs: when something cannot be done as the page says.
        """
        own = {Path(block.title).stem for block in blocks(text) if block.title}
        hidden = {name: sys.modules.pop(name) for name in own & sys.modules.keys()}
        known, paths = set(sys.modules), list(sys.path)
        sys.path.insert(0, str(self.folder))
        try:
            return self._page(text)
        finally:
            sys.path[:] = paths
            sys.modules.update(hidden)
            for name in set(sys.modules) - known:
                if str(getattr(sys.modules[name], "__file__", "")).startswith(str(self.folder)):
                    del sys.modules[name]

    def _page(self, text: str) -> str:
        pieces, at = [], 0
        for block in blocks(text):
            shown = self.block(block)
            start, end = block.span
            pieces += [text[at:start], textwrap.indent(shown, block.indent)]
            at = end
        return "".join([*pieces, text[at:]])

    def block(self, block: Block) -> str:
        """Does what a block says; returns what it should show."""
        before, self.printed = self.printed, None
        if block.title:
            (self.folder / block.title).write_text(block.text)
        elif block.language == "python":
            self.printed = self.python(block)
        elif block.language == "console":
            return "".join(self.commands(block))
        elif block.language == "qir":
            verify(parse_program(block.text))
        elif block.language == "sh":
            check_shell(block)
        elif block.language == "text" and before is not None:
            return before
        else:
            raise Differs(f"line {block.line}: nothing can be done with a block of '{block.language}'")
        return block.text

    def python(self, block: Block) -> str:
        """Runs Python in the page's module; returns what it printed."""
        output = io.StringIO()
        sys.modules[self.module.__name__] = self.module
        try:
            with contextlib.redirect_stdout(output):
                exec(compile(block.text, f"{self.name}:{block.line}", "exec"), self.module.__dict__)
        finally:
            del sys.modules[self.module.__name__]
        return output.getvalue()

    def commands(self, block: Block) -> Iterator[str]:
        """Runs the `$` lines; yields them with what each printed."""
        lines = [line for line in block.text.splitlines() if line.startswith("$ ")]
        for number, line in enumerate(lines):
            asks_next = lines[number + 1 : number + 2] == ["$ echo $?"]
            yield f"{line}\n"
            yield self.command(line.removeprefix("$ "))
            if self.code and not asks_next and line != "$ echo $?":
                raise Differs(f"line {block.line}: `{line}` ends with {self.code}")

    def command(self, line: str) -> str:
        """Runs one command line: `qcompiler ...` with pipes and `> file`, or a plain shell command."""
        if line == "echo $?":
            code, self.code = self.code, 0
            return f"{code}\n"
        first, pipe, rest = line.partition(" | ")
        first, into, target = first.partition(" > ")
        words = shlex.split(first, comments=True)
        if words[0] != "qcompiler":
            line = f"{shlex.quote(sys.executable)} {line.removeprefix('python ')}" if words[0] == "python" else line
            done = subprocess.run(line, shell=True, cwd=self.folder, capture_output=True, text=True, check=False)
            self.code = done.returncode
            return done.stdout + done.stderr
        output = io.StringIO()
        errors = io.StringIO() if into or pipe else output
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            self.code = run([*words[1:], *_quiet(words)])
        text = output.getvalue()
        if into:
            (self.folder / target.strip()).write_text(text)
            text = ""
        if pipe:
            text = subprocess.run(rest, shell=True, input=text, capture_output=True, text=True, check=False).stdout
        told = errors.getvalue() if errors is not output else ""
        return "".join(f"{part.rstrip()}\n" for part in (told + text).rstrip().splitlines())


def _quiet(words: list[str]) -> list[str]:
    """A reader at a terminal sees a bar that goes away; here it never comes."""
    return ["--progress", "none"] if words[1:2] == ["compile"] and "--progress" not in words else []


def check_shell(block: Block) -> None:
    """Refuses commands of the reader's own shell that name what is not there."""
    makefile = (ROOT / "Makefile").read_text()
    for line in block.text.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"] and not re.search(rf"^{words[1]}:", makefile, re.MULTILINE):
            raise Differs(f"line {block.line}: there is no `make {words[1]}`")
        if words[:1] not in ([], ["make"], ["pip"], ["python"], ["git"], [".venv/bin/python"]):
            raise Differs(f"line {block.line}: `{line}` is not run; make it a `console` block")


def difference(shown: str, found: str) -> str:
    """The first line that a page shows otherwise than it happens; empty when there is none.

    Digests and times may differ altogether, other numbers by `ROOM`, blanks by their width.
    """
    old, new = shown.splitlines(), found.splitlines()
    for number, (a, b) in enumerate(zip(old, new, strict=False), 1):
        if a != b and not _alike(a, b):
            return f"line {number} shows\n  {a}\nand it is\n  {b}"
    return "" if len(old) == len(new) else f"{len(old)} lines are shown and there are {len(new)}"


def _alike(a: str, b: str) -> bool:
    a, b = (re.sub(r"\s+", " ", _DIGEST.sub("digest", text)).strip() for text in (a, b))
    if _NUMBER.sub("0", a) != _NUMBER.sub("0", b):
        return False
    return all(_close(one, other) for one, other in zip(_NUMBER.finditer(a), _NUMBER.finditer(b), strict=True))


def _close(one: re.Match[str], other: re.Match[str]) -> bool:
    if one["unit"] or other["unit"]:
        return True
    x, y = (float(match[0].replace(",", "")) for match in (one, other))
    return abs(x - y) <= 0.5 + ROOM * max(abs(x), abs(y))
