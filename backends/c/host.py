"""Models in C on this machine: built as a library, called through ctypes, tensors handed over without a copy."""

from __future__ import annotations

import ctypes
import mmap
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from qcompiler.backends.c.building import Build
from qcompiler.backends.c.extent import Free
from qcompiler.backends.c.module import ALIGNMENT, Port, chosen
from qcompiler.backends.c.project import WEIGHTS_FILE, Project, read_project
from qcompiler.backends.c.weights import SLACK
from qcompiler.errors import InputError

_STATUS = (
    "all went well",
    "a pointer is missing",
    "something is not aligned",
    "the arena is too small",
    "weights.bin is no file of weights, or cut off",
    "weights.bin is damaged",
    "weights.bin is that of another model",
    "the threads cannot be had",
    "this processor lacks instructions that the model is compiled for",
    "a size is not one of those that the model takes",
)
_POINTERS = 4
Value = torch.Tensor | np.ndarray


def build_host(folder: Path) -> Path:
    """The shared library of a model, built when it is not there yet.

    Raises:
        InputError: when the folder is no model in C, or the compiler refuses it.
        UnsupportedError: when there is no compiler.
    """
    return Build().run(folder)


class HostRunner:
    """A model in C that is loaded in this process.

    Calls from several threads wait for each other: the model computes one at a time. While it computes, other Python
    code runs. Weights are mapped, not read: models of the same file share them. A forked process must load its own, as
    threads do not come along.

    Attributes:
        level: the instructions that its kernels use, such as `avx512`.
    """

    def __init__(self, folder: Path, threads: int = 1, library: Path | None = None) -> None:
        """Builds where needed, loads and initializes.

        Args:
            folder: of the model.
            threads: how many share the work.
            library: a built one, in place of what `build_host` builds.

        Raises:
            InputError: when the folder is no model in C, or the model refuses its weights or the processor.
            UnsupportedError: when there is no compiler.
        """
        project = read_project(folder)
        self._inputs, self._outputs = project.input_ports, project.output_ports
        self._sizes = [size.free() for size in project.sizes]
        self._states = [port.port() for port in project.states]
        self._last: tuple[tuple[int, ...], tuple[list[Port], list[Port]]] | None = None
        self._lock = threading.Lock()
        loaded = _load(library or build_host(folder), project)
        self._run = loaded.run
        self._model = (ctypes.c_void_p * _POINTERS)()
        self._weights = _mapped(folder / WEIGHTS_FILE, project.weights_bytes)
        self._memory = np.empty(project.arena_bytes + ALIGNMENT, dtype=np.uint8)
        self._arena = self._memory.ctypes.data + -self._memory.ctypes.data % ALIGNMENT
        status = loaded.init(
            self._model, self._weights.ctypes.data, project.weights_bytes, self._arena, project.arena_bytes, threads
        )
        _check(status, str(folder))
        self._reset = loaded.reset
        self._kept = [loaded.state(self._model, index) for index in range(len(self._states))]
        self._end = weakref.finalize(self, loaded.free, self._model)
        self.level: str = loaded.level(self._model).decode()

    def __call__(self, inputs: Sequence[Value]) -> list[torch.Tensor]:
        """Computes the results, in order; inputs are handed over as they lie in memory where they are contiguous.

        Raises:
            InputError: when their number, a dtype, a shape or the device is not what the model takes, or it was closed.
        """
        if len(inputs) != len(self._inputs):
            raise InputError(f"the model takes {len(self._inputs)} inputs, not {len(inputs)}")
        sizes = chosen(self._inputs, [value.shape for value in inputs], self._sizes) if self._sizes else {}
        asked, made = self._ports(sizes)
        given = [_given(value, port) for value, port in zip(inputs, asked, strict=True)]
        results = [torch.empty(port.shape, dtype=port.dtype) for port in made]
        # Tensors without elements have no address, and the model takes none that is NULL.
        places = [result.data_ptr() or self._arena for result in results]
        with self._lock:
            if not self._end.alive:
                raise InputError("the model was closed")
            status = self._run(self._model, *self._choice(sizes), *(place.address for place in given), *places)
        _check(status, "run")
        return results

    def _ports(self, sizes: Mapping[str, int]) -> tuple[list[Port], list[Port]]:
        """Inputs and results in a call that chooses these sizes, the last choice kept."""
        key, last = tuple(sizes.values()), self._last
        if last is None or last[0] != key:
            last = key, ([port.at(sizes) for port in self._inputs], [port.at(sizes) for port in self._outputs])
            self._last = last
        return last[1]

    def _choice(self, sizes: Mapping[str, int]) -> list[ctypes.Structure]:
        """The struct of sizes, in models that have one."""
        return [_sizes_type(self._sizes)(*(sizes[size.name] for size in self._sizes))] if self._sizes else []

    @property
    def states(self) -> int:
        """How many states go from call to call."""
        return len(self._states)

    def reset(self) -> None:
        """Makes the next call a first one."""
        with self._lock:
            if not self._end.alive:
                raise InputError("the model was closed")
            if self._states:
                _check(self._reset(self._model), "reset")

    def read_states(self) -> list[torch.Tensor]:
        """What the next call starts from, copied."""
        found = [torch.empty(port.shape, dtype=port.dtype) for port in self._states]
        for value, address in zip(found, self._kept, strict=True):
            ctypes.memmove(value.data_ptr(), address, value.nbytes)
        return found

    def write_states(self, values: Sequence[Value]) -> None:
        """Makes the next call start from these values; raises InputError when a dtype or a shape does not fit."""
        for value, port, address in zip(values, self._states, self._kept, strict=True):
            place = _given(value, port)
            ctypes.memmove(address, place.address, value.nbytes)

    def close(self) -> None:
        """Ends the threads; the model cannot run any more."""
        with self._lock:
            self._end()


