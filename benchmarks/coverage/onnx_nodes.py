"""The ONNX package's own backend node tests: import and interpret, then write and run in ONNX Runtime.

    python -m benchmarks.coverage.onnx_nodes [--only resize] [--opsets 13,17,21] [--update]

Each case is counted in the opset that it asks for, and again in each of `--opsets` that the version converter of the
ONNX package can bring it to (one that fails there counts when ONNX Runtime confirms that the converted model still
means the same). A case may be `unsupported`, by an error that names the operator and the reason, and must not fail.
`settings fixed` counts cases in which inputs that are settings of an operator (axes, sizes, ...) were made constants of
the model, because the front-end wants them so. The results file keeps what did not pass, with its reason.
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import torch

from benchmarks.common import print_table, write_results
from benchmarks.coverage.onnx_cases import (
    NodeCase,
    Outcome,
    check,
    converted,
    keeps_meaning,
    node_cases,
    round_trip,
)

Row = dict[str, object]
STATUSES = ("passed", "unsupported", "failed")
OPSETS = (13, 17, 21)


def run_case(case: NodeCase, *, again: bool) -> list[tuple[str, NodeCase, Outcome]]:
    """Outcomes of import and, for what passed, of the way back through ONNX Runtime."""
    outcome, program = check(case)
    found = [("import", case, outcome)]
    if program is not None and again:
        found.append(("round trip", case, round_trip(case, program)))
    return found


def kind_of(reason: str) -> str:
    """A reason without the names of its case."""
    short = reason.replace("\n", " ")
    short = re.sub(
        r"^onnxruntime cannot load the model: .*: (NOT_IMPLEMENTED|INVALID_GRAPH) : ", "onnxruntime: ", short
    )
    short = re.sub(r"\(\d+\) node with name.*$| of operator.*$", "", short)
    return re.sub(r"'[^']*'", "'...'", short) if short.startswith(("input", "initializer")) else short


def by_opset(outcomes: Iterable[tuple[str, NodeCase, Outcome]]) -> list[Row]:
    """One row per opset: how many cases passed, and how."""
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    for stage, case, outcome in outcomes:
        counts[case.opset][f"{stage} {outcome.status}"] += 1
        if outcome.status == "passed" and outcome.fixed:
            counts[case.opset]["settings fixed"] += 1
    heads = [f"{stage} {status}" for stage in ("import", "round trip") for status in STATUSES]
    return [
        {"opset": opset or "other", **{head: counts[opset][head] for head in [*heads, "settings fixed"]}}
        for opset in sorted(counts)
    ]


def by_operator(outcomes: Iterable[tuple[str, NodeCase, Outcome]]) -> list[Row]:
    """One row per operator that did not pass everywhere."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for stage, case, outcome in outcomes:
        counts[case.op][f"{stage} {outcome.status}"] += 1
    heads = [f"{stage} {status}" for stage in ("import", "round trip") for status in STATUSES]
    rows: list[Row] = [{"operator": name, **{head: counts[name][head] for head in heads}} for name in sorted(counts)]
    return [row for row in rows if any(row[head] for head in heads if not head.endswith("passed"))]


def reasons(outcomes: Iterable[tuple[str, NodeCase, Outcome]], stage: str, status: str) -> list[Row]:
    """How often each reason was given, and one case that it was given for."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for at, case, outcome in outcomes:
        if at == stage and outcome.status == status:
            kinds[kind_of(outcome.reason)].append(case.name)
    return [
        {"cases": len(names), "reason": kind, "such as": names[0]}
        for kind, names in sorted(kinds.items(), key=lambda item: -len(item[1]))
    ]


def in_all_opsets(cases: Sequence[NodeCase], opsets: Sequence[int]) -> list[tuple[str, NodeCase, Outcome]]:
    """Every case as it is with the way back, and converted without."""
    outcomes: list[tuple[str, NodeCase, Outcome]] = []
    for case in cases:
        outcomes += run_case(case, again=True)
        others = (converted(case, opset) for opset in opsets)
        for other in others:
            found = run_case(other, again=False) if other is not None else []
            outcomes += [item for item in found if item[2].status != "failed" or keeps_meaning(item[1])]
    return outcomes


def record(outcomes: Iterable[tuple[str, NodeCase, Outcome]]) -> list[Row]:
    """What did not pass, a row each."""
    return [
        {
            "case": case.name,
            "operator": case.op,
            "opset": case.opset,
            "stage": stage,
            "status": outcome.status,
            "reason": kind_of(outcome.reason)[:300],
        }
        for stage, case, outcome in outcomes
        if outcome.status != "passed"
    ]


def main() -> None:
    """Runs the cases, prints the tables and, when nothing was left out, writes `results/onnx_nodes.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of the names of the cases")
    parser.add_argument("--opsets", default=",".join(map(str, OPSETS)), help="to convert each case to")
    parser.add_argument("--update", action="store_true", help="write the results of a part, too")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cases = [case for case in node_cases() if options.only in case.name]
    outcomes = in_all_opsets(cases, [int(opset) for opset in options.opsets.split(",") if opset])
    native = {id(case) for case in cases}
    print(f"{len(cases)} cases as they are")
    print_table(by_opset(item for item in outcomes if id(item[1]) in native))
    print("\nthe same, converted to other opsets")
    print_table(by_opset(item for item in outcomes if id(item[1]) not in native))
    print("\noperators that did not pass everywhere")
    print_table(by_operator(item for item in outcomes if id(item[1]) in native))
    for stage in ("import", "round trip"):
        for status in ("unsupported", "failed"):
            print(f"\n{stage}, {status}")
            print_table(reasons(outcomes, stage, status))
    if options.update or not options.only:
        totals = [
            {"set": name, **row}
            for name, part in (("as they are", True), ("converted", False))
            for row in by_opset(item for item in outcomes if (id(item[1]) in native) == part)
        ]
        note = "backend node tests of the onnx package; rows with a case are those that did not pass"
        print(write_results("onnx_nodes", [*totals, *record(outcomes)], note))


if __name__ == "__main__":
    main()
