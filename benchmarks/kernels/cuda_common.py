"""What the benchmark of CUDA kernels shares: cases, where they run, their code, and contests timed in turns.

A case is one kernel at one size with everything that it reads in memory. Contestants are recorded into graphs, so that
launches cost next to nothing, each going through several copies of its operands in turn, more than the device's cache
holds. All of them run in every round; figures are medians.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from os import cpu_count
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from qcompiler.backends.cuda.arch import Architecture
from qcompiler.backends.cuda.driver import Driver, Emulated, load_cubin
from qcompiler.backends.cuda.kernels import KERNELS
from qcompiler.backends.cuda.toolchain import compile_cubin
from qcompiler.errors import InputError, VerifyError

Argument = Tensor | int | float | None
Arguments = dict[str, Argument]
Call = Callable[[], object]
ROTATED = 512 << 20
"""Bytes that the copies of a contestant's operands have together, several times any cache."""
MOST_COPIES = 32
LEAST_CALLS = 4
_FLUSH = 256 << 20


@dataclass(frozen=True)
class Case:
    """One kernel at one size.

    Args:
        kernel: its name.
        instance: which of its functions.
        shape: in words.
        arguments: of a launch.
        wrong: says from the arguments after a launch what is not as it should be; empty when all is.
        size: bytes that must be read and written at least.
        operations: multiplications and additions.
        peers: others that do the same work, for each copy of `shared` operands; those that cannot are left out.
        shared: names of arguments that are copied for every call.
    """

    kernel: str
    instance: str
    shape: str
    arguments: Arguments
    wrong: Callable[[Arguments], str]
    size: int
    operations: int = 0
    peers: Mapping[str, Callable[[], Call]] = field(default_factory=dict)
    shared: tuple[str, ...] = ("input", "weight", "out")


@dataclass(frozen=True)
class Place:
    """Where kernels run.

    Args:
        device: of tensors: a GPU, or the processor, which emulates one.
        architecture: of the code.
        cubins: folder with the code that `build` made; None for the emulation.
    """

    device: torch.device
    architecture: Architecture
    cubins: Path | None = None

    @property
    def emulated(self) -> bool:
        """Whether there is no GPU."""
        return self.cubins is None


def code_file(folder: Path, kernel: str, architecture: Architecture) -> Path:
    """Where a kernel's code for an architecture lies."""
    return folder / f"{kernel}_{architecture.name}.cubin"


def build(folder: Path, architectures: Sequence[Architecture], only: str = "") -> None:
    """Compiles all kernels, those whose name contains `only`; needs nvcc."""
    folder.mkdir(parents=True, exist_ok=True)

    def one(kernel: str, architecture: Architecture) -> None:
        row = KERNELS[kernel]
        chosen = [(row, instance) for instance in row.on(architecture)]
        if chosen:
            code_file(folder, kernel, architecture).write_bytes(compile_cubin(chosen, architecture).cubin)

    with ThreadPoolExecutor(cpu_count() or 1) as pool:
        jobs = [pool.submit(one, kernel, target) for target in architectures for kernel in KERNELS if only in kernel]
        for job in jobs:
            job.result()


def driver_of(place: Place, kernel: str) -> Driver:
    """What runs a kernel there; raises InputError when its code is missing."""
    if place.cubins is None:
        return Emulated()
    path = code_file(place.cubins, kernel, place.architecture)
    if not path.is_file():
        raise InputError(f"there is no code of kernel {kernel}", where=str(path), mend="make it with --build")
    return load_cubin(path.read_bytes(), KERNELS[kernel].on(place.architecture), place.device.index or 0)


def launch(driver: Driver, case: Case, arguments: Arguments) -> None:
    """Starts the kernel of a case."""
    row = KERNELS[case.kernel]
    instance = next(one for one in row.instances if one.name == case.instance)
    given = {name: value for name, value in arguments.items() if value is not None}
    driver.launch(
        row, instance, {name: value.data_ptr() if isinstance(value, Tensor) else value for name, value in given.items()}
    )


def checked(driver: Driver, case: Case) -> str:
    """Runs a case once; what is wrong with the result, or why there is none, empty when nothing is."""
    try:
        launch(driver, case, case.arguments)
    except VerifyError as error:
        return error.what
    if next(value for value in case.arguments.values() if isinstance(value, Tensor)).is_cuda:
        torch.cuda.synchronize()
    return case.wrong(case.arguments)


def calls_of(driver: Driver, case: Case) -> list[Call]:
    """Launches of a case with copies of what it reads and writes."""
    tensors = {name: value for name, value in case.arguments.items() if isinstance(value, Tensor)}
    moved = sum(value.nbytes for name, value in tensors.items() if name in case.shared)

    def copy() -> Call:
        fresh = {
            name: value.clone() if name in case.shared and isinstance(value, Tensor) else value
            for name, value in case.arguments.items()
        }
        return lambda: launch(driver, case, fresh)

    return rotated(copy, moved)


def rotated(make: Callable[[], Call], size: int) -> list[Call]:
    """Calls with operands of their own, as many as it takes that no cache holds them."""
    copies = min(MOST_COPIES, max(1, -(-ROTATED // max(1, size))))
    made = [make() for _ in range(copies)]
    return made * -(-LEAST_CALLS // copies)


def compete(contestants: Mapping[str, Sequence[Call]], rounds: int) -> dict[str, float]:
    """Seconds of one call of each contestant, medians over rounds."""
    graphs = {name: _recorded(calls) for name, calls in contestants.items()}
    flush = torch.empty(_FLUSH, dtype=torch.uint8, device="cuda")
    seconds: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(rounds):
        for name, graph in graphs.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            flush.zero_()
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            seconds[name].append(start.elapsed_time(end) / 1000 / len(contestants[name]))
    return {name: median(found) for name, found in seconds.items()}


def _recorded(calls: Sequence[Call]) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        calls[0]()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    torch.cuda.synchronize()
    return graph
