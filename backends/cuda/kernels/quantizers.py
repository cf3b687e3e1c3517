"""Activations to codes at run time, alone or behind a norm or a change of basis."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from qcompiler.backends.cuda.arch import Architecture
from qcompiler.backends.cuda.kernels.row import Axis, CudaKernel, Instance
from qcompiler.errors import UnsupportedError
from qcompiler.hadamard import core

Kind = Literal["f16", "bf16", "f32"]
CodeFormat = Literal["int8", "int4", "e4m3", "real", "e2m1", "signs"]
Activation = Literal["plain", "relu", "silu", "gelu", "gelu_tanh"]
_FUNCTIONS: dict[Activation, str] = {
    "plain": "QC_PLAIN",
    "relu": "QC_RELU",
    "silu": "QC_SILU",
    "gelu": "QC_GELU",
    "gelu_tanh": "QC_GELU_TANH",
}
FORMATS: dict[CodeFormat, int] = {"int8": 0, "int4": 1, "e4m3": 2, "real": 3, "e2m1": 4}
"""The numbers that the argument `format` takes; e2m1 in blocks only, which are never reals. Signs have a kernel."""
BLOCKS = (16, 32, 64, 128)
"""Neighbours that may share a scale."""
SCALES = {"f32": 0, "e8m0": 1, "e4m3": 2}
"""The numbers that the argument `scales` takes."""
ACTIVATIONS: tuple[Activation, ...] = tuple(_FUNCTIONS)
_KINDS: dict[Kind, str] = {"f16": "qc_half", "bf16": "qc_bfloat", "f32": "qc_float"}
_HALVES: tuple[Kind, ...] = ("f16", "bf16")
_UNIT = 8
_FACTORS = (64, 128)
_FLOAT = 4
_BLOCK = 128
_MOST_LOG = 15
"""Of a row that is multiplied by a Hadamard matrix, as a power of two."""
_UNITS = 4
_ROWS = {256: (32, 1), 512: (32, 2), 1024: (32, 4), 2048: (128, 2), 4096: (128, 4)} | {
    8192: (256, 4),
    16384: (512, 4),
    32768: (1024, 4),
}
"""Widest row: lanes that share a row, units that each of them holds."""
_NORM_ROWS = _ROWS | {32768: (512, 8)}
"""The same for norms, which a thousand lanes leave too few registers."""
_ACTIVATED_ROWS = {width: shape for width, shape in _NORM_ROWS.items() if shape[1] >= _UNITS}
"""The same for activations, to which units beyond a row cost little."""


def _room(lanes: int, sums: int) -> int:
    return 0 if lanes == 32 else _FLOAT * sums * lanes // 32


def _by_rows(name: str, kind: Kind, width: int, shape: tuple[int, int], sums: int, resident: int) -> Instance:
    lanes, units = shape
    threads = max(lanes, _BLOCK)
    rows = threads // lanes
    return Instance(
        name=f"qc_{name}_{kind}_{width}",
        body=f"qc_{name}<{_KINDS[kind]}, {lanes}, {units}, {rows}>",
        threads=threads,
        grid=(Axis(("rows",), rows), Axis(), Axis()),
        shared=_room(lanes, sums),
        blocks=max(1, resident // threads),
    )


def _activated(activation: Activation, kind: Kind, width: int) -> Instance:
    # Two rows of float32 take twice the registers.
    resident = 512 if kind == "f32" else 768
    plain = _by_rows("activate_quantize", kind, width, _ACTIVATED_ROWS[width], 3, resident)
    which = f"{_KINDS[kind]}, {_FUNCTIONS[activation]}"
    name = plain.name.replace("_quantize_", f"_quantize_{activation}_")
    return replace(plain, name=name, body=plain.body.replace(_KINDS[kind], which))


def choose_activation(activation: Activation, kind: Kind, width: int) -> Instance:
    """The instance for an activation of rows of up to `width` reals.

    Raises:
        UnsupportedError: when none holds so many.
    """
    kernel = next(row for row in ROWS if row.name == "activate_quantize")
    own = tuple(one for one in kernel.instances if one.name.startswith(f"qc_activate_quantize_{activation}_{kind}_"))
    return choose(replace(kernel, instances=own), kind, width)


def _hadamard(kind: Kind, log: int, partial: bool) -> Instance:
    # As many registers as there are: a core's sums need more than half of them besides.
    each = min(log - 5, 5 if partial and log < _MOST_LOG else 6)
    lanes = 1 << (log - each)
    rows = _BLOCK // lanes if lanes == 32 else 1
    threads = lanes * rows
    return Instance(
        name=f"qc_hadamard_{'blocks_' if partial else ''}{kind}_{1 << log}",
        body=f"qc_hadamard<{_KINDS[kind]}, {log}, {each}, {rows}, {str(partial).lower()}>",
        threads=threads,
        grid=(Axis(("rows",), rows), Axis(), Axis()),
        shared=_FLOAT * (rows << log) + _room(lanes, 3),
        blocks=max(1, (640 if each < 6 else 384 if kind == "f32" else 512) // threads),
    )


def choose_hadamard(kind: Kind, width: int, block: int) -> Instance:
    """The instance for Hadamard products of rows of `width` reals on consecutive blocks.

    Raises:
        UnsupportedError: when none holds so many, or blocks are no sum of eights.
    """
    kernel = next(row for row in ROWS if row.name == "hadamard")
    size = core(block)
    if width % _UNIT or (block // size if size else 0) < (_UNIT if size > 1 else 1):
        raise UnsupportedError(
            f"no kernel multiplies rows of {width} by Hadamard matrices of {block}", mend="take blocks of powers of two"
        )
    whole = tuple(one for one in kernel.instances if one.name == f"qc_hadamard_{kind}_{width}" and block == width)
    partial = tuple(one for one in kernel.instances if "_blocks_" in one.name)
    return whole[0] if whole else choose(replace(kernel, instances=partial), kind, width)


def _kronecker(kind: Kind, outer: int, inner: int) -> Instance:
    rows, threads = 4, 2 * outer
    return Instance(
        name=f"qc_kronecker_{kind}_{outer}x{inner}",
        body=f"qc_kronecker<{_KINDS[kind]}, {outer}, {inner}, {rows}>",
        threads=threads,
        grid=(Axis(("rows",), rows), Axis(), Axis()),
        shared=2 * (outer * outer + inner * inner + outer * inner) + _room(threads, 3),
        blocks=(256 if inner == 128 else 512) // threads,
        runs=_has_bfloat16 if kind == "bf16" else _everywhere,
    )


def _blocks(kind: Kind, block: int) -> Instance:
    threads = 256
    return Instance(
        name=f"qc_quantize_blocks_{kind}_{block}",
        body=f"qc_quantize_blocks<{_KINDS[kind]}, {block}, {threads}>",
        threads=threads,
        grid=(Axis(("rows", "out_width"), _UNIT * threads), Axis(), Axis()),
        blocks=4,
    )


def _has_bfloat16(architecture: Architecture) -> bool:
    return architecture.bfloat16


def _everywhere(architecture: Architecture) -> bool:
    return True


def choose_kronecker(kind: Kind, outer: int, inner: int) -> tuple[Instance, int, int]:
    """The instance for rows seen as [outer, inner], and the sizes to which it wants its factors filled up with zeros.

    Raises:
        UnsupportedError: when none holds so many.
    """
    sizes = [min((size for size in _FACTORS if size >= asked), default=0) for asked in (outer, inner)]
    if kind == "f32" or 0 in sizes or inner % _UNIT:
        raise UnsupportedError(
            f"no kernel multiplies {kind} rows of {outer} by {inner} from both sides",
            mend=f"factors have at most {max(_FACTORS)} rows, the inner one a multiple of {_UNIT}, rows 16 bits",
        )
    return _kronecker(kind, sizes[0], sizes[1]), sizes[0], sizes[1]


def choose(kernel: CudaKernel, kind: Kind, width: int) -> Instance:
    """The instance for rows of up to `width` reals of a kind.

    Raises:
        UnsupportedError: when none holds so many.
    """
    found = [one for one in kernel.instances if f"_{kind}_" in one.name and int(one.name.rpartition("_")[2]) >= width]
    if not found:
        raise UnsupportedError(f"no kernel {kernel.name} takes rows of {width}", mend=f"rows reach to {max(_ROWS)}")
    return found[0]


ROWS = (
    CudaKernel(
        "quantize_rows",
        "qc_quantize_rows.cuh",
        tuple(_by_rows("quantize_rows", kind, width, _ROWS[width], 3, 1024) for kind in _KINDS for width in _ROWS),
    ),
    CudaKernel(
        "signs",
        "qc_signs.cuh",
        tuple(_by_rows("signs", kind, width, _ROWS[width], 1, 1024) for kind in _KINDS for width in _ROWS),
    ),
    CudaKernel(
        "quantize_blocks",
        "qc_quantize_blocks.cuh",
        tuple(_blocks(kind, block) for kind in _KINDS for block in BLOCKS),
    ),
    CudaKernel(
        "norm_quantize",
        "qc_norm_quantize.cuh",
        tuple(
            _by_rows("norm_quantize", kind, width, shape, 5, 768)
            for kind in _KINDS
            for width, shape in _NORM_ROWS.items()
        ),
    ),
    CudaKernel(
        "activate_quantize",
        "qc_activate_quantize.cuh",
        tuple(
            _activated(activation, kind, width)
            for activation in _FUNCTIONS
            for kind in _KINDS
            for width in _ACTIVATED_ROWS
        ),
    ),
    CudaKernel(
        "kronecker",
        "qc_kronecker.cuh",
        tuple(_kronecker(kind, outer, inner) for kind in _HALVES for outer in _FACTORS for inner in _FACTORS),
    ),
    CudaKernel(
        "hadamard",
        "qc_hadamard.cuh",
        tuple(
            _hadamard(kind, log, partial)
            for kind in _KINDS
            for partial in (False, True)
            for log in range(10 if partial else 8, _MOST_LOG if partial and kind == "f32" else _MOST_LOG + 1)
        ),
    ),
)
