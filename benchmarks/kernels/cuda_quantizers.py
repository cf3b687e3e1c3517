"""Cases of kernels that bring activations to codes: alone, behind norms, behind changes of basis."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.kernels.cuda_common import Argument, Arguments, Call, Case, Place
from qcompiler.backends.cuda.integer_packing import pack_signs
from qcompiler.backends.cuda.kernels import KERNELS
from qcompiler.backends.cuda.kernels.quantizers import (
    ACTIVATIONS,
    FORMATS,
    SCALES,
    Activation,
    CodeFormat,
    Kind,
    choose,
    choose_activation,
    choose_hadamard,
    choose_kronecker,
)
from qcompiler.formats import FP4_E2M1
from qcompiler.hadamard import core, hadamard, multiply
from qcompiler.ir.online import kronecker
from qcompiler.spec import QuantSpec, choose_qparams, quantize

TYPES: dict[Kind, torch.dtype] = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}
SPECS: dict[CodeFormat, QuantSpec] = {
    "int8": QuantSpec.parse("int8 sym block=(1,-1) scale=f32 dynamic"),
    "int4": QuantSpec.parse("int4 sym block=(1,-1) scale=f32 dynamic"),
    "e4m3": QuantSpec.parse("fp8e4m3 sym block=(1,-1) scale=f32 dynamic"),
}
_SIGNS = QuantSpec.parse("binary sym block=(1,-1) scale=f32 dynamic")
_CHECKED = 64
"""Rows at either end that are compared: the meaning runs on the processor."""
_EPS = 1e-5
Reals = Callable[[Tensor], Tensor]


def quantize_rows(place: Place, kind: Kind, format_: CodeFormat, rows: int, width: int, instance: str = "") -> Case:
    """Per-token codes; equal to the meaning bit for bit."""
    x = _activations(place, kind, rows, width)
    arguments = _arguments(place, x, format_, rows, width)
    name = instance or choose(KERNELS["quantize_rows"], kind, int(str(arguments["out_width"]))).name
    return _case(place, "quantize_rows", name, f"{rows}x{width} {kind} -> {format_}", arguments, lambda part: part)


def signs(place: Place, kind: Kind, rows: int, width: int, instance: str = "") -> Case:
    """Per-token signs; equal to the meaning bit for bit."""
    out_width = -(-width // 128) * 128
    x = _activations(place, kind, rows, width)
    arguments: Arguments = {
        "input": x,
        "out": torch.full((rows, out_width // 8), 0x55, dtype=torch.uint8, device=place.device),
        "scale": torch.zeros(rows, device=place.device),
        "rows": rows,
        "width": width,
        "stride": width,
        "out_width": out_width,
        "fixed_scale": 0.0,
    }

    def wrong(given: Arguments) -> str:
        part, found, scales = (_ends(given[name]) for name in ("input", "out", "scale"))
        scale, zero = choose_qparams(part.float(), _SIGNS)
        assert isinstance(scale, Tensor)
        expected = pack_signs(quantize(part.float(), scale, zero, _SIGNS).numpy())
        equal = torch.equal(found, torch.from_numpy(expected)) and torch.equal(scales, scale[:, 0])
        return "" if equal else "signs or scales differ from the meaning"

    name = instance or choose(KERNELS["signs"], kind, out_width).name
    shape = f"{rows}x{width} {kind} -> signs"
    return Case("signs", name, shape, arguments, wrong, _moved(arguments), 0, {"copy": _copy(place, arguments)})


def quantize_blocks(place: Place, kind: Kind, name: str, rows: int, width: int, instance: str = "") -> Case:
    """Codes with a scale for a block, of 32 unless an instance is given; equal to the meaning bit for bit."""
    block = int(instance.rpartition("_")[2]) if instance else 32
    format_, scales, text = _BLOCKS[name]
    spec = QuantSpec.parse(text.format(block))
    x = _activations(place, kind, rows, width)
    out_width = -(-width // block) * block
    per_byte = 2 if format_ == "e2m1" else 1
    arguments: Arguments = {
        "input": x,
        "out": torch.full((rows, out_width // per_byte), 0x55, dtype=torch.uint8, device=place.device),
        "scale": torch.zeros(
            rows, out_width // block, dtype=torch.float32 if scales == "f32" else torch.uint8, device=place.device
        ),
        "rows": rows,
        "width": width,
        "stride": width,
        "out_width": out_width,
        "format": FORMATS[format_],
        "scales": SCALES[scales],
        "lowest": float(spec.format.lowest),
        "highest": float(spec.format.highest),
    }
    shape = f"{rows}x{width} {kind} -> {name} blocks of {block}"

    def wrong(given: Arguments) -> str:
        part, codes, stored = (_ends(given[key]) for key in ("input", "out", "scale"))
        scale, zero = choose_qparams(part.float(), spec)
        assert isinstance(scale, Tensor)
        found = torch.ldexp(torch.ones(stored.shape), stored.int() - 127) if scales == "e8m0" else stored
        values = FP4_E2M1.decode(torch.stack([codes & 15, codes >> 4], -1).reshape(len(codes), -1)).float()
        values = values if format_ == "e2m1" else torch.from_numpy(_values(codes, format_))
        equal = torch.equal(values[:, :width], quantize(part.float(), scale, zero, spec))
        return "" if equal and torch.equal(found, scale) else "codes or scales differ from the meaning"

    name = instance or f"qc_quantize_blocks_{kind}_{block}"
    return Case(
        "quantize_blocks", name, shape, arguments, wrong, _moved(arguments), 0, {"copy": _copy(place, arguments)}
    )


_BLOCKS: dict[str, tuple[CodeFormat, str, str]] = {
    "mxfp8": ("e4m3", "e8m0", "fp8e4m3 sym block=(1,{}) scale=e8m0 dynamic"),
    "mxfp4": ("e2m1", "e8m0", "fp4e2m1 sym block=(1,{}) scale=e8m0 dynamic"),
    "int8": ("int8", "f32", "int8 sym block=(1,{}) scale=f32 dynamic"),
}


def norm_quantize(place: Place, kind: Kind, centred: bool, rows: int, width: int, instance: str = "") -> Case:
    """Norm and per-token codes; within half a step and the roundings of the norm."""
    x = _activations(place, kind, rows, width)
    weight, bias = (torch.rand(width, device=place.device) + 0.5 for _ in range(2))
    norm = torch.nn.functional.layer_norm if centred else torch.nn.functional.rms_norm
    arguments = _arguments(place, x, "int8", rows, width)
    arguments |= {"weight": weight, "bias": bias if centred else None, "centred": int(centred), "eps": _EPS}
    name = instance or choose(KERNELS["norm_quantize"], kind, int(str(arguments["out_width"]))).name
    shape = f"{rows}x{width} {kind} {'layer norm' if centred else 'rms norm'} -> int8"
    affine = (weight.double().cpu(), bias.double().cpu()) if centred else (weight.double().cpu(),)
    slack = 2.0**-22 * (4 + math.sqrt(width))
    return _case(
        place, "norm_quantize", name, shape, arguments, lambda part: norm(part, (width,), *affine, eps=_EPS), slack
    )


def activate_quantize(
    place: Place, kind: Kind, which: Activation, gated: bool, rows: int, width: int, instance: str = ""
) -> Case:
    """Activation, or its product with what stands before it in the same rows, and per-token codes."""
    both = _activations(place, kind, rows, 2 * width if gated else width)
    arguments = _arguments(place, both, "int8", rows, width)
    if gated:
        arguments |= {"gate": both, "column": width, "gate_stride": 2 * width, "stride": 2 * width}
    name = instance or choose_activation(which, kind, int(str(arguments["out_width"]))).name
    shape = f"{rows}x{width} {kind} {'gated ' * gated}{which} -> int8"

    def reals(part: Tensor) -> Tensor:
        found = _FUNCTIONS[which](part[:, -width:])
        return found * part[:, :width] if gated else found

    case = _case(place, "activate_quantize", name, shape, arguments, reals, 2.0**-18)
    return replace(case, shared=("input", "gate", "out")) if gated else case


_FUNCTIONS: dict[Activation, Reals] = {
    "plain": lambda x: x,
    "relu": torch.relu,
    "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": partial(torch.nn.functional.gelu, approximate="tanh"),
}


def hadamard_codes(
    place: Place, kind: Kind, format_: CodeFormat, rows: int, width: int, block: int, instance: str = ""
) -> Case:
    """Hadamard product and per-token codes; within half a step and the roundings of the sums."""
    x = _activations(place, kind, rows, width)
    size = core(block)
    arguments = _arguments(place, x, format_, rows, width) | {
        "matrix": hadamard(size).float().to(place.device) if size > 1 else None,
        "levels": (block // size).bit_length() - 1,
        "core": size,
        "factor": 1 / math.sqrt(block),
    }
    name = instance or choose_hadamard(kind, width, block).name
    shape = f"{rows}x{width} {kind}, blocks of {block} -> {format_}"
    slack = 2.0**-24 * 4 * ((block // size).bit_length() + size) * math.sqrt(width)
    case = _case(place, "hadamard", name, shape, arguments, lambda part: multiply(part, block), slack)
    additions = rows * width * ((block // size).bit_length() - 1 + (size - 1 if size > 1 else 0))
    return replace(case, operations=additions)


def kronecker_codes(place: Place, kind: Kind, rows: int, outer: int, inner: int, instance: str = "") -> Case:
    """Product with two small matrices and per-token codes; within half a step and the bound of the kernel."""
    found, outer_to, inner_to = choose_kronecker(kind, outer, inner)
    x = _activations(place, kind, rows, outer * inner)
    left, right = (
        torch.nn.functional.pad(torch.linalg.qr(torch.randn(size, size)).Q, (0, to - size, 0, to - size)).to(
            TYPES[kind]
        )
        for size, to in ((outer, outer_to), (inner, inner_to))
    )
    arguments = _arguments(place, x, "int8", rows, outer * inner) | {
        "left": left.T.contiguous().to(place.device),
        "right": right.to(place.device),
        "outer": outer,
        "inner": inner,
    }
    del arguments["width"]
    wide = left[:outer, :outer].double(), right[:inner, :inner].double()
    slack = (2.0**-11 if kind == "f16" else 2.0**-8) * math.sqrt(outer * inner)
    shape = f"{rows}x({outer}x{inner}) {kind} -> int8"
    case = _case(
        place, "kronecker", instance or found.name, shape, arguments, lambda part: kronecker(part, *wide), slack
    )
    work = 2 * rows * outer * inner * (outer + inner)
    return replace(case, operations=work)


def timed(place: Place) -> Iterator[Case]:
    """The cases that are timed; small ones where devices are emulated."""
    rows, width = (5, 256) if place.emulated else (8192, 4096)
    factors = ((24, 16),) if place.emulated else ((64, 64), (64, 128), (112, 128))
    for kind in TYPES:
        yield quantize_rows(place, kind, "int8", rows, width)
    yield quantize_rows(place, "f16", "int4", rows, width)
    yield quantize_rows(place, "f16", "e4m3", rows, width)
    yield signs(place, "f16", rows, width)
    widths = (256, 512) if place.emulated else (2048, 4096, 8192, 16384, 32768)
    for wide in widths:
        yield hadamard_codes(place, "f16", "int8", rows, wide, wide)
    yield hadamard_codes(place, "bf16", "int8", rows, width, width)
    yield hadamard_codes(place, "f16", "int4", rows, width, width)
    yield hadamard_codes(place, "f16", "real", rows, width, width)
    yield hadamard_codes(place, "f16", "int8", rows, width, 128)
    for wide in (384,) if place.emulated else (3072, 5120, 11008, 14336, 28672):
        yield hadamard_codes(place, "f16", "int8", rows, wide, wide)
    for name in _BLOCKS:
        yield quantize_blocks(place, "f16", name, rows, width)
    yield norm_quantize(place, "f16", False, rows, width)
    yield norm_quantize(place, "f16", True, rows, width)
    for which in ACTIVATIONS:
        yield activate_quantize(place, "f16", which, which != "relu", rows, width)
    for outer, inner in factors:
        yield kronecker_codes(place, "f16", rows, outer, inner)


def every_instance(place: Place, kernel: str, instance: str, seed: int) -> Case:
    """A small ragged case for one instance."""
    parts = instance.split("_")
    kind: Kind = next(one for one in TYPES if f"_{one}_" in instance)
    rows = 3 + seed % 4
    if kernel == "kronecker":
        outer, inner = map(int, parts[-1].split("x"))
        return kronecker_codes(place, kind, rows, outer - 1, inner - 8, instance)
    width = int(parts[-1])
    if kernel == "quantize_blocks":
        return quantize_blocks(place, kind, tuple(_BLOCKS)[seed % 3], rows, 203 + seed % 99, instance)
    if kernel == "hadamard":
        block = width if "blocks" not in parts else 96 if seed % 2 else 64
        return hadamard_codes(place, kind, "int8", rows, width // block * block, block, instance)
    ragged = width - 13 - seed % 9
    if kernel == "signs":
        return signs(place, kind, rows, ragged, instance)
    if kernel == "activate_quantize":
        which: Activation = next(one for one in reversed(ACTIVATIONS) if f"_{one}_" in instance)
        return activate_quantize(place, kind, which, seed % 2 == 0, rows, ragged, instance)
    if kernel == "norm_quantize":
        return norm_quantize(place, kind, seed % 2 == 0, rows, ragged, instance)
    return quantize_rows(place, kind, tuple(SPECS)[seed % 3], rows, ragged, instance)


def _activations(place: Place, kind: Kind, rows: int, width: int) -> Tensor:
    size = torch.randint(1, 50, (rows, 1), device=place.device)
    return (torch.randn(rows, width, device=place.device) * size).to(TYPES[kind])


def _arguments(place: Place, x: Tensor, format_: CodeFormat, rows: int, width: int) -> Arguments:
    out_width = width if format_ == "real" else -(-width // 32) * 32
    bytes_ = out_width * (x.element_size() if format_ == "real" else 1) // (2 if format_ == "int4" else 1)
    spec = SPECS.get(format_, SPECS["int8"])
    found: dict[str, Argument] = {
        "input": x,
        "out": torch.full((rows, bytes_), 0x55, dtype=torch.uint8, device=place.device),
        "scale": torch.zeros(rows, device=place.device),
        "rows": rows,
        "width": width,
        "stride": width,
        "out_width": out_width,
        "format": FORMATS[format_],
        "symmetric": 1,
        "lowest": float(spec.format.lowest),
        "highest": float(spec.format.highest),
    }
    return found


def _case(
    place: Place, kernel: str, instance: str, shape: str, arguments: Arguments, reals: Reals, slack: float = 0.0
) -> Case:
    wrong = partial(_difference, reals=reals, slack=slack)
    return Case(kernel, instance, shape, arguments, wrong, _moved(arguments), 0, {"copy": _copy(place, arguments)})


def _moved(arguments: Arguments) -> int:
    """Bytes of activations and codes."""
    return sum(value.nbytes for value in (arguments["input"], arguments["out"]) if isinstance(value, Tensor))


def _copy(place: Place, arguments: Arguments) -> Callable[[], Call]:
    """A copy of half as many bytes, which moves as many."""

    def make() -> Call:
        source, target = (torch.empty(_moved(arguments) // 2, dtype=torch.uint8, device=place.device) for _ in range(2))
        return lambda: target.copy_(source)

    return make


def _ends(value: Argument) -> Tensor:
    """The first and last rows, on the processor."""
    assert isinstance(value, Tensor)
    rows = len(value)
    return value[sorted({*range(min(_CHECKED, rows)), *range(max(0, rows - _CHECKED), rows)})].cpu()


def _difference(given: Arguments, reals: Reals, slack: float) -> str:
    part, codes, scales = (_ends(given[name]) for name in ("input", "out", "scale"))
    ideal = reals(part.double())
    bound = slack * ideal.abs().amax(-1, keepdim=True)
    if given["format"] == FORMATS["real"]:
        found = codes.view(part.dtype).double()
        off = (found - ideal).abs() > bound + 2.0**-10 * ideal.abs()
        return f"{int(off.sum())} of {off.numel()} reals are off" if off.any() else ""
    name: CodeFormat = next(key for key in SPECS if FORMATS[key] == given["format"])
    spec, values = SPECS[name], _values(codes, name)
    found, width = torch.from_numpy(values), ideal.shape[1]
    if found[:, width:].any():
        return "what fills rows up is not zero"
    found = found[:, :width]
    if not slack:
        wanted, zero = choose_qparams(part.float(), spec)
        assert isinstance(wanted, Tensor)
        expected = quantize(part.float(), wanted, zero, spec)
        equal = torch.equal(scales, wanted[:, 0]) and torch.equal(found, expected)
        return "" if equal else "codes or scales differ from the meaning"
    step = torch.maximum(found.abs() / 8, torch.tensor(2.0**-9)) if name == "e4m3" else torch.ones(())
    off = (found * scales[:, None] - ideal).abs() > 0.501 * step * scales[:, None] + bound
    return f"{int(off.sum())} of {off.numel()} codes are more than half a step off" if off.any() else ""


def _values(codes: Tensor, format_: CodeFormat) -> np.ndarray:
    """Codes of rows as floats."""
    if format_ == "int4":
        nibbles = torch.stack([codes & 15, codes >> 4], -1).reshape(len(codes), -1).to(torch.int32)
        return torch.where(nibbles > 7, nibbles - 16, nibbles).float().numpy()
    if format_ == "e4m3":
        return codes.view(torch.float8_e4m3fn).float().numpy()
    return codes.view(torch.int8).float().numpy()
