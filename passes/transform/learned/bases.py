"""What is learned of one group of ports: a rotation, an invertible matrix, a Kronecker pair, or a vector.

A matrix T comes with its inverse transposed, since writers take the one and readers the other; scales and shifts are
vectors. Training sees them in float32, the surgery takes them in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from qcompiler.passes.transform import factors
from qcompiler.passes.transform.factors import Factor
from qcompiler.passes.transform.learned.matrices import banded, cayley_map, cayley_step, nearest_orthogonal
from qcompiler.training import Trained, Variable


class Basis(Variable, Protocol):
    """A change of basis that is learned.

    `soft` and `hard` are float32: T over its inverse transposed [2, fibres, n, n], or vectors [fibres, n].
    """

    def exact(self) -> Tensor:
        """The transform in float64: T [fibres, n, n], or the vectors."""
        ...

    def rest(self) -> None:
        """Makes it the transform that changes nothing, for another start."""
        ...


class Rotation:
    """An orthogonal matrix that moves by Cayley steps.

    Args:
        start: orthogonal [fibres, n, n].
        rate: of the steps.
    """

    def __init__(self, start: Tensor, rate: float) -> None:
        self.matrix = start.detach().float().clone().requires_grad_()
        self.rate = rate

    def trained(self) -> Sequence[Trained]:
        """The matrix."""
        return (Trained(self.matrix, self.rate, cayley_step),)

    def soft(self) -> Tensor:
        """The matrix is its own inverse transposed."""
        return torch.stack([self.matrix, self.matrix])

    def hard(self) -> Tensor:
        """As it would be folded."""
        matrix = self.exact().float()
        return torch.stack([matrix, matrix])

    def softness(self) -> Tensor | None:
        """Nothing is driven to an end."""
        return None

    def exact(self) -> Tensor:
        """The closest orthogonal matrix."""
        return nearest_orthogonal(self.matrix.detach())

    def rest(self) -> None:
        """The identity."""
        with torch.no_grad():
            self.matrix.copy_(torch.eye(self.matrix.shape[-1]).expand_as(self.matrix))


class Band:
    """An invertible matrix: scales, and a band beside the diagonal that may be widened.

    Args:
        start: scales [fibres, n], positive.
        rate: of the logarithms of the scales.
        strength: how fast the rest moves, in units of the rate.
        width: of the band, which may be widened while it is learned; 1 leaves the scales alone.
    """

    def __init__(self, start: Tensor, rate: float, strength: float = 1.0, width: int = 1) -> None:
        self.scale = start.detach().float().log().requires_grad_()
        self.free = torch.zeros(*start.shape, start.shape[-1]).requires_grad_()
        self.rate, self.strength, self.width = rate, strength, width

    def trained(self) -> Sequence[Trained]:
        """Scales, and the rest where there is a band."""
        scale = Trained(self.scale, self.rate)
        return (scale,) if self.width < 2 else (scale, Trained(self.free, self.rate * self.strength))

    def soft(self) -> Tensor:
        """Both sides."""
        matrix = banded(self.scale.exp(), self.free, self.width)
        return torch.stack([matrix, torch.linalg.inv(matrix).mT])

    def hard(self) -> Tensor:
        """As it would be folded."""
        return self.soft().detach()

    def softness(self) -> Tensor | None:
        """Nothing is driven to an end."""
        return None

    def exact(self) -> Tensor:
        """The matrix in float64."""
        return self._matrix()

    def rest(self) -> None:
        """The identity."""
        _zero(self.scale, self.free)

    def factor(self) -> Factor:
        """The matrix of the only fibre."""
        return factors.Dense(self._matrix()[0])

    def _matrix(self) -> Tensor:
        return banded(self.scale.detach().double().exp(), self.free.detach().double(), self.width)


class Invertible:
    """A matrix `R U diag(s) V^T` with U and V by Cayley maps, which are the identity at first.

    Args:
        start: R, orthogonal [fibres, n, n].
        rate: of all leaves.
    """

    def __init__(self, start: Tensor, rate: float) -> None:
        self.start = start.double()
        self.rate = rate
        zero = torch.zeros(start.shape)
        self.leaves = [leaf.requires_grad_() for leaf in (zero.clone(), zero.clone(), torch.zeros(start.shape[:-1]))]

    def trained(self) -> Sequence[Trained]:
        """The free matrices behind U and V, and the logarithms of s."""
        return [Trained(leaf, self.rate) for leaf in self.leaves]

    def soft(self) -> Tensor:
        """Both sides."""
        return self._sides(self.leaves)

    def hard(self) -> Tensor:
        """As it would be folded."""
        return self.soft().detach()

    def softness(self) -> Tensor | None:
        """Nothing is driven to an end."""
        return None

    def exact(self) -> Tensor:
        """The matrix in float64."""
        return self._sides([leaf.detach().double() for leaf in self.leaves])[0]

    def rest(self) -> None:
        """The identity."""
        self.start = torch.eye(self.start.shape[-1], dtype=torch.float64).expand_as(self.start)
        _zero(*self.leaves)

    def _sides(self, leaves: Sequence[Tensor]) -> Tensor:
        first, second, logs = leaves
        left = self.start.to(logs.dtype) @ cayley_map(first)
        right = cayley_map(second).mT
        return torch.stack([(left * side[..., None, :].exp()) @ right for side in (logs, -logs)])


class Kronecker:
    """The Kronecker product of two invertible matrices.

    Args:
        left: orthogonal start of the first factor [a, a].
        right: of the second [b, b].
        rate: of all leaves.
    """

    def __init__(self, left: Tensor, right: Tensor, rate: float) -> None:
        self.sides = Invertible(left[None], rate), Invertible(right[None], rate)

    def trained(self) -> Sequence[Trained]:
        """The leaves of both."""
        return [leaf for side in self.sides for leaf in side.trained()]

    def soft(self) -> Tensor:
        """Both sides of the product."""
        left, right = (side.soft()[:, 0] for side in self.sides)
        return torch.stack([torch.kron(*pair) for pair in zip(left, right, strict=True)])[:, None]

    def hard(self) -> Tensor:
        """As it would be folded."""
        return self.soft().detach()

    def softness(self) -> Tensor | None:
        """Nothing is driven to an end."""
        return None

    def exact(self) -> Tensor:
        """The product in float64."""
        left, right = (side.exact()[0] for side in self.sides)
        return torch.kron(left, right)[None]

    def rest(self) -> None:
        """The identity."""
        for side in self.sides:
            side.rest()

    def factor(self) -> Factor:
        """The two matrices."""
        left, right = (side.exact()[0] for side in self.sides)
        return factors.Kronecker(left, right)


class Vector:
    """A scale, which stays positive, or a shift, per fibre.

    Args:
        start: [fibres, n]; positive for a scale.
        rate: of the logarithm of a scale, of a shift itself.
        positive: a scale.
        unit: a shift is learned in units of this [fibres, n].
    """

    def __init__(self, start: Tensor, rate: float, positive: bool = True, unit: Tensor | None = None) -> None:
        self.positive, self.rate = positive, rate
        self.unit = torch.ones(()) if unit is None else unit.float()
        first = start.detach().float()
        self.leaf = (first.log() if positive else first / self.unit).clone().requires_grad_()

    def trained(self) -> Sequence[Trained]:
        """The vector."""
        return (Trained(self.leaf, self.rate),)

    def soft(self) -> Tensor:
        """The vector."""
        return self.leaf.exp() if self.positive else self.leaf * self.unit

    def hard(self) -> Tensor:
        """As it would be folded."""
        return self.soft().detach()

    def softness(self) -> Tensor | None:
        """Nothing is driven to an end."""
        return None

    def exact(self) -> Tensor:
        """The vector in float64."""
        leaf = self.leaf.detach().double()
        return leaf.exp() if self.positive else leaf * self.unit.double()

    def rest(self) -> None:
        """Ones for a scale, zeros for a shift."""
        _zero(self.leaf)


def _zero(*leaves: Tensor) -> None:
    with torch.no_grad():
        for leaf in leaves:
            leaf.zero_()
