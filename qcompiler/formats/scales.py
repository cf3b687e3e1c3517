"""The formats in which scales are stored; scales are positive and finite in every one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from qcompiler.errors import SpecError

ScaleName = Literal["f32", "f16", "bf16", "e4m3", "e8m0", "u8", "u6", "u4"]


@dataclass(frozen=True)
class ScaleFormat:
    """How one scale is stored.

    bits: width in storage. smallest, largest: limits of the positive values. anchor: the value that the
    largest scale of a block of scales takes when an outer level multiplies them (the top of a format that is
    short of range).
    """

    name: ScaleName
    bits: int
    smallest: float
    largest: float
    anchor: float = 1.0


SCALE_FORMATS: tuple[ScaleFormat, ...] = (
    ScaleFormat("f32", 32, 2.0**-149, (2 - 2.0**-23) * 2.0**127),
    ScaleFormat("f16", 16, 2.0**-24, 65504.0),
    ScaleFormat("bf16", 16, 2.0**-133, (2 - 2.0**-7) * 2.0**127),
    ScaleFormat("e4m3", 8, 2.0**-9, 448.0, 448.0),
    ScaleFormat("e8m0", 8, 2.0**-127, 2.0**127),
    ScaleFormat("u8", 8, 1.0, 255.0, 255.0),
    ScaleFormat("u6", 6, 1.0, 63.0, 63.0),
    ScaleFormat("u4", 4, 1.0, 15.0, 15.0),
)


def scale_format(name: str) -> ScaleFormat:
    """The scale format of that name; raises SpecError that lists the known ones."""
    for known in SCALE_FORMATS:
        if known.name == name:
            return known
    raise SpecError(
        f"unknown scale format {name!r}",
        mend="choose one of " + ", ".join(known.name for known in SCALE_FORMATS),
    )


def scale_name(text: str) -> ScaleName:
    """Checks the name of a scale format; raises SpecError that lists the known ones."""
    return cast("ScaleName", scale_format(text).name)
