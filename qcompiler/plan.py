"""Plan: who gets which format. The lock file of a compilation: it prints, parses, can be edited, and replays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qcompiler.errors import InputError, QCompilerError, SpecError
from qcompiler.ir.program import Program
from qcompiler.notebook import table
from qcompiler.spec import QuantSpec

VERSION = 1
MEASURED = "measured_db"
"""Where a node keeps what the plan that it follows says of its SQNR."""


@dataclass(frozen=True)
class Assignment:
    """What one operator gets.

    Args:
        kernel: name of the target's kernel row.
        inputs: spec by argument name; an argument that is a list of tensors has one spec for all of them.
        result: spec of the result, None when it stays float.
        result_at: name of the node whose value is quantized as the result (an absorbed activation comes after the
            operator itself).
    """

    kernel: str
    inputs: Mapping[str, QuantSpec] = field(default_factory=dict)
    result: QuantSpec | None = None
    result_at: str = ""


KEPT = "kept in float by the recipe"
LEFT_IN_FLOAT = "left in float by the allocation"
EXCLUDED = "kept in float because its error costs too much"
ON_PURPOSE = frozenset({KEPT, LEFT_IN_FLOAT, EXCLUDED})
"""Reasons of operators that stay in float because somebody wanted it, and not for want of a kernel."""


@dataclass(frozen=True)
class Decomposition:
    """That a solver turned what an operator reads into parts, which the graph puts together; no kernel reads them.

    Args:
        step: the solver.
        bits: storage per weight with everything that decoding needs.
        told: why the operator runs in float, where it is not because its weight is in parts.
    """

    step: str
    bits: float
    told: str = ""

    @property
    def reason(self) -> str:
        """Why the operator runs in float."""
        return self.told or f"its weight is unpacked when it runs, from the parts that {self.step} found"


@dataclass(frozen=True)
class Plan:
    """Assignments by node name, and the reason for each operator that stays float though a format was asked.

    Args:
        target: name of the target the plan was made for.
        scheme: name of the scheme asked for.
        assignments: by node name.
        refusals: reason by node name.
        measured: SQNR of each layer in dB on the data of the compilation that made the plan, by node name.
    """

    target: str = ""
    scheme: str = ""
    assignments: Mapping[str, Assignment] = field(default_factory=dict)
    refusals: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.scheme} of {len(self.assignments)} operators for {self.target}"

    def _repr_html_(self) -> str:
        rows = [
            (name, item.kernel, ", ".join(f"{argument} {spec}" for argument, spec in item.inputs.items()))
            for name, item in self.assignments.items()
        ]
        rows += [(name, "float", reason) for name, reason in self.refusals.items()]
        return table(str(self), ("node", "kernel", "formats, or why none"), rows, len(rows))

    def to_json(self) -> dict[str, object]:
        """Plain data; `from_json` inverts it."""
        return {
            "version": VERSION,
            "target": self.target,
            "scheme": self.scheme,
            "assignments": {name: _assignment_json(item) for name, item in self.assignments.items()},
            "refusals": dict(self.refusals),
            "measured": dict(self.measured),
        }

    @staticmethod
    def from_json(data: object) -> Plan:
        """Reads what `to_json` wrote.

        Raises:
            InputError: when the data is not a plan.
        """
        try:
            return _read(data)
        except (KeyError, TypeError, AttributeError, SpecError) as error:
            text = error.what if isinstance(error, QCompilerError) else str(error)
            raise InputError(f"this is not a plan: {text}", mend="start from the plan.json of an artefact") from error

    def save(self, path: Path) -> None:
        """Writes the plan as JSON with sorted keys."""
        path.write_text(json.dumps(self.to_json(), indent=1, sort_keys=True) + "\n")

    @staticmethod
    def load(path: str | Path) -> Plan:
        """Reads a plan file.

        Raises:
            InputError: when the file is missing or is not a plan.
        """
        try:
            data = json.loads(Path(path).read_text())
        except (OSError, ValueError) as error:
            mend = "give the plan.json of an artefact"
            raise InputError(f"cannot read the plan: {error}", where=str(path), mend=mend) from error
        try:
            return Plan.from_json(data)
        except InputError as error:
            raise InputError(error.what, where=str(path), mend=error.mend) from error

    def check(self, program: Program) -> None:
        """Refuses a plan that names nodes the program lacks.

        Raises:
            InputError: naming the nodes.
        """
        known = {node.name for node in program.nodes}
        unknown = sorted(set(self.assignments) - known)
        if unknown:
            raise InputError(
                f"the plan speaks of {len(unknown)} operators that this model lacks: {', '.join(unknown[:5])}",
                mend="a plan belongs to one model; make a new one by compiling without plan=",
            )


def plan_of(program: Program, target: str, scheme: str) -> Plan:
    """The plan that a program's nodes carry."""
    assignments, refusals = {}, {}
    for node in program.nodes:
        if isinstance(node.meta.get("assignment"), Assignment):
            assignments[node.name] = node.meta["assignment"]
        elif "refusal" in node.meta:
            refusals[node.name] = str(node.meta["refusal"])
    return Plan(target, scheme, assignments, refusals)


def _assignment_json(item: Assignment) -> dict[str, object]:
    data: dict[str, object] = {
        "kernel": item.kernel,
        "inputs": {name: str(spec) for name, spec in item.inputs.items()},
    }
    if item.result is not None:
        data.update(result=str(item.result), result_at=item.result_at)
    return data


def _read(data: object) -> Plan:
    if not isinstance(data, dict) or data["version"] != VERSION:
        raise TypeError("no version 1 plan")
    assignments = {
        name: Assignment(
            item["kernel"],
            {argument: QuantSpec.parse(text) for argument, text in item["inputs"].items()},
            QuantSpec.parse(item["result"]) if "result" in item else None,
            item.get("result_at", ""),
        )
        for name, item in data["assignments"].items()
    }
    return Plan(data["target"], data["scheme"], assignments, data.get("refusals", {}), data.get("measured", {}))
