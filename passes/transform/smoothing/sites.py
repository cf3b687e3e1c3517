"""Where scales can go: groups of the diagonal system whose values layers read, and what is known of the values."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, cast

import torch
from torch import Tensor

from qcompiler.analysis.groups import Action, Port, SymmetryGroup
from qcompiler.analysis.symmetry import symmetries
from qcompiler.analysis.weights import TRANSPOSED, spatial_axes
from qcompiler.ir.program import Node, Program
from qcompiler.passes.transform.evaluate import Reader
from qcompiler.passes.transform.smoothing.method import Smoothing, SmoothingSite, View
from qcompiler.plan import Assignment
from qcompiler.reducers import Extremes, Samples
from qcompiler.spec import Number, QuantSpec
from qcompiler.stats import Request, Stats

_ACTIVATION = Number.parse("int8 sym tensor scale=f32")
# A linear has an input, a weight and a bias; a convolution has a window, whose padding does not shift.
_WINDOWED = 4
# Images are kept whole: they are large, and their positions resemble one another.
_ROWS_PER_SAMPLE, _FEWEST = 16, 8
# What a size that is free counts for.
_FREE = 16
_WEIGHT = Number.parse("int8 sym channel scale=f32")


@dataclass(frozen=True, eq=False)
class Seen:
    """A value that layers with quantized numbers read.

    Args:
        node: whose value it is.
        axis: of its channels, from the front.
        spec: of the value; None when it stays float.
        layers: the operators that read it so, in graph order.
    """

    node: Node
    axis: int
    spec: QuantSpec | None
    layers: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Place:
    """A site before statistics are looked at.

    Args:
        name: of the group, or of the value that gets a node of its own.
        size: coordinates per transform.
        fibres: transforms.
        seen: the values, those with the exponent of the first one first.
        ports: the coordinates in each of them.
        group: None where a multiplication has to be inserted.
    """

    name: str
    size: int
    fibres: int
    seen: tuple[Seen, ...]
    ports: tuple[tuple[Port, ...], ...]
    group: SymmetryGroup | None

    @property
    def exponent(self) -> int:
        """Of the scale in the first value."""
        return self.ports[0][0].exponent if self.group else 1

    @property
    def shiftable(self) -> bool:
        """Whether a shift may move as well."""
        if self.group is not None:
            return Action.SHIFT in self.group.actions
        return all(len(layer.args) < _WINDOWED for value in self.seen for layer in value.layers)


class Sampling(Protocol):
    """The options that decide what is looked at."""

    @property
    def online(self) -> bool:
        """Whether values without a group count too."""
        ...

    @property
    def samples(self) -> int:
        """Of each value."""
        ...


def places(program: Program, online: bool) -> list[Place]:
    """All groups in graph order that quantized layers read; values that no group reaches behind them, if wanted."""
    seen = read_values(program)
    found = [place for group in symmetries(program).scales if (place := _place(group, seen)) is not None]
    if not online:
        return found
    reached = {value.node for place in found for value in place.seen}
    loose = [value for values in seen.values() for value in values if value.node not in reached]
    return found + [_loose(program, value) for value in loose]


def requests(program: Program, options: Sampling) -> list[Request]:
    """What must be known of the values at all places."""
    wanted: list[Request] = []
    for place in places(program, options.online):
        for value in place.seen:
            wanted += [
                Request(value.node.name, _extremes(program, value)),
                Request(value.node.name, sampled(program, value, options.samples)),
            ]
    return wanted


def read_values(program: Program) -> dict[Node, list[Seen]]:
    """What layers with quantized inputs or weights read; all layers when nothing is assigned."""
    assigned = any(isinstance(node.meta.get("assignment"), Assignment) for node in program.nodes)
    layers: dict[Node, dict[QuantSpec | None, list[Node]]] = defaultdict(lambda: defaultdict(list))
    for node in program.nodes:
        spatial = spatial_axes(program, node)
        if spatial is None or program.constant(program.bind(node)["weight"]) is None:
            continue
        source = cast(Node, program.bind(node)["input"])
        if source.op == "get_attr" or (assigned and not _specs(node)):
            continue
        rank = program.tensor_type(source).rank
        layers[source][_specs(node).get("input") if assigned else _ACTIVATION.spec(rank)].append(node)
    return {
        source: [
            Seen(
                source,
                program.tensor_type(source).rank - 1 - (spatial_axes(program, nodes[0]) or 0),
                spec,
                tuple(nodes),
            )
            for spec, nodes in by_spec.items()
        ]
        for source, by_spec in layers.items()
    }


def sampled(program: Program, value: Seen, samples: int) -> Samples:
    """So many rows of channels; as many images as have sixteen times the rows, eight at least."""
    shape = program.shape(value.node)
    if value.axis == len(shape) - 1:
        return Samples(value.axis, samples)
    positions = math.prod(size if isinstance(size, int) else _FREE for size in shape[value.axis + 1 :])
    return Samples(value.axis, min(max(samples * _ROWS_PER_SAMPLE // max(positions, 1), _FEWEST), samples))


class Known:
    """Statistics of the values, kept true while they are smoothed one group after the other.

    Args:
        program: being edited.
        stats: of the program as it was.
        options: as they were in `requests`.
    """

    def __init__(self, program: Program, stats: Stats, options: Sampling) -> None:
        self.program, self.stats, self.options = program, stats, options
        self._changes: dict[Node, tuple[Tensor, Tensor]] = {}

    def site(self, place: Place, seed: int) -> SmoothingSite:
        """The site, with values and weights as they are now.

        Raises:
            InputError: without calibration data.
        """
        views = [self._view(place, *pair) for pair in zip(place.seen, place.ports, strict=True)]
        return SmoothingSite(place.name, place.size * place.fibres, tuple(views), place.shiftable, seed)

    def note(self, site: SmoothingSite, place: Place, smoothing: Smoothing) -> None:
        """Remembers that the values of a place have changed."""
        for value, view in zip(place.seen, site.views, strict=True):
            times, plus = view.multiplier(smoothing), view.offset(smoothing)
            old_times, old_plus = self._changes.get(value.node, (torch.ones_like(times), torch.zeros_like(times)))
            minus = torch.zeros_like(times) if plus is None else plus
            self._changes[value.node] = (old_times * times, (old_plus - minus) * times)

    def _view(self, place: Place, value: Seen, ports: Sequence[Port]) -> View:
        low, high = self.stats.get(value.node.name, _extremes(self.program, value)).double()
        samples = self.stats.get(value.node.name, sampled(self.program, value, self.options.samples)).float()
        rank = self.program.tensor_type(value.node).rank
        axis = value.axis if samples.dim() == rank and value.axis != rank - 1 else -1
        if value.node in self._changes:
            times, plus = self._changes[value.node]
            low, high = low * times + plus, high * times + plus
            samples = (samples.movedim(axis, -1) * times.to(samples) + plus.to(samples)).movedim(-1, axis)
        coordinate = _coordinates(len(low), place, ports)
        readers = tuple(reader_of(self.program, layer) for layer in value.layers)
        exponent = ports[0].exponent / place.exponent if ports else 1.0
        return View(low, high, samples, axis, value.spec, readers, coordinate, exponent)


def _extremes(program: Program, value: Seen) -> Extremes:
    rank = program.tensor_type(value.node).rank
    return Extremes(tuple(1 if axis == value.axis else -1 for axis in range(rank)))


def _specs(node: Node) -> Mapping[str, QuantSpec]:
    assigned = node.meta.get("assignment")
    return assigned.inputs if isinstance(assigned, Assignment) else {}


def _place(group: SymmetryGroup, seen: Mapping[Node, Sequence[Seen]]) -> Place | None:
    """The values of a group that layers of the group read; None when there is none."""
    inside = {site.node for site in group.readers}
    ports: dict[Node, list[Port]] = defaultdict(list)
    for port in group.ports:
        ports[port.node].append(port)
    values = [
        replace(value, layers=layers)
        for node in ports
        for value in seen.get(node, ())
        if (layers := tuple(layer for layer in value.layers if layer in inside))
        and all(_on_channels(port, value) and port.exponent == ports[node][0].exponent for port in ports[node])
    ]
    if not values or not group.writers:
        return None
    leading = next((ports[value.node][0].exponent for value in values if value.spec), ports[values[0].node][0].exponent)
    values.sort(key=lambda value: ports[value.node][0].exponent != leading)
    chosen = tuple(tuple(ports[value.node]) for value in values)
    return Place(group.name, group.size, group.fibres, tuple(values), chosen, group)


def _on_channels(port: Port, value: Seen) -> bool:
    """Whether every position holds the same coordinates in its channels."""
    return port.place.axis == value.axis and port.place.along is None and not port.dual


def _loose(program: Program, value: Seen) -> Place:
    channels = program.shape(value.node)[value.axis]
    return Place(f"%{value.node.name}", int(str(channels)), 1, (value,), ((),), None)


def _coordinates(channels: int, place: Place, ports: Sequence[Port]) -> Tensor:
    if place.group is None:
        return torch.arange(channels)
    found = torch.full((channels,), -1)
    for port in ports:
        found[port.place.index] = port.place.fibre[:, None] * place.size + torch.arange(place.size)
    return found


def reader_of(program: Program, layer: Node) -> Reader:
    """A linear layer or convolution with its weight as it is now."""
    bound = program.bind(layer)
    weight = program.exact(cast(Node, bound["weight"])).float()
    specs = _specs(layer)
    op = program.op(layer)
    axis = 0 if op in TRANSPOSED else 1
    spec = specs.get("weight") if specs else _WEIGHT.spec(weight.dim(), 1 - axis, axis)
    if op == "aten.linear":
        return Reader(weight, spec)
    names = ("stride", "padding", *(("output_padding", "groups", "dilation") if axis == 0 else ("dilation", "groups")))
    window = tuple(bound[name] for name in names)

    def product(x: Tensor, kernel: Tensor) -> Tensor:
        return cast(Tensor, layer.target(x, kernel, None, *window))  # pyright: ignore[reportCallIssue]

    return Reader(weight, spec, product, axis, int(str(bound["groups"])))
