"""How every kernel rounds, as data: what its meaning does, for people and for tools that compare kernels.

`q` are codes, `z` zero points, `s` scales, `x` the input, `w` the weight, `y` the result, `b` the bias; `round` goes
half to even; a quotient or product in brackets is one float32 number, in that order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from qcompiler.backends.reference.arithmetic import MOST_TERMS

Accumulator = Literal["int32", "float32", "none"]
Agreement = Literal["every element", "stated roundings", "one code", "float operators"]


@dataclass(frozen=True)
class Semantics:
    """What a kernel computes, to the bit.

    Args:
        formula: of the result.
        accumulator: of sums.
        fused: multiply-adds are rounded once.
        run_time: what is quantized at run time although nothing in the program says so.
        agreement: how closely onnxruntime on a CPU follows: `every element` of the result is equal; float32 sums to
            the `stated roundings` (`backends.reference.weights.roundings`); the result to `one code`,
            because a float32 sum is quantized; `float operators` are another library's.
        most_terms: longest sum that is known not to overflow; 0 where nothing is summed in integers.
        note: on which machines, or when, it is otherwise.
    """

    formula: str
    accumulator: Accumulator = "none"
    fused: bool = False
    run_time: str = ""
    agreement: Agreement = "every element"
    most_terms: int = 0
    note: str = ""

    def to_dict(self) -> dict[str, object]:
        """Plain data."""
        return asdict(self)


_SATURATES = (
    "x86 without VNNI adds pairs of products in 16 bits: weights of 7 bits are exact there, 8 bits only with the "
    "session entry session.x64quantprecision, which this compiler's sessions set"
)
_REQUANTIZED = "clip(round(float(sum (qx - zx) (qw - zw) + qb) * ((sx * sw) / sy)) + zy)"
_REALS = "float(sum (qx - zx) (qw - zw) + qb) * (sx * sw)"
_FLOAT_BIAS = "float(sum (qx - zx) (qw - zw)) * (sx * sw) + b, product and sum rounded apart"
_MOVED = Semantics("codes as they are, moved or picked")


def _summed(formula: str, **more: object) -> Semantics:
    return Semantics(formula, "int32", most_terms=MOST_TERMS, **more)  # pyright: ignore[reportArgumentType]


SEMANTICS: Mapping[str, Semantics] = {
    "conv": _summed(_REQUANTIZED, note=_SATURATES),
    "conv_transpose": _summed(
        _REQUANTIZED, agreement="one code", note="onnxruntime on a CPU computes it in float between codes"
    ),
    "linear": _summed(f"{_REALS}; with codes as result {_REQUANTIZED}", note=_SATURATES),
    "linear_dynamic": _summed(_FLOAT_BIAS, note=_SATURATES),
    "linear_weight_only": Semantics(
        "sum x (qw - zw) sw + b; with a block, x is a code times its scale, sums of integers per block in int32",
        "float32",
        run_time="with a block of n: every n inputs to int8, round(x * (127 / a)) of scale a / 127, a the largest "
        "magnitude",
        agreement="stated roundings",
        note="the order of float32 additions depends on vector width, rows and block; with 2-bit codes activations "
        "stay in float for other blocks than 32, 64 and 128",
    ),
    "embedding_weight_only": Semantics("(qw - zw) * sw of the rows asked for"),
    "conv_wide": Semantics(
        "clip(round((sum (qx - zx) sx (qw - zw) sw + b) / sy) + zy)", "float32", agreement="one code"
    ),
    "linear_wide": Semantics(
        "clip(round((sum (qx - zx) sx (qw - zw) sw + b) / sy) + zy)", "float32", agreement="one code"
    ),
    "matmul": _summed("clip(round(float(sum (qa - za) (qb - zb)) * ((sa * sb) / sy)) + zy)", note=_SATURATES),
    "add": Semantics(
        "clip(round(fma(qa, sa / sy, fma(qb, sb / sy, zy - fma(sa / sy, za, (sb / sy) * zb)))))",
        fused=True,
        note="operands swap where the first repeats one element; signed codes are rewritten to unsigned ones first",
    ),
    "mul": Semantics("clip(round(float((qa - za) (qb - zb)) * ((sa * sb) / sy) + zy))"),
    "cat": Semantics("clip(round((qx - zx) * sx / sy) + zy)"),
    "table": Semantics(
        "clip(round(f((qx - zx) * sx) / sy) + zy) for each of 256 codes; the logistic function as a rational one",
        fused=True,
    ),
    "global_mean": _summed("clip(round(float(sum (qx - zx)) * (sx / (sy * count))) + zy)"),
    "average_pool": Semantics("clip(round(mean((qx - zx) * sx) / sy + zy)), summed row by row", "float32"),
    "attention": Semantics(
        "softmax(q k^T scale + mask) v",
        "float32",
        fused=True,
        note="every element is equal in a simulation of what ships (`backends.reference.floats`), on one thread; the "
        "softmax adds up in 16 lanes with AVX-512, in 8 with AVX2; elsewhere it is torch's, a few roundings away",
        agreement="float operators",
    ),
    "rotary": Semantics(
        "x * cos + rotated(x) * sin",
        agreement="float operators",
        note="in a simulation of what ships fma(low, cos, -(high * sin)) and fma(low, sin, high * cos): every element",
    ),
    "carry": _MOVED,
    "resize": _MOVED,
    "limit": Semantics("clip(qx, code of the lower bound, code of the upper bound)"),
    "pad": Semantics("codes as they are, the code of the value around them"),
}
BIT_SEMANTICS: Mapping[str, Semantics] = {
    name: _summed(
        f"{_FLOAT_BIAS}, a zero around an image counts nothing; as signs 1 where that is not negative, else -1",
        note="signs are 1 and -1; onnxruntime has no such kernel",
    )
    for name in ("conv_binary", "linear_binary")
} | {
    name: _summed(f"{_REALS}; with codes as result {_REQUANTIZED}", note="sums of bit planes are the same integers")
    for name in ("conv_bits", "linear_bits")
}
"""The same of kernels of signs and bit planes, beside `SEMANTICS`."""
CODEBOOK_SEMANTICS: Mapping[str, Semantics] = {
    "linear_codebook": Semantics(
        "sum over blocks of factor (sum x (sum over tables of entry(code))) + b",
        "float32",
        fused=True,
        note="vectors are multiplied input by input and added up in order; onnxruntime has no such kernel",
    )
}
"""The same of codes of vectors."""
GROUPED_SEMANTICS: Mapping[str, Semantics] = {
    name: Semantics(
        formula,
        "int32",
        fused=True,
        most_terms=MOST_TERMS,
        note="groups are added up in order, in float32; kernels for few rows, and blocks that share a sum, add them in "
        "another one; onnxruntime has no such kernel",
    )
    for names, formula in (
        (
            ("linear_grouped", "linear_grouped_int4"),
            "(sum over groups of float(sum (qx - zx) (qw - zw)) * sw) * sx + b, each step an fma",
        ),
        (
            ("linear_blocked", "linear_blocked_int4"),
            "sum over groups of float(sum (qx - zx) (qw - zw)) * (sx * sw) + b, each step an fma",
        ),
    )
    for name in names
}
"""The same of weights in groups under codes of activations."""
WHOLE_SEMANTICS: Mapping[str, Semantics] = {
    "softmax": Semantics(
        "e = round(exp(-(largest q - q) * sx) * 2^31); clip(round(e * floor(m 2^37 / sum e) / 2^s) + zy), "
        "m / 2^(s - 37) the float32 1 / sy",
        "int32",
        most_terms=MOST_TERMS,
        note="sums in 64 bits; no floats; onnxruntime has no such kernel",
    ),
    "layer_norm": Semantics(
        "a = (n q - sum q) / sqrt(n sum q^2 - (sum q)^2 + n^2 eps / sx^2) with 20 bits behind the point; "
        "clip(round(a (w / sy) + b / sy) + zy), w / sy and b / sy with 28 bits",
        "int32",
        most_terms=MOST_TERMS,
        note="root and quotient once a row, rounded down; no floats; onnxruntime has no such kernel",
    ),
    "rms_norm": Semantics(
        "as layer_norm, with n zx in the place of sum q and without b",
        "int32",
        most_terms=MOST_TERMS,
        note="root and quotient once a row, rounded down; no floats; onnxruntime has no such kernel",
    ),
    "lookup": Semantics("table[qx], made of whatever stands between two grids before the model runs"),
}
"""The same of kernels without floats. With `fixed` requantization of any kernel is the exact product, rounded once."""
