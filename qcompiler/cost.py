"""What kernels take of time: a table of measured rows, and a roofline for what nobody has measured.

Formula   a plan takes slope * sum + intercept, where the sum is over rows, and both were fitted to whole plans. A
          modelled kernel takes overhead + max(operations / peak, bytes / bandwidth)
Shapes    of values are those that the model was traced with
Promise   the text of a table follows from its rows alone, whatever their order; a row says whether it was measured
Needs     nothing: neither torch nor a runtime
Source    roofline: Williams et al. 2009, "Roofline: an insightful visual performance model"; the rest own
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from statistics import quantiles
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qcompiler.errors import InputError

VERSION = 1
Kind = Literal["measured", "modelled"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Device(_Strict):
    """Where times were taken; equal devices have comparable times.

    Args:
        target: name of the target whose kernels ran.
        processor: as the operating system calls it.
        features: instruction sets that matter.
        threads: that one operator may use.
        runtime: name and version.
    """

    target: str
    processor: str
    features: tuple[str, ...] = ()
    threads: int = 1
    runtime: str = ""

    def __str__(self) -> str:
        features = f" ({', '.join(self.features)})" if self.features else ""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.target} on {self.processor}{features}, {threads}, {self.runtime}"


class Row(_Strict):
    """The time of one kernel, change of format or whole program.

    Args:
        op: operator, such as `aten.conv2d`, or `quantize`, `dequantize`, `layout`, `program`.
        kernel: row of the target, `float` where nothing is quantized.
        numbers: of each argument and of the result.
        signature: shapes and attributes.
        seconds: mean of the middle half of the runs: as robust as the median, and finer than a clock's ticks.
        spread: seconds between the quartiles.
        runs: how many.
        kind: whether somebody measured it.
    """

    op: str
    kernel: str
    numbers: str
    signature: str
    seconds: float = Field(ge=0, allow_inf_nan=False)
    spread: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    runs: int = Field(default=0, ge=0)
    kind: Kind = "measured"

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What the row is about."""
        return self.op, self.kernel, self.numbers, self.signature


class Correction(_Strict):
    """How sums of rows relate to the time of a whole program.

    Args:
        slope: seconds for each second of the sum.
        intercept: seconds that every call takes besides.
        error: largest relative error over the plans it was fitted to.
        plans: how many.
        dropped: plans that no line through the others meets, and that count for nothing.
    """

    slope: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    intercept: float = Field(default=0.0, allow_inf_nan=False)
    error: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    plans: int = Field(default=0, ge=0)
    dropped: int = Field(default=0, ge=0)

    def __call__(self, seconds: float) -> float:
        """Seconds of a whole program whose rows add up to `seconds`."""
        return self.slope * seconds + self.intercept


class _File(_Strict):
    version: Literal[1]
    device: Device
    rows: tuple[Row, ...]
    correction: Correction = Correction()


@dataclass(frozen=True)
class LatencyTable:
    """Times of kernels on one device.

    Args:
        device: where.
        rows: one for each key; of several the last one counts.
        correction: of sums.
    """

    device: Device
    rows: tuple[Row, ...] = ()
    correction: Correction = field(default_factory=Correction)

    def __str__(self) -> str:
        return f"{len(self._by_key)} rows"

    @cached_property
    def _by_key(self) -> Mapping[tuple[str, str, str, str], Row]:
        return {row.key: row for row in self.rows}

    def find(self, op: str, kernel: str, numbers: str, signature: str) -> Row | None:
        """The row of a key, None when nobody measured it."""
        return self._by_key.get((op, kernel, numbers, signature))

    def with_rows(self, rows: Sequence[Row]) -> LatencyTable:
        """The table with rows added or replaced."""
        return replace(self, rows=(*self.rows, *rows))

    def to_dict(self) -> dict[str, object]:
        """Plain JSON data, rows in the order of their keys."""
        return {
            "version": VERSION,
            "device": self.device.model_dump(mode="json"),
            "correction": self.correction.model_dump(),
            "rows": [self._by_key[key].model_dump() for key in sorted(self._by_key)],
        }

    def to_json(self) -> str:
        """The text of a file; `from_json` inverts it up to the order of rows."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"

    @staticmethod
    def from_json(text: str, where: str = "") -> LatencyTable:
        """Reads the text of a file.

        Raises:
            InputError: naming the first field that is wrong.
        """
        try:
            file = _File.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the whole file"
            raise InputError(
                f"this is not a table of latencies: {place}: {first['msg']}",
                where=where,
                mend="write one with `qcompiler bench MODEL -o table.json`",
            ) from error
        return LatencyTable(file.device, file.rows, file.correction)

    def save(self, path: Path) -> None:
        """Writes the table; raises InputError when the file cannot be written."""
        try:
            path.write_text(self.to_json(), encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot write the table of latencies: {error}", where=str(path)) from error

    @staticmethod
    def load(path: str | Path) -> LatencyTable:
        """Reads a file; raises InputError when it is missing or no table."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            mend = "write one with `qcompiler bench MODEL -o table.json`"
            raise InputError(f"cannot read the table of latencies: {error}", where=str(path), mend=mend) from error
        return LatencyTable.from_json(text, str(path))


