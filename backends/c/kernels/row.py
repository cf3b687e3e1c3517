"""What the generator knows of a micro-kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qcompiler.backends.c.isa import LEVELS, Isa

ROOT = Path(__file__).parents[2]
"""The folder of all backends, which sources are relative to."""


@dataclass(frozen=True)
class Blocked:
    """Order of packed weights: panels of `columns` outputs, in each of them runs of `depth` inputs of every output.

    Codes of [N, K] lie as [ceil(N / columns), ceil(K / depth), columns, depth], missing ones are zero.

    Args:
        columns: outputs of a panel.
        depth: inputs of a run.
        lanes: above 1, the outputs of a panel stand in the order that interleaving bytes within that many 128-bit lanes
            leaves behind, see `place`.
    """

    columns: int
    depth: int
    lanes: int = 1

    def place(self) -> tuple[int, ...]:
        """Where each output of a panel stands in it."""
        if self.lanes == 1:
            return tuple(range(self.columns))
        lane, group = self.columns // self.lanes, 16 // self.depth
        return tuple((c % lane // group * self.lanes + c // lane) * group + c % group for c in range(self.columns))


@dataclass(frozen=True)
class MicroKernel:
    """One kernel in all its versions; its meaning stands in the header.

    Args:
        name: the C function is `qc_<name>_<isa>`, its arguments `qc_<name>_args`.
        header: file that declares the arguments and says what is computed and what a task is.
        variants: source file of each version; portable C always exists.
        layouts: order of packed weights; versions that are chosen among at run time share one, portable C reads any.
            Empty where there are no packed weights.
    """

    name: str
    header: str
    variants: Mapping[Isa, str]
    layouts: Mapping[Isa, Blocked] = field(default_factory=dict)

    def versions(self, isa: Isa) -> tuple[Isa, ...]:
        """The versions that run on a level, best first."""
        return tuple(level for level in (isa, *LEVELS[isa].falls_back) if level in self.variants)

    def layout(self, isa: Isa) -> Blocked:
        """The order of packed weights on a level, which its best version and all that are dispatched to read.

        Raises KeyError when the kernel has no packed weights.
        """
        return next(self.layouts[level] for level in (isa, *LEVELS[isa].falls_back) if level in self.layouts)

    def source(self, isa: Isa) -> Path:
        """The file of the best version that runs on a level."""
        return ROOT / self.variants[self.versions(isa)[0]]
