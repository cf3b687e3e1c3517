"""The one loop behind learned rounding and learned transforms: variables in, least error of a unit's results out.

Formula   minimise E(theta) / E_0 + lambda * mean(1 - |2 h - 1|^beta(t)); E is the (weighted) mean squared error of the
          unit's results against those of the float model, E_0 that of the start made hard. The penalty is off during
          the warm-up; then beta falls linearly from 20 to 2. Every so often the variables are made hard and tried on
          examples that no step has seen; the best such iterate is the result, the start included
Shapes    any; variables are in the shape of what they stand for
Promise   on the held-out examples never worse than the start made hard; deterministic for a seed
Source    Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization"; Li et al. 2021, "BRECQ:
          Pushing the Limit of Post-Training Quantization by Block Reconstruction"; Hubara et al. 2021, "Accurate
          Post Training Quantization With Small Calibration Sets". Dividing by E_0 makes lambda independent of the
          size of activations: own
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.nn import functional

from qcompiler.errors import SpecError
from qcompiler.ir.program import Node

OptimizerName = Literal["adam", "adam_cosine", "sign"]
_DECIDED = 0.05
_CHECKS = 10


@dataclass(frozen=True)
class Trained:
    """A tensor that is learned, and the size of its steps.

    Args:
        tensor: a leaf that requires gradients.
        rate: learning rate.
        move: the tensor after a step, from tensor, gradient and rate, for one that must stay on a manifold; None
            leaves the step to the optimizer.
    """

    tensor: Tensor
    rate: float
    move: Callable[[Tensor, Tensor, float], Tensor] | None = None


class Variable(Protocol):
    """What is learned of one tensor of the program: weight, bias or step of an activation."""

    def trained(self) -> Sequence[Trained]:
        """The leaves."""
        ...

    def soft(self) -> Tensor:
        """The tensor as training sees it, differentiable."""
        ...

    def hard(self) -> Tensor:
        """The tensor as it would be stored now."""
        ...

    def softness(self) -> Tensor | None:
        """H of each element in 0 .. 1, differentiable; None where nothing has to be driven to an end."""
        ...


@dataclass(frozen=True)
class Sample:
    """Some examples of a unit.

    Args:
        live: what the unit reads.
        targets: per kind of target and per result of the unit, what the result should be.
        importance: per result, what a squared error of each element counts, broadcastable to it; empty: all alike.
    """

    live: Mapping[Node, object]
    targets: tuple[tuple[Tensor, ...], ...]
    importance: tuple[Tensor, ...] = ()


class Data(Protocol):
    """The examples of a unit."""

    def draw(self, generator: torch.Generator) -> Sample:
        """Random examples for one step."""
        ...

    def held_out(self) -> Sequence[Sample]:
        """Examples that `draw` never gives, or all where there are too few."""
        ...


@dataclass(frozen=True)
class Loss:
    """Squared error of results, and their divergence as distributions.

    Args:
        axis: channel axis of the results.
        divergence: add KL(softmax(target) || softmax(result)) over the channels.
        squares: count the squared error; without it only the divergence counts.
    """

    axis: int = -1
    divergence: bool = False
    squares: bool = True

    def __call__(self, found: Sequence[Tensor], sample: Sample) -> Tensor:
        """The mean over all elements of all results, summed over the kinds of targets: a float32 scalar."""
        total = torch.zeros(())
        for wanted in sample.targets:
            pairs = list(zip(found, wanted, strict=True))
            if self.squares:
                parts = [self._squares(index, pair, sample) for index, pair in enumerate(pairs)]
                total = total + torch.stack([part.sum() for part in parts]).sum() / sum(part.numel() for part in parts)
            if self.divergence:
                total = total + torch.stack([self._divergence(*pair) for pair in pairs]).mean()
        return total

    def _squares(self, index: int, pair: tuple[Tensor, Tensor], sample: Sample) -> Tensor:
        squares = (pair[0].float() - pair[1].float()).square()
        return squares * sample.importance[index] if sample.importance else squares

    def _divergence(self, found: Tensor, wanted: Tensor) -> Tensor:
        rows = (value.float().movedim(self.axis, -1).flatten(0, -2) for value in (found, wanted))
        seen, aim = (functional.log_softmax(value, -1).clamp(min=-30) for value in rows)
        return functional.kl_div(seen, aim, reduction="batchmean", log_target=True) / seen.shape[-1]


@dataclass(frozen=True)
class Schedule:
    """How long and how to learn.

    Args:
        iterations: steps.
        penalty: lambda, in units of the error of the start made hard.
        warmup: share of the steps without penalty.
        optimizer: `adam`; `adam_cosine` lets the rates fall to 0; `sign` steps by the sign of the gradient with
            falling rates.
        pace: what all rates are multiplied by.

    Raises:
        SpecError: for an option out of range.
    """

    iterations: int = 500
    penalty: float = 50.0
    warmup: float = 0.2
    optimizer: OptimizerName = "adam"
    pace: float = 1.0

    def __post_init__(self) -> None:
        if self.optimizer not in get_args(OptimizerName):
            raise SpecError(
                f"there is no optimizer '{self.optimizer}'", mend=f"choose one of {', '.join(get_args(OptimizerName))}"
            )
        if self.iterations < 0 or self.penalty < 0 or not 0 <= self.warmup < 1:
            raise SpecError(
                f"iterations={self.iterations}, penalty={self.penalty}, warmup={self.warmup} make no schedule",
                mend="iterations and penalty are not negative, the warm-up is a share below 1",
            )

    def power(self, step: int) -> float | None:
        """Beta at a step; None during the warm-up."""
        done = step / max(self.iterations, 1)
        return None if done < self.warmup else 20.0 - 18.0 * (done - self.warmup) / (1.0 - self.warmup)

    def factor(self, step: int) -> float:
        """What the rates are multiplied by at a step."""
        fall = 1.0 if self.optimizer == "adam" else 0.5 * (1 + math.cos(math.pi * step / max(self.iterations, 1)))
        return self.pace * fall


@dataclass(frozen=True)
class Outcome:
    """What learning came to.

    Args:
        before: error of the start made hard, on held-out examples.
        after: error of the result made hard.
        decided: share of the soft elements that stood within 0.05 of an end at the last step; 1 when there are none.
    """

    before: float
    after: float
    decided: float


Forward = Callable[[Sequence[Tensor], Sample], Sequence[Tensor]]
"""Values of the variables and examples to the results of the unit."""


def reconstruct(
    forward: Forward, variables: Sequence[Variable], loss: Loss, schedule: Schedule, data: Data, seed: int
) -> Outcome:
    """Trains the variables in place and leaves them at their best iterate.

    Args:
        forward: evaluates the unit.
        variables: what is learned.
        loss: of the results.
        schedule: how long.
        data: examples.
        seed: of the order of examples.
    """
    generator = torch.Generator().manual_seed(seed)
    before = hard_error(forward, variables, loss, data)
    leaves = [leaf for variable in variables for leaf in variable.trained()]
    if before == 0 or not leaves or not schedule.iterations:
        return Outcome(before, before, 1.0)
    best, kept = before, [leaf.tensor.detach().clone() for leaf in leaves]
    optimizer = _optimizer(leaves, schedule)
    every = max(schedule.iterations // _CHECKS, 1)
    with torch.enable_grad():
        for step in range(schedule.iterations):
            total = _objective(forward, variables, loss, schedule, data.draw(generator), step, before)
            _advance(optimizer, leaves, total, schedule, step)
            if (step + 1) % every == 0 or step + 1 == schedule.iterations:
                error = hard_error(forward, variables, loss, data)
                if error < best:
                    best, kept = error, [leaf.tensor.detach().clone() for leaf in leaves]
    decided = _decided(variables)
    with torch.no_grad():
        for leaf, value in zip(leaves, kept, strict=True):
            leaf.tensor.copy_(value)
    return Outcome(before, best, decided)


def hard_error(forward: Forward, variables: Sequence[Variable], loss: Loss, data: Data) -> float:
    """Mean error on the held-out examples with the variables as they would be stored."""
    with torch.no_grad():
        values = [variable.hard() for variable in variables]
        errors = [float(loss(forward(values, sample), sample)) for sample in data.held_out()]
    return sum(errors) / len(errors)


def rounding_penalty(softness: Sequence[Tensor], power: float) -> Tensor:
    """`mean(1 - |2 h - 1|^beta)` over all elements."""
    total = torch.stack([(1 - (2 * h - 1).abs().pow(power)).sum() for h in softness]).sum()
    return total / max(sum(h.numel() for h in softness), 1)


def _objective(
    forward: Forward,
    variables: Sequence[Variable],
    loss: Loss,
    schedule: Schedule,
    sample: Sample,
    step: int,
    unit: float,
) -> Tensor:
    total = loss(forward([variable.soft() for variable in variables], sample), sample) / unit
    power = schedule.power(step)
    softness = [h for variable in variables if (h := variable.softness()) is not None]
    if power is None or not softness or not schedule.penalty:
        return total
    return total + schedule.penalty * rounding_penalty(softness, power)


def _optimizer(leaves: Sequence[Trained], schedule: Schedule) -> torch.optim.Optimizer:
    groups = [{"params": [leaf.tensor], "lr": leaf.rate} for leaf in leaves]
    return torch.optim.SGD(groups) if schedule.optimizer == "sign" else torch.optim.Adam(groups)


def _advance(
    optimizer: torch.optim.Optimizer, leaves: Sequence[Trained], total: Tensor, schedule: Schedule, step: int
) -> None:
    optimizer.zero_grad()
    total.backward()
    for group, leaf in zip(optimizer.param_groups, leaves, strict=True):
        group["lr"] = leaf.rate * schedule.factor(step)
        if schedule.optimizer == "sign" and leaf.tensor.grad is not None:
            leaf.tensor.grad.sign_()
    for leaf in leaves:
        if leaf.move is not None and leaf.tensor.grad is not None:
            moved = leaf.move(leaf.tensor.detach(), leaf.tensor.grad, leaf.rate * schedule.factor(step))
            leaf.tensor.detach().copy_(moved)
            leaf.tensor.grad = None
    optimizer.step()


def _decided(variables: Sequence[Variable]) -> float:
    softness = [h.detach() for variable in variables if (h := variable.softness()) is not None]
    count = sum(h.numel() for h in softness)
    if not count:
        return 1.0
    return sum(int(((h < _DECIDED) | (h > 1 - _DECIDED)).sum()) for h in softness) / count
