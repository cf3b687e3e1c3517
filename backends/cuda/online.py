"""Changes of basis that run in front of a quantizer, in the same kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qcompiler.backends.cuda.kernels.quantizers import Kind, choose_hadamard, choose_kronecker
from qcompiler.backends.cuda.kernels.row import Instance
from qcompiler.backends.cuda.layer import Argument, Weight
from qcompiler.errors import UnsupportedError
from qcompiler.hadamard import core, hadamard
from qcompiler.ir import ops
from qcompiler.ir.online import split
from qcompiler.ir.program import Node, Program

_HALVES: dict[Kind, torch.dtype] = {"f16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Hadamard:
    """`(x * signs) H / sqrt(block)` on consecutive blocks of a row.

    Args:
        block: divides the row.
        signs: [width] of plus and minus one; None for all plus.
    """

    block: int
    signs: Tensor | None

    def __str__(self) -> str:
        return f"hadamard({self.block})"

    @property
    def kernel(self) -> str:
        """See `fronts.Front`."""
        return "hadamard"

    @property
    def weights(self) -> dict[str, Tensor]:
        """See `fronts.Front`."""
        found: dict[str, Tensor] = {}
        if self.signs is not None:
            found["signs"] = torch.from_numpy(np.packbits(self.signs.numpy() < 0, bitorder="little"))
        if core(self.block) > 1:
            found["matrix"] = hadamard(core(self.block)).float()
        return found

    def widths(self, width: int) -> tuple[int, ...]:
        """See `fronts.Front`."""
        return (width,)

    def instance(self, kind: Kind, width: int) -> Instance:
        """See `fronts.Front`."""
        return choose_hadamard(kind, width, self.block)

    def arguments(self, sources: Sequence[Argument]) -> dict[str, Argument]:
        """See `fronts.Front`."""
        size = core(self.block)
        named: dict[str, Argument] = {name: Weight(weight=name) for name in self.weights}
        return named | {
            "levels": (self.block // size).bit_length() - 1,
            "core": size,
            "factor": 1 / math.sqrt(self.block),
        }


@dataclass(frozen=True)
class Kronecker:
    """`leftᵀ X right` of a row seen as a matrix.

    Args:
        left: [a, a].
        right: [b, b].
        kind: in which the kernel takes them.
    """

    left: Tensor
    right: Tensor
    kind: Kind

    def __str__(self) -> str:
        return f"kronecker({len(self.left)}, {len(self.right)})"

    @property
    def kernel(self) -> str:
        """See `fronts.Front`."""
        return "kronecker"

    @property
    def weights(self) -> dict[str, Tensor]:
        """See `fronts.Front`."""
        _, outer, inner = choose_kronecker(self.kind, len(self.left), len(self.right))
        return {"left": self._filled(self.left.mT, outer), "right": self._filled(self.right, inner)}

    def widths(self, width: int) -> tuple[int, ...]:
        """See `fronts.Front`."""
        return (width,)

    def instance(self, kind: Kind, width: int) -> Instance:
        """See `fronts.Front`."""
        return choose_kronecker(kind, len(self.left), len(self.right))[0]

    def arguments(self, sources: Sequence[Argument]) -> dict[str, Argument]:
        """See `fronts.Front`."""
        sizes: dict[str, Argument] = {"outer": len(self.left), "inner": len(self.right)}
        return {"left": Weight(weight="left"), "right": Weight(weight="right")} | sizes

    def _filled(self, factor: Tensor, size: int) -> Tensor:
        whole = torch.zeros(size, size, dtype=_HALVES[self.kind])
        whole[: len(factor), : len(factor)] = factor
        return whole


def online_of(program: Program, node: Node, kind: Kind) -> tuple[Node, Hadamard | Kronecker | None]:
    """What quantizers read in truth whose operator `node` nobody else reads, and the change of basis that it is."""
    width = program.shape(node)[-1]
    source, found = _basis(program, node, kind)
    if found is None or source is None or not isinstance(width, int):
        return node, None
    try:
        found.instance(kind, width)
    except UnsupportedError:
        return node, None
    return source, found


def _basis(program: Program, node: Node, kind: Kind) -> tuple[Node | None, Hadamard | Kronecker | None]:
    """The change of basis that a node is, and what it reads."""
    op = program.op(node)
    if op not in ops.ONLINE_OPS:
        return None, None
    bound = program.bind(node)
    source, values = bound["x"], {name: program.constant(bound[name]) for name in bound if name != "x"}
    if not isinstance(source, Node):
        return None, None
    if op == "qc.hadamard":
        signs, block = values["signs"], bound["block"]
        known = isinstance(block, int) and (signs is not None or bound["signs"] is None)
        return (source, Hadamard(block, signs)) if known and isinstance(block, int) else (None, None)
    width = program.shape(node)[-1]
    if kind not in _HALVES or not isinstance(width, int):
        return None, None
    outer, inner = split(width, values["left"], values["right"])
    left, right = (_factor(bound[name], values[name], size) for name, size in (("left", outer), ("right", inner)))
    return (None, None) if left is None or right is None else (source, Kronecker(left, right, kind))


def _factor(given: object, value: Tensor | None, size: int) -> Tensor | None:
    """A factor as a matrix, the identity where there is none; None for one that is not constant."""
    if given is None:
        return torch.eye(size)
    return None if value is None else value.detach().float()
