"""Activations as codes: which specs a kernel finds at run time, and the launch that does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from qcompiler.backends.cuda.arguments import fields_of
from qcompiler.backends.cuda.codes import shift_of
from qcompiler.backends.cuda.fronts import Front
from qcompiler.backends.cuda.groups import block_of, blocks_fit
from qcompiler.backends.cuda.kernels import KERNELS, quantizers
from qcompiler.backends.cuda.kernels.quantizers import FORMATS, CodeFormat, Kind
from qcompiler.backends.cuda.layer import Argument, Element, Input, Launch, Output, Port, Rows
from qcompiler.backends.cuda.settings import Compute
from qcompiler.backends.cuda.steps import Plan
from qcompiler.formats import BINARY, FP8_E4M3, Format, Integer
from qcompiler.spec import QuantSpec

KINDS: dict[Compute, Kind] = {"float16": "f16", "bfloat16": "bf16", "float32": "f32"}
_PER_BYTE: Mapping[CodeFormat, int] = {"int4": 2, "signs": 8}
"""Codes of a byte, where there are several."""
_VECTOR = 16
"""Bytes: rows of codes are filled up to a multiple of them."""
MOST_WIDTH = 32768
"""Of a row that a block quantizes."""
_E4M3_LIMIT = 448.0
_PLAIN, _SIGNS, _BLOCKS = "quantize_rows", "signs", "quantize_blocks"


@dataclass(frozen=True)
class Reading:
    """How a layer reads its activations.

    Args:
        spec: of the codes.
        width: elements of a row.
        compute: floats that come in.
        scale: the only one, float32; None where every row finds its own.
        zero_point: beside it; 0 when symmetric.
        front: what the kernel that finds codes does before.
    """

    spec: QuantSpec
    width: int
    compute: Compute
    scale: float | None = None
    zero_point: float = 0.0
    front: Front | None = None

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """What the kernel that finds codes reads besides activations, by name."""
        return {} if self.front is None else self.front.weights

    @property
    def format(self) -> CodeFormat:
        """As kernels call it."""
        if self.spec.format == BINARY:
            return "signs"
        if self.spec.format == FP8_E4M3:
            return "e4m3"
        return "int4" if self.spec.bits == 4 else "int8"

    @property
    def shift(self) -> int:
        """What is stored less the code: bytes and nibbles are signed."""
        return shift_of(self.spec)

    @property
    def block(self) -> int:
        """Neighbours that share a scale; 0 where a row has one."""
        return block_of(self.spec)

    @property
    def scales(self) -> int:
        """Of a row."""
        return self.stored_width // self.block if self.block else 1

    @property
    def stored_width(self) -> int:
        """Codes of a row with those that fill it up."""
        codes = max(_VECTOR * _PER_BYTE.get(self.format, 1), self.block)
        return -(-self.width // codes) * codes

    @property
    def row_bytes(self) -> int:
        """Of a row of codes."""
        return self.stored_width // _PER_BYTE.get(self.format, 1)

    @property
    def moving_zero(self) -> bool:
        """Whether every row has a zero point of its own."""
        return self.scale is None and not self.spec.symmetric

    @property
    def fixed_zero(self) -> int:
        """The zero point of all rows as it is stored."""
        return 0 if self.moving_zero else int(self.zero_point) + self.shift

    @property
    def real(self) -> Port:
        """The rows of reals that become codes."""
        return Port(width=self.width, element=self.compute)

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What is read."""
        widths = (self.width,) if self.front is None else self.front.widths(self.width)
        return tuple(Port(width=width, element=self.compute) for width in widths)

    @property
    def outputs(self) -> tuple[Port, ...]:
        """What a function of its own yields: codes, and a scale and a zero point per row where they are its own."""
        codes: Element = "int8" if self.format == "int8" else "uint8"
        ports = [Port(width=self.row_bytes, element=codes)]
        if self.scale is None:
            ports.append(Port(width=self.scales, element="float32"))
        if self.moving_zero:
            ports.append(Port(width=1, element="int32"))
        return tuple(ports)

    def __str__(self) -> str:
        moving = f"per {self.block}" if self.block else "per row"
        where = moving if self.scale is None else "static"
        front = "" if self.front is None else f"{self.front} "
        return f"{front}{self.spec.format.name} {'sym' if self.spec.symmetric else 'asym'} {where}"


