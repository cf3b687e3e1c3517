"""Kernel calls as onnxruntime runs them."""

from __future__ import annotations

from torch.fx.node import Argument

from qcompiler.backends.lowering.calls import Style, lower_calls
from qcompiler.backends.onnx.cluster import cluster_attention
from qcompiler.backends.onnx.settings import Settings, settings_of
from qcompiler.backends.onnx.unpack import is_stored
from qcompiler.ir.program import Program
from qcompiler.ir.verify import verify
from qcompiler.plan import Assignment
from qcompiler.spec import QuantSpec
from qcompiler.target import Target

_FAST_BLOCK = 32


def lower(program: Program, target: Target) -> Program:
    """The program at stage lowered.

    Raises:
        VerifyError: where the graph around an assigned operator is not what its kernel needs.
        SpecError: for an unknown setting of the target.
    """
    settings = settings_of(target)
    lowered = lower_calls(program, target.kernels, style_of(settings))
    if settings.attention_operator:
        cluster_attention(lowered)
    lowered.erase_dead()
    verify(lowered)
    return lowered


def style_of(settings: Settings) -> Style:
    """How biases and weight-only layers are lowered under the settings."""
    integer = {"conv", "conv_transpose"} if settings.bias == "int32" else set[str]()
    if settings.integer_linear_bias:
        integer.add("linear")

    def attributes(assigned: Assignment) -> dict[str, Argument]:
        """The weight's spec, which blocks need, and the block in which the runtime quantizes activations."""
        if assigned.kernel not in ("linear_weight_only", "embedding_weight_only"):
            return {}
        spec = assigned.inputs["weight"]
        found: dict[str, Argument] = {"spec": spec}  # pyright: ignore[reportAssignmentType]
        if assigned.kernel == "linear_weight_only" and settings.weight_only == "fast":
            found["block"] = fast_block(spec)
        return found

    return Style(frozenset(integer), is_stored, attributes)


def fast_block(spec: QuantSpec) -> int:
    """The block in which a fast weight-only kernel shares one run-time activation scale."""
    return spec.block[1] if spec.block[1] > 1 else _FAST_BLOCK
