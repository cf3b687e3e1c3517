"""Transforms on real models: what each one saves of what plain rounding loses, method by model.

    python -m benchmarks.transforms [--models code_lm,stories,...] [--methods "plain;rotate;..."] [--tokens 8192]

Language models in W4A4 (weights per channel, activations per token at run time); vision transformers in W4A8
(activations per tensor with static ranges), as they are and with outlier channels planted where a scale can move
without changing the function. Every weight goes to the nearest grid value, so that the transforms alone make the
difference. Simulated exactly in torch.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.common import RESULTS, print_table, write_results
from benchmarks.models import Call, Case, code_lm, stories, tensor, vit_mnist
from benchmarks.zoo.data import load_calibration, load_test
from benchmarks.zoo.models import digits_vit
from qcompiler.errors import QCompilerError
from qcompiler.ir.interp import run
from qcompiler.job import prepare, run_job
from qcompiler.passes.recipes import Recipe

PER_TOKEN = "weight=int4 sym channel scale=f32, activation=int4 sym token scale=f32 dynamic"
PER_TENSOR = "weight=int4 sym channel scale=f32, activation=int8 asym tensor scale=f32"
METHODS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "smoothquant": ("smoothquant",),
    "smoothquant, searched": ("smoothquant{search=true}",),
    "sqb": ("sqb",),
    "repq_vit": ("repq_vit",),
    "gps": ("gps",),
    "crossquant": ("crossquant",),
    "cfp": ("cfp",),
    "awq": ("awq",),
    "smooth": ("smooth",),
    "rotate, folded": ("rotate{online=false}",),
    "rotate": ("rotate",),
    "rotate + smooth": ("rotate", "smooth"),
    "smooth + rotate": ("smooth", "rotate"),
    "klt": ("klt",),
    "smooth_fused": ("smooth_fused",),
    "viditq": ("viditq",),
    "quantvggt": ("quantvggt",),
    "quantface": ("quantface",),
    "adaptive_rotation": ("adaptive_rotation",),
    "robuq": ("robuq",),
    "rotate + spinquant": ("rotate", "spinquant"),
    "flatquant": ("flatquant",),
    "affinequant": ("affinequant",),
    "passionsr": ("passionsr",),
    "split_channels": ("split_channels",),
    "svdquant, rank 16": ("svdquant{rank=16, iterations=6, grid=5}",),
    "svdquant, rank 32": ("svdquant{rank=32, iterations=6, grid=5}",),
}
STRENGTH = 300.0
"""How much larger planted outlier channels are than they were."""
EVERY = 2
"""One channel out of so many becomes an outlier."""


@dataclass(frozen=True)
class Bed:
    """A model on which transforms are compared.

    Args:
        case: how it is made, for a number of evaluation tokens.
        numbers: of weights and activations.
        keep: modules that stay float.
    """

    case: Callable[[int], Case]
    numbers: str
    keep: str

    @property
    def passes(self) -> tuple[str, str, tuple[str, ...]]:
        """How formats are assigned, and what follows the transforms."""
        static = () if "dynamic" in self.numbers else ("calibrate{method=mse}",)
        return f"assign{{{self.numbers}, keep={self.keep}}}", "apply_plan", (*static, "nearest")


def digits(planted: bool) -> Case:
    """The pre-norm vision transformer of the zoo."""
    test, samples = load_test(), torch.from_numpy(load_calibration())
    x, y = torch.from_numpy(test.x), torch.from_numpy(test.y)

    def metric(call: Call) -> float:
        return 100 * float((tensor(call(x)).argmax(1) == y).float().mean())

    module = digits_vit()
    if planted:
        for block in module.blocks:
            plant(block.attention_norm, block.attention.qkv)
            plant(block.mlp_norm, block.mlp[0])
    calibration = [(samples[i : i + 32],) for i in range(0, len(samples), 32)]
    return Case("digits_vit, planted" if planted else "digits_vit", "vit", module, calibration, metric, "top-1 %")


def mnist(planted: bool) -> Case:
    """The post-norm vision transformer with ReLU."""
    case = vit_mnist()
    if not planted:
        return case
    for layer in case.module.layers:
        plant(layer.fc1, layer.fc2)
        plant(layer.qkv, layer.proj, slice(2 * layer.proj.in_features, None))
    return Case("vit_mnist, planted", "vit", case.module, case.calibration, case.metric, case.unit)


def plant(writer: nn.Module, reader: nn.Linear, rows: slice = slice(None)) -> None:
    """Makes some channels between two layers outliers, `rows` of the writer; the function stays what it was."""
    with torch.no_grad():
        for parameter in writer.parameters():
            parameter[rows][::EVERY] *= STRENGTH
        reader.weight[:, ::EVERY] /= STRENGTH


BEDS = {
    "code_lm": Bed(code_lm, PER_TOKEN, "embed"),
    "stories": Bed(lambda tokens: stories(max(4, tokens // 400)), PER_TOKEN, "embed"),
    "digits_vit": Bed(lambda tokens: digits(False), PER_TENSOR, ""),
    "digits_vit_planted": Bed(lambda tokens: digits(True), PER_TENSOR, ""),
    "vit_mnist": Bed(lambda tokens: mnist(False), PER_TENSOR, ""),
    "vit_mnist_planted": Bed(lambda tokens: mnist(True), PER_TENSOR, ""),
}


def measure(case: Case, bed: Bed, methods: list[str]) -> list[dict[str, object]]:
    """One row per method; the first is the one whose gap the others are compared with."""
    rows: list[dict[str, object]] = []
    reference: list[Tensor] = []
    with torch.no_grad():
        wanted = case.metric(lambda *inputs: kept(case.module(*inputs), reference))
    gap = 0.0
    assign, apply, rest = bed.passes
    for method in methods:
        started = time.process_time()
        recipe = Recipe.of("transforms", [assign, *METHODS[method], apply, *rest])
        job = prepare(case.module, "simulation", calibration=list(case.calibration), recipe=recipe)
        program = run_job(job)[1]
        seconds = time.process_time() - started
        found: list[Tensor] = []
        metric = case.metric(lambda *inputs, program=program, found=found: kept(run(program, *inputs), found))
        gap = gap or metric - wanted
        row: dict[str, object] = {
            "model": case.name,
            "method": method,
            "metric": case.unit,
            "float": wanted,
            "quantized": metric,
            "% of plain's gap": 100 * (metric - wanted) / gap if gap else 0.0,
            "SQNR dB": sqnr(reference, found),
            "cpu s": seconds,
        }
        rows.append(row)
        print(row, flush=True)
    return rows


def kept(value: object, results: list[Tensor]) -> Tensor:
    """The tensor that a call returned, noted among the results."""
    results.append(tensor(value).detach())
    return results[-1]


def sqnr(reference: list[Tensor], found: list[Tensor]) -> float:
    """Signal to quantization noise of all results, in dB."""
    signal = sum(float(old.double().square().sum()) for old in reference)
    noise = sum(float((old.double() - new.double()).square().sum()) for old, new in zip(reference, found, strict=True))
    return 10 * math.log10(signal / max(noise, 1e-300))


def main() -> None:
    """Runs what is asked for; rows replace those of earlier runs in `results/transforms.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(BEDS))
    parser.add_argument("--methods", default=";".join(METHODS))
    parser.add_argument("--tokens", type=int, default=8192)
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = options.methods.split(";")
    if unknown := set(chosen) - set(METHODS):
        raise QCompilerError(f"unknown methods {', '.join(sorted(unknown))}", mend="; ".join(METHODS))
    rows: list[dict[str, object]] = []
    for name in options.models.split(","):
        rows += measure(BEDS[name].case(options.tokens), BEDS[name], chosen)
    print_table(rows)
    print(write_results("transforms", merged(rows), f"{options.tokens} evaluation tokens of language models"))


def merged(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """These rows and those of earlier runs for other models and methods."""
    path = RESULTS / "transforms.json"
    earlier = json.loads(path.read_text())["rows"] if path.is_file() else []
    found = {(row["model"], row["method"]): row for row in [*earlier, *rows]}
    return sorted(found.values(), key=lambda row: str(row["model"]))


if __name__ == "__main__":
    main()
