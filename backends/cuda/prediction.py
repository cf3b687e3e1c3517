"""What the layers of a library can reach on a device, by counting what their launches move and multiply.

Formula   of a launch: `roofline.estimate`, of all bytes that its pointers reach, each once, and of the products of
          whole tiles; of a layer: the sum over its launches
Needs     code that was compiled ahead: how many blocks are resident depends on the registers
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from pydantic import TypeAdapter

from qcompiler.backends.cuda.arch import architecture
from qcompiler.backends.cuda.kernels.row import Instance
from qcompiler.backends.cuda.kernels.tiles import MULTIPROCESSORS
from qcompiler.backends.cuda.layer import (
    ELEMENT_BYTES,
    Argument,
    Input,
    Launch,
    Layer,
    Output,
    Rows,
    Scratch,
    Variant,
    Weight,
)
from qcompiler.backends.cuda.library import Library
from qcompiler.backends.cuda.roofline import Estimate, Work, estimate
from qcompiler.backends.cuda.toolchain import Usage
from qcompiler.cost import Roofline

ROWS = (1, 16, 128, 1024)
"""Of the calls that are predicted: a token, a small batch, a prompt, an image or a long prompt."""


FILE = "roofline.json"
_MICROSECONDS = 1e6


@dataclass(frozen=True)
class Prediction:
    """One layer in a call of so many rows.

    Args:
        layer: its name.
        rows: of the call.
        size: bytes that its launches read and write.
        operations: multiplications and additions, those on padding included.
        launches: how each launch stands to the device, by instance.
    """

    layer: str
    rows: int
    size: int
    operations: int
    launches: tuple[tuple[str, Estimate], ...]

    @property
    def seconds(self) -> float:
        """At best."""
        return sum(one.seconds for _, one in self.launches)

    @property
    def longest(self) -> tuple[str, Estimate]:
        """The launch that takes most of it."""
        return max(self.launches, key=lambda launch: launch[1].seconds)


def predict(
    library: Library, capability: int, device: Roofline, multiprocessors: int, rows: Sequence[int] = ROWS
) -> list[Prediction]:
    """Every layer in calls of so many rows, on a device of an architecture of the library.

    Args:
        library: compiled ahead for that architecture; of others nothing is predicted.
        capability: of the device.
        device: its peaks.
        multiprocessors: how many it has.
        rows: of the calls.
    """
    registers = library.code[capability].registers
    if not registers:
        return []
    return [
        _layer(layer, layer.variant(capability, count), count, capability, registers, device, multiprocessors)
        for layer in library.layers
        for count in rows
    ]


@dataclass(frozen=True)
class Roof:
    """What a device can make of a library at best.

    Args:
        architecture: of the code.
        source: of the device's peaks.
        layers: in calls of several sizes.
    """

    architecture: str
    source: str
    layers: tuple[Prediction, ...]

    def __str__(self) -> str:
        rows = dict.fromkeys(one.rows for one in self.layers)
        times = {count: sum(one.seconds for one in self.layers if one.rows == count) for count in rows}
        said = ", ".join(f"{_rows(count)} {seconds * _MICROSECONDS:.0f} us" for count, seconds in times.items())
        return f"{self.architecture} at best, all layers, modelled: {said} ({self.source})"


_ROOFS = TypeAdapter(tuple[Roof, ...])


def write_roofs(library: Library, device: Roofline | None, folder: Path) -> None:
    """Writes `roofline.json` into a library's folder, when the device is known and there is compiled code."""
    if device is None:
        return
    found = {one: predict(library, one, device, MULTIPROCESSORS[one]) for one in library.capabilities}
    roofs = tuple(Roof(f"sm_{one}", device.source, tuple(layers)) for one, layers in found.items() if layers)
    if roofs:
        (folder / FILE).write_bytes(_ROOFS.dump_json(roofs, indent=1) + b"\n")


def read_roofs(folder: Path) -> tuple[Roof, ...]:
    """What `write_roofs` wrote; nothing where it wrote nothing."""
    path = folder / FILE
    return _ROOFS.validate_json(path.read_bytes()) if path.is_file() else ()


def work_of(layer: Layer, variant: Variant, launch: Launch, rows: int) -> Work:
    """What a launch has to do in a call of so many rows."""
    instance = launch.rows()[1]
    values = list(launch.arguments.values())
    numbers = {name: _number(value, rows) for name, value in launch.arguments.items()}
    axes = {field: axis.blocks(numbers) * axis.tile for axis in instance.grid for field in axis.fields}
    blocks = prod(axis.blocks(numbers) for axis in instance.grid)
    multiplied = instance.bits and {"rows", "columns", "depth"} <= numbers.keys()
    padded = [axes.get(name, numbers.get(name, 0)) for name in ("rows", "columns", "depth")]
    distinct = [value for place, value in enumerate(values) if value not in values[:place]]
    size = sum(_bytes(layer, variant, value, rows) for value in distinct)
    return Work(blocks, size, 2 * prod(padded) if multiplied else 0, instance.bits)


def _layer(
    layer: Layer,
    variant: Variant,
    rows: int,
    capability: int,
    registers: dict[str, int],
    device: Roofline,
    multiprocessors: int,
) -> Prediction:
    target = architecture(capability)
    found: list[tuple[str, Estimate]] = []
    works = [work_of(layer, variant, launch, rows) for launch in variant.launches]
    for launch, work in zip(variant.launches, works, strict=True):
        instance: Instance = launch.rows()[1]
        usage = Usage(registers[launch.instance], 0, 0)
        found.append((launch.instance, estimate(instance, usage, target, work, device, multiprocessors)))
    size, operations = sum(work.size for work in works), sum(work.operations for work in works)
    return Prediction(layer.name, rows, size, operations, tuple(found))


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _number(value: Argument, rows: int) -> int:
    if isinstance(value, Rows):
        return value.rows * rows
    return int(value) if isinstance(value, int | float) else 0


def _bytes(layer: Layer, variant: Variant, value: Argument, rows: int) -> int:
    match value:
        case Input(input=place):
            port = layer.inputs[place]
        case Output(output=place):
            port = layer.outputs[place]
        case Weight(weight=name):
            return layer.weights[name].bytes
        case Scratch(scratch=place):
            part = variant.workspace[place]
            return part.per_row * rows + part.fixed
        case _:
            return 0
    return rows * port.width * ELEMENT_BYTES[port.element]
