"""What quantization does inside the layers: histograms before and after with the grid, and errors per channel.

Formula   a histogram counts codes before rounding, `w / scale + zero point`, beside the codes themselves, where one
          grid holds for all of them, else real values; errors are decibels per row of a weight or channel of a result
Shapes    the places of large values that are looked at lie evenly spread
Needs     one evaluation of both programs on one small batch
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qcompiler.analysis.weights import CONVOLUTIONS
from qcompiler.formats import Codebook
from qcompiler.ir import ops
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Node, Program
from qcompiler.layout import channels_last
from qcompiler.measure import LIMIT_DB
from qcompiler.qparams import Qparams, is_set, is_static, qparam_values, qparams_of
from qcompiler.spec import QuantSpec, effective_scale, expand_blocks
from qcompiler.stats import Batch

BINS = 64
OUTSIDE = 12
CHANNELS = 128
MOST_DRAWN_BITS = 5
_PLACES = 1 << 14
_ALL_PLACES = 1 << 24
_PARTS = 1_000_000
_LARGEST = 1e30


@dataclass(frozen=True)
class _Axis:
    """Where the bins lie: `count` of one width from `low` on; the outermost ones hold what is beyond."""

    low: float
    width: float
    count: int

    def shares(self, values: Tensor) -> list[int]:
        """Millionths of the values in each bin."""
        index = ((values.flatten() - self.low) / self.width).floor_().clamp_(0, self.count - 1).long()
        return (torch.bincount(index, minlength=self.count) * (_PARTS / max(len(index), 1))).round().long().tolist()


@dataclass
class _Seen:
    """Samples of the values of both runs, by node name."""

    exact: dict[str, Tensor] = field(default_factory=dict)
    noisy: dict[str, Tensor] = field(default_factory=dict)


def layer_details(
    canonical: Program, quantized: Program, batch: Batch, names: Collection[str]
) -> dict[str, dict[str, object]]:
    """What happened inside the layers.

    Args:
        canonical: the float program.
        quantized: at stage quantized.
        batch: a few samples, as flat inputs.
        names: of the layers to look into.

    Returns:
        By layer name: `weight` and one histogram for each other quantized argument, and `channels`, the decibels of
        its result per channel. What cannot be told is left out.
    """
    sources = {node.name: node for node in canonical.nodes}
    layers = [node for node in quantized.nodes if node.name in names and node.name in sources]
    if not layers:
        return {}
    reads = {layer: _quantized_arguments(quantized, layer) for layer in layers}
    seen = _watch(canonical, quantized, batch, layers, reads)
    made: dict[Node, dict[str, object] | None] = {}
    found: dict[str, dict[str, object]] = {}
    for layer in layers:
        record: dict[str, object] = {}
        for argument, value in reads[layer].items():
            if value not in made:
                made[value] = _argument(canonical, quantized, sources[layer.name], argument, value, seen)
            record |= {argument: made[value]} if made[value] is not None else {}
        record |= _result(seen, layer.name)
        found[layer.name] = record
    return found


def _quantized_arguments(program: Program, layer: Node) -> dict[str, Node]:
    """The dequantize nodes that a layer reads, by argument."""
    bound = program.bind(layer)
    return {name: value for name, value in bound.items() if isinstance(value, Node) and value.target is ops.dequantize}


def _codes(program: Program, value: Node) -> Node | None:
    codes = program.bind(value)["codes"]
    return codes if isinstance(codes, Node) else None


def _watch(
    canonical: Program,
    quantized: Program,
    batch: Batch,
    layers: Sequence[Node],
    reads: Mapping[Node, Mapping[str, Node]],
) -> _Seen:
    """Runs both programs once and keeps samples of what the layers read and give."""
    values = {value for arguments in reads.values() for value in arguments.values()}
    streams = {value for value in values if (codes := _codes(quantized, value)) is not None and codes.op != "get_attr"}
    origins = {source.name for value in streams if (source := _stream(quantized, value)) is not None}
    results = {layer.name for layer in layers}
    places = min(max(_ALL_PLACES // max(len(results), 1), 1 << 10), _PLACES)
    seen = _Seen()

    def keep(program: Program, into: dict[str, Tensor], node: Node, value: Tensor) -> None:
        if value.is_floating_point() and value.numel():
            into[node.name] = _sample(value, 1 if program.op(node) in CONVOLUTIONS else -1, places)

    inputs = channels_last(batch)
    with torch.no_grad():
        evaluate(
            canonical,
            inputs,
            observe=lambda node, value: keep(canonical, seen.exact, node, value),
            observed=frozenset(results | origins),
        )
        evaluate(
            quantized,
            inputs,
            observe=lambda node, value: keep(quantized, seen.noisy, node, value),
            observed=frozenset(results | origins | {value.name for value in streams}),
        )
    return seen


def _stream(program: Program, value: Node) -> Node | None:
    """The value that was quantized into what a dequantize node reads."""
    codes = _codes(program, value)
    if codes is None or codes.target is not ops.quantize:
        return None
    source = program.bind(codes)["x"]
    return source if isinstance(source, Node) else None


def _sample(value: Tensor, axis: int, places: int) -> Tensor:
    """[channels, n] of evenly spread places."""
    if not value.dim():
        return value.detach().reshape(1, 1).float().clone()
    rows = value.detach().movedim(axis, 0) if value.dim() > 1 else value.detach()[None]
    while rows.numel() > places and max(rows.shape[1:], default=1) > 1:
        longest = max(range(1, rows.dim()), key=lambda dim: rows.shape[dim])
        rows = rows[(slice(None),) * longest + (slice(None, None, 2),)]
    return rows.reshape(rows.shape[0], -1).float().clone()


def _argument(
    canonical: Program, quantized: Program, source: Node, argument: str, value: Node, seen: _Seen
) -> dict[str, object] | None:
    codes = _codes(quantized, value)
    if codes is None:
        return None
    if codes.op == "get_attr":
        return _weight(canonical, quantized, canonical.bind(source).get(argument), codes, value)
    stream = _stream(quantized, value)
    after = seen.noisy.get(value.name)
    before = None if stream is None else seen.exact.get(stream.name, seen.noisy.get(stream.name))
    if before is None or after is None:
        return None
    spec, grid = quantized.tensor_type(codes).spec, qparams_of(quantized, value)
    if spec is None:
        return None
    if is_static(grid) and is_set(quantized, grid) and _is_plain(spec) and spec.format.is_integer:
        scale, zero = _single(quantized, grid, spec)
        if scale is not None:
            return _histogram(before / scale + zero, after / scale + zero, spec, (scale, scale), zero)
    return _real_histogram(before, after, spec)


def _single(program: Program, grid: Qparams, spec: QuantSpec) -> tuple[float | None, float]:
    """Scale and zero point of a tensor that has one of each; None for others."""
    scale, zero = qparam_values(program, grid)
    if not isinstance(scale, Tensor) or scale.numel() != 1:
        return None, 0.0
    return float(scale), 0.0 if zero is None or spec.symmetric else float(zero)


def _is_plain(spec: QuantSpec) -> bool:
    return spec.parts is None and not isinstance(spec.format, Codebook)


def _weight(
    canonical: Program, quantized: Program, source: object, codes: Node, value: Node
) -> dict[str, object] | None:
    """The histogram of a weight in units of its codes, and the error of each row."""
    spec, grid = quantized.tensor_type(codes).spec, qparams_of(quantized, value)
    if not isinstance(source, Node) or source.op != "get_attr" or spec is None or not _is_plain(spec):
        return None
    if not is_static(grid) or not is_set(quantized, grid):
        return None
    before, after = canonical.param(source).detach(), quantized.param(codes).detach().float()
    if before.shape != after.shape or not before.numel() or before.is_complex():
        return None
    before = before.float()
    scales, zero = qparam_values(quantized, grid)
    step = effective_scale(scales, spec, after.shape)
    shift = torch.zeros(()) if zero is None or spec.symmetric else _expanded(zero, spec, after.shape)
    ratio = before / step + shift
    signal, noise = (_rows(part) for part in (before, before - (after - shift) * step))
    low, high = (float(edge) for edge in step.aminmax())
    one = float(shift) if shift.numel() == 1 else 0.0
    return _histogram(ratio, after, spec, (low, high), one) | {"channels": _decibels(signal, noise)}


def _expanded(zero: Tensor, spec: QuantSpec, shape: torch.Size) -> Tensor:
    return zero.reshape(()) if zero.numel() == 1 else expand_blocks(zero, spec.block, shape)


def _rows(value: Tensor) -> Tensor:
    return value.flatten(1) if value.dim() > 1 else value.reshape(1, -1)


def _histogram(
    before: Tensor, after: Tensor, spec: QuantSpec, scales: tuple[float, float], zero: float
) -> dict[str, object]:
    """Shares in units of codes, with the levels of the grid where there are few of them."""
    before, after = _finite(before), _finite(after)
    number = spec.format
    low, high = number.lowest, number.highest
    if number.is_integer:
        width = _whole_width(high - low + 1)
        start, count = low - 0.5, math.ceil((high - low + 1) / width)
    else:
        width, start, count = (high - low) / BINS or 1.0, low, BINS
    least, most = (float(edge) for edge in before.aminmax())
    below = min(max(math.ceil((start - least) / width), 0), OUTSIDE)
    above = min(max(math.ceil((most - start - count * width) / width), 0), OUTSIDE)
    axis = _Axis(start - below * width, width, count + below + above)
    return {
        "spec": str(spec),
        "unit": "codes",
        "low": axis.low,
        "width": width,
        "before": axis.shares(before),
        "after": axis.shares(after),
        "limits": [low, high],
        "grid": _levels(spec),
        "scale": [_short(scale) for scale in scales],
        "zero": zero,
        "beyond": _short(float(((before < low - 0.5) | (before > high + 0.5)).float().mean())),
    }


def _whole_width(levels: float) -> float:
    """Width of bins that hold as many levels each, or of an odd number of bins per level, so that it lies mid-bin."""
    if levels > BINS / 3:
        return float(math.ceil(levels / BINS))
    return 1.0 / (2 * ((int(BINS / levels) - 1) // 2) + 1)


def _levels(spec: QuantSpec) -> list[float]:
    """The values of the format, or nothing when they are too many to be drawn."""
    number = spec.format
    if number.storage_bits > MOST_DRAWN_BITS:
        return []
    if number.is_integer:
        return [float(level) for level in range(int(number.lowest), int(number.highest) + 1)]
    return sorted({float(level) for level in number.grid().values if math.isfinite(level)})


def _real_histogram(before: Tensor, after: Tensor, spec: QuantSpec) -> dict[str, object]:
    """Shares of real values, where the grid is another one at each place or time."""
    before, after = _finite(before), _finite(after)
    edges = [float(edge) for part in (before, after) for edge in part.aminmax()]
    low, high = min(edges), max(edges)
    axis = _Axis(low, (high - low) / BINS or 1.0, BINS)
    return {
        "spec": str(spec),
        "unit": "real",
        "low": _short(axis.low),
        "width": _short(axis.width),
        "before": axis.shares(before),
        "after": axis.shares(after),
    }


def _result(seen: _Seen, name: str) -> dict[str, object]:
    """The error of each channel of a result."""
    exact, noisy = seen.exact.get(name), seen.noisy.get(name)
    if exact is None or noisy is None or exact.shape != noisy.shape:
        return {}
    return {"channels": _decibels(exact, exact - noisy)}


def _decibels(signal: Tensor, noise: Tensor) -> list[int]:
    """Tenths of decibels per row; of neighbours that share a cell of the strip the worst."""
    power, lost = signal.double().square().sum(1), noise.double().square().sum(1)
    found = (10 * torch.log10(power / lost)).nan_to_num(LIMIT_DB, LIMIT_DB, -LIMIT_DB).clamp(-LIMIT_DB, LIMIT_DB)
    size = math.ceil(len(found) / CHANNELS)
    return [round(10 * float(part.min())) for part in found.split(size)]


def _finite(value: Tensor) -> Tensor:
    return value.float().nan_to_num(0.0, _LARGEST, -_LARGEST).clamp(-_LARGEST, _LARGEST)


def _short(value: float) -> float:
    return float(f"{value:.5g}")
