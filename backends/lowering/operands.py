"""Quantized operands of kernel calls, as a lowered program holds them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx.node import Argument

from qcompiler.ir.program import Node
from qcompiler.ir.types import TensorType
from qcompiler.spec import QuantSpec


@dataclass(frozen=True)
class Operand:
    """A quantized argument of a kernel call: its nodes and its spec."""

    codes: Node
    scale: Node
    zero_point: Node | None
    spec: QuantSpec


def keywords(node: Node) -> dict[str, object]:
    """Arguments of an operator that are given by name alone, which kernel calls do not take, with their defaults."""
    schema = node.target._schema.arguments if isinstance(node.target, torch._ops.OpOverload) else []
    return {argument.name: argument.default_value for argument in schema if argument.kwarg_only}


def operand_of(argument: Argument) -> Operand | None:
    """Reads `[codes, scale, zero point]`; None for any other argument."""
    if not isinstance(argument, list | tuple) or len(argument) != 3:
        return None
    codes, scale, zero_point = argument
    if not isinstance(codes, Node) or not isinstance(scale, Node):
        return None
    type_ = codes.meta["type"]
    spec = type_.spec if isinstance(type_, TensorType) else None
    return None if spec is None else Operand(codes, scale, zero_point if isinstance(zero_point, Node) else None, spec)
