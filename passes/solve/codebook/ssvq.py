"""SSVQ: the signs of a weight in a plane of their own, vectors of a table for the sizes alone.

Formula   `w_ij = rms_i sign(l_ij) C[index]_ij`; k-means of the sizes, C >= 0; then C and the latent signs l learn on
          the output error of the layer, straight through the sign; signs that keep flipping freeze to the one they had
          most of the time, under a bar that falls along a cosine
Shapes    signs [rows, columns], indices [rows * columns / length], a table [entries, length], a number per row
Promise   Lossy; 1 + log2(entries) / length bits per weight, the table and 16 / columns
Needs     calibration; nothing of the spec
Source    "SSVQ: Unleashing the Potential of Vector Quantization with Sign-Splitting" 2025. The paper learns
          on the task; this form looks at the output of each layer
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.ir.program import Program, Stage
from qcompiler.passes.solve.codebook.learn import descend
from qcompiler.passes.solve.codebook.vectors import Cut, check_table, cut, kmeans, lookup
from qcompiler.passes.solve.decompose import decompose
from qcompiler.passes.solve.expression import Expression, Scaled
from qcompiler.passes.solve.layers import Layer
from qcompiler.passes.solve.lowbit.fits import sign
from qcompiler.passes.solve.lowbit.planes import halves, rounded, signs
from qcompiler.pipeline import Context, Lossy, Promise

_TABLE_RATE = 1e-2
_SIGN_RATE = 1e-2
_WINDOWS = 6


class Latent:
    """Signs that learn: latent numbers, how often each flipped in this window, and which are frozen.

    Args:
        start: numbers whose signs they begin with.
        steps: of learning.
    """

    def __init__(self, start: Tensor, steps: int) -> None:
        self.numbers = start.clone().requires_grad_()
        self.window = max(1, steps // _WINDOWS)
        self.steps = max(1, steps)
        self.last, self.frozen = sign(start), torch.zeros_like(start, dtype=torch.bool)
        self.flips, self.positive = torch.zeros_like(start), torch.zeros_like(start)

    def value(self) -> Tensor:
        """The signs, with the gradient of the latent numbers where they are free."""
        plain = torch.where(self.frozen, self.last, sign(self.numbers.detach()))
        return plain + torch.where(self.frozen, 0.0, self.numbers - self.numbers.detach())

    def after(self, step: int) -> None:
        """Counts flips; at the end of a window freezes what flipped too often to its commoner sign."""
        now = torch.where(self.frozen, self.last, sign(self.numbers))
        self.flips += (now != self.last).float()
        self.positive += (now > 0).float()
        self.last = now
        if (step + 1) % self.window:
            return
        bar = 0.5 * (1 + math.cos(math.pi * (step + 1) / self.steps)) * 0.5
        restless = ~self.frozen & (self.flips / self.window > bar) & (self.flips > 1)
        self.last = torch.where(restless, sign(self.positive - self.window / 2), self.last)
        self.frozen |= restless
        self.flips.zero_()
        self.positive.zero_()


def learn_signs(pieces: Cut, indices: Tensor, table: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Signs [vectors, length] and table of less output error for fixed indices."""
    sizes = table.clone().requires_grad_()
    latent = Latent(pieces.vectors, steps)
    # One plane is multiplied by the other, so that a sign's gradient is the size it would turn.
    descend(
        lambda: pieces.error(latent.value() * sizes.clamp(min=0)[indices]),
        [(sizes, _TABLE_RATE), (latent.numbers, _SIGN_RATE)],
        steps,
        latent.after,
    )
    return latent.value().detach(), sizes.detach().clamp(min=0)


@dataclass(frozen=True)
class Ssvq:
    """Vector quantization of sizes, with signs apart.

    Args:
        entries: of the table.
        length: of a vector.
        steps: of gradient descent; 0 keeps signs and k-means.
    """

    entries: int = 256
    length: int = 8
    steps: int = 300
    name: ClassVar[str] = "ssvq"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    def __post_init__(self) -> None:
        check_table(self.entries, self.length)
        if self.steps < 0:
            raise SpecError(f"{self.steps} steps", mend="300 is usual")

    def solve(self, layer: Layer) -> Expression:
        """One weight; see `LayerSolver`."""
        pieces = cut(layer, self.length)
        indices, table = kmeans(pieces.vectors.abs(), self.entries, pieces.costs, layer.seed)
        plane, table = learn_signs(pieces, indices, table, self.steps)
        table = rounded(table)
        scale = pieces.refitted(plane * table[indices])
        found = lookup(pieces, indices, halves(table), len(table))
        signed = Scaled(found, signs(plane.reshape(found.shape)))
        return pieces.expression(signed, scale)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with signs, indices and tables.

        Raises:
            InputError: without calibration data; when weights or activations hold NaN or infinity.
        """
        return decompose(program, ctx, self.solve, self.name, ("quantized",))
