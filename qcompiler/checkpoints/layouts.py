"""Orders of codes that other projects store, each made from the canonical packing by a named permutation.

Canonical is `formats.pack`: one little-endian bit stream per row, lowest index first. `int32` words of four bytes hold
the same stream. Source: AutoAWQ `WQLinear_GEMM`, AutoGPTQ `QuantLinear`, ggml `ggml-quants`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qcompiler.errors import InputError
from qcompiler.formats.pack import pack, unpack


@dataclass(frozen=True)
class Layout:
    """A permutation inside blocks of the last axis.

    Args:
        name: for messages.
        order: place i of a block holds the code of index `order[i]`.
    """

    name: str
    order: tuple[int, ...]

    def apply(self, codes: Tensor) -> Tensor:
        """Canonical order to this one.

        Shapes: [..., N] -> [..., N]. Raises InputError when N does not consist of whole blocks.
        """
        return self._picked(codes, self.order)

    def undo(self, codes: Tensor) -> Tensor:
        """Inverse of `apply`."""
        inverse = sorted(range(len(self.order)), key=self.order.__getitem__)
        return self._picked(codes, tuple(inverse))

    def _picked(self, codes: Tensor, order: tuple[int, ...]) -> Tensor:
        if codes.shape[-1] % len(order):
            raise InputError(
                f"layout {self.name} has blocks of {len(order)} codes, a row has {codes.shape[-1]}",
                mend="this layout cannot hold the row",
            )
        index = torch.tensor(order, device=codes.device)
        return codes.unflatten(-1, (-1, len(order))).index_select(-1, index).flatten(-2)


AWQ_GEMM = Layout("awq gemm", (0, 2, 4, 6, 1, 3, 5, 7))
"""Eight neighbouring output channels of one int32 word, even ones first."""
GGUF_HALVES = Layout("gguf halves", tuple(place // 2 + 16 * (place % 2) for place in range(32)))
"""One byte holds elements i and i + 16 of a block of 32."""
LAYOUTS = (AWQ_GEMM, GGUF_HALVES)


def pack_words(codes: Tensor, bits: int) -> Tensor:
    """Unsigned codes to int32 words, the last word of a row filled with zero bits.

    Shapes: [..., N] integer -> [..., ceil(N * bits / 32)] int32.
    """
    rows = pack(codes, bits)
    padded = torch.nn.functional.pad(rows, (0, -rows.shape[-1] % 4))
    return padded.contiguous().view(torch.int32)


def unpack_words(words: Tensor, bits: int, count: int) -> Tensor:
    """Inverse of `pack_words`.

    Shapes: [..., ceil(count * bits / 32)] int32 -> [..., count] int32. Raises InputError when the row is not of the
    size that `count` codes have.
    """
    wanted = -(-count * bits // 32)
    if words.dtype != torch.int32 or words.shape[-1] != wanted:
        raise InputError(
            f"{count} codes of {bits} bits are {wanted} int32 words, not {list(words.shape)} of {words.dtype}",
            mend="the configuration does not belong to these weights",
        )
    rows = words.contiguous().view(torch.uint8)
    return unpack(rows[..., : -(-count * bits // 8)].contiguous(), bits, count)
