"""The interface of a library in C: one function per layer over the driver's own functions, and how to build it.

Layers that launch the same kernels with the same sizes share their code and differ in the places of their weights.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qcompiler.backends.cuda.arch import architecture
from qcompiler.backends.cuda.arguments import struct_text
from qcompiler.backends.cuda.kernels import KERNELS
from qcompiler.backends.cuda.layer import (
    ALIGNMENT,
    Argument,
    Counters,
    Input,
    Launch,
    Layer,
    Output,
    Part,
    Rows,
    Scratch,
    Variant,
    Weight,
)
from qcompiler.backends.cuda.library import WEIGHTS_FILE, Library
from qcompiler.backends.cuda.templates import fill

_FNV_START, _FNV_FACTOR, _MASK = 0xCBF29CE484222325, 0x100000001B3, 2**64 - 1


@dataclass(frozen=True)
class _Stored:
    """A weight: its name, and where it lies in the file and on the device."""

    name: str
    file: int
    device: int
    bytes: int


@dataclass(frozen=True)
class _Start:
    """A launch as the template writes it."""

    struct: str
    fields: tuple[tuple[str, str], ...]
    function: int
    grid: tuple[str, ...]


@dataclass(frozen=True)
class _Way:
    """The launches of a variant."""

    parts: tuple[Part, ...]
    launches: tuple[_Start, ...]


@dataclass(frozen=True)
class _Case:
    """A variant: a test of the rows, the bytes of its workspace, and which way it goes."""

    test: str
    bytes: str
    way: int


_Shape = tuple[tuple[int, tuple[_Case, ...]], ...]


def write_interface(library: Library, folder: Path) -> list[str]:
    """Writes header, source, build file and readme beside a library; returns their names.

    Args:
        library: with at least one layer.
        folder: it lies there.
    """
    values = _values(library, folder)
    names = {f"{library.name}.h": "library.h.j2", f"{library.name}.c": "library.c.j2"}
    names |= {name: f"{name}.j2" for name in ("CMakeLists.txt", "README.md")}
    for name, template in names.items():
        (folder / name).write_text(fill(template, **values))
    return sorted(names)


def _values(library: Library, folder: Path) -> Mapping[str, object]:
    functions = _functions(library)
    stored = _stored(library, folder / WEIGHTS_FILE)
    table = _Table(library.name.upper(), functions, {})
    shapes: dict[_Shape, int] = {}
    layers = [_layer_view(layer, stored, table.shape(layer), shapes) for layer in library.layers]
    head = _head(folder / WEIGHTS_FILE)
    kernels = dict.fromkeys(launch.kernel for launch in _launches(library))
    return {
        "name": library.name,
        "prefix": library.name.upper(),
        "compute": library.compute,
        "architectures": ", ".join(f"sm_{one}" for one in library.capabilities),
        "compiled": [(one, architecture(one).code, code.cubin, code.source) for one, code in library.code.items()],
        "alignment": ALIGNMENT,
        "zeroed_bytes": -(-4 * library.counters // ALIGNMENT) * ALIGNMENT,
        "weights_file": WEIGHTS_FILE,
        "file_bytes": library.weights_bytes,
        "head_bytes": len(head),
        "head_sum": hex(_sum(head)),
        "device_bytes": max((one.device + one.bytes for one in stored.values()), default=ALIGNMENT),
        "weights": list(stored.values()),
        "functions": [_function_view(name) for name in functions],
        "codes": [
            {
                "architecture": capability,
                "file": _cubin(library, capability),
                "functions": [functions[name] for name in code.instances],
            }
            for capability, code in library.code.items()
        ],
        "structs": list(dict.fromkeys(struct_text(KERNELS[name]) for name in kernels)),
        "ways": list(table.ways),
        "shapes": list(shapes),
        "layers": layers,
    }


def _functions(library: Library) -> dict[str, int]:
    """Places of all instances in the table of functions."""
    names = dict.fromkeys(name for code in library.code.values() for name in code.instances)
    return {name: index for index, name in enumerate(names)}


def _function_view(name: str) -> Mapping[str, object]:
    instance = next(one for row in KERNELS.values() for one in row.instances if one.name == name)
    return {"name": name, "threads": instance.threads, "shared": instance.shared}


def _cubin(library: Library, capability: int) -> str:
    return library.code[capability].cubin or f"{library.name}_sm_{capability}.cubin"


def _launches(library: Library) -> list[Launch]:
    return [
        launch
        for layer in library.layers
        for variants in layer.variants.values()
        for variant in variants
        for launch in variant.launches
    ]


def _stored(library: Library, path: Path) -> dict[str, _Stored]:
    """All weights by `layer.name`, in the order of the file."""
    head = _head(path)
    places = json.loads(head[8:])
    records = {f"{layer.name}.{name}": weight for layer in library.layers for name, weight in layer.weights.items()}
    found: dict[str, _Stored] = {}
    device = 0
    for name in sorted(records, key=lambda name: places[name]["data_offsets"]):
        first, last = places[name]["data_offsets"]
        found[name] = _Stored(name, len(head) + first, device, last - first)
        device += -(-(last - first) // ALIGNMENT) * ALIGNMENT
    return found


def _head(path: Path) -> bytes:
    """The length and the table of contents of a file of weights, as bytes."""
    with path.open("rb") as file:
        length = file.read(8)
        return length + file.read(int.from_bytes(length, "little"))


def _sum(data: bytes) -> int:
    total = _FNV_START
    for byte in data:
        total = (total ^ byte) * _FNV_FACTOR & _MASK
    return total


@dataclass(frozen=True)
class _Table:
    """What layers share.

    Args:
        prefix: of macros.
        functions: places of instances in the table of functions.
        ways: places of what was written so far; grows.
    """

    prefix: str
    functions: Mapping[str, int]
    ways: dict[_Way, int]

    def shape(self, layer: Layer) -> _Shape:
        """What a layer runs, by architecture and rows."""
        return tuple(
            (capability, tuple(self.case(layer, variant) for variant in variants))
            for capability, variants in layer.variants.items()
        )

    def case(self, layer: Layer, variant: Variant) -> _Case:
        """One variant of a layer."""
        way = _Way(variant.workspace, tuple(self.start(layer, launch) for launch in variant.launches))
        test = "" if variant.most is None else f"if (rows <= {variant.most}) "
        most = "rows" if variant.most is None else f"fewer(rows, {variant.most})"
        parts = (f"aligned({part.per_row}u * (size_t){most} + {part.fixed}u)" for part in variant.workspace)
        size = " + ".join((f"{self.prefix}_ZEROED_BYTES", *parts))
        return _Case(test, size, self.ways.setdefault(way, len(self.ways)))

    def start(self, layer: Layer, launch: Launch) -> _Start:
        """One launch; its struct is zeros before."""
        kernel, instance = launch.rows()
        given = {name: value for name, value in launch.arguments.items() if value != 0}
        fields = tuple((name, _expression(layer, name, value)) for name, value in given.items())
        grid = tuple(axis.expression("(int64_t)a") if axis.fields else "1" for axis in instance.grid)
        return _Start(kernel.arguments, fields, self.functions[instance.name], grid)


def _expression(layer: Layer, name: str, value: Argument) -> str:
    match value:
        case Rows():
            return "rows" if value.rows == 1 else f"rows * {value.rows}"
        case Input():
            return f"(void *)(uintptr_t)ports[{value.input}]"
        case Output():
            return f"(void *)(uintptr_t)ports[{len(layer.inputs) + value.output}]"
        case Weight():
            return f"(void *)(uintptr_t)weight[{list(layer.weights).index(value.weight)}]"
        case Scratch():
            return f"(void *)part_{value.scratch}"
        case Counters():
            return "(void *)zeros"
        case float():
            return f"number[{list(_numbers(layer)).index((name, value))}]"
        case _:
            return str(value)


def _numbers(layer: Layer) -> dict[tuple[str, float], None]:
    """The reals among the arguments of a layer's launches, with the names of the arguments, in order.

    Layers that differ in nothing else share their code.
    """
    launches = (launch for ways in layer.variants.values() for way in ways for launch in way.launches)
    named = (pair for launch in launches for pair in launch.arguments.items())
    reals = ((name, value) for name, value in named if isinstance(value, float) and value != 0)
    return dict.fromkeys(reals)


def _float(value: float) -> str:
    if math.isinf(value):
        return "__builtin_inff()" if value > 0 else "-__builtin_inff()"
    return f"{value.hex()}f"


def _layer_view(
    layer: Layer, stored: Mapping[str, _Stored], shape: _Shape, shapes: dict[_Shape, int]
) -> Mapping[str, object]:
    return {
        "name": layer.name,
        "title": plain(layer.module or layer.name),
        "meaning": plain(layer.meaning),
        "kernels": ", ".join(layer.kernels),
        "ports": _ports(layer),
        "numbers": [_float(value) for _, value in _numbers(layer)],
        "places": [stored[f"{layer.name}.{name}"].device for name in layer.weights],
        "shape": shapes.setdefault(shape, len(shapes)),
    }


def _ports(layer: Layer) -> Sequence[Mapping[str, object]]:
    taken = [(port, "in", False) for port in layer.inputs]
    given = [(port, "out", True) for port in layer.outputs]
    return [
        {
            "name": f"{word}{index}" if len(ports) > 1 else word,
            "element": port.element,
            "row": ", ".join(map(str, port.dims)),
            "result": result,
        }
        for ports in (taken, given)
        for index, (port, word, result) in enumerate(ports)
    ]


def plain(text: str) -> str:
    """Any text as one line that a comment of C and a line of Markdown can hold."""
    return re.sub(r"[^A-Za-z0-9_.,:=()\[\] -]", "_", text)
