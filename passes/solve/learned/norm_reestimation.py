"""Norm re-estimation: gives the channels of each quantized layer back the mean and the spread that they had in float.

Formula   r = std y / std y^ per channel, y of the float program and y^ of the quantized one, layers before it already
          mended; weight scales of the row times r, bias <- (bias - mean y^) r + mean y; codes stay bit for bit
Shapes    r: [out]
Promise   Lossy; only scales and biases change. On the calibration data mean and spread of each mended channel equal
          those of the float program, up to the rounding of scales to their stored format
Needs     calibration data; solved weights with scales per row (or finer) and a bias; a program whose canonical form
          this run has seen. After any weight solver
Source    Hubara et al. 2021, "Accurate Post Training Quantization With Small Calibration Sets" (batch-norm tuning of
          folded norms)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from qcompiler.analysis.weights import TRANSPOSED, spatial_axes
from qcompiler.ir import ops
from qcompiler.ir.program import Node, Program, Stage
from qcompiler.passes.solve.learned.bias_tuning import reference_of
from qcompiler.pipeline import Context, Lossy, Promise
from qcompiler.qparams import Qparams, is_set, is_static, qparam_values, qparams_of, set_qparams
from qcompiler.reducers import Mean
from qcompiler.spec import QuantSpec, dequantize, round_scale
from qcompiler.stats import Accumulator, Request, collect
from qcompiler.walk import Walk

_LARGEST = 4.0


@dataclass(frozen=True)
class NormReestimation:
    """Re-estimates what the norms behind layers made of them, after weights were quantized."""

    name: ClassVar[str] = "norm_reestimation"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy("channel moments")

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with mended scales and biases.

        Raises:
            InputError: without calibration data.
            PassError: when the run did not see the float program.
        """
        reference = reference_of(ctx)
        known = {node.name for node in reference.nodes}
        sites = [site for node in program.nodes if node.name in known and (site := _site(program, node)) is not None]
        requests = [Request(site.node.name, Moments(site.axis)) for site in sites]
        wanted = collect(reference, requests, ctx.batches)
        walk = Walk(program, ctx.batches, ("quantized",))
        found = [_mend(walk, site, wanted.get(site.node.name, Moments(site.axis))) for site in sites]
        for site, (scale, bias) in zip(sites, found, strict=True):
            _, zero_point = qparam_values(program, site.qparams)
            set_qparams(program, site.qparams, scale, torch.zeros(()) if zero_point is None else zero_point)
            program.set_param(site.bias, bias)
        ctx.log(f"{len(sites)} layers got back the moments of their channels")
        return program


@dataclass(frozen=True)
class Moments:
    """Reducer: mean of x and of x^2 of each channel.

    Args:
        axis: of the channels.
    """

    axis: int

    def start(self) -> Accumulator:
        """A fresh accumulator; its result is [2, channels] float64."""
        return _Moments(self.axis)


class _Moments:
    def __init__(self, axis: int) -> None:
        self._parts = (Mean(axis).start(), Mean(axis).start())

    def update(self, value: Tensor) -> None:
        self._parts[0].update(value)
        self._parts[1].update(value.double().square())

    def result(self) -> Tensor:
        return torch.stack([part.result() for part in self._parts])


@dataclass(frozen=True)
class _Site:
    node: Node
    reader: Node
    codes: Node
    spec: QuantSpec
    qparams: Qparams
    bias: Node
    axis: int


def _site(program: Program, node: Node) -> _Site | None:
    """A layer that can be mended: codes with scales of its own per row, and a bias of its own."""
    spatial = spatial_axes(program, node)
    bound = program.bind(node) if spatial is not None else {}
    reader, bias = bound.get("weight"), bound.get("bias")
    if not isinstance(reader, Node) or reader.target is not ops.dequantize or len(reader.users) != 1:
        return None
    if not isinstance(bias, Node) or bias.op != "get_attr" or len(bias.users) != 1:
        return None
    codes, spec, qparams = (
        reader.all_input_nodes[0],
        cast(QuantSpec, program.bind(reader)["spec"]),
        qparams_of(program, reader),
    )
    alone = all(set(part.users) == {reader} for part in qparams.nodes)
    by_row = spec.block[0] == 1 and len(spec.levels) == 1 and program.op(node) not in TRANSPOSED
    if codes.op != "get_attr" or not (alone and by_row and is_static(qparams) and is_set(program, qparams)):
        return None
    axis = program.tensor_type(node).rank - 1 - cast(int, spatial)
    return _Site(node, reader, codes, spec, qparams, bias, axis)


def _mend(walk: Walk, site: _Site, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """New scale and bias of a layer, which the walk then goes on with."""
    program = walk.program
    walk.to(site.node)
    behind = list(program.graph.nodes)[list(program.graph.nodes).index(site.node) + 1]
    found = Moments(site.axis).start()
    with torch.no_grad():
        for batch in range(walk.batches):
            stop = None if behind.op == "output" else behind
            found.update(cast(Tensor, walk.ahead(stop, walk.live(batch, "quantized"), "quantized")[site.node]))
    ratio = spread_ratio(wanted, found.result())
    scale, zero_point = qparam_values(program, site.qparams)
    rows = ratio.reshape(-1, *[1] * (cast(Tensor, scale).dim() - 1))
    grown = round_scale((cast(Tensor, scale).double() * rows).float(), site.spec.levels[0].scale)
    # Scales are stored in few digits: the bias goes by what they became.
    exact = (grown.double() / cast(Tensor, scale).double()).flatten(1).mean(1)
    old = program.param(site.bias)
    bias = ((old.double() - found.result()[0]) * exact + wanted[0]).to(old.dtype)
    codes = program.param(site.codes)
    walk.settle(site.reader, dequantize(codes.clone(), grown, zero_point, site.spec))
    walk.settle(site.bias, bias)
    return grown, bias


def spread_ratio(wanted: Tensor, found: Tensor) -> Tensor:
    """Std of the one over std of the other from moments [2, channels]; 1 where either has no spread, at most 4."""
    spreads = [(part[1] - part[0].square()).clamp(min=0).sqrt() for part in (wanted, found)]
    sizes = [part[1].sqrt().clamp(min=torch.finfo(torch.float64).tiny) for part in (wanted, found)]
    varies = (spreads[0] > 1e-6 * sizes[0]) & (spreads[1] > 1e-6 * sizes[1])
    ratio = spreads[0] / torch.where(varies, spreads[1], 1.0)
    return torch.where(varies, ratio, 1.0).clamp(1 / _LARGEST, _LARGEST)
