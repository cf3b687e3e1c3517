"""Bias correction: takes the mean error that quantization puts into each output channel out of the bias.

Formula   b <- b + W . E[x] - W^ . E[x^], x the real and x^ the quantized input of the operator in the quantized
          stream, W^ the quantized weight; E[x] of a convolution is what each tap reads on average, borders
          included. The error that arrived with x is not counted: it is corrected where it arose
Shapes    E[x]: [in, *kernel] of a convolution, [in] of a linear; bias: [out]
Promise   Lossy; only biases change. On the calibration data the mean error that the operator adds becomes 0. Run it
          once: a second run would correct the same error again
Needs     calibration data; weights still as quantize and dequantize of a float parameter with scales set:
          run after `calibrate` and `weight_ranges`, before `nearest`
Source    Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction" (the
          empirical form)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from qcompiler.analysis.weights import TRANSPOSED, float_weight, spatial_axes, weight_quantizer
from qcompiler.errors import PassError
from qcompiler.ir import ops
from qcompiler.ir.program import Node, Program, Stage
from qcompiler.pipeline import Context, Lossy, Promise
from qcompiler.qparams import is_set, qparam_values, qparams_of
from qcompiler.reducers import Mean
from qcompiler.spec import QuantSpec, fake_quantize
from qcompiler.stats import Reducer, Request
from qcompiler.taps import TapMeans, Window


@dataclass(frozen=True)
class BiasCorrection:
    """Corrects the biases of linears and convolutions with quantized weights.

    Args:
        add: give a bias to operators that have none; they stay as they are otherwise.
    """

    add: bool = True
    name: ClassVar[str] = "bias_correction"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy("mean error")

    def requests(self, program: Program) -> Sequence[Request]:
        """Mean inputs of each operator, before and after their quantization, in the quantized stream.

        Raises:
            PassError: when a weight has no scales yet.
        """
        sites = [site for node in program.nodes if (site := _site(program, node, self.add))]
        wanted = [Request(node.name, site.mean, "quantized") for site in sites for node in (site.real, site.rounded)]
        return list(dict.fromkeys(wanted))

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with corrected biases.

        Raises:
            InputError: without calibration data.
            PassError: when a weight has no scales yet.
        """
        largest = 0.0
        for node in program.nodes:
            site = _site(program, node, self.add)
            if site is None:
                continue
            means = [ctx.stats.get(value.name, site.mean, "quantized") for value in (site.real, site.rounded)]
            shift = mean_error(program, node, *means)
            largest = max(largest, shift.abs().max().item())
            _add_to_bias(program, node, shift, self.name)
        ctx.log(f"largest correction of a bias: {largest:.3g}")
        return program


@dataclass(frozen=True)
class _Site:
    real: Node
    rounded: Node
    mean: Reducer


def _site(program: Program, node: Node, add: bool) -> _Site | None:
    """Where to measure for one operator; None where there is nothing to correct."""
    spatial = spatial_axes(program, node)
    quantizer = None if spatial is None else weight_quantizer(program, node)
    if spatial is None or quantizer is None:
        return None
    if not is_set(program, qparams_of(program, quantizer)):
        raise PassError(
            f"the weight of '%{node.name}' has no scales yet",
            mend="run weight_ranges before bias_correction",
        )
    bound = program.bind(node)
    bias, rounded = bound["bias"], bound["input"]
    correctable = program.constant(bias) is not None if bias is not None else add
    if not correctable or not isinstance(rounded, Node):
        return None
    real = rounded
    if rounded.target is ops.dequantize and rounded.all_input_nodes[0].target is ops.quantize:
        real = rounded.all_input_nodes[0].all_input_nodes[0]
    mean = TapMeans(_windows(program, node)) if spatial else Mean(program.tensor_type(rounded).rank - 1)
    return _Site(real, rounded, mean)


def _windows(program: Program, node: Node) -> tuple[Window, ...]:
    """How a convolution slides along each of its axes."""
    bound = program.bind(node)
    kernel = program.shape(cast(Node, bound["weight"]))[2:]
    stride, padding, dilation, extra = (
        _per_axis(bound.get(name, 0), len(kernel)) for name in ("stride", "padding", "dilation", "output_padding")
    )
    transposed = program.op(node) in TRANSPOSED
    axes = zip(kernel, stride, padding, dilation, extra, strict=True)
    return tuple(Window(int(size), step, zeros, gap, transposed, more) for size, step, zeros, gap, more in axes)


def _per_axis(value: object, axes: int) -> list[int]:
    """An option of a convolution, one number per axis."""
    numbers = [int(str(item)) for item in value] if isinstance(value, list | tuple) else [int(str(value))]
    return numbers * axes if len(numbers) == 1 else numbers


def mean_error(program: Program, node: Node, real: Tensor, rounded: Tensor) -> Tensor:
    """What quantization takes from the mean of each output channel.

    Args:
        program: quantized, with the weight's scales set.
        node: a linear or convolution with a quantized weight.
        real: mean input before its quantization, [in, *kernel] or [in] float64.
        rounded: mean input after its quantization.

    Returns:
        [out] float64.
    """
    quantizer, weight = weight_quantizer(program, node), float_weight(program, node)
    if quantizer is None or weight is None:
        raise PassError(f"'%{node.name}' has no quantized weight")
    spec = cast(QuantSpec, program.bind(quantizer)["spec"])
    scale, zero_point = qparam_values(program, qparams_of(program, quantizer))
    coarse = fake_quantize(weight, scale, zero_point, spec)
    exact, found = _apply(program, node, real, weight), _apply(program, node, rounded, coarse)
    return exact - found


def _apply(program: Program, node: Node, mean: Tensor, weight: Tensor) -> Tensor:
    """Mean output without bias for the mean input of each weight: [in, *kernel] or [in] -> [out]."""
    groups = int(str(program.bind(node).get("groups", 1)))
    weight = weight.double().reshape(*weight.shape[:2], -1)
    mean = mean.reshape(groups, -1, weight.shape[2])
    if program.op(node) in TRANSPOSED:
        return torch.einsum("giok,gik->go", weight.unflatten(0, (groups, -1)), mean).flatten()
    return torch.einsum("goik,gik->go", weight.unflatten(0, (groups, -1)), mean).flatten()


def _add_to_bias(program: Program, node: Node, shift: Tensor, step: str) -> None:
    bias = program.bind(node)["bias"]
    if isinstance(bias, Node):
        own = program.own_param(node, bias, step)
        value = program.param(own)
        program.set_param(own, (value.double() + shift).to(value.dtype))
        return
    dtype = program.tensor_type(node).dtype
    added = program.before(node, step).param(f"{node.name}.bias", shift.to(dtype))
    bound = {**program.bind(node), "bias": added}
    program.set_args(node, list(bound.values()))
