"""How far a program has come, and where its nodes come from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Stage(StrEnum):
    """How far a Program has come; `ir.verify` says what each stage allows."""

    TRACED = "traced"
    CANONICAL = "canonical"
    QUANTIZED = "quantized"
    LOWERED = "lowered"


@dataclass(frozen=True)
class Origin:
    """Where a node comes from.

    Args:
        module: path of the source module, such as `layers.0.conv1`; the node name in an ONNX file.
        step: the pass that made the node, empty when the front-end did.
    """

    module: str = ""
    step: str = ""
