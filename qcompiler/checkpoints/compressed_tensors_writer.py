"""Writing compressed-tensors checkpoints; the tensors are those that `compressed_tensors` reads.

What the format cannot say is refused in one error: codebooks, parts, tables, floats but e4m3 and NVFP4, activations of
other shapes than one scale per tensor or per token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors.torch import save_file
from torch import Tensor

from qcompiler.checkpoints.compressed_tensors import FLOAT, FP4_GROUP, INTEGER, NAME, NVFP4, PACKED, WIDEST
from qcompiler.checkpoints.contents import STEP, Activation, Contents, Layer, refuse
from qcompiler.checkpoints.layouts import pack_words
from qcompiler.checkpoints.order import Order
from qcompiler.checkpoints.settings import MODEL_CONFIG
from qcompiler.errors import InputError
from qcompiler.formats import FP4_E2M1, FP8_E4M3, Integer
from qcompiler.formats.pack import pack
from qcompiler.spec import QuantSpec

Arguments = dict[str, object]
_FILE = "model.safetensors"
_SCALES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
_LOOKED_UP = "'{name}' is the table of an embedding, which few loaders read quantized: keep it in float for them"
_RECIPROCAL = "the global scale of '{name}' is stored as its reciprocal: weights differ in the last bit of float32"


@dataclass(frozen=True)
class Written:
    """A checkpoint as data.

    Args:
        tensors: by name.
        configuration: the `quantization_config`.
        lost: what the checkpoint does not say, one line each.
    """

    tensors: Mapping[str, Tensor]
    configuration: Arguments
    lost: tuple[str, ...]


def compress(contents: Contents) -> Written:
    """The tensors and the configuration of a checkpoint.

    Raises:
        UnsupportedError: naming every weight whose numbers the format cannot say.
    """
    problems = [f"'{name}': {why}" for name, layer in contents.layers.items() if (why := _problem(name, layer))]
    refuse(problems, f"{NAME} cannot say how these weights are quantized")
    tensors = dict(contents.plain)
    groups: dict[str, Arguments] = {}
    lost = list(contents.lost)
    for name, layer in contents.layers.items():
        module = name.removesuffix(".weight")
        scheme = _scheme(layer)
        group = groups.setdefault(repr(scheme), {"targets": [], **scheme})
        group["targets"].append(module)  # pyright: ignore[reportAttributeAccessIssue]
        stored = _tensors(layer, str(scheme["format"]))
        tensors.update({f"{module}.{part}": tensor for part, tensor in stored.items()})
        if layer.looked_up:
            lost.append(_LOOKED_UP.format(name=name))
        if "weight_global_scale" in stored and not _survives(layer, stored["weight_global_scale"]):
            lost.append(_RECIPROCAL.format(name=name))
    formats = list(dict.fromkeys(str(group["format"]) for group in groups.values()))
    configuration: Arguments = {
        "quant_method": NAME,
        "format": formats[0] if len(formats) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": {f"group_{number}": group for number, group in enumerate(groups.values())},
        "ignore": list(contents.floats),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }
    return Written(tensors, configuration, tuple(lost))


def _problem(name: str, layer: Layer) -> str:
    """Why the format cannot say a weight; empty when it can."""
    if not name.endswith(".weight") or layer.codes.dim() != 2:
        return "only matrices that are the `weight` of a module are quantized"
    reason = _weight_problem(layer.spec, layer.codes.shape[1])
    if reason or layer.activation is None:
        return reason
    return _activation_problem(layer.spec, layer.activation)


def _weight_problem(spec: QuantSpec, columns: int) -> str:
    if spec.dynamic or spec.parts is not None:
        return f"{spec} is more than codes and scales"
    if spec.format == FP4_E2M1:
        wanted = [((1, FP4_GROUP), "e4m3"), ((-1, -1), "f32")]
        fits = [(level.block, level.scale) for level in spec.levels] == wanted and columns % FP4_GROUP == 0
        return "" if fits else f"{spec}: 4-bit floats must be NVFP4 with whole groups of {FP4_GROUP}"
    if len(spec.levels) != 1 or spec.levels[0].scale not in _SCALES:
        return f"{spec}: one level of scales in f32, f16 or bf16 is possible"
    if spec.format == FP8_E4M3:
        return "" if _strategy(spec, floats=True) else f"{spec}: blocks of this shape are not possible"
    if not isinstance(spec.format, Integer) or spec.bits > WIDEST:
        return f"{spec.format.name} is neither an integer of at most {WIDEST} bits, fp8e4m3 nor NVFP4"
    if not spec.format.signed and spec.symmetric:
        return f"{spec.format.name} without a zero point"
    strategy = _strategy(spec, floats=False)
    whole = spec.block[1] == -1 or columns % spec.block[1] == 0
    return "" if strategy and whole else f"{spec}: rows of whole groups, rows, or the whole tensor are possible"


def _activation_problem(weights: QuantSpec, activation: Activation) -> str:
    spec = activation.spec
    same = spec.format == FP8_E4M3 if weights.format == FP8_E4M3 else isinstance(spec.format, Integer)
    token = spec.dynamic and all(extent == 1 for extent in spec.block[:-1]) and spec.block[-1] == -1
    tensor = all(extent == -1 for extent in spec.block)
    if not same or len(spec.levels) > 1 or spec.parts is not None or spec.bits > WIDEST:
        return f"activations as {spec}"
    if not spec.format.signed and spec.symmetric:
        return f"activations as {spec.format.name} without a zero point"
    return "" if token or (tensor and (spec.dynamic or activation.scale is not None)) else f"activations as {spec}"


def _strategy(spec: QuantSpec, floats: bool) -> Arguments:
    """Strategy and its sizes; empty when there is none for this block."""
    match spec.block:
        case (-1, -1):
            return {"strategy": "tensor", "group_size": None}
        case (1, -1):
            return {"strategy": "channel", "group_size": None}
        case (1, size) if not floats:
            return {"strategy": "group", "group_size": size}
        case (rows, columns) if floats and rows > 1 and columns > 1:
            return {"strategy": "block", "group_size": None, "block_structure": [rows, columns]}
    return {}


def _scheme(layer: Layer) -> Arguments:
    spec, read = layer.spec, layer.activation
    format_ = PACKED
    if spec.format == FP4_E2M1:
        sizes: Arguments = {"strategy": "tensor_group", "group_size": FP4_GROUP}
        format_ = NVFP4
    else:
        sizes = _strategy(spec, floats=spec.format == FP8_E4M3)
    if spec.format == FP8_E4M3:
        format_ = FLOAT
    elif read is not None and spec.bits == WIDEST:
        format_ = INTEGER
    weights = _arguments(spec) | sizes
    if spec.format == FP4_E2M1:
        weights |= {"scale_dtype": "torch.float8_e4m3fn"}
    activations: Arguments | None = None
    if read is not None:
        token = read.spec.dynamic and read.spec.block[0] == 1
        activations = _arguments(read.spec) | {"strategy": "token" if token else "tensor", "group_size": None}
    return {"weights": weights, "input_activations": activations, "output_activations": None, "format": format_}


def _arguments(spec: QuantSpec) -> Arguments:
    kind = "int" if isinstance(spec.format, Integer) else "float"
    return {"num_bits": spec.bits, "type": kind, "symmetric": spec.symmetric, "dynamic": spec.dynamic}


def _tensors(layer: Layer, format_: str) -> dict[str, Tensor]:
    """The parameters of one module, by their names inside it."""
    if format_ == NVFP4:
        inner, outer = layer.scales
        return {
            "weight_packed": pack(FP4_E2M1.encode(layer.codes), 4),
            "weight_scale": inner.to(torch.float8_e4m3fn),
            "weight_global_scale": _reciprocal(outer),
        }
    scale = layer.scales[0].to(_SCALES[layer.spec.levels[0].scale])
    found = {"weight_scale": scale.reshape(1) if layer.spec.block == (-1, -1) else scale.contiguous()}
    if format_ == FLOAT:
        found["weight"] = layer.codes.to(torch.float8_e4m3fn)
    else:
        found |= _integer_tensors(layer, packed=format_ == PACKED)
    read = layer.activation
    if read is not None and read.scale is not None:
        found["input_scale"] = read.scale.reshape(1)
        if read.zero_point is not None:
            found["input_zero_point"] = _signed(read.zero_point.reshape(1), read.spec)
    return found


def _integer_tensors(layer: Layer, packed: bool) -> dict[str, Tensor]:
    spec = layer.spec
    codes = _signed(layer.codes, spec)
    zero = None if layer.zero_point is None else _signed(layer.zero_point, spec)
    if spec.block == (-1, -1) and zero is not None:
        zero = zero.reshape(1)
    if not packed:
        return {"weight": codes} | ({} if zero is None else {"weight_zero_point": zero})
    middle = 1 << (spec.bits - 1)
    found = {
        "weight_packed": pack_words(codes.int() + middle, spec.bits),
        "weight_shape": torch.tensor(codes.shape, dtype=torch.int64),
    }
    if zero is not None:
        whole = zero if zero.dim() == 1 else pack_words((zero.int() + middle).T.contiguous(), spec.bits).T.contiguous()
        found["weight_zero_point"] = whole
    return found


def _signed(values: Tensor, spec: QuantSpec) -> Tensor:
    """Codes or zero points as int8, unsigned ones less the middle of their range."""
    return (values if spec.format.signed else values - (1 << (spec.bits - 1))).to(torch.int8)


def _reciprocal(outer: Tensor) -> Tensor:
    """The reciprocal from which the scale comes back exactly, where there is one."""
    near = outer.reshape(1).reciprocal()
    for guess in (near, torch.nextafter(near, near * 0), torch.nextafter(near, near * 2)):
        if torch.equal(guess.reciprocal(), outer.reshape(1)):
            return guess
    return near


def _survives(layer: Layer, stored: Tensor) -> bool:
    inner, outer = layer.scales
    return torch.equal(inner / stored, inner * outer)


def write(order: Order) -> tuple[str, ...]:
    """Writes `model.safetensors` and `config.json`; returns what the checkpoint does not say.

    Raises:
        UnsupportedError: naming every weight whose numbers the format cannot say.
        InputError: when tensors were to be renamed.
        OSError: when the files cannot be written.
    """
    if order.names:
        raise InputError(
            f"{NAME} finds modules by the names of the source model, so that tensors cannot be renamed",
            step=STEP,
            mend="leave the names out",
        )
    written = compress(order.contents)
    tensors = {
        # Views of one memory are refused.
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in written.tensors.items()
    }
    save_file(tensors, order.folder / _FILE, metadata={"format": "pt"})
    config = {**order.config, "quantization_config": written.configuration}
    (order.folder / MODEL_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return written.lost
