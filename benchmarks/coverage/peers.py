"""The same corpus through other quantizers: how many models each gets through.

    python -m benchmarks.coverage.peers [--only llama,swin] [--nncf-python PYTHON] [--limit 120] [--update]

Each model is exported with `torch.onnx.export(dynamo=True)`, all shapes fixed, then quantized with
`onnxruntime.quantization.quantize_static` (after `quant_pre_process` where that works) and, when `--nncf-python` names
the interpreter of an environment with `nncf onnx onnxruntime`, with `nncf.quantize`. Every step is a process of its own
with a time limit. A model gets through when the result runs and its worst output SQNR against eager torch is at least
15 dB; our row is read from `results/coverage.json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from benchmarks.common import RESULTS, ROOT, print_table, write_results
from benchmarks.coverage.corpus import CORPUS
from benchmarks.coverage.isolated import Row, isolated
from benchmarks.coverage.peer_export import export

LEAST = 15.0
EXPORTED, RUNTIME, NNCF, OURS = "torch.onnx.export", "onnxruntime", "nncf", "ours"


def call(command: Sequence[str], limit: int) -> Row:
    """What a process prints as its last line, as JSON; an `error` when it prints no JSON or takes too long."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"not done in {limit} s"}
    try:
        row = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        return {"error": f"exit {done.returncode}: {done.stderr.strip()[-300:]}"}
    return row if isinstance(row, dict) else {"error": f"printed {row!r}"}


def measure(name: str, nncf_python: str, limit: int) -> Row:
    """The row of one architecture: per peer its SQNR in dB, or its error."""
    row: Row = {"model": name}
    quantize = str(Path(__file__).with_name("peer_quantize.py"))
    with tempfile.TemporaryDirectory() as folder:
        exported = isolated(export, (name, folder), limit)
        steps = [(EXPORTED, sys.executable, "none"), (RUNTIME, sys.executable, "onnxruntime")]
        if nncf_python:
            steps.append((NNCF, nncf_python, "nncf"))
        for peer, python, kind in steps:
            done = exported if "error" in exported else call([python, quantize, kind, folder], limit)
            for key, value in done.items():
                row[f"{peer} {key}"] = value
    return row


def with_ours(rows: Sequence[Row]) -> list[Row]:
    """The rows with the 8-bit figure of the coverage table beside them."""
    path = RESULTS / "coverage.json"
    known = {row["model"]: row for row in json.loads(path.read_text())["rows"]} if path.is_file() else {}
    joined = []
    for row in rows:
        ours = known.get(row["model"], {})
        extra = {f"{OURS} {key}": ours[f"w8a8 {key}"] for key in ("dB", "error") if f"w8a8 {key}" in ours}
        joined.append({**row, **extra})
    return joined


def count(rows: Sequence[Row], peer: str) -> Row:
    """How many models a peer ran and got through."""
    figures = [float(str(row[f"{peer} dB"])) for row in rows if f"{peer} dB" in row]
    through = sum(figure >= LEAST for figure in figures)
    return {
        "peer": peer,
        "models": len(rows),
        "runs": len(figures),
        f"through (>= {LEAST:.0f} dB)": through,
        "share %": 100 * through / max(1, len(rows)),
        "median dB": median(figures) if figures else None,
    }


def merged(rows: Sequence[Row]) -> list[Row]:
    """These rows, and those of the last results for models that were not run."""
    path = RESULTS / "coverage_peers.json"
    known = json.loads(path.read_text())["rows"] if path.is_file() else []
    by_name = {row["model"]: row for row in (*known, *rows)}
    return [by_name[item.name] for item in CORPUS if item.name in by_name]


def nncf_version(python: str) -> str:
    """The version of NNCF in the environment of `python`; empty when there is none."""
    command = [python, "-c", "import importlib.metadata as m; print(m.version('nncf'))"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def main() -> None:
    """Runs the corpus, prints the table and the counts, and writes `results/coverage_peers.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--nncf-python", default="", help="an interpreter whose environment holds nncf")
    parser.add_argument("--limit", type=int, default=120, help="seconds per step")
    parser.add_argument("--update", action="store_true", help="put the rows into the last results")
    options = parser.parse_args()
    for package in ("transformers", "diffusers", "onnxscript"):
        if find_spec(package) is None:
            sys.exit(f"this benchmark needs the package {package}: pip install qcompiler[coverage]")
    names = options.only.split(",") if options.only else [item.name for item in CORPUS]
    rows: list[Row] = []
    for name in names:
        rows.append(measure(name, options.nncf_python, options.limit))
        print(rows[-1], flush=True)
    if options.update:
        rows = merged(rows)
    rows = with_ours(rows)
    peers = [EXPORTED, RUNTIME, *([NNCF] if options.nncf_python else []), OURS]
    print_table([{"model": row["model"], **{peer: row.get(f"{peer} dB") for peer in peers}} for row in rows])
    print_table([count(rows, peer) for peer in peers])
    if options.update or not options.only:
        nncf = f"; nncf {nncf_version(options.nncf_python)}" if options.nncf_python else ""
        note = f"worst output SQNR of each model, 8-bit weights and activations{nncf}"
        print(write_results("coverage_peers", rows, note))


if __name__ == "__main__":
    main()
