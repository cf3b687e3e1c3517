"""Codes to bytes and back. The bit order is stated here and nowhere else.

Each row (last axis) is one little-endian bit stream: code i holds bits i*b .. i*b+b-1, the lowest bit first,
and bit k of the stream is bit k % 8 of byte k // 8. A row is filled with zero bits to whole bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qcompiler.errors import InputError, SpecError
from qcompiler.formats.integer import WIDTHS

# Words in which 8 / bits codes of one byte each lie side by side, lowest index in the lowest byte.
_WORDS = {4: torch.int16, 2: torch.int32, 1: torch.int64}
# Words worked on at a time, so that intermediates stay in the cache.
_CHUNK = 1 << 16


def packed_size(count: int, bits: int) -> int:
    """Bytes of one row of `count` codes; raises SpecError for a width that is not packed."""
    if bits not in WIDTHS:
        raise SpecError(f"codes of {bits} bits cannot be packed", mend="choose 1 to 8, 16 or 32 bits")
    return (count * bits + 7) // 8


def pack(codes: Tensor, bits: int) -> Tensor:
    """Packs unsigned codes along the last axis.

    Shapes: codes [..., N] of an integer dtype -> [..., packed_size(N, bits)] uint8. Codes of 32 bits are the
    int32 pattern itself. Raises SpecError for an unknown width, InputError for other dtypes, no axis or codes
    too large.
    """
    count = _row_length(codes)
    size = packed_size(count, bits)
    if codes.is_floating_point() or codes.is_complex():
        raise InputError(f"pack takes integer codes, not {codes.dtype}", mend="call the format's encode first")
    if codes.numel() == 0:
        return codes.new_zeros((*codes.shape[:-1], size), dtype=torch.uint8)
    if bits == 32:
        return codes.to(torch.int32).contiguous().view(torch.uint8)
    codes = codes.to(torch.uint8) if codes.dtype == torch.bool else codes
    low, high = (int(limit) for limit in torch.aminmax(codes))
    if low < 0 or high >= 1 << bits:
        raise InputError(f"codes {low}..{high} do not fit {bits} unsigned bits", mend="call the format's encode first")
    if bits == 16:
        return codes.to(torch.int16).contiguous().view(torch.uint8)
    if bits == 8:
        return codes.to(torch.uint8)
    if bits in _WORDS:
        return _pack_word(codes, bits)
    return _pack_stream(codes, bits, size)


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """Inverse of `pack`.

    Shapes: packed [..., packed_size(count, bits)] uint8 -> [..., count] int32.
    Raises SpecError for an unknown width, InputError when the row is not of the size that `count` codes have.
    """
    size = packed_size(count, bits)
    if packed.dtype != torch.uint8 or _row_length(packed) != size:
        raise InputError(
            f"{count} codes of {bits} bits are {size} bytes, not {tuple(packed.shape)} of {packed.dtype}",
            mend="give the row as pack made it",
        )
    if packed.numel() == 0:
        return packed.new_zeros((*packed.shape[:-1], count), dtype=torch.int32)
    if bits == 32:
        return packed.clone(memory_format=torch.contiguous_format).view(torch.int32)
    if bits == 16:
        return packed.clone(memory_format=torch.contiguous_format).view(torch.int16).int() & 0xFFFF
    if bits == 8:
        return packed.int()
    if bits in _WORDS:
        return _unpack_word(packed, bits, count)
    return _unpack_stream(packed, bits, count)


def _row_length(tensor: Tensor) -> int:
    if tensor.dim() == 0:
        raise InputError("a single number has no row to pack", mend="give at least one axis")
    return tensor.shape[-1]


def _padded(row: Tensor, multiple: int) -> Tensor:
    missing = -row.shape[-1] % multiple
    return torch.nn.functional.pad(row, (0, missing)) if missing else row


def _pack_word(codes: Tensor, bits: int) -> Tensor:
    """1, 2 and 4 bits: reads the codes of one output byte as one little-endian word and folds it together."""
    words = _padded(codes.to(torch.uint8), 8 // bits).contiguous().view(_WORDS[bits])
    packed = torch.empty(words.shape, dtype=torch.uint8, device=codes.device)
    for source, target in zip(words.view(-1).split(_CHUNK), packed.view(-1).split(_CHUNK), strict=True):
        folded = source >> (8 - bits)
        for position in range(2, 8 // bits):
            folded |= source >> (position * (8 - bits))
        target.copy_(folded.bitwise_or_(source))
    return packed


def _unpack_word(packed: Tensor, bits: int, count: int) -> Tensor:
    """Inverse of `_pack_word`: spreads each byte over one word and keeps the low bits of each byte."""
    per_byte = 8 // bits
    mask = int.from_bytes(bytes([(1 << bits) - 1] * per_byte), "little")
    flat = packed.reshape(-1)
    codes = torch.empty(flat.numel() * per_byte, dtype=torch.int32, device=packed.device)
    for source, target in zip(flat.split(_CHUNK), codes.split(_CHUNK * per_byte), strict=True):
        word = source.to(_WORDS[bits])
        spread = word.clone()
        for position in range(1, per_byte):
            spread |= word << (position * (8 - bits))
        target.copy_(spread.bitwise_and_(mask).view(torch.uint8))
    return codes.view(*packed.shape[:-1], packed.shape[-1] * per_byte)[..., :count].contiguous()


def _pack_stream(codes: Tensor, bits: int, size: int) -> Tensor:
    """3, 5, 6 and 7 bits: eight codes fill exactly `bits` bytes of one 64-bit word."""
    groups = _padded(codes.to(torch.int64), 8).unflatten(-1, (-1, 8))
    shifts = torch.arange(0, 8 * bits, bits, device=codes.device)
    words = (groups << shifts).sum(-1)
    return words.unsqueeze(-1).view(torch.uint8)[..., :bits].flatten(-2)[..., :size].contiguous()


def _unpack_stream(packed: Tensor, bits: int, count: int) -> Tensor:
    groups = _padded(packed, bits).unflatten(-1, (-1, bits)).to(torch.int64)
    words = (groups << torch.arange(0, 8 * bits, 8, device=packed.device)).sum(-1, keepdim=True)
    shifts = torch.arange(0, 8 * bits, bits, device=packed.device)
    return ((words >> shifts) & ((1 << bits) - 1)).flatten(-2)[..., :count].int()
