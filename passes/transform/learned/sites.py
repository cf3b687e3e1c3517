"""Where learned transforms can act, and what they start from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from qcompiler.analysis.groups import Action, Site, SymmetryGroup
from qcompiler.analysis.symmetry import symmetries
from qcompiler.errors import VerifyError
from qcompiler.hadamard import block_of, multiply, random_orthogonal, random_signs
from qcompiler.ir.program import Node, Program
from qcompiler.passes.transform import gains
from qcompiler.passes.transform.learned.matrices import kronecker_factors
from qcompiler.passes.transform.surgery import shift
from qcompiler.passes.transform.wanted import Reading, reading_of, readings
from qcompiler.reducers import Extremes
from qcompiler.stats import Request, Stats

_SMALLEST, _LARGEST = 1e-3, 1e3


def turning_groups(
    program: Program, action: Action, step: str, log: Callable[[str], None]
) -> tuple[Program, list[SymmetryGroup]]:
    """A copy of a program in which gains are folded, and its groups that an action may turn and quantized layers read.

    Groups whose gains cannot be folded are left out, with a line in the log.
    """
    prepared, layers = program.copy(), quantized_layers(program)
    for name in [group.name for group in _turned(prepared, action, layers) if _rests_on_others(group)]:
        draft = prepared.copy()
        group = next((group for group in _turned(draft, action, layers) if group.name == name), None)
        if group is None or not _rests_on_others(group):
            continue
        try:
            gains.prepare(draft, group, step)
        except VerifyError as error:
            log(f"{step}: {name} stays as it is: {error.what}")
            continue
        prepared = draft
    return prepared, [group for group in _turned(prepared, action, layers) if not _rests_on_others(group)]


def scale_groups(program: Program) -> list[SymmetryGroup]:
    """Groups of the diagonal system that are written by constants and read by layers with quantized numbers."""
    layers = quantized_layers(program)
    return [group for group in symmetries(program).scales if group.writers and _read_by(group, layers)]


def quantized_layers(program: Program) -> set[str]:
    """Names of the layers whose input or weight will be quantized."""
    return {reading.node.name for reading in readings(program) if reading.input_spec or reading.weight_spec}


def _turned(program: Program, action: Action, layers: set[str]) -> list[SymmetryGroup]:
    groups = symmetries(program).orthogonal
    return [group for group in groups if group.size > 1 and action in group.actions and _read_by(group, layers)]


def _read_by(group: SymmetryGroup, layers: set[str]) -> bool:
    return any(site.node.name in layers for site in group.readers)


def _rests_on_others(group: SymmetryGroup) -> bool:
    """Whether gains must be folded or writers centred before a rotation may act."""
    return bool(group.folded_gains or group.centred_norms)


def random_hadamard(size: int, fibres: int, seed: int) -> Tensor:
    """Random signs times a Hadamard matrix, on blocks where there is none of this size: float64 [fibres, n, n]."""
    block = block_of(size)
    turns = [torch.diag(random_signs(size, seed + fibre)) for fibre in range(fibres)]
    return torch.stack([multiply(signs, block) for signs in turns])


def mixing_factors(size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Orthogonal matrices, of orders as equal as can be, whose Kronecker product mixes all coordinates: float64."""
    one, two = (_mixing(order, seed) for order in kronecker_factors(size))
    return one, two


def _mixing(order: int, seed: int) -> Tensor:
    """A Hadamard matrix, or a random rotation where there is none."""
    if block_of(order) == order:
        return multiply(torch.eye(order, dtype=torch.float64), order)
    return random_orthogonal(order, seed).contiguous()


def range_requests(program: Program) -> list[Request]:
    """Extremes of every channel that quantized layers read."""
    layers = quantized_layers(program)
    known = {reading.key: reading for reading in readings(program) if reading.node.name in layers}
    return [Request(reading.source.name, _extremes(program, reading)) for reading in known.values()]


