"""Compiles kernels where they run, by the compiler that comes with the CUDA libraries of torch (NVRTC)."""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache
from pathlib import Path

from qcompiler.backends.cuda.arch import architecture
from qcompiler.backends.cuda.library import SOURCES, Code
from qcompiler.errors import InputError, UnsupportedError

_NAMES = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")
_WHEELS = "nvidia"
_STANDARD = "--std=c++17"


def compile_here(folder: Path, code: Code, capability: int) -> bytes:
    """The cubin of a library's source.

    Args:
        folder: of the library.
        code: whose source is compiled.
        capability: for this architecture.

    Raises:
        UnsupportedError: when there is no compiler.
        InputError: with the compiler's first error.
    """
    library = nvrtc()
    source = (folder / code.source).read_bytes()
    program = ctypes.c_void_p()
    made = library.nvrtcCreateProgram(ctypes.byref(program), source, code.source.encode(), 0, None, None)
    _check(library, program, made)
    texts = (_STANDARD, f"--gpu-architecture=sm_{architecture(capability).code}", f"--include-path={folder / SOURCES}")
    options = (ctypes.c_char_p * len(texts))(*(text.encode() for text in texts))
    try:
        _check(library, program, library.nvrtcCompileProgram(program, len(texts), options))
        size = ctypes.c_size_t()
        _check(library, program, library.nvrtcGetCUBINSize(program, ctypes.byref(size)))
        cubin = ctypes.create_string_buffer(size.value)
        _check(library, program, library.nvrtcGetCUBIN(program, cubin))
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))
    return cubin.raw


@cache
def nvrtc() -> ctypes.CDLL:
    """The compiler.

    Raises:
        UnsupportedError: when this machine has none.
    """
    for name in (*_NAMES, *_in_wheels()):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise UnsupportedError(
        "the kernels were not compiled ahead, and no run-time compiler of CUDA is found",
        mend="install nvidia-cuda-nvrtc, or nvcc where the model is compiled",
    )


def _in_wheels() -> list[str]:
    """Where wheels put it."""
    found = importlib.util.find_spec(_WHEELS)
    roots = found.submodule_search_locations if found and found.submodule_search_locations else ()
    return [str(path) for root in roots for path in sorted(Path(root).glob("*/lib/libnvrtc.so.*"))]


def _check(library: ctypes.CDLL, program: ctypes.c_void_p, status: int) -> None:
    if status == 0:
        return
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(max(size.value, 1))
    library.nvrtcGetProgramLog(program, log)
    lines = log.value.decode(errors="replace").splitlines()
    first = next((line for line in lines if "error" in line), f"status {status}")
    raise InputError(f"the run-time compiler failed: {first}", step="build")
