"""Runs one grid under the address sanitizer, which must be in the process before anything else: a program of its own.

Every array gets an allocation that ends where it ends.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import numpy as np

from qcompiler.backends.cuda.emulation import Emulation
from qcompiler.backends.cuda.kernels import KERNELS


def main(folder: Path) -> None:
    wanted = json.loads((folder / "wanted.json").read_text())
    kernel = KERNELS[wanted["kernel"]]
    instance = {one.name: one for one in kernel.instances}[wanted["instance"]]
    allocate = ctypes.CDLL(None).memalign
    allocate.restype, allocate.argtypes = ctypes.c_void_p, [ctypes.c_size_t, ctypes.c_size_t]
    results: dict[str, np.ndarray] = {}
    arrays = np.load(folder / "arrays.npz")
    for name in arrays.files:
        array = arrays[name]
        address = allocate(128, max(1, array.nbytes))
        room = (ctypes.c_char * array.nbytes).from_address(address)
        results[name] = np.frombuffer(room, array.dtype).reshape(array.shape)
        results[name][...] = array
    Emulation(ctypes.CDLL(str(folder / "kernels.so"))).launch(kernel, instance, {**wanted["numbers"], **results})
    np.savez(folder / "results.npz", allow_pickle=False, **results)


main(Path(sys.argv[1]))
