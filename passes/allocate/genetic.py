"""Genetic search: choices that mutate and cross, those that keep the limits best surviving; for any measure of harm.

Formula   children by mutation (each variable with probability `mutation`) or uniform crossing of two of the best; a
          child above a limit is lowered greedily until it fits
Shapes    see `core.Core`
Promise   keeps the limits; never worse than the greedy choice it starts from; the seed decides everything
Needs     a core; harm need not be additive
Source    Xu et al. 2023, "EQ-Net: Elastic Quantization Neural Networks" (evolutionary search under a constraint)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qcompiler.errors import SpecError
from qcompiler.passes.allocate.core import Core, Ints
from qcompiler.passes.allocate.greedy import greedy, greedy_from

Harm = Callable[[Ints], float]


@dataclass(frozen=True)
class Genetic:
    """Searches by generations.

    Args:
        population: choices kept alive.
        generations: how often they breed.
        parents: share of the best that breed.
        mutation: probability that a variable changes.
        seed: of every random choice.
    """

    population: int = 32
    generations: int = 20
    parents: float = 0.25
    mutation: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.population < 2 or self.generations < 0 or not (0 < self.parents <= 1 and 0 <= self.mutation <= 1):
            raise SpecError("a genetic search needs 2 choices and shares between 0 and 1")

    def search(self, core: Core, harm: Harm | None = None) -> Ints | None:
        """The best choice found; `harm` of an option of each variable, the core's objective when None."""
        measure = core.value if harm is None else harm
        random = np.random.default_rng(self.seed)
        first = greedy(core, repair=False)
        if first is None:
            return None
        known: dict[bytes, tuple[float, Ints]] = {first.tobytes(): (measure(first), first)}
        for _ in range(8 * self.population):
            if len(known) >= self.population:
                break
            self._admit(core, known, measure, self._mutated(core, random, first, 0.5))
        for _ in range(self.generations):
            best = sorted(known.values(), key=lambda one: (one[0], one[1].tobytes()))
            known = {picks.tobytes(): (value, picks) for value, picks in best[: self.population]}
            parents = [picks for _, picks in best[: max(2, round(self.parents * self.population))]]
            for number in range(self.population):
                one, other = (parents[int(at)] for at in random.integers(len(parents), size=2))
                mixed = np.where(random.random(core.variables) < 0.5, one, other)
                child = mixed if number % 2 else self._mutated(core, random, one, self.mutation)
                self._admit(core, known, measure, child)
        return min(known.values(), key=lambda one: (one[0], one[1].tobytes()))[1]

    def _mutated(self, core: Core, random: np.random.Generator, picks: Ints, share: float) -> Ints:
        drawn = np.where(core.alive, random.random(core.objective.shape), -1.0).argmax(1)
        return np.where(random.random(core.variables) < share, drawn, picks)

    def _admit(self, core: Core, known: dict[bytes, tuple[float, Ints]], measure: Harm, child: Ints) -> None:
        fitting = greedy_from(core, child, repair=False)
        if fitting is not None and fitting.tobytes() not in known:
            known[fitting.tobytes()] = (measure(fitting), fitting)
