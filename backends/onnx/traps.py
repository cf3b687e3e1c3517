"""The forms of quantization that onnxruntime quietly runs in float, each with its reason and its mend."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from qcompiler.backends.onnx.realised import Realised


class Asked(Protocol):
    """What an operand was asked to be."""

    @property
    def number(self) -> str:
        """Element type of its codes; empty for float."""
        ...

    @property
    def constant(self) -> bool:
        """Whether it is stored."""
        ...

    @property
    def dynamic(self) -> bool:
        """Whether its scale is found at run time."""
        ...


class Written(Protocol):
    """The operator that was written."""

    @property
    def op_type(self) -> str:
        """Its kind."""
        ...


@dataclass(frozen=True)
class Case:
    """One operator that did not become what was asked.

    Args:
        op: operator that was written.
        operands: what it reads.
        result: number of its result; empty for float.
        kernel: what runs.
        level: accuracy level of a packed product.
    """

    op: str
    operands: tuple[Asked, ...]
    result: str
    kernel: str
    level: int | None

    @property
    def numbers(self) -> frozenset[str]:
        """Of all quantized operands."""
        return frozenset(operand.number for operand in self.operands if operand.number)

    @property
    def weight_only(self) -> bool:
        """Whether an operand is float."""
        return any(not operand.number for operand in self.operands)


@dataclass(frozen=True)
class Trap:
    """A form that fails, why, and what to write instead."""

    applies: Callable[[Case], bool]
    reason: str
    mend: str


_BYTES = frozenset({"int8", "uint8"})
_SECRET = (
    "the runtime quantized the float weight on its own account, with one scale for the whole of it",
    "quantize the weight per channel, or quantize not both the input and the result",
)
TRAPS: tuple[Trap, ...] = (
    Trap(
        lambda case: any(operand.constant and not operand.number for operand in case.operands),
        *_SECRET,
    ),
    Trap(
        lambda case: case.level == 4,
        "the kernel also quantizes the activations, to int8 in blocks: that is accuracy level 4, the default",
        "write MatMulNBits with accuracy_level 0, or set session.qdq_matmulnbits_accuracy_level to 0",
    ),
    Trap(
        lambda case: case.op == "ConvTranspose",
        "the runtime has no integer transposed convolution",
        "leave it in float: quantizing it only adds work",
    ),
    Trap(
        lambda case: case.op == "Gather",
        "the whole table is dequantized at every run, before a row is looked up",
        "look up codes and dequantize behind the Gather, or write GatherBlockQuantized",
    ),
    Trap(
        lambda case: case.weight_only and case.op == "Conv",
        "no convolution takes quantized weights under float activations: they are dequantized at every run",
        "quantize input and result too, or leave the weight in float",
    ),
    Trap(
        lambda case: case.weight_only,
        "the weight is dequantized at every run: only MatMul, and Gemm without transB, over a weight stored [K, N] "
        "becomes MatMulNBits",
        "store the weight as [K, N]",
    ),
    Trap(
        lambda case: not case.numbers <= _BYTES,
        "integer kernels take 8-bit codes on both sides, nothing wider or narrower",
        "ask for 8 bits, or for 4-bit weights alone",
    ),
    Trap(
        lambda case: case.op == "Conv" and any(operand.dynamic for operand in case.operands),
        "no convolution finds its scale at run time: ConvInteger does, and is slower than float",
        "calibrate, so that the scale is static",
    ),
    Trap(
        lambda case: case.op == "Conv" and not case.result,
        "a convolution becomes an integer one only between quantized input, weight and result",
        "quantize its result too",
    ),
    Trap(
        lambda case: case.op == "Conv" and case.kernel == "FusedConv",
        "convolution and activation were fused in float: the runtime absorbs an activation into an integer "
        "convolution only in front of zero point 0",
        "quantize the activation's result with zero point 0, or clip the codes behind the quantizer",
    ),
    Trap(
        lambda case: case.kernel == "FusedGemm",
        "Gemm and activation were fused in float: an activation is absorbed only in front of zero point 0",
        "quantize the activation's result with zero point 0, or clip the codes behind the quantizer",
    ),
    Trap(
        lambda case: case.op in ("Conv", "MatMul", "Gemm") and "uint8" not in case.numbers,
        "signed activations that several operators read stay in float",
        "write them unsigned, with zero point 128",
    ),
    Trap(
        lambda case: case.op in ("Gemm", "MatMul") and case.kernel in ("Gemm", "FusedGemm"),
        "a float bias, or a weight zero point that is left out, keeps the product in float Gemm",
        "write the bias as int32 codes of Gemm, and the zero point of the weight",
    ),
    Trap(
        lambda case: case.op == "Conv",
        "the bias is added behind the convolution, or its codes have another scale than input times weight",
        "give the bias to the convolution, in float or with the right scale",
    ),
    Trap(
        lambda case: not case.result,
        "operators between codes run on these only when their result is quantized too",
        "quantize its result, or leave its inputs in float",
    ),
)
_UNKNOWN = ("the runtime has no such kernel here", "see `qcompiler audit --matrix` for what it has")


def trap(node: Written, operands: Sequence[Asked], result: str, found: Realised) -> tuple[str, str]:
    """Reason and mend for an operator that does not run as it was asked to."""
    case = Case(node.op_type, tuple(operands), result, found.kernel, found.level)
    return next(((each.reason, each.mend) for each in TRAPS if each.applies(case)), _UNKNOWN)


BY_KERNEL: Mapping[str, tuple[str, str]] = {
    "secret": _SECRET,
    "FusedConv": (
        "the runtime fused the convolution with an activation in float before it looked for integer patterns",
        "quantize the activation's result with zero point 0, or let the kernel absorb it",
    ),
    "Conv": (
        "a convolution becomes an integer one only between quantized input, weight and result",
        "quantize its result too",
    ),
    "Gemm": (
        "a float bias or a missing weight zero point keeps Gemm in float",
        "write the bias as int32 codes and the zero point of the weight",
    ),
    "MatMul": ("the product was not recognised as an integer pattern", "see the notes of the target's kernel rows"),
}
"""Reason and mend by what runs, for layers of a program, whose form this backend chose."""
