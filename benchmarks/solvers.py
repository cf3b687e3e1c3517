"""Weight solvers on real language models: perplexity and the share of nearest's gap to float that is left.

    python -m benchmarks.solvers [--models code_lm,stories] [--bits 4,3,2] [--methods gptq,...] [--tokens 8192]

Weight-only, asymmetric codes in column groups (128 where the model is wide enough), every linear layer; the embedding
stays float. Simulated exactly in torch.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.common import RESULTS, print_table, write_results
from benchmarks.models import Case, code_lm, stories
from qcompiler.errors import QCompilerError
from qcompiler.ir import ops
from qcompiler.ir.interp import run
from qcompiler.ir.program import Program
from qcompiler.job import prepare, run_job
from qcompiler.pass_text import parse_pass
from qcompiler.passes.recipes import Recipe, catalogue
from qcompiler.pipeline import Context
from qcompiler.spec import bits_per_element

METHODS = {
    "nearest": "nearest",
    "nearest, mse ranges": "nearest{search=mse}",
    "GPTQ": "gptq",
    "GPTQ, plain": "gptq{search=minmax, act_order=False}",
    "pre-shift 0.5": "gptq{shift=0.5}",
    "pre-shift 1": "gptq{shift=1.0}",
    "GPTAQ": "gptaq",
    "FOEM": "foem",
    "FOEM on GPTAQ": "foem{alpha=0.25}",
    "ResComp": "rescomp",
    "ResComp on GPTAQ": "rescomp{alpha=0.25}",
    "RSQ": "rsq",
    "SliM": "slim",
    "GWQ": "gwq",
    "AdaRound": "adaround",
    "k-means VQ": "kmeans_vq",
    "ViM-VQ": "vimvq",
    "SSVQ": "ssvq",
    "MVQ": "mvq",
    "VQ4ALL": "vq4all",
    "JLCM": "jlcm",
    "BiLLM": "billm",
    "PTQ1.61": "ptq161",
    "PT2-LLM": "pt2llm",
    "DB-LLM": "dbllm",
    "Quant-dLLM": "quant_dllm",
    "IR-QLoRA": "ir_qlora",
}


@dataclass(frozen=True)
class Bed:
    """A language model on which solvers are compared.

    Args:
        case: how it is made, for a number of evaluation tokens.
        keep: modules that stay float.
        group: columns per scale.
    """

    case: Callable[[int], Case]
    keep: str
    group: int


BEDS = {
    "code_lm": Bed(code_lm, "embed", 128),
    "stories": Bed(lambda tokens: stories(max(4, tokens // 400)), "embed", 32),
}


def planned(case: Case, scheme: str, keep: str) -> tuple[Program, Context]:
    """A model with quantize nodes around its weights, and what solvers are told."""
    recipe = Recipe.of("solvers", [f"assign{{scheme={scheme}, keep={keep}}}", "apply_plan"])
    job = prepare(case.module, "simulation", calibration=list(case.calibration), recipe=recipe)
    return run_job(job)[1], Context(job.target, batches=job.batches)


def measure(case: Case, bed: Bed, bits: int, methods: list[str], wanted: float) -> list[dict[str, object]]:
    """One row per method; the first is the one whose gap the others are compared with."""
    scheme = f"w{bits}a16g{bed.group}"
    program, context = planned(case, scheme, bed.keep)
    rows: list[dict[str, object]] = []
    gap = 0.0
    for method in methods:
        started = time.process_time()
        solved = parse_pass(METHODS[method], catalogue()).run(program.copy(), context)
        seconds = time.process_time() - started
        perplexity = case.metric(lambda ids, solved=solved: run(solved, ids))
        gap = gap or perplexity - wanted
        row: dict[str, object] = {
            "model": case.name,
            "scheme": scheme,
            "method": method,
            "bits": average_bits(solved),
            "perplexity": perplexity,
            "float": wanted,
            "gap": perplexity - wanted,
            "% of nearest's gap": 100 * (perplexity - wanted) / gap,
            "cpu s": seconds,
        }
        rows.append(row)
        print(row, flush=True)
    return rows


def average_bits(program: Program) -> float:
    """Storage per weight of the linear layers, with scales, masks, tables and branches."""
    bits, count = 0.0, 0
    for node in program.nodes:
        if program.op(node) != "aten.linear":
            continue
        weight = program.bind(node)["weight"]
        elements = math.prod(int(str(size)) for size in program.shape(weight))
        parts = node.meta.get("decomposition")
        if parts is None and weight.target is not ops.dequantize:
            continue
        spec = None if parts else program.bind(weight)["spec"]
        bits += elements * (parts.bits if parts else bits_per_element(spec, program.shape(weight)))
        count += elements
    return bits / count


def main() -> None:
    """Runs what is asked for; rows replace those of earlier runs in `results/solvers.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(BEDS))
    parser.add_argument("--bits", default="4,3,2")
    parser.add_argument("--methods", default="")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--batches", type=int, default=0, help="calibration batches, 0 for all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = options.methods.split(";") if options.methods else list(METHODS)
    if unknown := set(chosen) - set(METHODS):
        raise QCompilerError(f"unknown methods {', '.join(sorted(unknown))}", mend="; ".join(METHODS))
    rows: list[dict[str, object]] = []
    for name in options.models.split(","):
        bed = BEDS[name]
        case = bed.case(options.tokens)
        if options.batches:
            case = Case(case.name, case.kind, case.module, case.calibration[: options.batches], case.metric, case.unit)
        with torch.no_grad():
            wanted = case.metric(case.module)
        for bits in options.bits.split(","):
            rows += measure(case, bed, int(bits), chosen, wanted)
    print_table(rows)
    print(write_results("solvers", merged(rows), f"embedding in float; {options.tokens} evaluation tokens or as said"))


def merged(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """These rows and those of earlier runs for other models, schemes and methods."""
    path = RESULTS / "solvers.json"
    earlier = json.loads(path.read_text())["rows"] if path.is_file() else []
    found = {(row["model"], row["scheme"], row["method"]): row for row in [*earlier, *rows]}
    return sorted(found.values(), key=lambda row: (str(row["model"]), str(row["scheme"])))


if __name__ == "__main__":
    main()
