"""A small language of formulas that score a unit: two chains of functions, joined, reduced to a number.

Text      `sum: gradient.abs * weight.square`: reduction, first chain, `*`, `+`, `-` or `/`, second chain. A chain
          starts with what is known of each weight: `weight`, `gradient` of the task's loss, `curvature` (mean squared
          gradient), `virtual` (gradient of synaptic flow)
Shapes    values [weights] of a unit, or one number -> one number
Promise   parses what it prints
Needs     see `ingredients`
Source    the tree genotypes of Dong et al. 2023, "EMQ: Evolving Training-free Proxies for Automated Mixed Precision
          Quantization"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.ir.program import Node
from qcompiler.passes.allocate.problem import Unit
from qcompiler.passes.allocate.sensitivity import gradients as gr
from qcompiler.passes.allocate.sensitivity.method import Subject
from qcompiler.passes.allocate.sensitivity.proxies import synaptic_flow, task_gradients

INGREDIENTS = ("weight", "gradient", "curvature", "virtual")
_TINY = 1e-12
Function = Callable[[Tensor], Tensor]
FUNCTIONS: Mapping[str, Function] = {
    "same": lambda x: x,
    "abs": torch.abs,
    "square": torch.square,
    "root": lambda x: x.abs().sqrt(),
    "log": lambda x: (x.abs() + _TINY).log(),
    "exp": lambda x: x.clamp(-30, 30).exp(),
    "sigmoid": torch.sigmoid,
    "softmax": lambda x: x.flatten().softmax(0).reshape(x.shape),
    "relu": torch.relu,
    "inverse": lambda x: x / (x.square() + _TINY),
    "centred": lambda x: x - x.mean(),
    "scaled": lambda x: (x - x.mean()) / (x.std(correction=0) + _TINY),
    "norm": lambda x: x.square().sum().sqrt(),
    "l1": lambda x: x.abs().sum(),
    "deviation": lambda x: x.std(correction=0),
    "largest": lambda x: x.abs().amax(),
}
JOINS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "*": torch.mul,
    "+": torch.add,
    "-": torch.sub,
    "/": lambda x, y: x * y / (y.square() + _TINY),
}
REDUCTIONS: Mapping[str, Function] = {
    "sum": torch.sum,
    "mean": torch.mean,
    "size": lambda x: x.abs().sum(),
    "spread": lambda x: x.square().mean().sqrt(),
}
Chain = tuple[str, tuple[str, ...]]


@dataclass(frozen=True)
class Formula:
    """How to score a unit.

    Args:
        reduction: of the joined values.
        left: ingredient and functions.
        join: of both chains.
        right: ingredient and functions.
    """

    reduction: str
    left: Chain
    join: str
    right: Chain

    def __str__(self) -> str:
        left, right = (".".join((name, *functions)) for name, functions in (self.left, self.right))
        return f"{self.reduction}: {left} {self.join} {right}"

    @property
    def genes(self) -> tuple[str, ...]:
        """All words in order."""
        return (self.reduction, self.left[0], *self.left[1], self.join, self.right[0], *self.right[1])

    def score(self, known: Mapping[str, Tensor]) -> float:
        """The score of a unit from its ingredients, float64 [weights] each; NaN or infinity are possible."""
        left, right = (self._chain(chain, known) for chain in (self.left, self.right))
        return float(REDUCTIONS[self.reduction](JOINS[self.join](left, right)))

    def _chain(self, chain: Chain, known: Mapping[str, Tensor]) -> Tensor:
        value = known[chain[0]]
        for name in chain[1]:
            value = FUNCTIONS[name](value)
        return value


def parse_formula(text: str) -> Formula:
    """Reads a formula; inverse of `str`.

    Raises:
        SpecError: for text that is none.
    """
    reduction, _, rest = text.partition(":")
    words = rest.split()
    if len(words) != 3:
        raise SpecError(f"'{text}' is no formula", mend="for example sum: gradient.abs * weight.abs")
    chains = [part.split(".") for part in (words[0], words[2])]
    left, right = ((chain[0], tuple(chain[1:])) for chain in chains)
    known = [(reduction.strip(), REDUCTIONS), (words[1], JOINS), (left[0], INGREDIENTS), (right[0], INGREDIENTS)]
    known += [(name, FUNCTIONS) for name in (*left[1], *right[1])]
    for word, allowed in known:
        if word not in allowed:
            raise SpecError(f"'{word}' is no word of a formula", where=text, mend=f"one of {', '.join(allowed)}")
    return Formula(reduction.strip(), left, words[1], right)


def ingredients(
    subject: Subject, units: Sequence[Unit], wanted: Sequence[str] = INGREDIENTS
) -> list[dict[str, Tensor]]:
    """What is known of each unit's weights: float64 [weights] by ingredient.

    Raises:
        InputError: without data, for gradients.
        UnsupportedError: for operators without weights or derivatives.
    """
    weights = [subject.weights(unit) for unit in units]
    found = [{"weight": _flat([subject.program.param(node) for node in nodes])} for nodes in weights]
    if {"gradient", "curvature"} & set(wanted):
        first, second = _moments(subject, units)
        for known, nodes in zip(found, weights, strict=True):
            known["gradient"] = _flat([first[node] for node in nodes])
            known["curvature"] = _flat([second[node] for node in nodes])
    if "virtual" in wanted:
        flow = synaptic_flow(subject.program, {node for nodes in weights for node in nodes})
        for known, nodes in zip(found, weights, strict=True):
            known["virtual"] = _flat([flow[node][1] for node in nodes])
    return found


def _moments(subject: Subject, units: Sequence[Unit]) -> tuple[dict[Node, Tensor], dict[Node, Tensor]]:
    """Mean gradient and mean squared gradient over samples of each weight."""
    params = {node for unit in units for node in subject.weights(unit)}
    wanted = [place for table in gr.places(subject, units) for place in table if place[1] in params]
    first: dict[Node, Tensor] = {}
    second: dict[Node, Tensor] = {}
    count = 0
    for _, gradients in task_gradients(subject, wanted, "auto"):
        count += 1
        by_node: dict[Node, Tensor] = {}
        for (_, source), gradient in gradients.items():
            if source is not None:
                by_node[source] = gradient + by_node[source] if source in by_node else gradient
        for node, gradient in by_node.items():
            first[node] = first.get(node, torch.zeros(())) + gradient
            second[node] = second.get(node, torch.zeros(())) + gradient.square()
    return ({node: value / count for node, value in sums.items()} for sums in (first, second))  # pyright: ignore[reportReturnType]


def _flat(values: Sequence[Tensor]) -> Tensor:
    return torch.cat([value.detach().double().flatten() for value in values])
