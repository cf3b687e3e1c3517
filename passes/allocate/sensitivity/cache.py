"""Measured losses kept in a folder, unit by unit, under a digest of all that they follow from.

A measurement that was cut off goes on where it stopped, and a unit that is met again with the same program, weights,
data, sensitivity and options is not measured again. Files appear whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from qcompiler.errors import InputError
from qcompiler.ir.fill import digest_of
from qcompiler.passes.allocate.problem import Unit
from qcompiler.passes.allocate.sensitivity.method import Subject

_VERSION = 1


@dataclass(frozen=True)
class Cache:
    """The losses of one sensitivity on one subject.

    Args:
        folder: of all of them.
        log: takes one line for the user.
    """

    folder: Path
    log: Callable[[str], None]

    def read(self, unit: Unit) -> Tensor | None:
        """What is known of a unit: float64 [options, samples]; None, with a line in the log, when it is damaged."""
        path = self._path(unit)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            return self._damaged(unit, path, str(error))
        try:
            held = json.loads(text)
            losses = torch.tensor(held["losses"], dtype=torch.float64)
            if losses.dim() != 2 or len(losses) != len(unit.options) or digest_of(losses) != held["digest"]:
                return self._damaged(unit, path, "its numbers are not those that were written")
        except (ValueError, KeyError, TypeError) as error:
            return self._damaged(unit, path, f"{type(error).__name__}: {error}")
        return losses

    def write(self, unit: Unit, losses: Tensor) -> None:
        """Keeps the losses of a unit.

        Raises:
            InputError: when the folder cannot be written.
        """
        held = {"version": _VERSION, "unit": unit.name, "digest": digest_of(losses), "losses": losses.tolist()}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=".", suffix=".part")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(held, file)
            Path(name).replace(self._path(unit))
        except OSError as error:
            raise InputError(
                f"cannot keep measured losses: {error}", where=str(self.folder), mend="give cache= a folder of yours"
            ) from error

    def _path(self, unit: Unit) -> Path:
        return self.folder / f"{unit_digest(unit)}.json"

    def _damaged(self, unit: Unit, path: Path, why: str) -> None:
        self.log(f"the kept losses of '{unit.name}' are damaged and measured anew: {path}: {why}")


def subject_digest(subject: Subject, metric: str) -> str:
    """First 16 hex digits of a SHA-256 over program, weights, data, labels, seed and the text of the sensitivity."""
    found = hashlib.sha256(f"{_VERSION} {metric} {subject.ctx.seed}\n{subject.program}".encode())
    tensors = [subject.program.param(node) for node in subject.program.param_nodes]
    tensors += [value for batch in subject.ctx.batches for value in batch]
    for tensor in tensors:
        found.update(digest_of(tensor).encode())
    for label in subject.labels:
        found.update(b"-" if label is None else digest_of(label).encode())
    return found.hexdigest()[:16]


def unit_digest(unit: Unit) -> str:
    """First 16 hex digits of a SHA-256 over a unit's operators and what each option gives them."""
    lines = [" ".join((unit.name, *unit.nodes))]
    for option in unit.options:
        lines.append("option")
        for name, item in sorted(option.assignments.items()):
            inputs = ", ".join(f"{argument}={spec}" for argument, spec in sorted(item.inputs.items()))
            lines.append(f"{name} {inputs} -> {item.result_at} {item.result}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
