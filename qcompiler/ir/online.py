"""Changes of basis on the last axis that run with the model, because nothing in front of them can take them in.

All are written for row vectors: `y = x T`.
"""

from __future__ import annotations

from torch import Tensor

from qcompiler.errors import VerifyError
from qcompiler.hadamard import multiply


def hadamard(x: Tensor, signs: Tensor | None, block: int) -> Tensor:
    """`(x * signs) H / sqrt(block)` on consecutive blocks of the last axis, `H` by `qcompiler.hadamard`.

    Args:
        x: [..., channels], floating; half precision is summed in float32.
        signs: [channels] of plus and minus one, None for all plus.
        block: divides the channels.
    """
    return multiply(x if signs is None else x * signs, block)


def kronecker(x: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """`x (left ⊗ right)`: the last axis seen as [a, b] becomes `leftᵀ X right`.

    Args:
        x: [..., a * b].
        left: [a, a]; None for the identity.
        right: [b, b]; None for the identity. With one factor only, the other takes what is left of the axis.
    """
    outer, inner = split(x.shape[-1], left, right)
    value = x.reshape(-1, outer, inner)
    value = value if left is None else left.mT @ value
    return (value if right is None else value @ right).reshape(x.shape)


def split(channels: int, left: Tensor | None, right: Tensor | None) -> tuple[int, int]:
    """Sizes a and b of a Kronecker product over an axis.

    Raises:
        VerifyError: when the factors do not fit it.
    """
    outer = len(left) if left is not None else channels // len(right) if right is not None else 1
    inner = len(right) if right is not None else channels // outer if outer else 0
    square = all(factor.shape == (len(factor),) * 2 for factor in (left, right) if factor is not None)
    if outer * inner != channels or not square or (left is None and right is None):
        raise VerifyError(f"an axis of {channels} is not a product of {outer} and {inner} with square factors")
    return outer, inner