def channel_extremes(program: Program, reading: Reading, stats: Stats) -> Tensor:
    """Smallest and largest value of each channel that a layer reads: float64 [2, channels]."""
    return stats.get(reading.source.name, _extremes(program, reading)).double()


def start_scale(program: Program, group: SymmetryGroup, stats: Stats, alpha: float) -> Tensor:
    """What activations are multiplied by to share the difficulty with weights: `w^(1 - alpha) / a^alpha` [fibres, n].

    a and w are the largest magnitudes that a coordinate has in any layer's input and weight; 1 where either is zero.
    """
    inputs = torch.zeros(group.fibres, group.size, dtype=torch.float64)
    weights = torch.zeros_like(inputs)
    for site in group.readers:
        reading = _plain(program, site)
        if reading is None:
            continue
        absmax = channel_extremes(program, reading, stats).abs().amax(0)
        weight = program.exact(cast(Node, program.bind(site.node)["weight"])).movedim(site.place.axis, -1)
        columns = weight.abs().flatten(0, -2).amax(0)
        for index, fibre in zip(site.place.index, site.place.fibre.tolist(), strict=True):
            inputs[fibre] = torch.maximum(inputs[fibre], absmax[index])
            weights[fibre] = torch.maximum(weights[fibre], columns[index])
    usable = (inputs > 0) & (weights > 0)
    start = weights.clamp(min=1e-30) ** (1 - alpha) / inputs.clamp(min=1e-30) ** alpha
    return torch.where(usable, start, 1.0).clamp(_SMALLEST, _LARGEST)


def middles(program: Program, group: SymmetryGroup, stats: Stats) -> tuple[Tensor, Tensor]:
    """Middle and half width of each coordinate's range over all inputs it has: [fibres, n] each."""
    low = torch.full((group.fibres, group.size), math.inf, dtype=torch.float64)
    high = -low
    for site in group.readers:
        reading = _plain(program, site)
        if reading is None:
            continue
        least, most = channel_extremes(program, reading, stats)
        for index, fibre in zip(site.place.index, site.place.fibre.tolist(), strict=True):
            low[fibre], high[fibre] = (
                torch.minimum(low[fibre], least[index]),
                torch.maximum(high[fibre], most[index]),
            )
    known = low <= high
    return torch.where(known, (high + low) / 2, 0.0), torch.where(known, (high - low) / 2, 0.0)


def with_biases(program: Program, step: str) -> tuple[Program, list[SymmetryGroup]]:
    """A copy of a program in which shifts have biases to go into, zero at first, and its groups of scales.

    `Action.SHIFT` remains in the groups that there are biases for.
    """
    prepared, refused = program.copy(), set[str]()
    for name in [group.name for group in scale_groups(prepared) if Action.SHIFT in group.actions]:
        draft = prepared.copy()
        group = next(group for group in symmetries(draft).scales if group.name == name)
        try:
            shift(draft, group, torch.zeros(group.fibres, group.size), step)
        except VerifyError:
            refused.add(name)
        else:
            prepared = draft
    groups = scale_groups(prepared)
    plain = [replace(group, actions=group.actions - {Action.SHIFT}) for group in groups]
    return prepared, [one if one.name not in refused else other for one, other in zip(groups, plain, strict=True)]


def covered(groups: Sequence[SymmetryGroup]) -> set[Node]:
    """The layers that read one of the groups."""
    return {site.node for group in groups for site in group.readers}


def _plain(program: Program, site: Site) -> Reading | None:
    """What a site reads with its weight, where coordinates are whole channels that carry the scale itself."""
    reading = reading_of(program, site.node)
    if reading is None or reading.groups != 1 or reading.weight_axis != site.place.axis:
        return None
    quantized = reading.input_spec is not None or reading.weight_spec is not None
    return reading if quantized and site.exponent == 1 and not site.dual else None


def _extremes(program: Program, reading: Reading) -> Extremes:
    rank = program.tensor_type(reading.source).rank
    return Extremes(tuple(1 if axis == reading.axis else -1 for axis in range(rank)))
