"""Peak memory of solving the weights of a model that is larger than it: a decoder with a billion parameters in files.

    python -m benchmarks.solve_memory [--folder /scratch] [--solver gptq]

Needs `transformers`. Random bfloat16 weights are written to a temporary folder, traced without being loaded, and solved
in 4 bits by groups of 128, in a process of its own; what the pass adds to the peak memory of the process is compared
with six times the float32 weights of the largest segment and the largest second moment.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from benchmarks.common import ROOT, print_table, write_results
from benchmarks.trace_large import Shape, make, write_checkpoint

SHAPE = Shape(layers=18, hidden=2048, mlp=5632, heads=32)
TOKENS = 64
BATCHES = 2
MIB = 2.0**20


def measure(folder: str, solver: str) -> dict[str, object]:
    """Solves the checkpoint in this process."""
    import torch

    import qcompiler
    from qcompiler.analysis.segments import segments
    from qcompiler.job import prepare, run_job
    from qcompiler.pass_text import parse_pass
    from qcompiler.passes.recipes import Recipe, catalogue
    from qcompiler.passes.solve.front_to_back import readers_of
    from qcompiler.pipeline import Context, Options, peak_bytes

    generator = torch.Generator().manual_seed(0)
    batches = [torch.randint(0, 32000, (2, TOKENS), generator=generator) for _ in range(BATCHES)]
    traced = qcompiler.trace(make(SHAPE, "skeleton"), {"input_ids": batches[0]}, weights=folder)
    recipe = Recipe.of("w4", ["assign{scheme=w4a16g128}", "apply_plan"])
    job = prepare(traced, "simulation", recipe=recipe, options=Options(check="off"))
    program = run_job(job)[1]
    readers = readers_of(program)
    sizes = {reader.node: _size(program.shape(reader.site.param)) for reader in readers}
    layers = [reader.node for reader in readers if reader.solvable]
    largest = max(sum(sizes[node] for node in part.sites) for part in segments(program, layers))
    columns = max(int(str(program.shape(reader.site.param)[1])) for reader in readers if reader.solvable)
    context = Context(job.target, batches=[[batch] for batch in batches])
    before, started, cpu = peak_bytes(), time.perf_counter(), time.process_time()
    parse_pass(solver, catalogue()).run(program, context)
    allowed = (largest * 6 + columns * columns) * 4
    return {
        "solver": solver,
        "parameters": sum(sizes.values()),
        "before MiB": before / MIB,
        "added MiB": (peak_bytes() - before) / MIB,
        "allowed MiB": allowed / MIB,
        "minutes": (time.perf_counter() - started) / 60,
        "CPU minutes": (time.process_time() - cpu) / 60,
    }


def _size(shape: tuple[object, ...]) -> int:
    count = 1
    for size in shape:
        count *= int(str(size))
    return count


def _child(*arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks.solve_memory", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return done.stdout


def main() -> None:
    """Writes the checkpoint, solves it, prints the row and writes `results/solve_memory.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default=None, help="where the checkpoint (2 GB) may lie for a while")
    parser.add_argument("--solver", default="gptq", help="the pass, such as `gptq{act_order=false}`")
    parser.add_argument("--write", help=argparse.SUPPRESS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        return write_checkpoint(SHAPE, Path(options.write))
    if options.measure:
        return print(json.dumps(measure(options.measure, options.solver)))
    if find_spec("transformers") is None:
        sys.exit("this benchmark needs the package transformers: pip install qcompiler[coverage]")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        _child("--write", folder)
        row = json.loads(_child("--measure", folder, "--solver", options.solver).splitlines()[-1])
    print_table([row])
    print(write_results("solve_memory", [row], "imports and the traced model are in `before`"))
    return None


if __name__ == "__main__":
    main()
