"""One token at a time: a linear layer on one row in ONNX Runtime, few-bit weights beside fp32, one thread.

    python -m benchmarks.decode [--size 4096] [--rounds 31]

All files are run in turns in one process; a ratio is the median over rounds of fp32 time to file time within the round,
as CPU time of the calling thread. Errors are against the float module on rows that nothing was fitted to.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from statistics import median

import onnxruntime
import torch

import qcompiler
from benchmarks.common import print_table, write_results
from benchmarks.speed import interleaved, output_sqnr, speedups

CASES = (
    ("onnxruntime", "w8a8_dynamic"),
    ("onnxruntime", "w4a16g32"),
    ("onnxruntime", "w4a16g128"),
    ("onnxruntime{weight_only=fast}", "w4a16g32"),
    ("onnxruntime{weight_only=fast}", "w4a16g128"),
)


def one_thread() -> onnxruntime.SessionOptions:
    """Default options but for the number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return options


def measure(size: int, rounds: int, folder: Path) -> list[dict[str, object]]:
    """All rows, fp32 first."""
    torch.manual_seed(0)
    module = torch.nn.Linear(size, size, bias=False).eval()
    torch.nn.init.normal_(module.weight, std=1 / math.sqrt(size))
    sample = torch.randn(1, size)
    float_file = folder / "float.onnx"
    torch.onnx.export(module, (sample,), str(float_file), dynamo=True, verbose=False)
    files, names = [float_file], [("onnxruntime", "fp32", "")]
    for number, (target, recipe) in enumerate(CASES):
        made = qcompiler.compile(
            module, target, inputs=(sample,), recipe=recipe, dynamic="none", output=folder / str(number)
        )
        files.append(made.onnx)
        names.append((target, recipe, made.report.layers[0].realised))
    sessions = [onnxruntime.InferenceSession(str(path), one_thread()) for path in files]
    seconds = interleaved([(session, {session.get_inputs()[0].name: sample.numpy()}) for session in sessions], rounds)
    held_out = torch.randn(16, size)
    with torch.no_grad():
        wanted = module(held_out).numpy()
    return [
        {
            "target": target,
            "recipe": recipe,
            "runs": realised,
            "ms": 1e3 * float(median(seconds[:, index])),
            "x fp32": ratio,
            "SQNR dB": output_sqnr(session, held_out, wanted) if index else None,
        }
        for index, ((target, recipe, realised), session, ratio) in enumerate(
            zip(names, sessions, speedups(seconds), strict=True)
        )
    ]


def main() -> None:
    """Measures one size and writes `results/decode.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=31)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options.size, options.rounds, Path(folder))
    print_table(rows)
    print(write_results("decode", rows, f"one row, {options.size} x {options.size}, median of {options.rounds} rounds"))


if __name__ == "__main__":
    main()
