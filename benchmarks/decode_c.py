"""A language model token by token with a cache: generated C beside ONNX Runtime, one thread.

    python -m benchmarks.decode_c [--models stories,code_lm] [--tokens 96] [--rounds 7]

The real decoders get a cache of their greatest length, which they write to by position. All of one model decode the
same text in turns in one process; a ratio is the median over rounds of the time of generated C to that of ONNX Runtime
on the same recipe within the round, as CPU time of the calling thread. ONNX Runtime gets its caches back as values of
its own, so that nothing is copied outside of the model. `first` and `last` are microseconds of a token in the first and
the last quarter of the text, `apart` is the largest difference of the logits of the float model without a cache.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, Protocol, cast

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qcompiler
from benchmarks.common import print_table, write_results
from benchmarks.decode import one_thread
from benchmarks.models import CASES
from qcompiler.artifact import Artifact
from qcompiler.backends.c.backend import FOLDER
from qcompiler.backends.c.host import HostRunner
from qcompiler.ir.states import first_values
from qcompiler.passes.recipes import Recipe

RECIPES = ("float", "w8a8", "w8a8_dynamic", "w4a16g32")
CALIBRATION_TEXTS, CALIBRATION_TOKENS = 4, 48
Apply = Callable[[Tensor], Tensor]
Row = dict[str, object]


class Layer(Protocol):
    """What is used of a layer of attention."""

    n_heads: int
    n_kv_heads: int
    head_dim: int
    wq: Apply
    wk: Apply
    wv: Apply
    wo: Apply


class CachedAttention(nn.Module):
    """A layer of attention over all tokens so far."""

    keys: Tensor
    values: Tensor

    def __init__(self, plain: nn.Module, length: int) -> None:
        super().__init__()
        self.plain = plain
        layer = self.layer
        for name in ("keys", "values"):
            cache = torch.zeros(1, layer.n_kv_heads, length, layer.head_dim)
            self.register_buffer(name, cache, persistent=False)

    @property
    def layer(self) -> Layer:
        return cast("Layer", self.plain)

    def forward(self, x: Tensor, turn: Apply, position: Tensor) -> Tensor:
        layer = self.layer
        q, k, v = (
            project(x).unflatten(-1, (-1, layer.head_dim)).transpose(1, 2) for project in (layer.wq, layer.wk, layer.wv)
        )
        keys, values = self.keys.index_copy_(2, position, turn(k)), self.values.index_copy_(2, position, v)
        repeats = layer.n_heads // layer.n_kv_heads
        mask = torch.arange(keys.shape[2]) <= position[:, None]
        keys, values = keys.repeat_interleave(repeats, 1), values.repeat_interleave(repeats, 1)
        y = F.scaled_dot_product_attention(turn(q), keys, values, attn_mask=mask)
        return layer.wo(y.transpose(1, 2).flatten(2))


class Cached(nn.Module):
    """A decoder of `benchmarks.models` for tokens [1, tokens] at positions [tokens]."""

    def __init__(self, plain: Any, rotate: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.plain, self.rotate = plain, rotate
        length = plain.config.max_seq_len
        self.attentions = nn.ModuleList(CachedAttention(layer.attn, length) for layer in plain.layers)

    def forward(self, tokens: Tensor, position: Tensor) -> Tensor:
        plain: Any = self.plain
        cosine, sine = plain.cos[position], plain.sin[position]

        def turn(x: Tensor) -> Tensor:
            return self.rotate(x, cosine, sine)

        x = plain.embed(tokens)
        for layer, attention in zip(plain.layers, self.attentions, strict=True):
            x = x + attention(layer.attn_norm(x), turn, position)
            x = x + layer.ffn(layer.ffn_norm(x))
        return plain.head(plain.norm(x))


def calls_of(tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
    """One call per token of [tokens]."""
    return [(tokens[None, i : i + 1], torch.tensor([i])) for i in range(len(tokens))]


class OnnxSteps:
    """A session whose caches stay values of the runtime."""

    def __init__(self, artifact: Artifact) -> None:
        self.inner = onnxruntime.InferenceSession(str(artifact.onnx), one_thread(), providers=["CPUExecutionProvider"])
        names = [value.name for value in self.inner.get_inputs()]
        self.taken, self.past = names[:2], names[2:]
        self.results = [value.name for value in self.inner.get_outputs()]
        program = artifact.program
        self.first = [onnxruntime.OrtValue.ortvalue_from_numpy(value.numpy()) for value in first_values(program)]
        self.reset()

    def reset(self) -> None:
        self.values = list(self.first)

    def __call__(self, tokens: Tensor, position: Tensor) -> np.ndarray:
        given = [onnxruntime.OrtValue.ortvalue_from_numpy(value.numpy()) for value in (tokens, position)]
        fed = zip([*self.taken, *self.past], [*given, *self.values], strict=True)
        found = self.inner.run_with_ort_values(self.results, dict(fed))
        self.values = found[1:]
        return found[0].numpy()


class CSteps:
    """Generated C, whose caches stay in its arena."""

    def __init__(self, artifact: Artifact) -> None:
        self.model = HostRunner(artifact.folder / FOLDER)
        self.reset = self.model.reset

    def __call__(self, tokens: Tensor, position: Tensor) -> Tensor:
        return self.model((tokens, position))[0]


def text_seconds(steps: OnnxSteps | CSteps, calls: Sequence[tuple[Tensor, Tensor]]) -> list[float]:
    """CPU seconds of every token of a text."""
    steps.reset()
    found = []
    for call in calls:
        started = time.thread_time()
        steps(*call)
        found.append(time.thread_time() - started)
    return found


def rows_of(name: str, tokens: int, rounds: int) -> list[Row]:
    """One row per recipe and target."""
    case = CASES[name]()
    import llama_lm  # pyright: ignore[reportMissingImports]

    texts = [text for batch in case.calibration for text in batch[0]]
    held, others = texts[0][:tokens], texts[1 : 1 + CALIBRATION_TEXTS]
    calls = calls_of(held)
    with torch.no_grad():
        exact = case.module(held[None])[0]
    rows: list[Row] = []
    for recipe in RECIPES:
        data = [call for text in others for call in (*calls_of(text[:CALIBRATION_TOKENS]), None)]
        made = [
            qcompiler.compile(
                Cached(case.module, llama_lm.rotate).eval(),
                target,
                inputs=calls[0],
                calibration=data if recipe == "w8a8" else None,
                recipe=Recipe.of("float", ["apply_plan"]) if recipe == "float" else recipe,
            )
            for target in ("host", "onnxruntime")
        ]
        ways = (CSteps(made[0]), OnnxSteps(made[1]))
        seconds = np.array([[text_seconds(way, calls) for way in ways] for _ in range(rounds + 1)])[1:]
        for index, (target, way) in enumerate(zip(("C", "onnxruntime"), ways, strict=True)):
            way.reset()
            found = np.concatenate([np.asarray(way(*call))[0] for call in calls])
            each, quarter = np.median(seconds[:, index], 0) * 1e6, max(len(calls) // 4, 1)
            rows.append(
                {
                    "model": name,
                    "recipe": recipe,
                    "target": target,
                    "tokens/s": 1e6 / each.mean(),
                    "first us": each[:quarter].mean(),
                    "last us": each[-quarter:].mean(),
                    "C / onnxruntime": median(seconds[:, 0].sum(1) / seconds[:, 1].sum(1)),
                    "apart": float(np.abs(found - exact.numpy()).max()),
                }
            )
    return rows


def main() -> None:
    """Measures and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", default="stories,code_lm")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for name in options.models.split(",") for row in rows_of(name, options.tokens, options.rounds)]
    print_table(rows)
    write_results("decode_c", rows)


if __name__ == "__main__":
    main()
