"""What the installed onnxruntime makes of each pattern, and what it made of them when the golden data were written.

Golden data hold one file per version, `onnxruntime-<version>.json`: pattern -> operators of the optimized graph,
the kernel among them that does the work, and whether that computes with codes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from qcompiler.backends.onnx.matrix.patterns import Pattern
from qcompiler.backends.onnx.realised import RUNTIME_VERSION, Realised, code_readers, optimized_graph
from qcompiler.errors import InputError

_FOLDER = Path(__file__).parent
REFUSED = "refused"


@dataclass(frozen=True)
class Row:
    """One pattern.

    Args:
        pattern: its name.
        kernel: what does the work; `refused` when the runtime cannot load the graph.
        integer: whether that is an integer kernel, or moves codes as they are.
        operators: of the optimized graph, sorted: the runtime does not keep to one order.
    """

    pattern: str
    kernel: str
    integer: bool
    operators: tuple[str, ...]


def probe(pattern: Pattern) -> Row:
    """What the installed runtime makes of a pattern."""
    try:
        running = optimized_graph(pattern.model().SerializeToString())
    except InputError:
        return Row(pattern.name, REFUSED, False, ())
    readers, realised = code_readers(running), Realised()
    for node in running.node:
        realised = realised.joined(node, node.name in readers)
    return Row(pattern.name, realised.shown, realised.integer, tuple(sorted(realised.kinds)))


def probe_all(patterns: Iterable[Pattern]) -> tuple[Row, ...]:
    """One row per pattern."""
    return tuple(probe(pattern) for pattern in patterns)


def golden_path(version: str = RUNTIME_VERSION) -> Path:
    """Where the golden data of a version lie, whether they are there or not."""
    return _FOLDER / f"onnxruntime-{version}.json"


def golden_versions() -> tuple[str, ...]:
    """The versions that there are golden data of."""
    return tuple(sorted(path.stem.partition("-")[2] for path in _FOLDER.glob("onnxruntime-*.json")))


def read_golden(version: str = RUNTIME_VERSION) -> dict[str, Row]:
    """Rows by name of the pattern.

    Raises:
        InputError: when there are none for that version.
    """
    path = golden_path(version)
    if not path.is_file():
        mend = f"versions: {', '.join(golden_versions())}"
        raise InputError(f"there is no matrix of onnxruntime {version}", where=str(path), mend=mend)
    rows = json.loads(path.read_text())["patterns"]
    return {row["pattern"]: Row(row["pattern"], row["kernel"], row["integer"], tuple(row["operators"])) for row in rows}


def write_golden(rows: Iterable[Row], path: Path) -> None:
    """Writes rows as golden data of the installed version."""
    data = {"runtime": f"onnxruntime {RUNTIME_VERSION}", "patterns": [asdict(row) for row in rows]}
    path.write_text(json.dumps(data, indent=1) + "\n")


def changed(rows: Iterable[Row], golden: Mapping[str, Row]) -> list[tuple[Row, Row]]:
    """Golden row and row of each pattern whose kernel is another one now."""
    return [(golden[row.pattern], row) for row in rows if row.pattern in golden and golden[row.pattern] != row]
