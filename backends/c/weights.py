"""The file of a model's constants: a checked header, the bytes, and room that kernels may read behind them.

Header, 64 bytes, little-endian: magic `QCWEIGHT`, version u32, mark u32 0x01020304 (reads otherwise on a processor
of the other byte order), size of the content u64, two sums u64 of it, zeros. With the content as 64-bit words w[i]
(zeros fill the last one), in 64 bits: `first = sum(w[i])`, `second = sum((n - i) * w[i])`, Fletcher's sums.
"""

from __future__ import annotations

import struct

import numpy as np

from qcompiler.backends.c.module import ALIGNMENT

SLACK = 256
"""QC_SLACK of qc_base.h."""
HEADER_BYTES = 64
VERSION = 1
MAGIC = b"QCWEIGHT"
MARK = 0x01020304
_HEADER = struct.Struct("<8sIIQQQ24x")
_CHUNK = 1 << 20
_WORDS_A_LINE = 6


def padded(content: bytes) -> bytes:
    """The content, filled with zeros to a multiple of the alignment."""
    return content + bytes(-len(content) % ALIGNMENT)


def sums(content: bytes) -> tuple[int, int]:
    """Both sums of a content whose size is a multiple of 8."""
    words = np.frombuffer(content, dtype="<u8")
    first = second = 0
    for start in range(0, len(words), _CHUNK):
        chunk = words[start : start + _CHUNK]
        weights = np.arange(len(chunk), 0, -1, dtype=np.uint64)
        second += len(chunk) * first + int((chunk * weights).sum(dtype=np.uint64))
        first += int(chunk.sum(dtype=np.uint64))
    return first % 2**64, second % 2**64


def weights_file(content: bytes) -> bytes:
    """The whole file."""
    body = padded(content)
    return _HEADER.pack(MAGIC, VERSION, MARK, len(body), *sums(body)) + body + bytes(SLACK)


def weights_array(file: bytes, name: str) -> str:
    """The file as an array of 64-bit words in C, for programs that read no files."""
    words = np.frombuffer(file, dtype="<u8").byteswap().tobytes().hex(",", -8).split(",")
    lines = [words[start : start + _WORDS_A_LINE] for start in range(0, len(words), _WORDS_A_LINE)]
    body = "".join("    " + " ".join(f"0x{word}," for word in line) + "\n" for line in lines)
    return (
        '/* weights.bin as an array, for a processor with the lowest byte first. */\n#include "model.h"\n\n'
        f"_Alignas({ALIGNMENT}) const uint64_t {name}_weights[{len(words)}] = {{\n{body}}};\n"
    )
