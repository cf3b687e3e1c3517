"""Launches compiled kernels: on a device through the driver that every GPU machine has, or on this processor.

Nothing here waits for the device or takes memory of it once kernels are loaded, so that launches may be recorded into
a graph.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch

from qcompiler.backends.cuda.arguments import Value, grid_of, pack
from qcompiler.backends.cuda.emulation import Emulation, emulate
from qcompiler.backends.cuda.kernels.row import CudaKernel, Instance
from qcompiler.errors import UnsupportedError, VerifyError

LIBRARIES = ("libcuda.so.1", "libcuda.so", "nvcuda.dll")
_DYNAMIC_SHARED = 8
"""CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES."""
_MEND = "install NVIDIA's driver and a torch that knows CUDA"


class Driver(Protocol):
    """What runs kernels."""

    def launch(self, kernel: CudaKernel, instance: Instance, values: Mapping[str, Value]) -> None:
        """Starts one grid behind what was started before; pointers are addresses where the kernel runs.

        Raises:
            VerifyError: when it cannot be started, or the emulation finds a fault.
        """
        ...


@dataclass(frozen=True)
class Emulated:
    """Runs kernels on this processor, each to its end; an instance is compiled at its first launch."""

    def launch(self, kernel: CudaKernel, instance: Instance, values: Mapping[str, Value]) -> None:
        """See `Driver`; raises UnsupportedError too, when there is no C++ compiler."""
        _emulation(kernel, instance.name).launch(kernel, instance, values)


@dataclass(frozen=True)
class Loaded:
    """Kernels of one cubin on one device.

    Args:
        library: the driver.
        context: torch's own of the device.
        device: its number in torch.
        functions: handles by name.
    """

    library: ctypes.CDLL
    context: int
    device: int
    functions: Mapping[str, int]

    def launch(self, kernel: CudaKernel, instance: Instance, values: Mapping[str, Value]) -> None:
        """See `Driver`; goes into torch's current stream."""
        self.launch_into(torch.cuda.current_stream(self.device).cuda_stream, kernel, instance, values)

    def launch_into(self, stream: int, kernel: CudaKernel, instance: Instance, values: Mapping[str, Value]) -> None:
        """Starts one grid in a stream, given by its handle; otherwise as `launch`."""
        struct = pack(kernel, values)
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(struct))
        grid = grid_of(kernel, instance.name, values)
        _make_current(self.library, self.context)
        status = self.library.cuLaunchKernel(
            ctypes.c_void_p(self.functions[instance.name]),
            *(ctypes.c_uint(blocks) for blocks in grid),
            *(ctypes.c_uint(size) for size in (instance.threads, 1, 1, instance.shared)),
            ctypes.c_void_p(stream),
            parameters,
            None,
        )
        _check(self.library, status, f"kernel {instance.name} cannot be started")


def load_cubin(cubin: bytes, instances: Sequence[Instance], device: int = 0) -> Loaded:
    """Loads kernels into torch's context of a device.

    Args:
        cubin: compiled for the device, or for an older one of its generation.
        instances: those that will be launched.
        device: its number in torch.

    Raises:
        UnsupportedError: when there is no driver.
        VerifyError: when the driver refuses the code or lacks one of the instances.
    """
    library = driver_library()
    torch.cuda.synchronize(device)
    return load_by(library, cubin, instances, device)


def load_by(library: ctypes.CDLL, cubin: bytes, instances: Sequence[Instance], device: int) -> Loaded:
    """As `load_cubin`, by a driver that is given, into the device's first context."""
    context = ctypes.c_void_p()
    handle = ctypes.c_int()
    _check(library, library.cuInit(0), "the driver does not start")
    _check(library, library.cuDeviceGet(ctypes.byref(handle), device), f"there is no device {device}")
    _check(library, library.cuDevicePrimaryCtxRetain(ctypes.byref(context), handle), "the device has no context")
    _make_current(library, context.value or 0)
    module = ctypes.c_void_p()
    _check(library, library.cuModuleLoadData(ctypes.byref(module), cubin), "the kernels cannot be loaded")
    functions = {instance.name: _function(library, module, instance) for instance in instances}
    return Loaded(library, context.value or 0, device, functions)


@cache
def driver_library() -> ctypes.CDLL:
    """The driver's own library.

    Raises:
        UnsupportedError: when this machine has none.
    """
    for name in LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise UnsupportedError("no CUDA driver is found", mend=_MEND)


def missing_device() -> str:
    """Why nothing can be run on a device here; empty where it can."""
    if not torch.cuda.is_available():
        return f"torch finds no CUDA device; {_MEND}"
    try:
        driver_library()
    except UnsupportedError as error:
        return f"{error.what}; {error.mend}"
    return ""


def current_device() -> torch.device:
    """Torch's current CUDA device.

    Raises:
        UnsupportedError: when there is none.
    """
    why = missing_device()
    if why:
        raise UnsupportedError(why.partition("; ")[0], mend=f"{_MEND}, or ask for the emulation: device=emulation")
    return torch.device("cuda", torch.cuda.current_device())


@cache
def _emulation(kernel: CudaKernel, instance: str) -> Emulation:
    return emulate([(kernel, next(one for one in kernel.instances if one.name == instance))])


def _function(library: ctypes.CDLL, module: ctypes.c_void_p, instance: Instance) -> int:
    function = ctypes.c_void_p()
    found = library.cuModuleGetFunction(ctypes.byref(function), module, instance.name.encode())
    _check(library, found, f"the library has no kernel {instance.name}")
    given = library.cuFuncSetAttribute(function, _DYNAMIC_SHARED, ctypes.c_int(instance.shared))
    _check(library, given, f"the device has no {instance.shared} bytes of shared memory for {instance.name}")
    return function.value or 0


def _make_current(library: ctypes.CDLL, context: int) -> None:
    """Threads that torch has not yet used have no context."""
    current = ctypes.c_void_p()
    _check(library, library.cuCtxGetCurrent(ctypes.byref(current)), "the driver has no context")
    if current.value != context:
        _check(library, library.cuCtxSetCurrent(ctypes.c_void_p(context)), "the context cannot be taken")


def _check(library: ctypes.CDLL, status: int, what: str) -> None:
    if status == 0:
        return
    text = ctypes.c_char_p()
    library.cuGetErrorString(status, ctypes.byref(text))
    said = text.value.decode() if text.value else f"status {status}"
    raise VerifyError(f"{what}: {said}", step="launch")
