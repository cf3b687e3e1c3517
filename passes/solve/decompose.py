"""What solvers share that turn weights into expressions: groups they leave alone, and weights without data."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from qcompiler.errors import InputError
from qcompiler.ir.fill import Shelf
from qcompiler.ir.program import Program
from qcompiler.passes.solve.expression import Codes
from qcompiler.passes.solve.front_to_back import layer_of, readers_of, settle, share_ranges, solve_layers
from qcompiler.passes.solve.layers import Geometry, Inputs, Layer, LayerSolver
from qcompiler.passes.solve.ranges import Search
from qcompiler.pipeline import Context
from qcompiler.spec import qparams_from_range, quantize
from qcompiler.stats import Stream


def nearest_codes(layer: Layer) -> Codes:
    """The nearest values of the layer's spec, with the scales that are set, or else the best range of each block."""
    if layer.qparams is None:
        found = qparams_from_range(*Search("mse").range(layer.weight, layer.spec), layer.spec)
    else:
        found = layer.qparams
    scale, zero_point = found
    codes = quantize(layer.weight, scale, zero_point, layer.spec)
    return Codes(layer.spec, codes, scale, None if layer.spec.symmetric else zero_point)


def ungrouped(solver: LayerSolver) -> LayerSolver:
    """A solver for whole matrices; the rows of grouped convolutions read few columns and go to the nearest value."""
    return lambda layer: nearest_codes(layer) if layer.groups > 1 else solver(layer)


def decompose(program: Program, ctx: Context, solver: LayerSolver, step: str, streams: tuple[Stream, ...]) -> Program:
    """Solves all weights by a solver of whole matrices and says how many there were.

    Raises:
        InputError: without calibration data; when weights or activations hold NaN or infinity.
    """
    count = solve_layers(program, ctx, ungrouped(solver), streams, step)
    ctx.log(f"{count} weights by {step}")
    return program


def decompose_alone(program: Program, ctx: Context, solver: LayerSolver, step: str) -> Program:
    """The same for a solver that looks at nothing but the weight, so that no calibration data is needed.

    Raises:
        InputError: when weights hold NaN or infinity.
    """
    readers = readers_of(program)
    share_ranges(program, [reader.site for reader in readers])
    installs, shelf = [], Shelf()
    for reader in readers:
        solvable = reader.solvable
        found = ungrouped(solver)(layer_of(program, reader, no_inputs(), ctx.seed)) if solvable else None
        installs.append(settle(program, reader, found, shelf)[1])
        ctx.progress(len(installs), len(readers))
    for install in installs:
        install(program, step)
    ctx.log(f"{sum(reader.solvable for reader in readers)} weights by {step}")
    return program


def no_inputs() -> Inputs:
    """Inputs of a layer that is solved without data; reading them is an error."""

    def values(stream: Stream) -> list[Tensor]:
        raise InputError("this solver was to look at nothing but the weight", where=f"stream {stream}")

    return Inputs(values, Geometry())


def layers_of(program: Program, seed: int) -> Iterator[Layer]:
    """Every weight that a solver of whole matrices would see, without inputs."""
    for reader in readers_of(program):
        if reader.solvable:
            layer = layer_of(program, reader, no_inputs(), seed)
            if layer.groups == 1:
                yield layer