@dataclass(frozen=True)
class Places:
    """Where codes, scales and zero points lie, and the reals that a front yields besides; None where there are none."""

    codes: Argument
    scale: Argument | None
    zero: Argument | None
    reals: Argument | None = None

    @staticmethod
    def of_ports(reading: Reading, make: type[Input] | type[Output]) -> Places:
        """In the ports of a function, in the order of `Reading.outputs`."""
        ports = [Input(input=i) if make is Input else Output(output=i) for i in range(len(reading.outputs))]
        return Places(ports[0], ports[1] if len(ports) > 1 else None, ports[2] if len(ports) > 2 else None)

    @staticmethod
    def of_workspace(reading: Reading, plan: Plan) -> Places:
        """In new parts of the workspace."""
        codes = plan.take(reading.row_bytes)
        scale = plan.take(4 * reading.scales) if reading.scale is None else None
        return Places(codes, scale, plan.take(4) if reading.moving_zero else None)


def readable(spec: QuantSpec, width: int) -> bool:
    """Whether there is a kernel for activations of a spec: one scale, or one per row of the last axis, or per block."""
    rows = all(extent in (1, -1) for extent in spec.block[:-1]) and spec.block[-1] == -1
    single = all(extent == -1 for extent in spec.block)
    per_row = rows and all(extent == 1 for extent in spec.block[:-1])
    plain = spec.parts is None and len(spec.levels) == 1 and spec.levels[0].scale == "f32"
    placed = per_row or blocks_fit(spec) if spec.dynamic else single
    return plain and _numbers(spec.format) and width <= MOST_WIDTH and placed


def reading_of(
    spec: QuantSpec,
    width: int,
    compute: Compute,
    scale: torch.Tensor | None,
    zero_point: torch.Tensor | None,
    front: Front | None = None,
) -> Reading:
    """The reading of a spec that is `readable`.

    Shapes: scale and zero_point of one element; None where they are found at run time.
    """
    zero = 0.0 if zero_point is None or spec.symmetric else float(zero_point)
    return Reading(spec, width, compute, None if scale is None else float(scale), zero, front)


def quantize(plan: Plan, reading: Reading, sources: Sequence[Argument], to: Places) -> None:
    """Adds the launch that reads reals, one of `sources` for each of the reading's inputs, and writes codes."""
    number, e4m3 = reading.spec.format, reading.format == "e4m3"
    given: dict[str, Argument | None] = {
        "input": sources[0],
        "out": to.codes,
        "scale": to.scale,
        "zero": to.zero,
        "normed": to.reals,
        "rows": Rows(rows=1),
        "width": reading.width,
        "stride": reading.width,
        "out_width": reading.stored_width,
        "format": FORMATS.get(reading.format),
        "symmetric": int(reading.spec.symmetric),
        "lowest": -_E4M3_LIMIT if e4m3 else float(number.lowest),
        "highest": _E4M3_LIMIT if e4m3 else float(number.highest),
        "shift": float(reading.shift),
        "fixed_scale": reading.scale or 0.0,
        "fixed_zero": reading.zero_point,
    }
    kind, front = KINDS[reading.compute], reading.front
    if front is None:
        name = _SIGNS if reading.format == "signs" else _BLOCKS if reading.block else _PLAIN
        instance = quantizers.choose(KERNELS[name], kind, reading.block or reading.width)
    else:
        name, instance = front.kernel, front.instance(kind, reading.width)
    named = {field for field, _ in fields_of(KERNELS[name])}
    arguments = {key: value for key, value in given.items() if value is not None and key in named}
    arguments |= {} if front is None else front.arguments(sources)
    plan.launches.append(Launch(kernel=name, instance=instance.name, arguments=arguments))


def _numbers(number: Format) -> bool:
    return number in (BINARY, FP8_E4M3) or (isinstance(number, Integer) and number.bits in (4, 8) and not number.narrow)
