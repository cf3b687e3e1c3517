"""compressed-tensors checkpoints: the arguments of a quantization scheme as specs and back, and reading its weights.

Formula   int: (code - zero) * scale; float8: value * scale; nvfp4: value * (scale / global_scale)
Shapes    pack-quantized: weight_packed int32 [N, ceil(K * bits / 32)] of code + 2^(bits-1), weight_scale [N, G],
          weight_zero_point int32 [ceil(N * bits / 32), G], weight_shape int64 [2]; int-, float- and naive-quantized:
          weight int8 or float8 [N, K], weight_scale [N, 1], [1] or [N / b, K / c]; nvfp4-pack-quantized: weight_packed
          uint8 [N, K / 2], weight_scale float8 [N, K / 16], weight_global_scale float32 [1]
Source    the compressed-tensors library, 0.20
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qcompiler.checkpoints.layouts import unpack_words
from qcompiler.checkpoints.reading import SCALE_NAMES, coded, integer_spec, misfit, module_of, take
from qcompiler.checkpoints.settings import Settings
from qcompiler.errors import InputError
from qcompiler.formats import FP4_E2M1, FP8_E4M3
from qcompiler.formats.pack import unpack
from qcompiler.formats.scales import ScaleName
from qcompiler.frontends.weight_files import Coded, WeightFiles
from qcompiler.spec import Level, QuantSpec

NAME = "compressed-tensors"
PACKED, INTEGER, FLOAT, NVFP4 = "pack-quantized", "int-quantized", "float-quantized", "nvfp4-pack-quantized"
FORMATS = (PACKED, INTEGER, FLOAT, NVFP4, "naive-quantized", "mixed-precision")
FP4_GROUP = 16
WIDEST = 8
_REAL = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class Group:
    """One scheme and the modules that have it.

    Args:
        targets: names of modules, `re:` and a regular expression, or names of module classes.
        weights: arguments of the weights' quantization.
    """

    targets: Sequence[str]
    weights: Settings

    def names(self, module: str) -> bool:
        """Whether a target names this very module."""
        return any(
            re.match(target.removeprefix("re:"), module) is not None if target.startswith("re:") else target == module
            for target in self.targets
        )


@dataclass(frozen=True)
class CompressedTensors:
    """Decodes the weights of a compressed-tensors checkpoint.

    Args:
        groups: of modules with one scheme.
    """

    groups: tuple[Group, ...]

    @staticmethod
    def of(settings: Settings) -> CompressedTensors:
        """From a quantization configuration; raises InputError for one that cannot be read."""
        settings.word("format", PACKED, FORMATS)
        listed = settings.data.get("config_groups")
        if not isinstance(listed, Mapping) or not listed:
            raise settings.refusal("config_groups", listed, ("groups with targets and weights",))
        return CompressedTensors(tuple(_group(settings, str(name), item) for name, item in listed.items()))

    def decode(self, files: WeightFiles, name: str, shape: tuple[int, ...]) -> Coded | None:
        """The weight called `name`; None when it is not stored quantized.

        Raises:
            InputError: naming file and tensor, when its parts do not fit together.
        """
        packed = module_of(name, files, "weight_packed")
        module = packed or module_of(name, files, "weight_scale")
        if module is None:
            return None
        if len(shape) != 2:
            raise misfit(files, f"{module}.weight_scale", f"the weight of the model has shape {list(shape)}")
        if f"{module}.weight_g_idx" in files.files:
            raise misfit(files, f"{module}.weight_g_idx", "groups of scattered columns are not read")
        weights = self._weights(files, module)
        rows, columns = shape
        if weights.word("type", "int", ("int", "float")) == "float":
            four = weights.integer("num_bits", 8) == 4
            return _nvfp4(files, module, rows, columns) if four else _float8(files, module, weights, shape)
        bits = weights.integer("num_bits", 8)
        if not 1 <= bits <= WIDEST:
            raise weights.refusal("num_bits", bits, range(1, WIDEST + 1))
        return (
            _packed(files, module, weights, rows, columns) if packed else _integers(files, module, weights, shape, bits)
        )

    def _weights(self, files: WeightFiles, module: str) -> Settings:
        """The arguments of a module: a group that names it, else the one that names its class, which is not known."""
        named = [group for group in self.groups if group.names(module)] or list(self.groups)
        if len({str(sorted(group.weights.data.items())) for group in named}) > 1:
            raise InputError(
                f"several groups of the quantization configuration may be meant for '{module}'",
                where=str(named[0].weights.path),
                step="read checkpoint",
                mend="name the modules of each group in its targets",
            )
        return named[0].weights


def _group(settings: Settings, name: str, item: object) -> Group:
    weights = item.get("weights") if isinstance(item, Mapping) else None
    targets = item.get("targets") if isinstance(item, Mapping) else None
    if not isinstance(weights, Mapping) or not isinstance(targets, list):
        raise settings.refusal(f"config_groups.{name}", item, ("a group with targets and weights",))
    return Group([str(target) for target in targets], Settings(settings.path, weights))


def block_of(weights: Settings, columns: int) -> tuple[int, int]:
    """The block that has one scale; raises InputError for an unknown strategy."""
    size = weights.data.get("group_size")
    guess = "tensor" if size is None else "channel" if size == -1 else "group"
    match weights.word("strategy", guess, ("tensor", "channel", "group", "block", "tensor_group")):
        case "tensor":
            return -1, -1
        case "channel":
            return 1, -1
        case "block":
            structure = weights.data.get("block_structure")
            if not isinstance(structure, list) or len(structure) != 2:
                raise weights.refusal("block_structure", structure, ("[rows, columns]",))
            return int(structure[0]), int(structure[1])
        case _:
            group = weights.integer("group_size")
            if group < 1:
                raise weights.refusal("group_size", group, ("a positive number",))
            return (1, -1) if group >= columns else (1, group)


def _scale(files: WeightFiles, module: str, block: tuple[int, int], shape: tuple[int, ...]) -> tuple[Tensor, ScaleName]:
    name = f"{module}.weight_scale"
    scale = take(files, name, dtypes=_REAL)
    wanted = Level(block).scale_shape(shape)
    if scale.numel() != wanted[0] * wanted[1]:
        raise misfit(files, name, f"it has shape {list(scale.shape)}, {list(wanted)} would fit")
    return scale.reshape(wanted), SCALE_NAMES[scale.dtype]  # pyright: ignore[reportArgumentType, reportCallIssue]


def _packed(files: WeightFiles, module: str, weights: Settings, rows: int, columns: int) -> Coded:
    bits, symmetric = weights.integer("num_bits", 8), bool(weights.data.get("symmetric", True))
    stated = f"{module}.weight_shape"
    if stated in files.files and take(files, stated).tolist() != [rows, columns]:
        raise misfit(files, stated, f"the weight of the model has shape {[rows, columns]}")
    words = take(files, f"{module}.weight_packed", (rows, -(-columns * bits // 32)), (torch.int32,))
    codes = unpack_words(words, bits, columns)
    block = block_of(weights, columns)
    scale, scale_name = _scale(files, module, block, (rows, columns))
    name = f"{module}.weight_scale"
    if symmetric:
        spec = integer_spec(bits, True, block, scale_name)
        return coded(files, name, codes - (1 << (bits - 1)), (scale,), None, spec)
    zero_name, groups = f"{module}.weight_zero_point", scale.shape[1]
    if block == (-1, -1):
        zero = take(files, zero_name, (1,), (torch.int8,)).reshape(1, 1) + (1 << (bits - 1))
    else:
        packed = take(files, zero_name, (-(-rows * bits // 32), groups), (torch.int32,))
        zero = unpack_words(packed.T, bits, rows).T
    return coded(files, name, codes, (scale,), zero, integer_spec(bits, False, block, scale_name))


def _integers(files: WeightFiles, module: str, weights: Settings, shape: tuple[int, ...], bits: int) -> Coded:
    codes = take(files, f"{module}.weight", shape, (torch.int8,)).int()
    block = block_of(weights, shape[1])
    scale, scale_name = _scale(files, module, block, shape)
    name, middle = f"{module}.weight_scale", 1 << (bits - 1)
    if codes.numel() and not -middle <= int(codes.min()) <= int(codes.max()) < middle:
        raise misfit(files, f"{module}.weight", f"it holds codes that {bits} bits cannot hold")
    if bool(weights.data.get("symmetric", True)):
        return coded(files, name, codes, (scale,), None, integer_spec(bits, True, block, scale_name))
    zero = take(files, f"{module}.weight_zero_point", dtypes=(torch.int8,))
    if zero.numel() != scale.numel():
        raise misfit(files, f"{module}.weight_zero_point", f"{zero.numel()} zero points for {scale.numel()} scales")
    zero = zero.int().reshape(scale.shape) + middle
    return coded(files, name, codes + middle, (scale,), zero, integer_spec(bits, False, block, scale_name))


def _float8(files: WeightFiles, module: str, weights: Settings, shape: tuple[int, ...]) -> Coded:
    codes = take(files, f"{module}.weight", shape, (torch.float8_e4m3fn,))
    block = block_of(weights, shape[1])
    scale, scale_name = _scale(files, module, block, shape)
    spec = QuantSpec(FP8_E4M3, (Level(block, scale_name),))
    return coded(files, f"{module}.weight_scale", codes, (scale,), None, spec)


def _nvfp4(files: WeightFiles, module: str, rows: int, columns: int) -> Coded:
    """Two levels of scales; the outer one is stored as its reciprocal."""
    if columns % FP4_GROUP:
        raise misfit(files, f"{module}.weight_packed", f"{columns} columns are not whole groups of {FP4_GROUP}")
    packed = take(files, f"{module}.weight_packed", (rows, columns // 2), (torch.uint8,))
    codes = FP4_E2M1.decode(unpack(packed, 4, columns))
    name, outer_name = f"{module}.weight_scale", f"{module}.weight_global_scale"
    scale = take(files, name, (rows, columns // FP4_GROUP), (torch.float8_e4m3fn,))
    outer = take(files, outer_name, (1,), (torch.float32,)).reshape(1, 1)
    if not bool((outer > 0).all()):
        raise misfit(files, outer_name, "the global scale is not positive")
    spec = QuantSpec(FP4_E2M1, (Level((1, FP4_GROUP), "e4m3"), Level((-1, -1), "f32")))
    return coded(files, name, codes, (scale, outer.reciprocal()), None, spec)
