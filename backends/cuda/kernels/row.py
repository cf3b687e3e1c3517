"""What the generator knows of a CUDA kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from qcompiler.backends.cuda.arch import Architecture

RUNTIME = Path(__file__).parents[1] / "runtime"
"""The folder of sources."""

_EVERYWHERE: Callable[[Architecture], bool] = lambda architecture: True  # noqa: E731


@dataclass(frozen=True)
class Axis:
    """Blocks along one axis of the grid: `ceil(product of fields / tile)`.

    Args:
        fields: of the kernel's arguments; none is a single block.
        tile: what a block covers.
    """

    fields: tuple[str, ...] = ()
    tile: int = 1

    def blocks(self, values: Mapping[str, int]) -> int:
        """How many blocks for these arguments."""
        return max(1, -(-prod(values[name] for name in self.fields) // self.tile))

    def expression(self, args: str) -> str:
        """The same in C, of a struct called `args`."""
        size = " * ".join(f"{args}.{name}" for name in self.fields) or "1"
        return f"(({size} + {self.tile - 1}) / {self.tile})"


@dataclass(frozen=True)
class Instance:
    """A kernel with its sizes fixed: one function of the library.

    Args:
        name: of the C function, which begins with `qc_`.
        body: device function of the arguments, template arguments included.
        threads: of a block.
        grid: axes x, y, z.
        shared: bytes of shared memory of a block.
        blocks: how many blocks a multiprocessor must be able to hold; the compiler keeps registers within that.
        runs: the architectures that it is made for.
        bits: of what its products of rows, columns and depth multiply; 0 where it has none.
    """

    name: str
    body: str
    threads: int
    grid: tuple[Axis, Axis, Axis]
    shared: int = 0
    blocks: int = 1
    runs: Callable[[Architecture], bool] = _EVERYWHERE
    bits: int = 0


@dataclass(frozen=True)
class CudaKernel:
    """One kernel in all its instances; its meaning stands on top of its header.

    Args:
        name: arguments are the struct `qc_<name>_args` of the header, unless `takes` says which.
        header: file in `runtime`.
        instances: by their own names.
        takes: family that shares the struct `qc_<family>_args` of the header `qc_<family>.cuh`.
    """

    name: str
    header: str
    instances: tuple[Instance, ...]
    takes: str = ""

    @property
    def arguments(self) -> str:
        """Name of the struct."""
        return f"qc_{self.takes or self.name}_args"

    @property
    def stated(self) -> str:
        """The header that states the struct."""
        return f"qc_{self.takes}.cuh" if self.takes else self.header

    def on(self, architecture: Architecture) -> tuple[Instance, ...]:
        """The instances that are made for an architecture."""
        return tuple(
            one for one in self.instances if one.runs(architecture) and one.shared <= architecture.shared_per_block
        )
