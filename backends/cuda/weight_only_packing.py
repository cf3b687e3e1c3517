"""Orders of packed weights that `gemm_wn` reads: permutations of canonical codes, each with its inverse.

A block is 16 columns (rows of the canonical [N, K]) by 64 inputs. Lane l of a warp reads columns l // 4 and l // 4 + 8
and inputs 16 (l % 4) to 16 (l % 4) + 15 of it: 32 codes, which fill as many words of 32 bits as they have bits. The
words of all lanes lie 16 bytes at a time one lane behind the other, then 8, then 4: a warp reads whole lines of memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from qcompiler.backends.cuda.kernels.weight_only import CODES, Kind
from qcompiler.errors import InputError, SpecError

COLUMNS = 16
DEPTH = 64
"""Of a block."""
_LANES = 32


@dataclass(frozen=True)
class Field:
    """A run of bits of one code.

    Args:
        code: which of the lane's.
        first: its lowest bit in the code.
        bits: how many.
        at: its lowest bit in the lane's words.
    """

    code: int
    first: int
    bits: int
    at: int


def pack_codes(codes: np.ndarray, name: str) -> np.ndarray:
    """Unsigned codes [N, K] in the order of kernel `gemm_<name>`; for vectors [N, K / dimension], for sums of vectors
    [N, K / dimension * summands], those of a vector one behind the other.

    Returns uint32 [ceil(N / 16), ceil(K / 64), 32 * words]; what is filled up is zeros.
    Raises SpecError for an unknown kernel, InputError for codes that are no matrix.
    """
    dimension, words = _dimension(name), _words(name)
    lanes = _to_lanes(codes, dimension)
    packed = np.zeros((*lanes.shape[:-1], words), np.uint32)
    for field in fields(name):
        part = lanes[..., field.code] >> np.uint32(field.first) & np.uint32((1 << field.bits) - 1)
        packed[..., field.at // 32] |= part << np.uint32(field.at % 32)
    pieces = [
        packed[..., start : start + size].reshape(*packed.shape[:2], _LANES * size) for start, size in _pieces(words)
    ]
    return np.ascontiguousarray(np.concatenate(pieces, axis=-1))


def unpack_codes(packed: np.ndarray, name: str, columns: int, depth: int) -> np.ndarray:
    """Inverse of `pack_codes`: uint32 [columns, depth], or fewer codes, each for several numbers."""
    words, dimension = _words(name), _dimension(name)
    parts, start = [], 0
    for _, size in _pieces(words):
        part = packed[..., start : start + _LANES * size]
        parts.append(part.reshape(*packed.shape[:2], _LANES, size))
        start += _LANES * size
    whole = np.concatenate(parts, axis=-1)
    lanes = np.zeros((*whole.shape[:-1], 32 // dimension), np.uint32)
    for field in fields(name):
        part = whole[..., field.at // 32] >> np.uint32(field.at % 32) & np.uint32((1 << field.bits) - 1)
        lanes[..., field.code] |= part << np.uint32(field.first)
    return _from_lanes(lanes, dimension)[:columns, : depth // dimension]


def pack_groups(values: np.ndarray, kind: Kind, depth: int, group: int) -> np.ndarray:
    """Scales of groups, [N, G], as pairs of two columns eight apart, rounded to the kind.

    Returns the bits, uint16 [ceil(N / 16), groups, 8, 2]; groups as `group_count` says, those filled up hold 0.
    Raises InputError when a value is beyond the kind.
    """
    return _in_pairs(to_kind(values, kind), group_count(depth, group))


def pack_scales(scale: np.ndarray, name: str, kind: Kind, depth: int, group: int) -> np.ndarray:
    """Scales as kernel `gemm_<name>` takes them beside `tensor_scale`.

    Divided by the latter's power of two, the largest is 1 .. 2, so that none is rounded as a subnormal number unless it
    is far smaller than the largest. Another power of two is the code's own.

    Args:
        scale: [N, G] reals, G scales along a row.
        name: of the code.
        kind: in which they are stored, rounded.
        depth: inputs.
        group: inputs of a scale.

    Raises InputError when there is no finite scale above zero.
    """
    power = CODES[name].power(kind) - _exponent(scale)
    return pack_groups(np.ldexp(scale.astype(np.float64), power).astype(np.float32), kind, depth, group)


def tensor_scale(scale: np.ndarray, outer: float = 1.0) -> float:
    """The scale of all weights that goes with packed scales; `outer` is one that the weights have besides.

    Raises InputError when there is no finite scale above zero.
    """
    return float(np.float32(np.ldexp(outer, _exponent(scale))))


def pack_zeros(values: np.ndarray, depth: int, group: int) -> np.ndarray:
    """Zero points of groups, integers [N, G], in the order of `pack_groups`, uint16."""
    return _in_pairs(values.astype(np.uint16), group_count(depth, group))


def unpack_groups(packed: np.ndarray, kind: Kind, columns: int, groups: int) -> np.ndarray:
    """Inverse of `pack_groups`: float32 [columns, groups]."""
    return from_kind(np.ascontiguousarray(unpack_zeros(packed, columns, groups)), kind)


def unpack_zeros(packed: np.ndarray, columns: int, groups: int) -> np.ndarray:
    """Inverse of `pack_zeros`: uint16 [columns, groups]."""
    return packed.transpose(0, 3, 2, 1).reshape(-1, packed.shape[1])[:columns, :groups]


def group_count(depth: int, group: int) -> int:
    """Groups of a row that is filled up to whole blocks; `group` is a power of two, 16 or more, or all of the row."""
    if group >= depth:
        return 1
    if group < 16 or group & (group - 1):
        raise SpecError(f"groups of {group} inputs", mend="choose 16, 32, 64, 128, ... or whole columns")
    return -(-(-(-depth // DEPTH) * DEPTH) // group)


def group_shift(depth: int, group: int) -> int:
    """The binary logarithm of the group as the kernel takes it."""
    return 31 if group >= depth else group.bit_length() - 1


def to_kind(values: np.ndarray, kind: Kind) -> np.ndarray:
    """Bits of reals in half precision, uint16; raises InputError when one becomes infinite."""
    single = np.ascontiguousarray(values, np.float32)
    with np.errstate(over="ignore"):
        half = single.astype(np.float16)
    if kind == "f16":
        if not np.isfinite(half).all():
            raise InputError("a value is beyond float16", mend="compute in bfloat16")
        return half.view(np.uint16)
    code = single.view(np.uint32)
    rounded = ((code + 0x7FFF + (code >> 16 & 1)) >> 16).astype(np.uint16)
    if not np.isfinite(from_kind(rounded, kind)).all():
        raise InputError("a value is beyond bfloat16")
    return rounded


def from_kind(bits: np.ndarray, kind: Kind) -> np.ndarray:
    """Reals of bits in half precision, float32."""
    if kind == "f16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)


@cache
def fields(name: str) -> tuple[Field, ...]:
    """Where the bits of each of a lane's codes lie. Scalar code `2 i + e` is weight e of pair i of the decoder.

    Raises SpecError for an unknown kernel.
    """
    if name.startswith("codebook"):
        bits = 16 if name.startswith("codebook16") else 8
        return tuple(Field(code, 0, bits, bits * code) for code in range(32 // _dimension(name)))
    places = {
        "w2": lambda i: (Field(i, 0, 2, 32 * (i // 16) + 2 * (i // 2 % 8) + 16 * (i % 2)),),
        "w3": _three_bits,
        "w4": lambda i: (Field(i, 0, 4, 32 * (i // 8) + 4 * (i // 2 % 4) + 16 * (i % 2)),),
        "w8": _byte,
        "e4m3": _byte,
        "e2m1": _small_float,
        "table16": lambda i: (Field(i, 0, 4, 4 * i),),
        "table8": lambda i: (_small_index(i), Field(i, 2, 1, 64 + 4 * (i % 8) + i // 8)),
        "table4": lambda i: (_small_index(i),),
    }
    if name not in places:
        raise SpecError(f"no kernel reads weights as {name}", mend=f"kernels read {', '.join(CODES)}")
    return tuple(field for code in range(32) for field in places[name](code))


def _three_bits(code: int) -> tuple[Field, ...]:
    pair, upper = code // 2, 16 * (code % 2)
    if pair == 15:
        return tuple(Field(code, bit, 1, 32 * bit + 15 + upper) for bit in range(3))
    return (Field(code, 0, 3, 32 * (pair // 5) + 3 * (pair % 5) + upper),)


def _byte(code: int) -> tuple[Field, ...]:
    pair = code // 2
    return (Field(code, 0, 8, 32 * (pair // 2) + 16 * (code % 2) + (0 if pair % 2 else 8)),)


def _small_index(code: int) -> Field:
    eight = code // 8
    return Field(code, 0, 2, 32 * (eight // 2) + 4 * (code % 8) + 2 * (eight % 2))


def _small_float(code: int) -> tuple[Field, ...]:
    pair, upper = code // 2, 16 * (code % 2)
    word, place = 32 * (pair // 4) + upper, pair % 4
    return Field(code, 0, 3, word + 9 - 3 * place), Field(code, 3, 1, word + (15, 12, 14, 13)[place])


def _dimension(name: str) -> int:
    """Numbers for a code."""
    if not name.startswith("codebook"):
        return 1
    length, _, summands = name.rpartition("d")[2].partition("x")
    return int(length) // int(summands or "1")


def _words(name: str) -> int:
    if name not in CODES:
        raise SpecError(f"no kernel reads weights as {name}", mend=f"kernels read {', '.join(CODES)}")
    return CODES[name].words


def _pieces(words: int) -> list[tuple[int, int]]:
    """First word and size of what a lane reads at once."""
    pieces = [(start, 4) for start in range(0, words - words % 4, 4)]
    pieces += [(words // 4 * 4, 2)] if words % 4 >= 2 else []
    return pieces + ([(words - 1, 1)] if words % 2 else [])


def _exponent(scale: np.ndarray) -> int:
    largest = float(np.abs(scale).max(initial=0.0))
    if not 0.0 < largest < np.inf:
        raise InputError(f"scales reach to {largest}", mend="give finite scales, one of them above zero")
    return int(np.frexp(largest)[1]) - 1


def _in_pairs(values: np.ndarray, count: int) -> np.ndarray:
    """[N, G] -> [ceil(N / 16), count, 8, 2], filled up with zeros."""
    whole = np.zeros((-(-values.shape[0] // COLUMNS) * COLUMNS, count), np.uint16)
    whole[: values.shape[0], : values.shape[1]] = values
    return np.ascontiguousarray(whole.reshape(-1, 2, 8, count).transpose(0, 3, 2, 1))


def _to_lanes(codes: np.ndarray, dimension: int) -> np.ndarray:
    """[N, K / dimension] -> [blocks of columns, blocks of inputs, lanes, codes of a lane]."""
    if codes.ndim != 2:
        raise InputError(f"codes of shape {codes.shape} are no matrix")
    per_block = DEPTH // dimension
    rows, inputs = (-(-size // step) for size, step in zip(codes.shape, (COLUMNS, per_block), strict=True))
    whole = np.zeros((rows * COLUMNS, inputs * per_block), np.uint32)
    whole[: codes.shape[0], : codes.shape[1]] = codes
    width = 2 if dimension == 1 else 1
    parts = whole.reshape(rows, 2, 8, inputs, 4, 16 // dimension // width, width)
    # Pairs of inputs outside, then the lane's two columns, then the inputs of a pair.
    return parts.transpose(0, 3, 2, 4, 5, 1, 6).reshape(rows, inputs, _LANES, -1)


def _from_lanes(lanes: np.ndarray, dimension: int) -> np.ndarray:
    rows, inputs = lanes.shape[:2]
    width = 2 if dimension == 1 else 1
    parts = lanes.reshape(rows, inputs, 8, 4, 16 // dimension // width, 2, width)
    return parts.transpose(0, 5, 2, 1, 3, 4, 6).reshape(rows * COLUMNS, inputs * DEPTH // dimension)
