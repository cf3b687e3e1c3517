"""The report as data: one record per layer, totals, passes; plain JSON in both directions."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from qcompiler.errors import InputError
from qcompiler.frontier import Frontier
from qcompiler.pipeline import Step
from qcompiler.report.symmetry import GroupReport, SymmetryReport

if TYPE_CHECKING:
    from rich.console import Console

VERSION = 1


@dataclass(frozen=True)
class LayerReport:
    """One operator that a low-bit format was asked for, or that a user would expect to have one.

    Args:
        name: node name in the program.
        module: source module path.
        op: operator, such as `aten.conv2d`.
        requested: the numbers asked for, such as `int8 x uint8`; `float` when nothing was.
        realised: what the runtime really runs.
        kernel: the target's kernel row, empty when none was chosen.
        bits: per weight, scales and zero points included.
        sqnr_db: of the result, everything upstream quantized too; None when it was not measured.
        error_share: this layer's part of the sum of all layers' own errors; None when it was not measured.
        bytes: of the weights as deployed.
        float_bytes: of the weights of the float model.
        reason: why the layer runs in float, empty when it does not.
        mend: what would change that.
    """

    name: str
    module: str = ""
    op: str = ""
    requested: str = "float"
    realised: str = "float"
    kernel: str = ""
    bits: float = 32.0
    sqnr_db: float | None = None
    error_share: float | None = None
    bytes: int = 0
    float_bytes: int = 0
    reason: str = ""
    mend: str = ""

    @property
    def fell_back(self) -> bool:
        """Whether something was asked that does not run; a layer that the recipe keeps in float did not."""
        return bool(self.reason) and self.requested != "float"


@dataclass(frozen=True)
class LatencyReport:
    """Seconds of one call with the inputs that the model was traced with, on one thread.

    Args:
        predicted: of the artefact.
        float_predicted: of the float model.
        limit: of the budget, None without one.
        kind: `measured` when every row that the prediction needed was, else `modelled`.
        source: where the rows come from.
        measured: of the artefact; None where it cannot run here.
        float_measured: of the float model on the same target; None where it cannot run here.
    """

    predicted: float
    float_predicted: float
    limit: float | None = None
    kind: str = "modelled"
    source: str = ""
    measured: float | None = None
    float_measured: float | None = None

    def __str__(self) -> str:
        parts = [f"predicted {1e3 * self.predicted:.4g} ms, float {1e3 * self.float_predicted:.4g} ms ({self.source})"]
        if self.measured is not None and self.float_measured is not None:
            parts.append(f"measured {1e3 * self.measured:.4g} ms, float {1e3 * self.float_measured:.4g} ms")
        return "latency of one call on one thread: " + "; ".join(parts)


@dataclass(frozen=True)
class Report:
    """One compilation.

    Args:
        model: name of the model.
        target: name of the device.
        recipe: name of the recipe.
        layers: in execution order.
        sqnr_db: of the output; None when it was not measured.
        float_bytes: size of the float model.
        quantized_bytes: size as deployed.
        seconds: wall time of the compilation.
        peak_bytes: peak resident memory.
        metric_float: the user's task metric of the float model, None without one.
        metric_quantized: the same of the artefact.
        steps: the passes that ran.
        warnings: what the user should know.
        notes: what the allocation decided, and how good it is proven to be.
        frontiers: that the allocation drew.
        symmetries: of the canonical program; None when nobody looked.
        latency: predicted and measured; None when it did not matter.
        seed: of every random choice.
        versions: of the libraries that matter, by name.
    """

    model: str
    target: str
    recipe: str
    layers: tuple[LayerReport, ...] = ()
    sqnr_db: float | None = None
    float_bytes: int = 0
    quantized_bytes: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0
    metric_float: float | None = None
    metric_quantized: float | None = None
    steps: tuple[Step, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    frontiers: tuple[Frontier, ...] = ()
    symmetries: SymmetryReport | None = None
    latency: LatencyReport | None = None
    seed: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """How many times smaller the artefact is than the float model."""
        return self.float_bytes / self.quantized_bytes if self.quantized_bytes else 1.0

    @property
    def fallbacks(self) -> tuple[LayerReport, ...]:
        """Layers for which something was asked that does not run; each has a reason."""
        return tuple(layer for layer in self.layers if layer.fell_back)

    def fallback_groups(self) -> tuple[tuple[LayerReport, ...], ...]:
        """The fallbacks, those with the same wish, result, reason and mend together."""
        groups: dict[tuple[str, ...], list[LayerReport]] = {}
        for layer in self.fallbacks:
            groups.setdefault((layer.requested, layer.realised, layer.reason, layer.mend), []).append(layer)
        return tuple(tuple(group) for group in groups.values())

    def kept_in_float(self) -> Mapping[str, tuple[LayerReport, ...]]:
        """Layers for which nothing was asked, by the reason why."""
        groups: dict[str, tuple[LayerReport, ...]] = {}
        for layer in self.layers:
            if layer.reason and not layer.fell_back:
                groups[layer.reason] = (*groups.get(layer.reason, ()), layer)
        return groups

    def worst(self, count: int = 3) -> frozenset[str]:
        """Names of the layers that add most of the error; empty when nothing was measured."""
        measured = [layer for layer in self.layers if layer.error_share]
        measured.sort(key=lambda layer: layer.error_share or 0.0, reverse=True)
        return frozenset(layer.name for layer in measured[:count])

    def to_dict(self) -> dict[str, object]:
        """Plain JSON data; `from_dict` inverts it."""
        return {
            "version": VERSION,
            "model": self.model,
            "target": self.target,
            "recipe": self.recipe,
            "seed": self.seed,
            "versions": dict(self.versions),
            "output": {"sqnr_db": _finite(self.sqnr_db)},
            "size": {
                "float_bytes": self.float_bytes,
                "quantized_bytes": self.quantized_bytes,
                "ratio": self.ratio,
            },
            "metric": {"float": _finite(self.metric_float), "quantized": _finite(self.metric_quantized)},
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
            "layers": [_record(layer) for layer in self.layers],
            "steps": [_record(step) for step in self.steps],
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "frontiers": [frontier.to_dict() for frontier in self.frontiers],
            "symmetries": _symmetry_record(self.symmetries),
            "latency": None if self.latency is None else dataclasses.asdict(self.latency),
        }

    @staticmethod
    def from_dict(data: object) -> Report:
        """Reads what `to_dict` wrote.

        Raises:
            InputError: when the data is not a report.
        """
        try:
            return _read(data)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"this is not a report: {error}", mend="use the report.json of an artefact") from error

    def save(self, path: Path) -> None:
        """Writes the report as JSON."""
        text = json.dumps(self.to_dict(), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")

    @staticmethod
    def load(path: Path) -> Report:
        """Reads a report file.

        Raises:
            InputError: when the file is missing or is not a report.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read the report: {error}", where=str(path)) from error
        return Report.from_dict(data)

    def print(self, console: Console | None = None) -> None:
        """Prints the report as a table: layers, totals, and what fell back to float and why."""
        from qcompiler.report.table import print_report

        print_report(self, console)

    def _repr_html_(self) -> str:
        from qcompiler.report.table import notebook_table

        return notebook_table(self)

    def __str__(self) -> str:
        from qcompiler.report.table import plain_text

        return plain_text(self)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _record(item: LayerReport | Step) -> dict[str, object]:
    fields = {option.name: getattr(item, option.name) for option in dataclasses.fields(item)}
    # What passes refused is told by the run folder.
    fields.pop("refusals", None)
    return {name: _finite(value) if isinstance(value, float) else value for name, value in fields.items()}


