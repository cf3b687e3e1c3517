"""Requests that do not know a rank yet: Number for one tensor, Scheme for weights and activations."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from qcompiler.errors import SpecError
from qcompiler.formats import (
    BINARY,
    BNB_FP4,
    FP4_E2M1,
    FP6_E2M3,
    FP6_E3M2,
    FP8_E4M3,
    FP8_E5M2,
    NF2,
    NF3,
    NF4,
    TERNARY,
    Codebook,
    Format,
    Integer,
    ScaleName,
    parse_format,
    scale_name,
)
from qcompiler.spec.parts import Parts, SharedTable
from qcompiler.spec.quantspec import Level, QuantSpec

NumberGranularity = Literal["tensor", "channel", "token", "group"]


@dataclass(frozen=True)
class Number:
    """What is wanted of a tensor of any rank.

    group_size: elements per group along the reduced axis (only for `group`). scale: stored format of the
    scales. outer_scale: format of one more scale for the whole tensor. Text: `uint4 asym group=32 scale=f32`.
    Raises SpecError when a group size is missing or given without groups.
    """

    format: Format
    granularity: NumberGranularity
    group_size: int = 0
    symmetric: bool = True
    dynamic: bool = False
    scale: ScaleName = "f32"
    outer_scale: ScaleName | None = None

    def __post_init__(self) -> None:
        if (self.granularity == "group") != (self.group_size > 0):
            raise SpecError(
                f"granularity {self.granularity} with group size {self.group_size}",
                mend="give a positive group size with granularity group, and none otherwise",
            )

    def __str__(self) -> str:
        where = f"group={self.group_size}" if self.granularity == "group" else self.granularity
        words = [self.format.name, "sym" if self.symmetric else "asym", where, f"scale={self.scale}"]
        words += [f"outer={self.outer_scale}"] if self.outer_scale else []
        return " ".join([*words, "dynamic"] if self.dynamic else words)

    @staticmethod
    def parse(text: str) -> Number:
        """Reads the text form; inverts `str(number)`. Raises SpecError."""
        match = _NUMBER.fullmatch(" ".join(text.split()))
        if not match:
            raise SpecError("cannot read this number request", where=text, mend="write uint4 asym group=32 scale=f32")
        return Number(
            format=parse_format(match["format"]),
            granularity=_GRANULARITIES[match["where"].partition("=")[0]],
            group_size=int(match["where"].partition("=")[2] or 0),
            symmetric=match["sign"] == "sym",
            dynamic=match["dynamic"] is not None,
            scale=scale_name(match["scale"]),
            outer_scale=scale_name(match["outer"]) if match["outer"] else None,
        )

    @staticmethod
    def of(spec: QuantSpec, channel_axis: int | tuple[int, ...] | None = None, reduce_axis: int = -1) -> Number | None:
        """The request that `spec` answers, axes as for `Number.spec`; None when its blocks are none of a request."""
        group = max((*spec.block, 0))
        named: tuple[NumberGranularity, ...] = ("tensor", "token") if channel_axis is None else ("tensor", "channel")
        kinds: tuple[NumberGranularity, ...] = ("group",) if group > 1 else named
        inner, *outer = spec.levels
        for kind in kinds:
            size = group if kind == "group" else 0
            above = outer[0].scale if outer else None
            number = Number(spec.format, kind, size, spec.symmetric, spec.dynamic, inner.scale, above)
            if number.spec(spec.rank, channel_axis, reduce_axis) == spec:
                return number
        return None

    def spec(
        self, shape_rank: int, channel_axis: int | tuple[int, ...] | None = None, reduce_axis: int = -1
    ) -> QuantSpec:
        """The spec of a tensor of this rank.

        channel_axis: the axes that keep their own scales (output channels, experts); None for an activation.
        reduce_axis: the axis that the consumer sums over; groups run along it, and a token is a row of it.
        With groups, other axes are split for an activation or a matrix, and shared (kernel windows)
        otherwise. A codebook gets one table for the whole tensor and vectors along the reduced axis. Raises
        SpecError for axes outside the rank, and for channels without a channel axis.
        """
        named = (channel_axis,) if isinstance(channel_axis, int) else channel_axis or ()
        channels = {_axis(axis, shape_rank) for axis in named}
        match self.granularity:
            case "tensor":
                block = [-1] * shape_rank
            case "channel":
                if not channels:
                    raise SpecError("a scale per channel needs to know the channel axis", where=str(self))
                block = [1 if axis in channels else -1 for axis in range(shape_rank)]
            case "token":
                block = [1] * shape_rank
                block[_axis(reduce_axis, shape_rank)] = -1
            case "group":
                split_all = shape_rank <= 2 or not channels
                block = [1 if split_all or axis in channels else -1 for axis in range(shape_rank)]
                block[_axis(reduce_axis, shape_rank)] = self.group_size
        levels = [Level(tuple(block), self.scale, "none" if self.symmetric else "int")]
        if self.outer_scale:
            levels.append(Level((-1,) * shape_rank, self.outer_scale))
        parts = None
        if isinstance(self.format, Codebook):
            along = _axis(reduce_axis, shape_rank)
            parts = Parts(SharedTable((-1,) * shape_rank), along=-1 if along == shape_rank - 1 else along)
        return QuantSpec(self.format, tuple(levels), self.dynamic, parts)


@dataclass(frozen=True)
class Scheme:
    """What weights and activations become; None leaves them in float. `str(scheme)` is its name."""

    weight: Number | None
    activation: Number | None
    name: str

    def __str__(self) -> str:
        return self.name


_GRANULARITIES: dict[str, NumberGranularity] = {
    "tensor": "tensor",
    "channel": "channel",
    "token": "token",
    "group": "group",
}
_NUMBER = re.compile(
    r"(?P<format>[\w.-]+) (?P<sign>sym|asym) (?P<where>tensor|channel|token|group=\d+) scale=(?P<scale>\w+)"
    r"(?: outer=(?P<outer>\w+))?(?P<dynamic> dynamic)?"
)
_SCHEME = re.compile(
    r"w(?P<weight>\d+)a(?P<activation>\d+)(?:g(?P<group>[1-9]\d*))?"
    r"(?P<sign>_sym|_asym)?(?P<scale>_f16)?(?P<dynamic>_dynamic|_token)?"
)
_EXAMPLES = "w8a8, w8a8_dynamic, w8a8_token, w8a16, w4a16g32, w4a16g128_sym, w4a8g64, nvfp4, mxfp4, mxint8, fp8, nf4"

_NVFP4 = Number(FP4_E2M1, "group", 16, scale="e4m3", outer_scale="f32")
_MX = Number(FP4_E2M1, "group", 32, scale="e8m0")
_WORD = Integer(16, signed=False)
SCHEMES: tuple[Scheme, ...] = (
    Scheme(_NVFP4, replace(_NVFP4, dynamic=True), "nvfp4"),
    *(
        Scheme(replace(_MX, format=number), replace(_MX, format=number, dynamic=True), name)
        for name, number in (
            ("mxfp4", FP4_E2M1),
            ("mxfp6", FP6_E2M3),
            ("mxfp6_e3m2", FP6_E3M2),
            ("mxfp8", FP8_E4M3),
            ("mxfp8_e5m2", FP8_E5M2),
            ("mxint8", Integer(8, signed=True)),
        )
    ),
    Scheme(Number(FP8_E4M3, "channel"), Number(FP8_E4M3, "tensor"), "fp8"),
    Scheme(Number(Integer(8, signed=True), "channel"), Number(_WORD, "tensor", symmetric=False), "w8aint16"),
    Scheme(Number(NF4, "group", 64), None, "nf4"),
    Scheme(Number(NF3, "group", 64), None, "nf3"),
    Scheme(Number(NF2, "group", 64), None, "nf2"),
    Scheme(Number(BNB_FP4, "group", 64), None, "bnbfp4"),
    Scheme(Number(TERNARY, "group", 128, scale="f16"), None, "ternary"),
    Scheme(Number(BINARY, "group", 128, scale="f16"), None, "binary"),
    Scheme(Number(BINARY, "channel"), Number(BINARY, "tensor"), "w1a1"),
)


def parse_scheme(text: str) -> Scheme:
    """Reads a short name, upper or lower case; inverts `str(scheme)`.

    `wXaY`: X-bit weights per output channel, Y-bit activations (unsigned with zero point, one static scale
    per tensor); 16 bits mean float. `gN`: weights in groups of N. `_dynamic`: activation scales found at run
    time, one per tensor; `_token`: the same, one per token. `_sym`, `_asym`: of the weights; without it they
    are symmetric, except below 8 bits with float activations, where a zero point costs no arithmetic and
    loses less. `_f16`: scales of the weights in half precision, which counts where rows and groups are short.
    Raises SpecError with examples.
    """
    name = text.strip().lower()
    for known in SCHEMES:
        if known.name == name:
            return known
    match = _SCHEME.fullmatch(name)
    if not match:
        raise SpecError(f"unknown scheme {text!r}", mend=f"write one like {_EXAMPLES}")
    weight_bits, activation_bits = int(match["weight"]), int(match["activation"])
    try:
        weight = _weight(weight_bits, activation_bits, int(match["group"] or 0), match["sign"], match["scale"])
        activation = _activation(activation_bits, match["dynamic"])
    except SpecError as error:
        raise SpecError(f"unknown scheme {text!r}: {error.what}", mend=f"write one like {_EXAMPLES}") from error
    return Scheme(weight, activation, name)


def _weight(bits: int, activation_bits: int, group: int, sign: str | None, scale: str | None) -> Number | None:
    if bits == 16:
        if group or sign or scale:
            raise SpecError("float weights have no groups, no sign and no scales")
        return None
    _check_bits(bits)
    symmetric = sign != "_asym" if sign else bits == 8 or activation_bits != 16
    granularity: NumberGranularity = "group" if group else "channel"
    stored: ScaleName = "f16" if scale else "f32"
    return Number(Integer(bits, signed=symmetric), granularity, group, symmetric, scale=stored)


def _activation(bits: int, dynamic: str | None) -> Number | None:
    if bits == 16:
        if dynamic:
            raise SpecError("float activations have no scales to find at run time")
        return None
    _check_bits(bits)
    granularity: NumberGranularity = "token" if dynamic == "_token" else "tensor"
    return Number(Integer(bits, signed=False), granularity, symmetric=False, dynamic=dynamic is not None)


def _check_bits(bits: int) -> None:
    if not 2 <= bits <= 8:
        raise SpecError(f"{bits} bits are not between 2 and 8, nor 16 for float")


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise SpecError(f"axis {axis} is outside a tensor of rank {rank}")
    return axis % rank
