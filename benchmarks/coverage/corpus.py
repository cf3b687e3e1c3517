"""All architectures that the coverage table tries."""

from __future__ import annotations

from benchmarks.coverage.architecture import Architecture
from benchmarks.coverage.diffusion import DIFFUSION
from benchmarks.coverage.language import LANGUAGE
from benchmarks.coverage.vision import SPEECH, VISION

CORPUS: tuple[Architecture, ...] = (*LANGUAGE, *SPEECH, *VISION, *DIFFUSION)


def find(name: str) -> Architecture:
    """The architecture of that name; ends the program when there is none."""
    for architecture in CORPUS:
        if architecture.name == name:
            return architecture
    raise SystemExit(f"no architecture '{name}'; there are {', '.join(item.name for item in CORPUS)}")
