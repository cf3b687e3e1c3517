"""The explanation as data: parts, findings and mends; plain JSON in both directions."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qcompiler.errors import InputError
from qcompiler.plan import Plan

VERSION = 1
EXPLANATION_FILE = "explanation.json"

Cause = Literal[
    "weight rounding",
    "weight clipping",
    "activation rounding",
    "activation clipping",
    "run-time activation quantization",
    "scale format",
    "changed parameter",
    "rewritten operators",
    "accumulation and requantization",
    "kernel mismatch",
]
FindingKind = Literal[
    "bad scale",
    "saturated channel",
    "wrong zero point",
    "swapped axis",
    "wrong group axis",
    "stale norm statistics",
    "stale calibration",
    "changed parameter",
    "dead tensor",
    "not finite",
]
MendKind = Literal["recalibrate", "more bits", "finer scales", "exclude", "redo"]


@dataclass(frozen=True)
class Part:
    """What one cause at one tensor adds to the error of the results.

    Args:
        tensor: node name in the float program; `results` for what happens behind it.
        layer: the operator that reads it first.
        module: source module path of that operator.
        cause: why the quantized tensor differs.
        mse: contribution to the mean squared error of the results; negative where it cancels other errors.
        share: of the whole.
        channel: number of the channel that adds most; -1 where channels make no sense.
        channel_share: its part of the sum of what all channels add or cancel, signs aside.
    """

    tensor: str
    layer: str
    module: str
    cause: Cause
    mse: float
    share: float
    channel: int = -1
    channel_share: float = 0.0


@dataclass(frozen=True)
class Finding:
    """Something at a tensor that is wrong, not merely coarse.

    Args:
        tensor: node name in the float program.
        layer: the operator that reads it first.
        kind: what is wrong.
        evidence: the numbers behind it.
        recovered: part of the tensor's own squared error that undoing it removes, 0 to 1.
        share: of the whole error of the results that the tensor carries.
    """

    tensor: str
    layer: str
    kind: FindingKind
    evidence: str
    recovered: float
    share: float


@dataclass(frozen=True)
class Mend:
    """A change of the plan.

    Args:
        kind: what is done.
        tensor: node name in the float program; the layer's where all of it changes.
        layer: the operator.
        text: the change in words.
        predicted_db: gain in output SQNR foretold with all other errors as they are.
        measured_db: gain measured after the change was made; None where nobody tried.
    """

    kind: MendKind
    tensor: str
    layer: str
    text: str
    predicted_db: float
    measured_db: float | None = None


@dataclass(frozen=True)
class Explanation:
    """Where the error of the results comes from.

    Args:
        model: name of the program.
        samples: how many were looked at.
        mse: mean squared error of the results against the float program.
        sqnr_db: the same in decibels below the signal.
        parts: largest first; they sum to `mse` but for `interaction`.
        interaction: what no part explains: steps of operators without a gradient, and the integration's own error.
        points: evaluations along the path from float to quantized.
        deployed: whether the last point is what ships, and not the quantized program.
        findings: what is wrong, worst first.
        mends: best first.
        plan: the best that was made and measured, with one mend or several; None where none helps.
        notes: what the user should know.
    """

    model: str
    samples: int
    mse: float
    sqnr_db: float
    parts: tuple[Part, ...]
    interaction: float
    points: int
    deployed: bool = False
    findings: tuple[Finding, ...] = ()
    mends: tuple[Mend, ...] = ()
    plan: Plan | None = None
    notes: tuple[str, ...] = ()

    @property
    def explained(self) -> float:
        """Part of the error that the parts sum to, 1 when all."""
        return 1 - self.interaction / self.mse if self.mse else 1.0

    def by_tensor(self) -> dict[str, float]:
        """Share of each tensor, all its causes together, largest first."""
        return _sums((part.tensor, part.share) for part in self.parts)

    def by_layer(self) -> dict[str, float]:
        """Share of each layer, all it reads together, largest first."""
        return _sums((part.layer, part.share) for part in self.parts)

    def by_cause(self) -> dict[str, float]:
        """Share of each cause, largest first."""
        return _sums((part.cause, part.share) for part in self.parts)

    def to_dict(self) -> dict[str, object]:
        """Plain JSON data; `from_dict` inverts it."""
        words = {option.name: getattr(self, option.name) for option in dataclasses.fields(self)}
        words |= {name: [dataclasses.asdict(item) for item in words[name]] for name in ("parts", "findings", "mends")}
        words["plan"] = None if self.plan is None else self.plan.to_json()
        return {"version": VERSION, **_plain(words)}

    @staticmethod
    def from_dict(data: object) -> Explanation:
        """Reads what `to_dict` wrote.

        Raises:
            InputError: when the data is no explanation.
        """
        try:
            if not isinstance(data, dict) or data["version"] != VERSION:
                raise TypeError(f"no version {VERSION} explanation")
            words = {key: value for key, value in data.items() if key != "version"}
            lists = {
                "parts": tuple(Part(**item) for item in words["parts"]),
                "findings": tuple(Finding(**item) for item in words["findings"]),
                "mends": tuple(Mend(**item) for item in words["mends"]),
                "notes": tuple(words["notes"]),
                "plan": None if words["plan"] is None else Plan.from_json(words["plan"]),
            }
            return Explanation(**(words | lists))
        except (KeyError, TypeError) as error:
            raise InputError(f"this is no explanation: {error}", mend="use what `qcompiler explain` wrote") from error

    def save(self, path: Path) -> None:
        """Writes the explanation as JSON."""
        path.write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")

    @staticmethod
    def load(path: Path) -> Explanation:
        """Reads an explanation.

        Raises:
            InputError: when the file is missing or is none.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read the explanation: {error}", where=str(path)) from error
        return Explanation.from_dict(data)


def gain_db(before: float, after: float) -> float:
    """Decibels won by going from one squared error to another, within +-300."""
    if before <= 0 or after <= 0:
        return 300.0 if before > 0 else 0.0
    return max(-300.0, min(300.0, 10 * math.log10(before / after)))


def _sums(items: object) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, share in items:  # pyright: ignore[reportGeneralTypeIssues]
        found[name] = found.get(name, 0.0) + share
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _plain(data: Mapping[str, object]) -> dict[str, object]:
    """Tuples as lists, and numbers that JSON lacks as the largest one."""

    def plain(value: object) -> object:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, tuple | list):
            return [plain(item) for item in value]
        if isinstance(value, float) and not math.isfinite(value):
            return 0.0 if math.isnan(value) else math.copysign(1e300, value)
        return value

    return {key: plain(value) for key, value in data.items()}
