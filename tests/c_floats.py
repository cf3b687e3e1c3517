"""Checks that all float kernels of generated C share: close to exact results, and the same bits on every level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qcompiler.backends.c.isa import Isa
from tests.c_harness import Case, run_kernel

FASTER = (Isa.AVX2, Isa.AVX512, Isa.NEON)
Wanted = tuple[Case, int, np.ndarray]
"""Arguments, number of tasks, exact results."""
Kernel = tuple[str, Callable[[], list[Wanted]], float]
"""Name of a kernel, what makes its cases, largest difference from exact results."""


Shape = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """A pool over lines and pixels."""

    size: Shape
    stride: Shape = (1, 1)
    padding: Shape = (0, 0)
    dilation: Shape = (1, 1)

    def arguments(self) -> tuple[Shape, Shape, Shape]:
        """As torch takes them."""
        return self.size, self.stride, self.padding

    def fields(self, image: Shape, out: Shape, channels: int) -> dict[str, int]:
        """Of `qc_window`, for dense images."""
        each = {"extent": image, "out_extent": out, "size": self.size, "stride": self.stride}
        each |= {"padding": self.padding, "dilation": self.dilation}
        steps = {"image": image[0] * image[1] * channels, "line": image[1] * channels, "pixel": channels}
        found = {f"window.{name}[{axis}]": sizes[axis] for name, sizes in each.items() for axis in range(2)}
        return found | {f"window.{name}_step": step for name, step in steps.items()}


WINDOWS: tuple[tuple[Shape, Window], ...] = (
    ((3, 4), Window((2, 2))),
    ((7, 6), Window((3, 2), (2, 1), (1, 0))),
    ((5, 5), Window((3, 3), (1, 2), (1, 1), (1, 1))),
    ((1, 9), Window((1, 4), (1, 3), (0, 2))),
)
"""Sizes of an image, and a window in it."""


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def wide(x: np.ndarray) -> Tensor:
    return torch.from_numpy(x).double()


def results(kernel: Kernel, isa: Isa, sanitize: bool = False) -> list[np.ndarray]:
    name, make, _ = kernel
    cases = make()
    return run_kernel(name, isa, [case for case, _, _ in cases], [(0, tasks) for _, tasks, _ in cases], "out", sanitize)


def check_close(kernel: Kernel) -> None:
    """Portable C against exact results."""
    _, make, bound = kernel
    for found, (_, _, exact) in zip(results(kernel, Isa.PORTABLE), make(), strict=True):
        np.testing.assert_allclose(found, exact, rtol=0, atol=bound)


def check_same(kernel: Kernel, isa: Isa, sanitize: bool = False) -> None:
    """A level against portable C, bit for bit."""
    for found, portable in zip(results(kernel, isa, sanitize), results(kernel, Isa.PORTABLE), strict=True):
        np.testing.assert_array_equal(found.view(np.uint32), portable.view(np.uint32))
