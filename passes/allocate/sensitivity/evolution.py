"""Evolution of formulas that rank bit assignments: the search behind the sensitivity `evolved`.

Formula   fitness: rank correlation of sum_u score_u noise_u,k(u) with the true harm over tried plans. Each round: two
          parents, the first the fittest of a few, the second the one of a few with most fitness x unlikeness to the
          first; crossover, mutation; children whose scores are NaN, infinite, negative or all alike are screened out
          before they are ranked; the oldest makes room
Shapes    noise [units][options], plans [plans][units], harms [plans]
Promise   deterministic for a seed; never worse than the best formula it started from
Needs     plans that were really tried
Source    Dong et al. 2023, "EMQ"; ageing after Real et al. 2019, "Regularized Evolution"
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from qcompiler.passes.allocate.problem import Table
from qcompiler.passes.allocate.sensitivity.formula import (
    FUNCTIONS,
    INGREDIENTS,
    JOINS,
    REDUCTIONS,
    Chain,
    Formula,
    parse_formula,
)
from qcompiler.passes.allocate.sensitivity.stability import spearman

KNOWN: tuple[str, ...] = (
    "size: gradient.abs * weight.abs",
    "spread: gradient.same + gradient.same",
    "sum: virtual.abs * weight.abs",
    "sum: curvature.same * weight.square",
)
"""SNIP, gradient norm, SynFlow and Fisher in this language: where the search starts."""
_PARENTS = 5
_CHAIN = 2
_CHANCE = 0.4


class Ranked(Protocol):
    """What formulas are ranked on."""

    def fitness(self, formula: Formula) -> float | None:
        """How good a formula is; None for one that gives no usable scores."""
        ...


@dataclass(frozen=True)
class Trials:
    """Plans of a program that were really tried.

    Args:
        known: ingredients of each unit.
        noise: [unit][option].
        plans: options by unit.
        harms: float64 [plans].
    """

    known: Sequence[Mapping[str, Tensor]]
    noise: Table
    plans: Sequence[Sequence[int]]
    harms: Tensor

    def fitness(self, formula: Formula) -> float | None:
        """Rank correlation; None for a formula that gives no usable scores."""
        scores = torch.tensor([formula.score(known) for known in self.known], dtype=torch.float64)
        if (
            not bool(torch.isfinite(scores).all())
            or bool((scores < 0).any())
            or float(scores.max() - scores.min()) <= 0
        ):
            return None
        losses = torch.tensor([list(row) for row in self.noise], dtype=torch.float64) * scores[:, None]
        chosen = torch.tensor([list(plan) for plan in self.plans])
        return spearman(losses.T.gather(0, chosen).sum(1), self.harms)


@dataclass(frozen=True)
class Found:
    """What evolution came to.

    Args:
        formula: the best one.
        fitness: its rank correlation on the plans of the search.
        tried: formulas that were ranked.
        screened: formulas that were refused before.
    """

    formula: Formula
    fitness: float
    tried: int
    screened: int


def evolve(trials: Ranked, evaluations: int = 200, population: int = 20, seed: int = 0) -> Found:
    """Searches for a formula.

    Args:
        trials: what fitness is measured on.
        evaluations: formulas that are ranked.
        population: formulas that live at a time.
        seed: of every choice.
    """
    draw = random.Random(seed)
    alive: list[tuple[float, Formula]] = []
    ranked: dict[Formula, float] = {}
    screened = 0
    start = [parse_formula(text) for text in KNOWN]
    while len(ranked) < evaluations and screened < 50 * evaluations:
        child = start.pop() if start else _child(alive, draw) if len(alive) >= population else _random(draw)
        value = None if child in ranked else trials.fitness(child)
        if value is None:
            screened += 1
            continue
        ranked[child] = value
        alive = [*alive, (value, child)][-population:]
    best = max(ranked, key=ranked.__getitem__)
    return Found(best, ranked[best], len(ranked), screened)


def likeness(one: Formula, other: Formula) -> float:
    """Share of words that two formulas have in the same place."""
    pairs = list(zip(one.genes, other.genes, strict=False))
    return sum(a == b for a, b in pairs) / max(len(one.genes), len(other.genes))


def _child(alive: Sequence[tuple[float, Formula]], draw: random.Random) -> Formula:
    _, first = max(draw.sample(alive, _PARENTS), key=lambda item: item[0])
    _, second = max(draw.sample(alive, _PARENTS), key=lambda item: max(item[0], 0.0) * (1 - likeness(first, item[1])))
    parts = [draw.choice(pair) for pair in zip(_parts(first), _parts(second), strict=True)]
    return _mutated(Formula(*parts), draw)  # pyright: ignore[reportArgumentType]


def _parts(formula: Formula) -> tuple[str, Chain, str, Chain]:
    return formula.reduction, formula.left, formula.join, formula.right


def _mutated(formula: Formula, draw: random.Random) -> Formula:
    def chain(given: Chain) -> Chain:
        name = draw.choice(INGREDIENTS) if draw.random() < _CHANCE / 2 else given[0]
        functions = tuple(draw.choice(list(FUNCTIONS)) if draw.random() < _CHANCE else old for old in given[1])
        return name, functions

    reduction = draw.choice(list(REDUCTIONS)) if draw.random() < _CHANCE / 2 else formula.reduction
    join = draw.choice(list(JOINS)) if draw.random() < _CHANCE / 2 else formula.join
    return Formula(reduction, chain(formula.left), join, chain(formula.right))


def _random(draw: random.Random) -> Formula:
    def chain() -> Chain:
        return draw.choice(INGREDIENTS), tuple(draw.choice(list(FUNCTIONS)) for _ in range(_CHAIN))

    return Formula(draw.choice(list(REDUCTIONS)), chain(), draw.choice(list(JOINS)), chain())
