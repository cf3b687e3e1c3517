"""What a backend offers whose files can be timed on this machine."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch

from qcompiler.cost import Device
from qcompiler.target import Target

_CPUINFO = Path("/proc/cpuinfo")
_FEATURES = ("asimddp", "avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "i8mm", "sve")
Part = Literal["enter", "layout in", "operator", "layout out", "leave"]
Times = Mapping[Part, float]
"""Seconds of one call of a lone layer: its operands become codes, are laid out anew, the layer itself, and back."""


@runtime_checkable
class Clocks(Protocol):
    """A backend that can time what it emitted, where the runtime is here."""

    def device(self, target: Target, threads: int) -> Device | None:
        """The machine as such times are labelled; None when the emitted files run elsewhere."""
        ...

    def calls(
        self, folders: Sequence[Path], inputs: Sequence[Sequence[torch.Tensor]], threads: int, runs: int
    ) -> list[list[float]]:
        """Seconds of each of `runs` calls of each folder's files, which are run in turns after a few calls unseen."""
        ...

    def parts(
        self, folders: Sequence[Path], inputs: Sequence[Sequence[torch.Tensor]], threads: int, runs: int
    ) -> list[list[Times]]:
        """The same for files that hold one layer each, divided into parts."""
        ...


def device_here(target: str, threads: int, runtime: str) -> Device:
    """The machine at hand as times are labelled.

    Args:
        target: name of the target whose kernels run.
        threads: that one operator may use.
        runtime: name and version.
    """
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.is_file() else []
    words = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = words.get("flags", words.get("Features", "")).split()
    return Device(
        target=target,
        processor=words.get("model name", platform.processor() or platform.machine()),
        features=tuple(name for name in _FEATURES if name in flags),
        threads=threads,
        runtime=runtime,
    )