@dataclass(frozen=True)
class _Place:
    """An address, and what must live as long as it is used."""

    address: int
    owner: object


@dataclass(frozen=True)
class _Loaded:
    """The functions of a library."""

    init: Callable[..., int]
    run: Callable[..., int]
    free: Callable[..., None]
    level: Callable[..., bytes]
    reset: Callable[..., int]
    state: Callable[..., int]


def _load(library: Path, project: Project) -> _Loaded:
    try:
        loaded = ctypes.CDLL(str(library))
    except OSError as error:
        raise InputError(f"the library cannot be loaded: {error}", where=str(library)) from error
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    init = loaded[f"{project.name}_init"]
    init.argtypes = [pointer, pointer, size, pointer, size, ctypes.c_int]
    run = loaded[f"{project.name}_run"]
    choice = [_sizes_type([each.free() for each in project.sizes])] if project.sizes else []
    run.argtypes = [pointer, *choice, *[pointer] * (len(project.inputs) + len(project.outputs))]
    free = loaded[f"{project.name}_free"]
    free.argtypes, free.restype = [pointer], None
    level = loaded[f"{project.name}_level"]
    level.argtypes, level.restype = [pointer], ctypes.c_char_p
    if not project.states:
        return _Loaded(init, run, free, level, _no_state, _no_state)
    reset, state = loaded[f"{project.name}_reset"], loaded[f"{project.name}_state"]
    reset.argtypes = [pointer]
    state.argtypes, state.restype = [pointer, ctypes.c_int], pointer
    return _Loaded(init, run, free, level, reset, state)


@cache
def _sizes_of(names: tuple[str, ...]) -> type[ctypes.Structure]:
    return type("Sizes", (ctypes.Structure,), {"_fields_": [(name, ctypes.c_size_t) for name in names]})


def _sizes_type(sizes: Sequence[Free]) -> type[ctypes.Structure]:
    """The struct of what a call chooses."""
    return _sizes_of(tuple(size.name for size in sizes))


def _no_state(model: object, which: int = 0) -> int:
    """Stands for functions that a model without states has not."""
    del model, which
    return 0


def _mapped(path: Path, size: int) -> np.ndarray:
    found = path.stat().st_size if path.is_file() else 0
    if found != size:
        raise InputError(f"{WEIGHTS_FILE} has {found} bytes, not {size}", where=str(path.parent))
    return np.memmap(path, dtype=np.uint8, mode="r")


def _given(value: Value, port: Port) -> _Place:
    """Where an input lies; it is copied only where it is not dense, or a kernel could read beyond its last page."""
    if isinstance(value, np.ndarray):
        return _array_place(value, port)
    _fits(port, value.dtype, tuple(value.shape), str(value.device.type))
    dense = value.contiguous()
    return _safe(dense.data_ptr(), dense.numel() * dense.element_size(), dense.element_size(), dense)


def _array_place(value: np.ndarray, port: Port) -> _Place:
    wanted = torch.empty(0, dtype=port.dtype).numpy().dtype
    _fits(port, port.dtype if value.dtype == wanted else value.dtype, value.shape, "cpu")
    dense = np.ascontiguousarray(value)
    return _safe(dense.ctypes.data, dense.nbytes, dense.itemsize, dense)


def _fits(port: Port, dtype: object, shape: tuple[int, ...], device: str) -> None:
    if (dtype, shape, device) != (port.dtype, port.shape, "cpu"):
        raise InputError(
            f"the input {port.title!r} is {dtype} {list(shape)} on {device}",
            mend=f"give {port.dtype} {list(port.shape)} on cpu",
        )


def _safe(address: int, size: int, element: int, owner: object) -> _Place:
    last, read = (address + size - 1) // mmap.PAGESIZE, (address + size + SLACK - 1) // mmap.PAGESIZE
    if size and last == read and address % element == 0:
        return _Place(address, owner)
    room = np.empty(size + SLACK, dtype=np.uint8)
    ctypes.memmove(room.ctypes.data, address, size)
    return _Place(room.ctypes.data, room)


def _check(status: int, where: str) -> None:
    if status:
        raise InputError(f"the model says: {_STATUS[status]}", where=where, step="run")
