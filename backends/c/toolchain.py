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
_ZIG_FLAGS: dict[Isa, tuple[str, ...]] = {
    Isa.NEON: ("-mcpu=generic",),
    Isa.DOTPROD: ("-mcpu=generic+v8_2a+dotprod",),
    Isa.I8MM: ("-mcpu=generic+v8_2a+dotprod+i8mm",),
    Isa.NEON32: ("-mcpu=generic+v7a+neon+vfp4",),
}
"""Where it writes processors in its own way."""
_SECONDS = 600
_AVX2_WORDS = frozenset({"avx2", "fma", "f16c", "bmi2", "popcnt"})
_AVX512_WORDS = _AVX2_WORDS | {
    *("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vbmi"),
    *("avx512_vnni", "avx512_vpopcntdq", "avx512_bitalg"),
}
_X86_WORDS = {Isa.AMX: _AVX512_WORDS | {"amx_tile", "amx_int8"}, Isa.AVX512: _AVX512_WORDS, Isa.AVX2: _AVX2_WORDS}
_ARM_WORDS = {
    Isa.I8MM: frozenset({"i8mm", "asimddp"}),
    Isa.DOTPROD: frozenset({"asimddp"}),
    Isa.NEON: frozenset({"asimd"}),
}
_PROCESSOR_WORDS = {"x86_64": _X86_WORDS, "aarch64": _ARM_WORDS}


@dataclass(frozen=True)
class Compiler:
    """A C compiler.

    Args:
        command: what is called, with what selects the machine.
        architecture: of the code that it makes.
        zig: whether it is that of Zig.
    """

    command: tuple[str, ...]
    architecture: Architecture
    zig: bool = False

    def compile(self, source: Path, result: Path, isa: Isa, flags: Sequence[str] = ()) -> None:
        """Compiles one file to an object file for one level.

        Raises:
            InputError: with the compiler's first error.
        """
        level = _ZIG_FLAGS.get(isa, LEVELS[isa].flags) if self.zig else LEVELS[isa].flags
        self._call([*COMMON_FLAGS, *level, *flags, "-c", str(source), "-o", str(result)], source)

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
            name = "zig" if self.zig else self.command[0]
            raise InputError(f"{name} failed: {first}", where=str(about), step="build")


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
        return Compiler((sys.executable, "-m", "ziglang", "cc", *chosen), architecture, zig=True)
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


@cache
def best_here() -> Isa:
    """The best level that this processor has, as Linux tells it; without Linux, what every such processor has."""
    try:
        words = frozenset(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        words = frozenset()
    wanted = _PROCESSOR_WORDS.get(platform.machine(), {})
    return next((level for level, needs in wanted.items() if needs <= words), Isa.PORTABLE)
