"""What every sensitivity answers, and what it is asked about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from qcompiler.errors import UnsupportedError
from qcompiler.ir.program import Node, Program, all_nodes
from qcompiler.passes.allocate.problem import Option, Unit
from qcompiler.passes.allocate.trial import Trial, through_grid
from qcompiler.pipeline import Context
from qcompiler.spec import QuantSpec

Harm = Literal["error", "divergence", "auto"]
"""How whole plans are judged: by the squared error of the results, by their divergence as distributions, or by what the
results are."""
Place = tuple[Node, Node | None]
"""Where an option puts a value through a grid: an operator and what it reads, or None for its result."""


@dataclass(frozen=True)
class Subject:
    """A program under measurement; what is made of it on the way is kept for all sensitivities.

    Args:
        program: at stage canonical; must not change meanwhile.
        ctx: `batches` hold the samples to measure on, `target` the device, `seed` the seed.
        labels: true classes of each batch, int64 [samples], None where unknown.
    """

    program: Program
    ctx: Context
    labels: tuple[Tensor | None, ...] = ()

    @cached_property
    def trial(self) -> Trial:
        """The samples with all their float values.

        Raises:
            InputError: without samples.
        """
        return Trial(self.program, self.ctx.batches)

    @cached_property
    def nodes(self) -> Mapping[str, Node]:
        """Operators by name."""
        return {node.name: node for node in self.program.nodes}

    @cached_property
    def _errors(self) -> dict[tuple[str, QuantSpec], float]:
        return {}

    def grids(self, option: Option) -> dict[Place, QuantSpec]:
        """Where an option puts values through which grids."""
        found: dict[Place, QuantSpec] = {}
        for name, assigned in option.assignments.items():
            node = self.nodes[name]
            bound = self.program.bind(node)
            for argument, spec in assigned.inputs.items():
                found |= {(node, source): spec for source in all_nodes(bound[argument])}
            if assigned.result is not None:
                found[self.nodes[assigned.result_at or name], None] = assigned.result
        return found

    def weights(self, unit: Unit) -> list[Node]:
        """The parameters of several axes, or else of one, that some option of a unit quantizes.

        Raises:
            UnsupportedError: when there are none.
        """
        sources = [source for option in unit.options for _, source in self.grids(option)]
        found = [node for node in dict.fromkeys(sources) if node is not None and node.op == "get_attr"]
        if not found:
            node = self.nodes[(unit.nodes or (unit.name,))[0]]
            raise UnsupportedError(
                f"'{unit.name}' ({self.program.op(node)}) has no weights to judge it by",
                mend="choose a sensitivity that looks at results, such as output",
            )
        return found

    def weight_error(self, param: Node, spec: QuantSpec) -> float:
        """Squared error of a parameter in a grid over its square."""
        key = (str(param.target), spec)
        if key not in self._errors:
            weight = self.program.param(param).detach()
            error = (through_grid(weight, spec) - weight).square().sum()
            self._errors[key] = float(error / weight.square().sum().clamp(min=1e-30))
        return self._errors[key]

    def noise(self, option: Option) -> float:
        """How coarse an option is: relative squared errors of its weights, and `4^-bits` for each activation."""
        total = 0.0
        for (_, source), spec in self.grids(option).items():
            if source is not None and source.op == "get_attr":
                total += self.weight_error(source, spec)
            else:
                total += 4.0**-spec.bits
        return total


@runtime_checkable
class Joint(Protocol):
    """A sensitivity whose rows are measured together: where one is missing, all are measured anew."""

    joint: ClassVar[bool]


class Sensitivity(Protocol):
    """How much harm each option of each unit does, the others being in float.

    A frozen dataclass; `name` is how the user calls it, its fields are options.
    """

    name: ClassVar[str]
    needs_data: ClassVar[bool]
    judged_by: ClassVar[Harm]

    def losses(self, subject: Subject, units: Sequence[Unit]) -> Iterator[Tensor]:
        """For each unit in order float64 [options, samples]: the harm that each sample sees, whose mean counts.

        What has no part in samples has one column. Additive: the harm of a plan is the sum over units. A row depends on
        the subject and its unit alone, so that rows can be kept and the others filled in later, unless the sensitivity
        is `Joint`.

        Args:
            subject: what is measured.
            units: options hold the assignments that `trial.Trial` can run.

        Raises:
            InputError: when it needs data and there is none.
            UnsupportedError: for an operator that it cannot judge, by name.
        """
        ...


def graded(subject: Subject, unit: Unit, scores: Tensor) -> Tensor:
    """Losses from one score: the coarser an option, the more of the score it costs.

    Shapes: scores [samples] -> float64 [options, samples].
    """
    noise = torch.tensor([subject.noise(option) for option in unit.options], dtype=torch.float64)
    return noise[:, None] * scores.double()[None]
