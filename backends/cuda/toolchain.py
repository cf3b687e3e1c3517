"""Compilers of CUDA C++ that are found on this machine, and what they tell."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from qcompiler.backends.cuda.arch import Architecture
from qcompiler.backends.cuda.kernels.row import RUNTIME
from qcompiler.backends.cuda.source import Chosen, source_of
from qcompiler.errors import InputError, UnsupportedError

_SECONDS = 600
_HOST = ("g++", "clang++", "c++")
_HOST_FLAGS = ("-std=c++17", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")
_USED = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    r".*?Used (\d+) registers",
    re.DOTALL,
)

_SERIALIZED = re.compile(r"instructions are serialized due to .*")
"""What the assembler says of products that could run asynchronously, but do not: no warning to it."""


@dataclass(frozen=True)
class Usage:
    """What one kernel takes of a multiprocessor, as the assembler says.

    Args:
        registers: of each thread.
        stack: bytes of each thread.
        spilled: bytes that are stored and loaded because registers were too few.
    """

    registers: int
    stack: int
    spilled: int


@dataclass(frozen=True)
class Compiled:
    """Code for one architecture.

    Args:
        cubin: what the driver loads.
        usage: by function.
    """

    cubin: bytes
    usage: dict[str, Usage]


@cache
def find_tool(name: str) -> Path:
    """A program of NVIDIA's toolkit: on PATH, else in the packages of the extra `cuda`.

    Raises:
        UnsupportedError: when it is not there.
    """
    found = shutil.which(name)
    if found is not None:
        return Path(found)
    packages = importlib.util.find_spec("nvidia")
    folders = packages.submodule_search_locations or () if packages is not None else ()
    installed = sorted(path for folder in folders for path in Path(folder).glob(f"*/bin/{name}"))
    if not installed:
        raise UnsupportedError(
            f"{name} is not found", mend="pip install 'qcompiler[cuda]', or put the CUDA toolkit's programs on PATH"
        )
    return installed[-1]


def compile_cubin(chosen: Sequence[Chosen], target: Architecture) -> Compiled:
    """Compiles kernels for one architecture; a warning is an error.

    Raises:
        UnsupportedError: when there is no compiler.
        InputError: with the compiler's first error.
    """
    nvcc = find_tool("nvcc")
    with tempfile.TemporaryDirectory(prefix="qc_cuda_") as folder:
        source, cubin = Path(folder) / "kernels.cu", Path(folder) / "kernels.cubin"
        source.write_text(source_of(chosen))
        code = f"-gencode=arch=compute_{target.code},code=sm_{target.code}"
        command = [str(nvcc), "-std=c++17", code, "-Werror=all-warnings", "-Xptxas=-v,-warn-spills"]
        told = _call([*command, f"-I{RUNTIME}", "-cubin", str(source), "-o", str(cubin)], source)
        serialized = _SERIALIZED.search(told)
        if serialized is not None:
            raise InputError(
                f"nvcc lets matrix products wait for one another: {serialized[0]}", where=target.name, step="build"
            )
        usage = {
            name: Usage(int(registers), int(stack), int(stores) + int(loads))
            for name, stack, stores, loads, registers in _USED.findall(told)
        }
        return Compiled(cubin.read_bytes(), usage)


@cache
def find_host_compiler() -> str:
    """A C++ compiler for this processor.

    Raises:
        UnsupportedError: when there is none.
    """
    found = next((name for name in _HOST if shutil.which(name)), None)
    if found is None:
        raise UnsupportedError("no C++ compiler is found", mend="install g++")
    return found


def compile_emulation(chosen: Sequence[Chosen], library: Path, flags: Sequence[str] = ()) -> None:
    """Compiles kernels for this processor, into a library that `emulation` calls.

    Raises:
        UnsupportedError: when there is no compiler.
        InputError: with the compiler's first error.
    """
    source = library.with_suffix(".cpp")
    source.write_text(source_of(chosen))
    command = [find_host_compiler(), *_HOST_FLAGS, "-fPIC", "-shared", f"-I{RUNTIME}", *flags]
    _call([*command, str(source), "-o", str(library)], source)


def _call(command: Sequence[str], about: Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    told = done.stdout + done.stderr
    if done.returncode:
        faults = (line for line in told.splitlines() if "error" in line or "undefined reference" in line)
        first = next(faults, told.splitlines()[-1] if told else "it said nothing")
        raise InputError(f"{Path(command[0]).name} failed: {first}", where=str(about), step="build")
    return told
