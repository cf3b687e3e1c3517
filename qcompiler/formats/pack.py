"""Codes to bytes and back. The bit order is stated here and nowhere else.

Each row (last axis) is one little-endian bit stream: code i holds bits i*b .. i*b+b-1, the lowest bit first,
and bit k of the stream is bit k % 8 of byte k // 8. A row is filled with zero bits to whole bytes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from qcompiler.errors import InputError, SpecError

# Words in which codes of one byte each lie side by side, lowest index in the lowest byte: as many as fill whole bytes.
_ONE_BYTE = {4: torch.int16, 2: torch.int32, 1: torch.int64}
_EIGHT = torch.int64
# Bytes of codes worked on at a time, so that intermediates stay in the cache.
_CHUNK = 1 << 18
_WIDEST = 16

CodeDtype = Literal["int32", "uint8"]


def packed_size(count: int, bits: int) -> int:
    """Bytes of one row of `count` codes; raises SpecError for a width that is not packed."""
    if not 1 <= bits <= _WIDEST and bits != 32:
        raise SpecError(f"codes of {bits} bits cannot be packed", mend="choose 1 to 16 or 32 bits")
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
    if bits > 8:
        return _pack_words(_bits_of(codes, bits), 1)[..., :size].contiguous()
    if bits == 8:
        return codes.to(torch.uint8)
    return _pack_words(codes, bits)[..., :size].contiguous()


def unpack(packed: Tensor, bits: int, count: int, dtype: CodeDtype = "int32") -> Tensor:
    """Inverse of `pack`.

    Shapes: packed [..., packed_size(count, bits)] uint8 -> [..., count] int32, or uint8 (a quarter of the memory).
    Raises SpecError for an unknown width or one above 8 bits as uint8, InputError when the row is not of the size
    that `count` codes have.
    """
    if dtype == "uint8" and bits > 8:
        raise SpecError(f"codes of {bits} bits do not fit uint8", mend="unpack them as int32")
    size = packed_size(count, bits)
    if packed.dtype != torch.uint8 or _row_length(packed) != size:
        raise InputError(
            f"{count} codes of {bits} bits are {size} bytes, not {tuple(packed.shape)} of {packed.dtype}",
            mend="give the row as pack made it",
        )
    wanted = torch.uint8 if dtype == "uint8" else torch.int32
    if packed.numel() == 0:
        return packed.new_zeros((*packed.shape[:-1], count), dtype=wanted)
    if bits == 32:
        return packed.clone(memory_format=torch.contiguous_format).view(torch.int32)
    if bits == 16:
        return packed.clone(memory_format=torch.contiguous_format).view(torch.int16).int() & 0xFFFF
    if bits > 8:
        return _codes_of(_unpack_words(packed, 1, count * bits, torch.uint8), bits)
    return packed.to(wanted, copy=True) if bits == 8 else _unpack_words(packed, bits, count, wanted)


def _row_length(tensor: Tensor) -> int:
    if tensor.dim() == 0:
        raise InputError("a single number has no row to pack", mend="give at least one axis")
    return tensor.shape[-1]


def _padded(row: Tensor, multiple: int) -> Tensor:
    missing = -row.shape[-1] % multiple
    return torch.nn.functional.pad(row, (0, missing)) if missing else row


def _pack_words(codes: Tensor, bits: int) -> Tensor:
    """1 to 7 bits: reads neighbouring codes as one word and folds it together.

    Shapes: [..., N] -> [..., whole words], uint8; the bytes past the row are zero.
    """
    dtype = _ONE_BYTE.get(bits, _EIGHT)
    padded = _padded(codes.to(torch.uint8), dtype.itemsize).contiguous()
    size = padded.shape[-1] * bits // 8
    packed = torch.empty((*padded.shape[:-1], size), dtype=torch.uint8, device=codes.device)
    per_word = dtype.itemsize * bits // 8
    for source, target in zip(padded.view(-1).split(_CHUNK), packed.view(-1).split(_CHUNK * bits // 8), strict=True):
        _store(_folded(source.view(dtype), bits), target, per_word)
    return packed


def _folded(word: Tensor, bits: int) -> Tensor:
    """Moves the low `bits` of every byte together, doubling the runs until the whole word is one.

    Where the word becomes a single byte, what is left above it does no harm and stays.
    """
    run, count = 1, word.element_size()
    while run < count:
        if bits in _ONE_BYTE:
            word = (word >> (run * (8 - bits))).bitwise_or_(word)
        else:
            upper = word & _upper_runs(bits * run, 8 * run, run, count)
            word = word ^ upper
            word |= upper.bitwise_right_shift_(run * (8 - bits))
        run *= 2
    return word


def _unpack_words(packed: Tensor, bits: int, count: int, wanted: torch.dtype) -> Tensor:
    """Inverse of `_pack_words`: spreads each word and keeps the low bits of each byte. Shapes: -> [..., count]."""
    dtype = _ONE_BYTE.get(bits, _EIGHT)
    per_word = dtype.itemsize * bits // 8
    padded = _padded(packed, per_word).contiguous()
    codes = torch.empty((*padded.shape[:-1], padded.shape[-1] * 8 // bits), dtype=wanted, device=packed.device)
    for source, target in zip(padded.view(-1).split(_CHUNK * bits // 8), codes.view(-1).split(_CHUNK), strict=True):
        target.copy_(_spread(_loaded(source, per_word, dtype), bits).view(torch.uint8))
    return codes[..., :count].contiguous()


def _spread(word: Tensor, bits: int) -> Tensor:
    """Inverse of `_folded`; in place."""
    count = word.element_size()
    run = count // 2
    while run >= 1:
        if bits in _ONE_BYTE:
            word |= word << (run * (8 - bits))
        else:
            upper = word & _upper_runs(bits * run, bits * run, run, count)
            word ^= upper
            word |= upper.bitwise_left_shift_(run * (8 - bits))
        run //= 2
    ones = int.from_bytes(bytes([(1 << bits) - 1] * count), "little")
    return word.bitwise_and_(ones) if bits in _ONE_BYTE else word


def _upper_runs(ones: int, start: int, run: int, count: int) -> int:
    """A mask of `ones` ones from bit `start` of every lane of 2 * `run` bytes, in a word of `count` bytes."""
    return sum(((1 << ones) - 1) << (8 * lane + start) for lane in range(0, count, 2 * run))


def _store(words: Tensor, target: Tensor, size: int) -> None:
    """Writes the low `size` bytes of every word one after the other."""
    if size in (1, 2, 4):
        narrow = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[size]
        target.view(narrow).copy_(words)
        return
    lanes = torch.int16 if size % 2 == 0 else torch.uint8
    source, columns = words.view(lanes).view(words.numel(), -1), target.view(lanes).view(words.numel(), -1)
    for place in range(columns.shape[1]):
        columns[:, place] = source[:, place]


def _loaded(source: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Inverse of `_store`: words whose low `size` bytes come from the source, the others zero."""
    if size == 1:
        return source.to(dtype)
    if size in (2, 4):
        words = source.view(torch.int16 if size == 2 else torch.int32).to(dtype)
        return words.bitwise_and_((1 << (8 * size)) - 1) if dtype.itemsize > size else words
    words = torch.zeros(source.numel() // size, dtype=dtype, device=source.device)
    lanes = torch.int16 if size % 2 == 0 else torch.uint8
    target, columns = words.view(lanes).view(words.numel(), -1), source.view(lanes).view(words.numel(), -1)
    for place in range(columns.shape[1]):
        target[:, place] = columns[:, place]
    return words


def _bits_of(codes: Tensor, bits: int) -> Tensor:
    """[..., N] codes -> [..., N * bits] zeros and ones, the lowest bit of each code first."""
    places = torch.arange(bits, device=codes.device)
    return ((codes.unsqueeze(-1) >> places) & 1).to(torch.uint8).flatten(-2)


def _codes_of(stream: Tensor, bits: int) -> Tensor:
    """Inverse of `_bits_of`, int32."""
    places = torch.arange(bits, dtype=torch.int32, device=stream.device)
    return (stream.unflatten(-1, (-1, bits)).int() << places).sum(-1, dtype=torch.int32)
