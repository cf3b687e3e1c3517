"""Weights of few bits in the order in which kernels read them: a named permutation of the canonical one.

`words` and `codes_of_words` are the order that `qc_low_bit.h` states, `by_block` that of scales and zero points.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from qcompiler.backends.c.kernels.row import Blocked

Bits = Literal[2, 3, 4, 8]


def word_bits(layout: Blocked) -> int:
    """Bits of the words that codes are packed into: the kernels with runs of one input work on words of 32."""
    return 32 if layout.depth == 1 else 8


def chunk_inputs(bits: Bits, layout: Blocked) -> int:
    """Inputs that are packed together; a block of inputs is filled with zeros to a multiple of them."""
    inputs = 32 if layout.depth == 8 else 16
    return 2 * inputs if bits == 3 else inputs


def missing_code(bits: Bits, layout: Blocked) -> int:
    """What stands for inputs behind the end of a block: a code whose product is zero in the kernel of a layout.

    Panels of 8 outputs are for processors that multiply signed numbers, which take codes of 8 bits less 128.
    """
    return 128 if bits == 8 and layout.columns == 8 else 0


def words(codes: np.ndarray, bits: Bits, layout: Blocked, block: int) -> np.ndarray:
    """Packs codes below 2^bits; inputs that are missing in a block become `missing_code`, missing outputs zero.

    Args:
        codes: unsigned integers of [N, K].
        bits: of a code.
        layout: outputs of a panel and inputs of a run.
        block: inputs that share a scale.

    Returns:
        uint8 or uint32 of [ceil(N / columns), chunks, words of a chunk].
    """
    outputs, word = codes.shape[0], word_bits(layout)
    panels = -(-outputs // layout.columns)
    padded = _padded_blocks(codes, block, chunk_inputs(bits, layout), missing_code(bits, layout))
    rows = np.pad(padded, [(0, panels * layout.columns - outputs), (0, 0)]).astype(f"uint{word}")
    chunk = chunk_inputs(bits, layout)
    runs = rows.reshape(panels, layout.columns, -1, chunk // layout.depth, layout.depth)
    lanes = runs.transpose(0, 2, 3, 1, 4).reshape(panels, -1, chunk // layout.depth, layout.columns * layout.depth)
    packed = _threes(lanes, word) if bits == 3 else _fields(lanes, bits, word // bits)
    return np.ascontiguousarray(packed.reshape(panels, lanes.shape[1], -1))


def codes_of_words(packed: np.ndarray, bits: Bits, layout: Blocked, block: int, shape: tuple[int, int]) -> np.ndarray:
    """The inverse of `words`: the codes of [N, K] = `shape`, uint8."""
    panels, chunks, _ = packed.shape
    word = word_bits(layout)
    lanes = layout.columns * layout.depth
    vectors = packed.reshape(panels, chunks, -1, lanes)
    runs = _threes_of(vectors, word) if bits == 3 else _fields_of(vectors, bits, word // bits)
    split = runs.reshape(panels, chunks, -1, layout.columns, layout.depth).transpose(0, 3, 1, 2, 4)
    rows = split.reshape(panels * layout.columns, -1)
    kept = _kept_inputs(shape[1], block, chunk_inputs(bits, layout))
    return rows[: shape[0], kept].astype(np.uint8)


def by_block(values: np.ndarray, columns: int) -> np.ndarray:
    """Scales or zero points of [N, blocks] as [ceil(N / columns), blocks, columns], with zeros behind."""
    outputs, blocks = values.shape
    panels = -(-outputs // columns)
    padded = np.pad(values, [(0, panels * columns - outputs), (0, 0)])
    return np.ascontiguousarray(padded.reshape(panels, columns, blocks).transpose(0, 2, 1))


def _kept_inputs(inputs: int, block: int, chunk: int) -> np.ndarray:
    """Where each input lies once every block is filled to whole chunks."""
    index = np.arange(inputs)
    return index // block * (-(-block // chunk) * chunk) + index % block


def _padded_blocks(codes: np.ndarray, block: int, chunk: int, missing: int) -> np.ndarray:
    kept = _kept_inputs(codes.shape[1], block, chunk)
    padded = np.full((codes.shape[0], -(-(int(kept[-1]) + 1) // chunk) * chunk), missing, codes.dtype)
    padded[:, kept] = codes
    return padded


def _fields(lanes: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Shapes: [..., runs, lanes] -> [..., runs / count, lanes]; run r at bit (r % count) * bits."""
    *front, runs, width = lanes.shape
    split = lanes.reshape(*front, runs // count, count, width)
    shifts = (np.arange(count) * bits).astype(lanes.dtype)[:, None]
    return np.bitwise_or.reduce(split << shifts, axis=-2)


def _fields_of(vectors: np.ndarray, bits: int, count: int) -> np.ndarray:
    shifts = (np.arange(count) * bits).astype(vectors.dtype)[:, None]
    fields = vectors[..., None, :] >> shifts & vectors.dtype.type((1 << bits) - 1)
    return fields.reshape(*vectors.shape[:-2], -1, vectors.shape[-1])


def _threes(lanes: np.ndarray, word: int) -> np.ndarray:
    """Shapes: [..., word * i, lanes] -> [..., 3 * i, lanes]."""
    *front, runs, width = lanes.shape
    whole = word // 3
    split = lanes.reshape(*front, runs // word, word, width)
    vectors = _fields(split[..., : 3 * whole, :], 3, whole)
    left = split[..., 3 * whole :, :]
    two, one = lanes.dtype.type(word - 2), lanes.dtype.type(2)
    vectors[..., :2, :] |= (left & 3) << two
    vectors[..., 2, :] |= _fields(left >> one, 1, 2)[..., 0, :] << two
    return vectors.reshape(*front, -1, width)


def _threes_of(vectors: np.ndarray, word: int) -> np.ndarray:
    *front, _, width = vectors.shape
    whole = word // 3
    split = vectors.reshape(*front, -1, 3, width)
    fields = _fields_of(split, 3, whole)
    two, one = vectors.dtype.type(word - 2), vectors.dtype.type(2)
    high = _fields_of((split[..., 2:, :] >> two), 1, 2)
    left = split[..., :2, :] >> two | high << one
    return np.concatenate((fields, left), axis=-2).reshape(*front, -1, width)