class Roofline(_Strict):
    """What a device could do at best; a kernel that nobody measured is modelled by it.

    Args:
        operations: per second, by the most bits that an operand has; a number of few bits runs like the next wider one.
        bandwidth: bytes per second from and to memory.
        overhead: seconds of every kernel call.
        source: where the figures come from.
    """

    operations: dict[int, float]
    bandwidth: float = Field(gt=0)
    overhead: float = Field(default=0.0, ge=0)
    source: str = ""

    def seconds(self, operations: float, bits: float, size: float) -> float:
        """Seconds of one kernel.

        Args:
            operations: multiplications and additions.
            bits: of the widest operand.
            size: bytes that it reads and writes.
        """
        fitting = sorted(width for width in self.operations if width >= bits)
        peak = self.operations[fitting[0] if fitting else max(self.operations)]
        return self.overhead + max(operations / peak, size / self.bandwidth)


def summary(samples: Sequence[float]) -> tuple[float, float]:
    """Mean of the middle half, and seconds between the quartiles.

    Args:
        samples: seconds of each run, at least one.
    """
    ordered = sorted(samples)
    cut = len(ordered) // 4
    middle = ordered[cut : len(ordered) - cut]
    low, _, high = quantiles(ordered, n=4) if len(ordered) > 1 else (0.0, 0.0, 0.0)
    return sum(middle) / len(middle), max(high - low, 0.0)


def fit(predicted: Sequence[float], measured: Sequence[float]) -> Correction:
    """The line from sums of rows to times of whole programs with the least squared relative errors.

    A plan in which the runtime does something else than in lone layers would spoil it. So the line with the least sum
    of absolute errors comes first; plans far from it are dropped, and the others are fitted. With one plan, or plans
    whose sums are alike, only the slope is fitted; a line that falls is none either.

    Args:
        predicted: sums of rows, in seconds.
        measured: of the same plans, in seconds.

    Raises:
        InputError: without plans, or with times that are not positive.
    """
    if not predicted or len(predicted) != len(measured) or min(*predicted, *measured) <= 0:
        raise InputError("a correction needs sums and times of the same plans, all of them positive")
    first = _median_line(predicted, measured)
    pairs = [pair for pair in zip(predicted, measured, strict=True) if _error(first, *pair) <= _FAR]
    kept = pairs if 2 * len(pairs) > len(predicted) else list(zip(predicted, measured, strict=True))
    line = _squares([p for p, _ in kept], [m for _, m in kept])
    errors = [_error(line, *pair) for pair in kept]
    return line.model_copy(
        update={"error": max(errors), "plans": len(kept), "dropped": len(predicted) - len(kept)},
    )


def _error(line: Correction, predicted: float, measured: float) -> float:
    return abs(line(predicted) - measured) / measured


def _median_line(predicted: Sequence[float], measured: Sequence[float]) -> Correction:
    """The line with the least sum of absolute relative errors: it runs through two of the points, or one and zero."""
    points = list(zip(predicted, measured, strict=True))
    lines = [Correction(slope=m / p) for p, m in points]
    for (p, m), (q, n) in combinations(points, 2):
        slope = (n - m) / (q - p) if abs(q - p) > _ALIKE * p else 0.0
        if slope > 0 and m - slope * p >= 0:
            lines.append(Correction(slope=slope, intercept=m - slope * p))
    return min(lines, key=lambda line: sum(_error(line, *point) for point in points))


def _squares(predicted: Sequence[float], measured: Sequence[float]) -> Correction:
    """The line with the least squared relative errors."""
    weights = [1 / seconds**2 for seconds in measured]
    total = sum(weights)
    x = sum(w * p for w, p in zip(weights, predicted, strict=True)) / total
    y = sum(w * m for w, m in zip(weights, measured, strict=True)) / total
    variance = sum(w * (p - x) ** 2 for w, p in zip(weights, predicted, strict=True))
    covariance = sum(w * (p - x) * (m - y) for w, p, m in zip(weights, predicted, measured, strict=True))
    slope = covariance / variance if variance > _ALIKE * total * x**2 else 0.0
    if slope <= 0 or y - slope * x < 0:
        squares = sum(w * p * p for w, p in zip(weights, predicted, strict=True))
        slope = sum(w * p * m for w, p, m in zip(weights, predicted, measured, strict=True)) / squares
        return Correction(slope=slope)
    return Correction(slope=slope, intercept=y - slope * x)


_ALIKE = 1e-4
"""Sums whose relative variance is below this say nothing of a line."""
_FAR = 0.2
"""Relative error of a plan that is dropped."""
