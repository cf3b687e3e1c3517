"""The grid of a spec as the column core asks for it: one scale group is opened after the other, columns are rounded.

*Static* groups take all scales from the weight before the first column is rounded, so that columns may be solved in any
order and codes still lie in contiguous groups. *Dynamic* groups take theirs when the core reaches them, from columns
that have answered the errors before them already.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qcompiler.passes.solve.curvature import Curvature
from qcompiler.passes.solve.expression import Codes
from qcompiler.passes.solve.ranges import Search
from qcompiler.spec import QuantSpec, Scales, effective_scale, expand_blocks, qparams_from_range, quantize


class GridRounder:
    """Rounds columns to a spec of rank 2; see `column.Rounder`.

    Args:
        spec: of the matrix [groups * rows, columns].
        shape: groups, rows per group, columns.
        search: how ranges are found.
        curvature: whose order of columns is followed; dynamic groups need the plain one.
    """

    def __init__(self, spec: QuantSpec, shape: torch.Size, search: Search, curvature: Curvature) -> None:
        self.spec, self.search, self.curvature = spec, search, curvature
        self.groups, self.rows, self.columns = shape
        extent = spec.block[1]
        self.extent = self.columns if extent == -1 else min(extent, self.columns)
        self.width = self.extent
        self.codes: Tensor | None = None
        self._opened: list[tuple[Scales, Tensor]] = []
        self._static: tuple[Scales, Tensor | None] | None = None
        self._scale = self._zero = torch.zeros(())
        self._scales = self._zeros = torch.zeros(())
        self._places: list[int] | Tensor = [column // self.extent for column in range(self.columns)]
        if curvature.order is not None:
            places = curvature.order // self.extent
            self._places = places[0].tolist() if self.groups == 1 else places

    @property
    def static(self) -> bool:
        """Whether all scales are known."""
        return self._static is not None

    def fix(self, scale: Scales, zero_point: Tensor | None) -> None:
        """Takes all scales as given: the groups are static."""
        self._static, self.width = (scale, zero_point), 0
        shape = torch.Size((self.groups * self.rows, self.columns))
        self._scales = self._by_group(effective_scale(scale, self.spec, shape))
        if zero_point is not None and not self.spec.symmetric:
            self._zeros = self._by_group(expand_blocks(zero_point, self.spec.block, shape))

    def fit(self, weight: Tensor) -> None:
        """Takes all scales from a weight [groups * rows, columns]: the groups are static."""
        scale, zero_point = qparams_from_range(*self.search.range(weight, self.spec), self.spec)
        self.fix(scale, None if self.spec.symmetric else zero_point)

    def begin(self, start: int, latent: Tensor) -> None:
        """Finds the scales of the next group."""
        matrix = latent.transpose(1, 2).reshape(self.groups * self.rows, -1)
        scale, zero_point = qparams_from_range(*self.search.range(matrix, self.spec), self.spec)
        self._opened.append((scale, zero_point))
        column = torch.Size((matrix.shape[0], 1))
        self._scale = self._shaped(effective_scale(scale, self.spec, column)[:, 0])
        self._zero = self._shaped(expand_blocks(zero_point, self.spec.block, column)[:, 0])

    def round(self, column: int, latent: Tensor) -> Tensor:
        """`(quantize(latent) - zero point) * scale`; remembers the codes."""
        if self._static is not None:
            self._open(column)
        ratio = latent / self._scale
        if self.spec.symmetric:
            codes = self.spec.format.round(ratio)
            value = codes * self._scale
        else:
            codes = ratio.round_().add_(self._zero).clamp_(self.spec.format.lowest, self.spec.format.highest)
            value = (codes - self._zero).mul_(self._scale)
        if self.codes is None:
            self.codes = latent.new_empty(self.groups, self.columns, self.rows)
        self.codes[:, column] = codes
        return value

    def clamp(self, column: int, latent: Tensor, value: Tensor) -> Tensor:
        """Latent values within the range of the grid: a `column.Trail`."""
        zero = 0.0 if self.spec.symmetric else self._zero
        low, high = (self.spec.format.lowest - zero) * self._scale, (self.spec.format.highest - zero) * self._scale
        return torch.minimum(torch.maximum(latent, low), high)

    def nearest(self, weight: Tensor) -> Codes:
        """The nearest codes of a weight [groups * rows, columns] on static scales."""
        scale, zero_point = self._static or self._joined()
        return Codes(self.spec, quantize(weight, scale, zero_point, self.spec), scale, zero_point)

    def result(self) -> Codes:
        """The codes of all columns, as they lie in the weight."""
        codes = torch.zeros(self.groups, self.columns, self.rows) if self.codes is None else self.codes
        matrix = self.curvature.restore(codes.mT).reshape(-1, self.columns).float().contiguous()
        scale, zero_point = self._static or self._joined()
        return Codes(self.spec, matrix, scale, None if self.spec.symmetric else zero_point)

    def _joined(self) -> tuple[Scales, Tensor]:
        """Scales of single-level groups side by side."""
        scales = [scale for scale, _ in self._opened if isinstance(scale, Tensor)]
        return torch.cat(scales, 1), torch.cat([zero for _, zero in self._opened], 1)

    def _open(self, column: int) -> None:
        if isinstance(self._places, list):
            place = self._places[column]
            self._scale = self._scales[place]
            self._zero = self._zeros[place] if self._zeros.dim() else self._zeros
            return
        places, groups = self._places[:, column], torch.arange(self.groups)
        self._scale = self._scales[places, groups]
        self._zero = self._zeros[places, groups] if self._zeros.dim() else self._zeros

    def _by_group(self, values: Tensor) -> Tensor:
        """[groups * rows, columns] to one value per scale group: [scale groups, groups, rows]."""
        picked = values[:, :: self.extent]
        return picked.T.reshape(-1, self.groups, self.rows).contiguous()

    def _shaped(self, values: Tensor) -> Tensor:
        return values.reshape(self.groups, self.rows).contiguous()
