"""What a method that changes the basis of one activation sees of it, what it answers, and how answers are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from qcompiler.hadamard import block_of, random_signs
from qcompiler.passes.transform.evaluate import Reader, reading_error
from qcompiler.passes.transform.factors import Chain, Factor, Hadamard
from qcompiler.spec import QuantSpec


@dataclass(frozen=True, eq=False)
class TurnSite:
    """An activation that layers read and that will be quantized.

    Args:
        name: for the log.
        samples: of the value, of its own rank or as rows of channels.
        readers: the layers.
        spec: of the value; None when it stays float.
        axis: of the channels in the samples.
        seed: of every random choice.
        block: channels that are mixed; 0 for as many as there is a matrix for.
    """

    name: str
    samples: Tensor
    readers: tuple[Reader, ...]
    spec: QuantSpec | None
    axis: int = -1
    seed: int = 0
    block: int = 0

    @property
    def channels(self) -> int:
        """How many there are."""
        return self.samples.shape[self.axis]

    @property
    def rows(self) -> Tensor:
        """The samples as rows of channels: [rows, channels]."""
        return self.samples.movedim(self.axis, -1).flatten(0, -2)

    @cached_property
    def columns(self) -> Tensor:
        """All weights [results, channels]."""
        return torch.cat([reader.columns.T for reader in self.readers])

    @cached_property
    def turn(self) -> Factor:
        """The randomised Hadamard rotation of this site."""
        return Hadamard(self.block or block_of(self.channels), random_signs(self.channels, self.seed))

    def error(self, factor: Factor) -> float:
        """Squared output error of the layers when they read `x T`, relative to their output; see `reading_error`."""
        readers = [replace(reader, weight=_moved(reader, factor)) for reader in self.readers]
        values = factor.times(self.samples.movedim(self.axis, -1)).movedim(-1, self.axis)
        return reading_error(values, readers, self.spec, axis=self.axis)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A transform that may be worth it, with a word for the log."""

    label: str
    factor: Factor


class TurnMethod(Protocol):
    """Proposes transforms; the driver measures them and keeps the best, or none."""

    name: ClassVar[str]

    def candidates(self, site: TurnSite) -> Sequence[Candidate]:
        """What to try; empty where the method has nothing to say."""
        ...


@dataclass(frozen=True, eq=False)
class Verdict:
    """Which candidate won.

    Args:
        best: the winner; the first one is the identity.
        error: what it leaves.
        without: what the identity leaves.
    """

    best: Candidate
    error: float
    without: float


IDENTITY = Candidate("as it is", Chain())


def judged(site: TurnSite, candidates: Sequence[Candidate], with_identity: bool = True) -> Verdict:
    """The candidate with the least output error; the identity is the first one, unless it is not wanted."""
    without = site.error(IDENTITY.factor)
    best, least = (IDENTITY, without) if with_identity or not candidates else (candidates[0], float("inf"))
    for candidate in candidates:
        error = site.error(candidate.factor)
        if error < least:
            best, least = candidate, error
    return Verdict(best, least, without)


def peaks(rows: Tensor) -> Tensor:
    """Largest magnitude of each channel: [rows, channels] -> [channels] float64."""
    return rows.abs().amax(0).double()


def typical_peaks(rows: Tensor, count: int = 64) -> Tensor:
    """Mean over groups of `count` rows of each channel's largest magnitude: a few strange rows do not decide.

    Shapes: [rows, channels] -> [channels] float64.
    """
    return torch.stack([peaks(part) for part in rows.split(count)]).mean(0)


def _moved(reader: Reader, factor: Factor) -> Tensor:
    return torch.movedim(factor.contrary(torch.movedim(reader.weight, reader.axis, -1)), -1, reader.axis)
