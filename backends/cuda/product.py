"""Layers between codes: the launch of a matrix product, and what it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from qcompiler.backends.cuda.codes import shift_of
from qcompiler.backends.cuda.groups import (
    block_of,
    group_of,
    has_zeros,
    packed_group_scales,
    packed_group_zeros,
    scales_of,
    way_of_groups,
)
from qcompiler.backends.cuda.integer_packing import count_negative, interleave, pack_bytes, pack_nibbles, pack_signs
from qcompiler.backends.cuda.kernels.float8 import choose_f8
from qcompiler.backends.cuda.kernels.integers import choose_i8
from qcompiler.backends.cuda.kernels.low_bit import choose_b1, choose_w4a4, choose_wna8
from qcompiler.backends.cuda.kernels.tiles import Choice
from qcompiler.backends.cuda.layer import Argument, Counters, Launch, Rows, Weight
from qcompiler.backends.cuda.reading import Places, Reading
from qcompiler.backends.cuda.settings import Compute
from qcompiler.backends.cuda.steps import Plan
from qcompiler.formats import BINARY, FP8_E4M3, TERNARY, Integer
from qcompiler.spec import QuantSpec

Way = Literal["i8", "w4a8", "w2a8", "w4a4", "e4m3", "b1"]
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

    @property
    def group(self) -> int:
        """Inputs that share a scale; 0 where an output has one."""
        return group_of(self.spec)

    def __str__(self) -> str:
        groups = f" in groups of {self.group}" if self.group else ""
        return f"{self.spec.format.name}{groups} [{self.columns}, {self.depth}]"


def way_of(matrix: QuantSpec, reading: QuantSpec) -> Way | None:
    """How these two are multiplied; None when there is no kernel."""
    if group_of(matrix):
        return way_of_groups(matrix, reading)
    plain = matrix.parts is None and len(matrix.levels) == 1 and matrix.symmetric
    if not plain or matrix.block not in ((1, -1), (-1, -1)) or block_of(reading):
        return None
    if matrix.format == reading.format == FP8_E4M3:
        return "e4m3"
    if matrix.format == reading.format == BINARY:
        return "b1"
    weight = Integer(2, signed=True) if matrix.format in (BINARY, TERNARY) else matrix.format
    source = reading.format
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
    codes[:, : matrix.depth] = (real + shift_of(matrix.spec)).to(torch.int8).numpy()
    if matrix.group:
        # Whatever fills rows of inputs up: codes at the zero point take nothing from it and add nothing to it.
        last = 0 if matrix.zero_point is None else matrix.zero_point[:, -1:].to(torch.int8).numpy()
        codes[:, matrix.depth :] = last + shift_of(matrix.spec)
    found = {"codes": _ordered(codes, way)}
    found |= _of_groups(matrix, reading, codes) if matrix.group else _of_columns(matrix, reading, codes, way)
    if reading.scale is not None:
        found["input_scale"] = torch.tensor([reading.scale])
    if way == "b1":
        found["sums"] = torch.from_numpy(count_negative(found["codes"].numpy()))
    if bias is not None:
        found["bias"] = bias.reshape(-1).float()
    return found


def _of_columns(matrix: Matrix, reading: Reading, codes: np.ndarray, way: Way | None) -> dict[str, Tensor]:
    """What belongs to whole columns: scales, and what the zero points of inputs take from sums."""
    found, sums = {"scale": matrix.scale.reshape(-1).float()}, torch.from_numpy(codes.sum(1, dtype=np.int32))
    if reading.moving_zero:
        found["sums"] = sums
    elif reading.fixed_zero and way not in ("b1", "e4m3"):
        found["total_bias"] = -reading.fixed_zero * sums
    return found


def _of_groups(matrix: Matrix, reading: Reading, codes: np.ndarray) -> dict[str, Tensor]:
    """The same of groups."""
    found = {"group_scale": packed_group_scales(matrix.scale)}
    if has_zeros(matrix.spec, reading.spec):
        stored = codes[:, : matrix.depth]
        found |= packed_group_zeros(stored, matrix.zero_point, shift_of(matrix.spec), matrix.group)
        if not reading.moving_zero:
            found["input_zero"] = torch.tensor([reading.fixed_zero], dtype=torch.int32)
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
        "input_scale": None if reading.block else places.scale or Weight(weight="input_scale"),
        "input_group_scale": places.scale if reading.block else None,
        "weight_scale": _weight(weights, "scale"),
        "group_scale": _weight(weights, "group_scale"),
        "bias": _weight(weights, "bias"),
        "total_bias": _weight(weights, "total_bias"),
        "row_zero": None if matrix.group else places.zero,
        "group_sum": _weight(weights, "group_sum"),
        "group_zero": _weight(weights, "group_zero"),
        "input_zero": places.zero or _weight(weights, "input_zero") if matrix.group else None,
        "input_zeros": int(places.zero is not None),
        "column_sum": _weight(weights, "sums"),
        "rows": Rows(rows=1),
        "columns": matrix.columns,
        "depth": matrix.depth if reading.format == "signs" else reading.stored_width,
        "group": matrix.group,
        "input_scales": int(places.scale is not None),
        "weight_scales": int(matrix.scale.numel() > 1),
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
    sizes, scales = (plan.rows, matrix.columns, reading.stored_width), scales_of(matrix.spec, reading.spec)
    match way_of(matrix.spec, reading.spec):
        case "w4a4":
            return choose_w4a4(*sizes, matrix.group, plan.architecture, scales)
        case "w4a8":
            return choose_wna8(*sizes, 4, matrix.group, plan.architecture, scales)
        case "w2a8":
            return choose_wna8(*sizes, 2, matrix.group, plan.architecture, scales)
        case "e4m3":
            return choose_f8(*sizes, plan.architecture)
        case "b1":
            return choose_b1(*sizes, plan.architecture)
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
        case "b1":
            return torch.from_numpy(pack_signs(np.where(codes == 0, 1, codes)))
        case _:
            return torch.from_numpy(pack_bytes(codes))


def _weight(weights: Mapping[str, Tensor], name: str) -> Weight | None:
    return Weight(weight=name) if name in weights else None
