"""What the error of one tensor consists of: rounding, clipping, the format of its scales, or something else.

Formula   clipping = clamp(x, range of the grid) - x; scale format = the rounded numbers minus those of the scale before
          it was rounded, where the stored scale is that of the whole range; rounding = the rest
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qcompiler.explain.sites import Record, Site
from qcompiler.formats import Codebook
from qcompiler.formats.blocks import block_reduce, expand_blocks
from qcompiler.ir import ops
from qcompiler.ir.program import Node, all_nodes
from qcompiler.report.explanation import Cause
from qcompiler.spec import QuantSpec, Scales, choose_qparams, effective_scale, fake_quantize


@dataclass(frozen=True)
class Grid:
    """The grid behind one dequantized tensor.

    Args:
        spec: its numbers.
        scale: one tensor per level, bare for one.
        zero_point: None when symmetric.
        codes: grid values, in a float carrier.
        dynamic: whether scales are found at run time.
        nodes: the nodes of the quantized program that hold scales and zero point.
    """

    spec: QuantSpec
    scale: Scales
    zero_point: Tensor | None
    codes: Tensor
    dynamic: bool
    nodes: tuple[Node, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether it is one format with a lowest and a highest value, and one code per element."""
        return self.spec.parts is None and not isinstance(self.spec.format, Codebook)


def grid_of(record: Record, site: Site) -> Grid | None:
    """The grid that a site's tensor was just dequantized from; None where it was not."""
    program, node = record.sites.quantized, site.noisy
    if node.target is not ops.dequantize:
        return None
    bound = program.bind(node)
    scales = [record.noisy[item] for item in all_nodes(bound["scale"])]
    tensors = tuple(value for value in scales if isinstance(value, Tensor))
    spec, zero, holder = bound["spec"], bound["zero_point"], bound["codes"]
    codes = record.noisy[holder] if isinstance(holder, Node) else None
    zero_value = record.noisy[zero] if isinstance(zero, Node) else None
    if not isinstance(spec, QuantSpec) or not isinstance(codes, Tensor) or not tensors:
        return None
    holders = (*all_nodes(bound["scale"]), *all_nodes(zero))
    dynamic = any(item.op != "get_attr" for item in holders)
    zero_point = zero_value if isinstance(zero_value, Tensor) else None
    return Grid(spec, tensors[0] if len(tensors) == 1 else tensors, zero_point, codes, dynamic, holders)


def limits(grid: Grid, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """The smallest and the largest number of the grid at every element, for plain grids."""
    step = effective_scale(grid.scale, grid.spec, shape)
    low, high = step * grid.spec.format.lowest, step * grid.spec.format.highest
    if grid.spec.symmetric or grid.zero_point is None:
        return low, high
    shift = step * expand_blocks(_fitting(grid.zero_point, grid.spec, shape), grid.spec.block, shape)
    return low - shift, high - shift


def causes_of(record: Record, site: Site) -> Mapping[Cause, Tensor]:
    """The error of a site split by cause; the pieces sum to it.

    Shapes: each as the tensor.
    """
    error, x = record.errors[site], record.meant[site]
    grid = grid_of(record, site)
    if grid is None:
        return {_without_grid(record, site): error}
    if not grid.plain:
        return {"weight rounding" if site.constant else "activation rounding": error}
    if grid.dynamic and not site.constant:
        return _rest("run-time activation quantization", error, {"scale format": _scale_format(grid, x)})
    low, high = limits(grid, x.shape)
    clipped = torch.minimum(torch.maximum(x, low), high) - x
    known: dict[Cause, Tensor] = {"weight clipping" if site.constant else "activation clipping": clipped}
    known["scale format"] = _scale_format(grid, x)
    return _rest("weight rounding" if site.constant else "activation rounding", error, known)


def _rest(name: Cause, error: Tensor, known: Mapping[Cause, Tensor]) -> Mapping[Cause, Tensor]:
    some: dict[Cause, Tensor] = {cause: piece for cause, piece in known.items() if bool(piece.any())}
    found: dict[Cause, Tensor] = {name: error - sum(some.values(), torch.zeros_like(error))}
    return found | some


def _without_grid(record: Record, site: Site) -> Cause:
    if not site.constant:
        return "rewritten operators"
    weight = site.exact.op == "get_attr" and record.meant[site].dim() > 1
    return "weight rounding" if weight and site.noisy.op != "get_attr" else "changed parameter"


def _scale_format(grid: Grid, x: Tensor) -> Tensor:
    """What rounding the scales to their format adds; zero unless they are those of the whole range of each block."""
    spec = grid.spec
    if len(spec.levels) != 1 or spec.levels[0].scale == "f32" or not isinstance(grid.scale, Tensor):
        return torch.zeros_like(x)
    wide = replace(spec, levels=(replace(spec.levels[0], scale="f32"),))
    stored, _ = choose_qparams(x, spec)
    if not isinstance(stored, Tensor) or not torch.equal(stored.reshape(-1), grid.scale.reshape(-1)):
        return torch.zeros_like(x)
    scale, zero_point = choose_qparams(x, wide)
    now = fake_quantize(x, grid.scale, grid.zero_point, spec)
    return now - fake_quantize(x, scale, zero_point, wide)


def _fitting(values: Tensor, spec: QuantSpec, shape: torch.Size) -> Tensor:
    return values.reshape(_sizes(spec, shape)) if values.numel() > 1 else values.reshape([1] * len(shape))


def _sizes(spec: QuantSpec, shape: torch.Size) -> list[int]:
    return [int(size) for size in spec.levels[0].scale_shape(shape)]


def block_extremes(x: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """Smallest and largest element of each block."""
    return block_reduce(x, spec.block, "amin"), block_reduce(x, spec.block, "amax")
