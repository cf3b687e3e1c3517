"""Layers between codes: the launch of a matrix product, and what it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from qcompiler.backends.cuda.integer_packing import interleave, pack_bytes, pack_nibbles
from qcompiler.backends.cuda.kernels.float8 import choose_f8
from qcompiler.backends.cuda.kernels.integers import choose_i8
from qcompiler.backends.cuda.kernels.low_bit import choose_w4a4, choose_wna8
from qcompiler.backends.cuda.kernels.tiles import Choice
from qcompiler.backends.cuda.layer import Argument, Counters, Launch, Rows, Weight
from qcompiler.backends.cuda.reading import Places, Reading
from qcompiler.backends.cuda.settings import Compute
from qcompiler.backends.cuda.steps import Plan
from qcompiler.formats import FP8_E4M3, Integer
from qcompiler.spec import QuantSpec

Way = Literal["i8", "w4a8", "w2a8", "w4a4", "e4m3"]
OUT_KINDS: dict[Compute, int] = {"float32": 0, "float16": 1, "bfloat16": 2}
"""The numbers that the argument `out_kind` takes."""


@dataclass(frozen=True)
class Matrix:
    """A quantized weight.

    Args:
        codes: [N, K], values of the format in floats.
        scale: float32 of one element, or [N, blocks].
        zero_point: like the scale; None when symmetric.
        spec: of the codes.
        outer: a scale that all weights have besides.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None
    spec: QuantSpec
    outer: float = 1.0

    @property
    def columns(self) -> int:
        """Outputs."""
        return self.codes.shape[0]

    @property
    def depth(self) -> int:
        """Inputs."""
        return self.codes.shape[1]


def way_of(matrix: QuantSpec, reading: QuantSpec) -> Way | None:
    """How these two are multiplied; None when there is no kernel for weights with one scale or one per output."""
    plain = matrix.parts is None and len(matrix.levels) == 1 and matrix.symmetric
    if not plain or matrix.block not in ((1, -1), (-1, -1)):
        return None
    if matrix.format == reading.format == FP8_E4M3:
        return "e4m3"
    weight, source = matrix.format, reading.format
    if not isinstance(weight, Integer) or not isinstance(source, Integer) or not weight.signed or weight.bits > 8:
        return None
    if source.bits == 4:
        return "w4a4" if weight.bits <= 4 else None
    if source.bits != 8:
        return None
    return "w4a8" if weight.bits == 4 else "w2a8" if weight.bits == 2 else "i8"


def adds_branches(matrix: QuantSpec, reading: QuantSpec) -> bool:
    """Whether their kernels, those for many rows too, add a low-rank branch of half-precision floats."""
    return way_of(matrix, reading) == "w4a4"


def packed(matrix: Matrix, reading: Reading, bias: Tensor | None) -> dict[str, Tensor]:
    """What a product reads besides activations, by the names of `launch_product`."""
    codes = np.zeros((matrix.columns, reading.stored_width), np.int8)
    way = way_of(matrix.spec, reading.spec)
    real = matrix.spec.format.encode(matrix.codes).to(torch.uint8).view(torch.int8) if way == "e4m3" else matrix.codes
    codes[:, : matrix.depth] = real.to(torch.int8).numpy()
    found = {"codes": _ordered(codes, way), "scale": matrix.scale.reshape(-1).float()}
    if reading.scale is not None:
        found["input_scale"] = torch.tensor([reading.scale])
    sums = torch.from_numpy(codes.sum(1, dtype=np.int32))
    if reading.moving_zero:
        found["sums"] = sums
    elif reading.fixed_zero and way != "e4m3":
        found["total_bias"] = -reading.fixed_zero * sums
    if bias is not None:
        found["bias"] = bias.reshape(-1).float()
    return found


def launch_product(
    plan: Plan,
    matrix: Matrix,
    reading: Reading,
    weights: Mapping[str, Tensor],
    places: Places,
    out: Argument,
    beside: Mapping[str, Argument],
) -> None:
    """Adds the launch of a product.

    Args:
        plan: gets the launch.
        matrix: the weight.
        reading: of the activations.
        weights: as `packed` made them.
        places: of the activations.
        out: the result.
        beside: further arguments.
    """
    choice = _choose(plan, matrix, reading)
    given: dict[str, Argument | None] = {
        "input": places.codes,
        "weight": Weight(weight="codes"),
        "out": out,
        "input_scale": places.scale or Weight(weight="input_scale"),
        "weight_scale": Weight(weight="scale"),
        "bias": _weight(weights, "bias"),
        "total_bias": _weight(weights, "total_bias"),
        "row_zero": places.zero,
        "column_sum": _weight(weights, "sums"),
        "rows": Rows(rows=1),
        "columns": matrix.columns,
        "depth": reading.stored_width,
        "input_scales": int(places.scale is not None),
        "weight_scales": int(weights["scale"].numel() > 1),
        "out_kind": OUT_KINDS[reading.compute],
        **split_arguments(plan, choice),
        **beside,
    }
    arguments = {name: value for name, value in given.items() if value is not None}
    plan.launches.append(Launch(kernel=choice.kernel, instance=choice.instance, arguments=arguments))


def split_arguments(plan: Plan, choice: Choice) -> dict[str, Argument]:
    """How often sums are split, and where they meet; never for unbounded rows, whose tiles nobody counted."""
    if choice.splits == 1 or not plan.bounded:
        return {"splits": 1}
    plan.counters = max(plan.counters, choice.counters)
    return {"splits": choice.splits, "workspace": plan.take(0, choice.workspace), "counters": Counters()}


def _choose(plan: Plan, matrix: Matrix, reading: Reading) -> Choice:
    sizes = (plan.rows, matrix.columns, reading.stored_width)
    match way_of(matrix.spec, reading.spec):
        case "w4a4":
            return choose_w4a4(*sizes, 0, plan.architecture)
        case "w4a8":
            return choose_wna8(*sizes, 4, 0, plan.architecture)
        case "w2a8":
            return choose_wna8(*sizes, 2, 0, plan.architecture)
        case "e4m3":
            return choose_f8(*sizes, plan.architecture)
        case _:
            return choose_i8(*sizes, plan.architecture)


def _ordered(codes: np.ndarray, way: Way | None) -> Tensor:
    """Codes in the order of their kernels."""
    match way:
        case "w4a4":
            return torch.from_numpy(pack_nibbles(codes))
        case "w4a8":
            return torch.from_numpy(interleave(codes, 4))
        case "w2a8":
            return torch.from_numpy(interleave(codes, 2))
        case _:
            return torch.from_numpy(pack_bytes(codes))


def _weight(weights: Mapping[str, Tensor], name: str) -> Weight | None:
    return Weight(weight=name) if name in weights else None
