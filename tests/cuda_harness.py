"""Runs CUDA kernels on this processor, and checks on the way what every kernel owes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from qcompiler.backends.cuda.emulation import Argument, Emulation, Traffic, emulate
from qcompiler.backends.cuda.kernels import KERNELS
from qcompiler.backends.cuda.kernels.row import CudaKernel, Instance
from qcompiler.backends.cuda.toolchain import compile_emulation, find_host_compiler
from qcompiler.errors import UnsupportedError


def run_instance(name: str, instance_name: str, arguments: Mapping[str, Argument], outs: tuple[str, ...]) -> None:
    """Runs a kernel with its lanes in two orders; arrays named in `outs` hold the result afterwards.

    What results hold before is kept for the second run. Fails where the results of the two orders differ.
    """
    kernel, instance = KERNELS[name], instance_of(name, instance_name)
    before = {out: _array(arguments, out).copy() for out in outs}
    first: dict[str, np.ndarray] = {}
    for order in (0, 1):
        for out in outs:
            _array(arguments, out)[...] = before[out]
        emulation_of(name).launch(kernel, instance, arguments, order)
        for out in outs:
            found = _array(arguments, out)
            if out in first:
                np.testing.assert_array_equal(found, first[out], err_msg="the order of lanes decides: a barrier lacks")
            first[out] = found.copy()


def traffic_of(name: str, instance_name: str, arguments: Mapping[str, Argument]) -> Traffic:
    """Runs a kernel once and counts its accesses."""
    traffic = Traffic()
    emulation_of(name).launch(KERNELS[name], instance_of(name, instance_name), arguments, 0, traffic)
    return traffic


def run_sanitized(
    name: str, instance_name: str, arguments: Mapping[str, Argument], outs: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Runs a kernel once in a process of its own in which accesses and arithmetic are checked; the arrays in `outs`.

    Fails at an access outside of an array or of shared memory, and at undefined arithmetic.
    """
    kernel, instance = KERNELS[name], instance_of(name, instance_name)
    runtimes = [_runtime(f"lib{part}.so") for part in ("asan", "ubsan")]
    with tempfile.TemporaryDirectory() as folder:
        flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")
        compile_emulation([(kernel, instance)], Path(folder) / "kernels.so", flags)
        arrays = {key: value for key, value in arguments.items() if isinstance(value, np.ndarray)}
        numbers = {key: value for key, value in arguments.items() if key not in arrays}
        np.savez(Path(folder) / "arrays.npz", allow_pickle=False, **arrays)
        wanted = {"kernel": name, "instance": instance_name, "numbers": numbers}
        (Path(folder) / "wanted.json").write_text(json.dumps(wanted))
        # The allocator's own checks would stop at what Python and numpy leave behind.
        checks = {"LD_PRELOAD": " ".join(runtimes), "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0"}
        command = [sys.executable, "-m", "tests.cuda_sanitized", folder]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, **checks}
        )
        assert done.returncode == 0, done.stderr
        results = np.load(Path(folder) / "results.npz")
        return {out: results[out] for out in outs}


def aligned(array: np.ndarray, bytes_: int = 128) -> np.ndarray:
    """A copy that starts at a multiple of so many bytes, as memory of the device does."""
    room = np.empty(array.nbytes + bytes_, dtype=np.uint8)
    start = -room.ctypes.data % bytes_
    out = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    out[...] = array
    return out


def instance_of(name: str, instance_name: str) -> Instance:
    """An instance of a kernel by name."""
    return {one.name: one for one in KERNELS[name].instances}[instance_name]


@cache
def emulation_of(name: str) -> Emulation:
    """All instances of a kernel on this processor; the test is skipped without a compiler."""
    kernel: CudaKernel = KERNELS[name]
    try:
        return emulate([(kernel, instance) for instance in kernel.instances])
    except UnsupportedError as error:
        pytest.skip(error.what)


@cache
def _runtime(library: str) -> str:
    """Where the compiler keeps a library of its checks; the test is skipped when it has none."""
    try:
        command = [find_host_compiler(), f"-print-file-name={library}"]
    except UnsupportedError as error:
        pytest.skip(error.what)
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    if not Path(found).is_absolute():
        pytest.skip(f"{command[0]} has no {library}")
    return found


def _array(arguments: Mapping[str, Argument], name: str) -> np.ndarray:
    value = arguments[name]
    assert isinstance(value, np.ndarray)
    return value
