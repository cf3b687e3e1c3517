"""Compilers that are found on this machine, and how they are called."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from qcompiler.backends.c.isa import COMMON_FLAGS, LEVELS, Architecture, Isa
from qcompiler.errors import InputError, UnsupportedError

_MACHINES: dict[str, Architecture] = {
    "x86_64": "x86",
    "amd64": "x86",
    "aarch64": "arm64",
    "arm64": "arm64",
    "armv7l": "arm32",
}
_NATIVE = ("gcc", "clang", "cc")
_COMPILERS: dict[Architecture, tuple[str, ...]] = {
    "portable": _NATIVE,
    "x86": ("x86_64-linux-gnu-gcc",),
    "arm64": ("aarch64-linux-gnu-gcc",),
    "arm32": ("arm-linux-gnueabihf-gcc",),
}
_EMULATORS: dict[Architecture, tuple[str, ...]] = {
    "portable": (),
    "x86": ("qemu-x86_64-static", "qemu-x86_64"),
    "arm64": ("qemu-aarch64-static", "qemu-aarch64"),
    "arm32": ("qemu-arm-static", "qemu-arm"),
}
_ZIG_TARGETS: dict[Architecture, str] = {
    "x86": "x86_64-linux-musl",
    "arm64": "aarch64-linux-musl",
    "arm32": "arm-linux-musleabihf",
}
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

    def version(self) -> str:
        """What it says of itself, empty when it says nothing; a build with another version is another build."""
        return _version(self.command)

    def _call(self, arguments: Sequence[str], about: Path) -> None:
        done = subprocess.run(
            [*self.command, *arguments], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        if done.returncode:
            lines = done.stderr.splitlines()
            faults = (line for line in lines if "error:" in line or "undefined reference" in line)
            first = next(faults, lines[-1] if lines else "it said nothing")
            raise InputError(f"{self.command[0]} failed: {first}", where=str(about), step="build")


@cache
def _version(command: tuple[str, ...]) -> str:
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=False)
    return done.stdout


def is_native(architecture: Architecture) -> bool:
    """Whether programs for an architecture run on this machine as they are."""
    return architecture in ("portable", _MACHINES.get(platform.machine().lower()))


@cache
def find_compiler(architecture: Architecture) -> Compiler:
    """The first compiler found for an architecture: of the system, else the one in the `ziglang` package.

    Raises:
        UnsupportedError: when there is none.
    """
    own = is_native(architecture)
    names = _NATIVE if own else _COMPILERS[architecture]
    for name in names:
        if shutil.which(name):
            return Compiler((name,), architecture)
    if importlib.util.find_spec("ziglang") is not None:
        target = None if own else _ZIG_TARGETS.get(architecture)
        chosen = ("-target", target) if target else ()
        return Compiler((sys.executable, "-m", "ziglang", "cc", *chosen), architecture)
    raise UnsupportedError(
        f"no C compiler for {architecture} is found",
        mend=f"install {names[0]}, or the package ziglang",
    )


@cache
def find_emulator(architecture: Architecture) -> tuple[str, ...]:
    """The command in front of a program of another architecture; empty when it runs as it is.

    Raises:
        UnsupportedError: when it does not, and nothing that emulates it is found.
    """
    if is_native(architecture):
        return ()
    for name in _EMULATORS[architecture]:
        if shutil.which(name):
            # -cpu max: all extensions, those of levels above the processor's base included.
            return (name, "-cpu", "max")
    raise UnsupportedError(
        f"programs for {architecture} do not run here", mend=f"install {_EMULATORS[architecture][0]} (qemu-user-static)"
    )
