"""Calibration: finds the scale and zero point of every static activation from real data.

Formula   (low, high) of the float stream by the chosen method; scale and zero point by the spec's own rule
Shapes    scale and zero point: `level.scale_shape(x.shape)`
Promise   Lossy; only scales and zero points are written
Needs     calibration data when there is a static activation; run after `apply_plan`, before a weight solver
Source    Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference: A
          whitepaper"; each method names its own
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.ir.program import Node, Program, Stage
from qcompiler.passes.calibrate.energy import channel_energies
from qcompiler.passes.calibrate.entropy import Entropy
from qcompiler.passes.calibrate.method import Energy, RangeMethod
from qcompiler.passes.calibrate.minmax import MinMax
from qcompiler.passes.calibrate.moving_average import MovingAverage
from qcompiler.passes.calibrate.mse import Mse
from qcompiler.passes.calibrate.percentile import Percentile
from qcompiler.pipeline import Context, Lossy, Promise
from qcompiler.qparams import Qparams, is_static, qparams_of, quantizers, set_qparams
from qcompiler.spec import QuantSpec, qparams_from_range
from qcompiler.stats import Reducer, Request

MethodName = Literal["minmax", "moving_average", "percentile", "mse", "entropy"]


@dataclass(frozen=True)
class Calibrate:
    """Chooses activation ranges.

    Args:
        method: `minmax`, `moving_average`, `percentile`, `mse` or `entropy`.
        percentile: of method `percentile`.
        momentum: of method `moving_average`.
        weighted: of method `mse`: count a channel's errors by the weights that multiply them.
    """

    method: MethodName = "mse"
    percentile: float = 99.998
    momentum: float = 0.9
    weighted: bool = True
    name: ClassVar[str] = "calibrate"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    def __post_init__(self) -> None:
        self.ranges()

    def ranges(self) -> RangeMethod:
        """The method with its options.

        Raises:
            SpecError: for an unknown method or an option out of range.
        """
        methods: tuple[RangeMethod, ...] = (
            MinMax(),
            MovingAverage(self.momentum),
            Percentile(self.percentile),
            Mse(self.weighted),
            Entropy(),
        )
        for method in methods:
            if method.name == self.method:
                return method
        known = ", ".join(method.name for method in methods)
        raise SpecError(f"there is no range method '{self.method}'", mend=f"methods: {known}")

    def requests(self, program: Program) -> Sequence[Request]:
        """Statistics of the float stream at every static activation."""
        wanted = [
            Request(node.name, grid.reducers[node]) for grid in _grids(program, self.ranges()) for node in grid.values
        ]
        return list(dict.fromkeys(wanted))

    def run(self, program: Program, ctx: Context) -> Program:
        """Writes the scales and zero points.

        Raises:
            InputError: when there is a static activation and no calibration data.
        """
        method = self.ranges()
        grids = _grids(program, method)
        for grid in grids:
            answers = [ctx.stats.get(node.name, grid.reducers[node]) for node in grid.values]
            answers += [_measured(program, node, grid.reducers[node]) for node in grid.constants]
            spec = grid.specs[grid.values[0]]
            low, high = method.ranges(answers, spec)
            shape = [int(size) for size in program.shape(grid.qparams.scales[0])]
            scale, zero_point = qparams_from_range(low.reshape(shape), high.reshape(shape), spec)
            set_qparams(program, grid.qparams, scale, zero_point)
        ctx.log(f"{len(grids)} activation grids by {self.method}, {ctx.stats.samples} batches")
        return program


@dataclass
class _Grid:
    """All values that share one scale and zero point."""

    qparams: Qparams
    specs: dict[Node, QuantSpec] = field(default_factory=dict)
    values: list[Node] = field(default_factory=list)
    constants: list[Node] = field(default_factory=list)
    reducers: dict[Node, Reducer] = field(default_factory=dict)


def _grids(program: Program, method: RangeMethod) -> list[_Grid]:
    """Static quantize nodes by their scales; those of parameters alone belong to the weight solvers."""
    found: dict[Qparams, _Grid] = {}
    for node in quantizers(program):
        bound = program.bind(node)
        qparams, value, spec = qparams_of(program, node), bound["x"], bound["spec"]
        if not is_static(qparams) or not isinstance(value, Node) or not isinstance(spec, QuantSpec):
            continue
        grid = found.setdefault(qparams, _Grid(qparams))
        grid.specs[value] = spec
        members = grid.constants if value.op == "get_attr" else grid.values
        if value not in members:
            members.append(value)
    grids = [grid for grid in found.values() if grid.values]
    energies = channel_energies(program)
    for grid in grids:
        members = grid.values + grid.constants
        # Errors of values that share a grid can be added up only if the weight of each is known.
        known = {node: energies[node] for node in members if node in energies}
        weights: dict[Node, Energy] = known if len(known) == len(members) else {}
        grid.reducers = {node: method.reducer(grid.specs[node].block, weights.get(node)) for node in members}
    return grids


def _measured(program: Program, param: Node, reducer: Reducer) -> Tensor:
    """A reducer's answer for a parameter."""
    accumulator = reducer.start()
    accumulator.update(program.param(param))
    return accumulator.result()
