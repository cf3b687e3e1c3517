"""The texts of all steps in the space of little more than one: each line once, and runs of lines per step."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

MOST_CHARACTERS = 2_000_000
_SPEC = re.compile(r"^spec (@\w+) = (.*)\n", re.MULTILINE)
_NAME = re.compile(r"@\w+")


def texts_data(texts: Mapping[int, str]) -> dict[str, object]:
    """Texts of programs for the page.

    Args:
        texts: by number of the step.

    Returns:
        `lines`: every line that occurs; `steps`: by number, pairs of a first line and a count, one behind the other;
        `cut`: numbers of steps that were left out because the page would grow too large. The last steps come first.
    """
    lines: dict[str, int] = {}
    steps: dict[str, list[int]] = {}
    cut: list[int] = []
    size = 0
    for number in sorted(texts, reverse=True):
        found = _spelled_out(texts[number]).splitlines()
        added = sum(len(line) for line in set(found) - lines.keys())
        if size + added > MOST_CHARACTERS:
            cut.append(number)
            continue
        size += added
        steps[str(number)] = _runs([lines.setdefault(line, len(lines)) for line in found])
    return {"lines": list(lines), "steps": steps, "cut": sorted(cut)}


def dumped_texts(folder: Path | None) -> dict[int, str]:
    """The texts that the runner wrote into a dump folder, by step; nothing without one."""
    if folder is None:
        return {}
    return {int(path.name[:2]): path.read_text(encoding="utf-8") for path in sorted(folder.glob("[0-9][0-9]-*.qir"))}


def _spelled_out(text: str) -> str:
    """The text with every spec at its place: their short names are counted anew in each program."""
    specs = dict(_SPEC.findall(text))
    return _NAME.sub(lambda match: specs.get(match[0], match[0]), _SPEC.sub("", text)) if specs else text


def _runs(numbers: Sequence[int]) -> list[int]:
    """Numbers as pairs: where a stretch of consecutive ones begins, and how long it is."""
    pairs: list[int] = []
    for number in numbers:
        if pairs and number == pairs[-2] + pairs[-1]:
            pairs[-1] += 1
        else:
            pairs += [number, 1]
    return pairs
