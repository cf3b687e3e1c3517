"""Runs CUDA kernels on a processor: the same sources, lane by lane, with the meaning of every instruction written out.

It is what checks kernels where there is no GPU, down to index arithmetic, barriers and fragments; it is slow.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qcompiler.backends.cuda.arguments import Value, grid_of, pack
from qcompiler.backends.cuda.kernels.row import CudaKernel, Instance
from qcompiler.backends.cuda.source import Chosen
from qcompiler.backends.cuda.toolchain import compile_emulation
from qcompiler.errors import VerifyError

Argument = np.ndarray | Value | None


class Traffic(ctypes.Structure):
    """What a grid did; ideal is what the same bytes would take without bank conflicts, or in whole sectors."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            *("shared_wavefronts", "shared_ideal", "global_sectors", "global_ideal"),
            *("mma_s8", "mma_s4", "mma_b1", "mma_f16", "mma_e4m3", "wgmma", "barriers"),
        )
    )


@dataclass(frozen=True)
class Emulation:
    """Kernels that were compiled for this processor."""

    library: ctypes.CDLL

    def launch(
        self,
        kernel: CudaKernel,
        instance: Instance,
        arguments: Mapping[str, Argument],
        order: int = 0,
        traffic: Traffic | None = None,
    ) -> None:
        """Runs one grid to its end.

        Args:
            kernel: the kernel.
            instance: which of its functions.
            arguments: arrays, which are read and written in place, and numbers; None is a null pointer.
            order: in which lanes run: 0 as they are numbered, 1 backwards, others shuffled. No result depends on it.
            traffic: is added to.

        Raises:
            VerifyError: for a fault that a device would punish or pass over: a misaligned access, a missing barrier.
        """
        values = {name: _value(value) for name, value in arguments.items()}
        grid = (ctypes.c_uint * 3)(*grid_of(kernel, instance.name, values))
        call = getattr(self.library, instance.name)
        call.restype = ctypes.c_char_p
        call.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_void_p]
        counted = ctypes.byref(traffic) if traffic is not None else None
        fault = call(ctypes.byref(pack(kernel, values)), grid, instance.shared, order, counted)
        if fault is not None:
            raise VerifyError(fault.decode(), where=instance.name)


def emulate(chosen: Sequence[Chosen], flags: Sequence[str] = ()) -> Emulation:
    """Compiles kernels for this processor.

    Raises:
        UnsupportedError: when there is no C++ compiler.
        InputError: with the compiler's first error.
    """
    with tempfile.TemporaryDirectory(prefix="qc_emulation_") as folder:
        library = Path(folder) / "kernels.so"
        compile_emulation(chosen, library, flags)
        return Emulation(ctypes.CDLL(str(library)))


def _value(value: Argument) -> Value:
    if value is None:
        return 0
    if not isinstance(value, np.ndarray):
        return value
    if not value.flags.c_contiguous:
        raise VerifyError("an array that a kernel reads is not contiguous")
    return value.ctypes.data
