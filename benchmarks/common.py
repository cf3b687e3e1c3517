"""What all benchmarks share: where the real models lie, how results are written, how tables are printed."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
RESULTS = ROOT / "benchmarks" / "results"
VERSIONS = ("torch", "onnx", "onnxruntime")
Row = dict[str, object]


def shared_folder() -> Path:
    """The folder with real models and data, its scripts importable; ends the program when it is not there."""
    if not (SHARED / "models").is_dir():
        sys.exit("this benchmark needs the folder ../shared with real models and data; it is not here")
    for name in ("eval", "peers"):
        if str(SHARED / name) not in sys.path:
            sys.path.insert(0, str(SHARED / name))
    return SHARED


def print_table(rows: Sequence[Mapping[str, object]]) -> None:
    """Prints rows as a Markdown table; all rows have the keys of the first."""
    if not rows:
        return
    heads = list(rows[0])
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * len(heads))
    for row in rows:
        print("| " + " | ".join(_text(row.get(head)) for head in heads) + " |", flush=True)


def write_results(name: str, rows: Sequence[Mapping[str, object]], note: str = "") -> Path:
    """Writes one JSON file with the machine and the versions beside the figures."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    data = {
        "note": note,
        "machine": {"processor": _processor(), "python": platform.python_version()},
        "versions": {package: version(package) for package in VERSIONS},
        "rows": list(rows),
    }
    path.write_text(json.dumps(data, indent=1) + "\n")
    return path


def merged(name: str, rows: Sequence[Row], keys: Sequence[str]) -> list[Row]:
    """These rows, behind those of an earlier result that differ from all of them in a key."""
    path = RESULTS / f"{name}.json"
    earlier = json.loads(path.read_text())["rows"] if path.is_file() else []
    new = {tuple(row.get(key) for key in keys) for row in rows}
    return [row for row in earlier if tuple(row.get(key) for key in keys) not in new] + list(rows)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1 else f"{value:.2f}"
    return "" if value is None else str(value)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    flags = next((line for line in lines if line.startswith("flags")), "")
    known = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "amx_int8") if flag in flags.split()]
    return f"{model} ({', '.join(known)})"