def _read(data: object) -> Report:
    if not isinstance(data, dict) or data["version"] != VERSION:
        raise TypeError(f"no version {VERSION} report")
    metric = data["metric"]
    return Report(
        model=data["model"],
        target=data["target"],
        recipe=data["recipe"],
        layers=tuple(LayerReport(**layer) for layer in data["layers"]),
        sqnr_db=data["output"]["sqnr_db"],
        float_bytes=data["size"]["float_bytes"],
        quantized_bytes=data["size"]["quantized_bytes"],
        seconds=data["seconds"],
        peak_bytes=data["peak_bytes"],
        metric_float=metric["float"],
        metric_quantized=metric["quantized"],
        steps=tuple(Step(**step) for step in data["steps"]),
        warnings=tuple(data["warnings"]),
        notes=tuple(data.get("notes", ())),
        frontiers=tuple(map(Frontier.from_dict, data.get("frontiers", ()))),
        symmetries=_symmetries(data.get("symmetries")),
        latency=None if data.get("latency") is None else LatencyReport(**data["latency"]),
        seed=data["seed"],
        versions=data["versions"],
    )


def _symmetry_record(found: SymmetryReport | None) -> dict[str, object] | None:
    if found is None:
        return None
    refused = {reason: list(names) for reason, names in found.refused.items()}
    return dataclasses.asdict(found) | {
        "largest": [dataclasses.asdict(group) for group in found.largest],
        "refused": refused,
    }


def _symmetries(data: object) -> SymmetryReport | None:
    if data is None:
        return None
    if not isinstance(data, dict):
        raise TypeError("its symmetries are no record")
    largest = tuple(GroupReport(**group) for group in data["largest"])
    refused = {reason: tuple(names) for reason, names in data["refused"].items()}
    return SymmetryReport(**(data | {"largest": largest, "refused": refused}))
