"""Compilers that are found on this machine, and how they are called."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from qcompiler.backends.c.isa import COMMON_FLAGS, LEVELS, Architecture, Isa
from qcompiler.errors import InputError, UnsupportedError

_COMPILERS: dict[Architecture, tuple[str, ...]] = {
    "portable": ("gcc", "clang", "cc"),
    "x86": ("gcc", "clang", "cc"),
    "arm64": ("aarch64-linux-gnu-gcc",),
    "arm32": ("arm-linux-gnueabihf-gcc",),
}
_EMULATORS: dict[Architecture, tuple[str, ...]] = {
    "portable": (),
    "x86": (),
    "arm64": ("qemu-aarch64-static", "qemu-aarch64"),
    "arm32": ("qemu-arm-static", "qemu-arm"),
}
_ZIG_TARGETS: dict[Architecture, str] = {"arm64": "aarch64-linux-musl", "arm32": "arm-linux-musleabihf"}
_SECONDS = 600


@dataclass(frozen=True)
class Compiler:
    """A C compiler.

    Args:
        command: what is called, with what selects the machine.
        architecture: of the code that it makes.
    """

    command: tuple[str, ...]
    architecture: Architecture

    def compile(self, source: Path, result: Path, isa: Isa, flags: Sequence[str] = ()) -> None:
        """Compiles one file to an object file for one level.

        Raises:
            InputError: with the compiler's first error.
        """
        self._call([*COMMON_FLAGS, *LEVELS[isa].flags, *flags, "-c", str(source), "-o", str(result)], source)

    def link(self, objects: Sequence[Path], result: Path, flags: Sequence[str] = ()) -> None:
        """Links object files to a program, or with `-shared` to a library.

        Raises:
            InputError: with the linker's first error.
        """
        self._call([*flags, *map(str, objects), "-o", str(result), "-lm"], result)

    def _call(self, arguments: Sequence[str], about: Path) -> None:
        done = subprocess.run(
            [*self.command, *arguments], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        if done.returncode:
            lines = done.stderr.splitlines()
            first = next((line for line in lines if "error" in line), lines[-1] if lines else "it said nothing")
            raise InputError(f"{self.command[0]} failed: {first}", where=str(about), step="build")


@cache
def find_compiler(architecture: Architecture) -> Compiler:
    """The first compiler found for an architecture: of the system, else the one in the `ziglang` package.

    Raises:
        UnsupportedError: when there is none.
    """
    for name in _COMPILERS[architecture]:
        if shutil.which(name):
            return Compiler((name,), architecture)
    if importlib.util.find_spec("ziglang") is not None:
        target = _ZIG_TARGETS.get(architecture)
        chosen = ("-target", target) if target else ()
        return Compiler((sys.executable, "-m", "ziglang", "cc", *chosen), architecture)
    raise UnsupportedError(
        f"no C compiler for {architecture} is found",
        mend=f"install {_COMPILERS[architecture][0]}, or the package ziglang",
    )


@cache
def find_emulator(architecture: Architecture) -> tuple[str, ...]:
    """The command in front of a program of another architecture; empty when it runs as it is.

    Raises:
        UnsupportedError: when it does not, and nothing that emulates it is found.
    """
    if not _EMULATORS[architecture]:
        return ()
    for name in _EMULATORS[architecture]:
        if shutil.which(name):
            # -cpu max: all extensions, those of levels above the processor's base included.
            return (name, "-cpu", "max")
    raise UnsupportedError(
        f"programs for {architecture} do not run here", mend=f"install {_EMULATORS[architecture][0]} (qemu-user-static)"
    )
