"""Layers with activations in floats: the launch of a product with packed weights of few bits, and what it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qcompiler.backends.cuda.kernels.hopper_weight_only import choose_wgmma_wn
from qcompiler.backends.cuda.kernels.weight_only import Kind, choose_wn
from qcompiler.backends.cuda.layer import Argument, Element, Input, Launch, Rows, Weight
from qcompiler.backends.cuda.product import Matrix, split_arguments
from qcompiler.backends.cuda.settings import Compute
from qcompiler.backends.cuda.steps import Plan
from qcompiler.backends.cuda.weight_only_packing import (
    group_count,
    group_shift,
    pack_codes,
    pack_scales,
    pack_zeros,
    tensor_scale,
)
from qcompiler.formats import BINARY, FP4_E2M1, FP8_E4M3, TERNARY, Codebook, Format, Integer
from qcompiler.spec import QuantSpec

_BITS = (2, 3, 4, 8)
_WHOLE: Mapping[Format, Integer] = {TERNARY: Integer(2, signed=True), BINARY: Integer(2, signed=True)}
"""Formats of few whole numbers, and the integers as which they are stored."""
LEAST_GROUP = 16
"""Inputs that share a scale, at least."""
_TABLES = (2, 3, 4)
"""Bits of codes that are places in a table."""


@dataclass(frozen=True)
class Packed:
    """A weight in the order of its kernel.

    Args:
        code: the end of the kernel's name.
        columns: outputs.
        depth: inputs.
        group: inputs that share a scale.
        tensor_scale: of all weights.
        tensors: what the kernel reads besides activations, by the names of `launch_weight_only`.
    """

    code: str
    columns: int
    depth: int
    group: int
    tensor_scale: float
    tensors: Mapping[str, Tensor]


def kind_of(compute: Compute) -> Kind:
    """The floats that kernels read; a model in float32 hands them half precision."""
    return "bf16" if compute == "bfloat16" else "f16"


def element_of(compute: Compute) -> Element:
    """The same as an element of tensors."""
    return "bfloat16" if compute == "bfloat16" else "float16"


def decodes(spec: QuantSpec) -> bool:
    """Whether there is a kernel for weights of a spec: a scale for a group of inputs, for an output, or for all.

    Scales may have one scale, that of the tensor.
    """
    outer = [level.block for level in spec.levels[1:]]
    if spec.rank != 2 or spec.parts is not None or outer not in ([], [(-1, -1)]) or not _coding(spec.format):
        return False
    rows, group = spec.block
    whole = group == -1 and rows in (1, -1)
    return whole or (rows == 1 and group >= LEAST_GROUP and group & (group - 1) == 0)


def packed(matrix: Matrix, bias: Tensor | None, compute: Compute) -> Packed:
    """What the product reads besides activations."""
    kind, number, group = kind_of(compute), matrix.spec.format, _group(matrix)
    name = _coding(number)
    scale = matrix.scale.reshape(-1, matrix.scale.shape[-1]) if matrix.scale.dim() else matrix.scale.reshape(1, 1)
    found = {
        "codes": torch.from_numpy(pack_codes(_codes(matrix), name).view(np.int32)),
        "scale": packed_scales(scale.expand(matrix.columns, -1), name, kind, matrix.depth, group),
    }
    if isinstance(number, Integer) and not (number.signed and matrix.spec.symmetric):
        half = 1 << (number.bits - 1) if number.signed else 0
        zero = torch.zeros_like(scale) if matrix.zero_point is None else matrix.zero_point.float().reshape(scale.shape)
        pairs = pack_zeros((zero + half).expand(matrix.columns, -1).numpy(), matrix.depth, group)
        found["zero"] = torch.from_numpy(pairs.view(np.int32))
    if name.startswith("table"):
        found["table"] = number.decode(torch.arange(1 << number.storage_bits)).to(dtype_of(kind))
    if bias is not None:
        found["bias"] = bias.reshape(-1).float()
    outer = tensor_scale(matrix.scale.numpy(), matrix.outer)
    return Packed(name, matrix.columns, matrix.depth, group, outer, found)


def launch_weight_only(
    plan: Plan,
    weight: Packed,
    out: Argument,
    compute: Compute,
    beside: Mapping[str, Argument],
) -> None:
    """Adds the launch of a product.

    Args:
        plan: gets the launch.
        weight: as `packed` made it.
        out: the result; the activations are the layer's first input.
        compute: its floats.
        beside: further arguments.
    """
    columns, depth, group = weight.columns, weight.depth, weight.group
    code, kind, target = weight.code, kind_of(compute), plan.architecture
    choice = choose_wgmma_wn(code, kind, plan.rows, columns, depth, target)
    choice = choice or choose_wn(code, kind, plan.rows, columns, depth, group, target)
    arguments: dict[str, Argument] = {
        "input": Input(input=0),
        "weight": Weight(weight="codes"),
        "out": out,
        "tensor_scale": weight.tensor_scale,
        "rows": Rows(rows=1),
        "columns": columns,
        "depth": depth,
        "groups": group_count(depth, group),
        "group_shift": group_shift(depth, group),
        "out_float": int(compute == "float32"),
        **split_arguments(plan, choice),
        **beside,
    }
    arguments |= {key: Weight(weight=key) for key in ("scale", "zero", "table", "bias") if key in weight.tensors}
    plan.launches.append(Launch(kernel=choice.kernel, instance=choice.instance, arguments=arguments))


def _coding(number: Format) -> str:
    """The end of the kernel's name; empty when there is none."""
    if isinstance(number, Integer):
        return f"w{number.bits}" if number.bits in _BITS and not number.narrow else ""
    if number in _WHOLE:
        return "w2"
    if number == FP4_E2M1:
        return "e2m1"
    if number == FP8_E4M3:
        return "e4m3"
    return (
        f"table{1 << number.storage_bits}"
        if number.storage_bits in _TABLES and not isinstance(number, Codebook)
        else ""
    )


def _codes(matrix: Matrix) -> np.ndarray:
    """Unsigned codes [N, K]."""
    number = _WHOLE.get(matrix.spec.format, matrix.spec.format)
    if isinstance(number, Integer):
        shift = 1 << (number.bits - 1) if number.signed else 0
        return (matrix.codes.to(torch.int32) + shift).numpy().astype(np.uint32)
    return number.encode(matrix.codes).to(torch.int32).numpy().astype(np.uint32)


def _group(matrix: Matrix) -> int:
    """Inputs that share a scale."""
    extent = matrix.spec.block[1]
    return matrix.depth if extent == -1 else extent


def packed_scales(values: Tensor, name: str, kind: Kind, depth: int, group: int) -> Tensor:
    """Scales [N, G] as kernel `gemm_<name>` reads them, see `pack_scales`."""
    bits = pack_scales(values.float().contiguous().numpy(), name, kind, depth, group)
    return torch.from_numpy(bits.view(np.int16)).view(dtype_of(kind))


def dtype_of(kind: Kind) -> torch.dtype:
    """Of tensors that kernels read."""
    return torch.bfloat16 if kind == "bf16" else torch.float16
