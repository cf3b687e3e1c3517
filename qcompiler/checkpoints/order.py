"""What a writer of checkpoints is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qcompiler.checkpoints.contents import Contents


@dataclass(frozen=True)
class Order:
    """One checkpoint to be written.

    Args:
        contents: the weights.
        folder: that exists and is empty.
        title: name of the program.
        config: the model's `config.json`.
        names: names of tensors in the checkpoint where they differ from those of the source model.
    """

    contents: Contents
    folder: Path
    title: str
    config: Mapping[str, object] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
