"""What the readers of checkpoints share: taking tensors by name with their shapes checked, and making codes of them."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from qcompiler.errors import InputError
from qcompiler.formats import Integer
from qcompiler.formats.blocks import expand_blocks
from qcompiler.formats.scales import ScaleName
from qcompiler.frontends.weight_files import Coded, WeightFiles
from qcompiler.spec import Level, QuantSpec

STEP = "read checkpoint"
SCALE_NAMES: dict[torch.dtype, ScaleName] = {
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.float8_e4m3fn: "e4m3",
}


def module_of(name: str, files: WeightFiles, part: str) -> str | None:
    """The module whose `weight` is called `name`, when the files hold `module.part`."""
    module = name.removesuffix(".weight")
    return module if module != name and f"{module}.{part}" in files.files else None


def place(files: WeightFiles, name: str) -> str:
    """File and tensor, for errors."""
    return f"{files.files.get(name, files.source)}: {name}"


def take(
    files: WeightFiles,
    name: str,
    shape: tuple[int, ...] | None = None,
    dtypes: Collection[torch.dtype] = (),
) -> Tensor:
    """A tensor of the checkpoint.

    Args:
        files: the checkpoint.
        name: of the tensor.
        shape: that it must have; any when None.
        dtypes: of which it must have one; any when empty.

    Raises:
        InputError: naming file and tensor, when it is missing, of another shape or dtype, or not finite.
    """
    if name not in files.files:
        raise InputError(
            f"tensor '{name}' is not in the files",
            where=str(files.source),
            step=STEP,
            mend="the checkpoint is not complete, or its configuration names another format; download it again",
        )
    tensor = files.read(name)
    if shape is not None and tuple(tensor.shape) != shape:
        raise misfit(files, name, f"it has shape {list(tensor.shape)}, {list(shape)} would fit")
    if dtypes and tensor.dtype not in dtypes:
        raise misfit(files, name, f"it is {tensor.dtype}, not {' or '.join(map(str, dtypes))}")
    return tensor


def misfit(files: WeightFiles, name: str, why: str) -> InputError:
    """The error for a tensor that does not fit its weight."""
    return InputError(
        f"tensor '{name}' does not fit the model or the quantization configuration: {why}",
        where=place(files, name),
        step=STEP,
        mend="use the model class and the config.json that belong to these weights",
    )


def group_size(files: WeightFiles, name: str, columns: int, groups: int, stated: int) -> int:
    """Columns per scale.

    Args:
        files: the checkpoint.
        name: of the scales, for errors.
        columns: of the weight.
        groups: scales per row.
        stated: by the configuration; -1 for whole rows.

    Raises:
        InputError: when they contradict each other.
    """
    wanted = columns if stated == -1 else stated
    if wanted < 1 or -(-columns // wanted) != groups:
        raise misfit(files, name, f"{groups} groups for {columns} columns in groups of {stated}")
    return wanted


def integer_spec(bits: int, symmetric: bool, block: tuple[int, ...], scale: ScaleName) -> QuantSpec:
    """Signed integers when symmetric, unsigned ones with a zero point otherwise."""
    level = Level(block, scale, "none" if symmetric else "int")
    return QuantSpec(Integer(bits, signed=symmetric), (level,))


def signed_if_centred(codes: Tensor, zero_point: Tensor, bits: int) -> tuple[Tensor, Tensor | None]:
    """Unsigned codes as signed ones without zero point, when that lies in the middle everywhere."""
    middle = 1 << (bits - 1)
    if bool((zero_point == middle).all()):
        return codes - middle, None
    return codes, zero_point


def coded(
    files: WeightFiles,
    name: str,
    codes: Tensor,
    scales: tuple[Tensor, ...],
    zero_point: Tensor | None,
    spec: QuantSpec,
    columns: Tensor | None = None,
) -> Coded:
    """The weight, its scales checked; blocks of scale zero become blocks of zeros with scale 1.

    Args:
        files: the checkpoint.
        name: of the tensor with the innermost scales, for errors.
        codes: grid values of any dtype, shaped like the weight.
        scales: of any floating dtype, innermost first.
        zero_point: shaped like the innermost scales, None when symmetric.
        spec: the numbers.
        columns: see `Coded`.

    Raises:
        InputError: for a negative scale.
    """
    wide = [scale.float() for scale in scales]
    values, zero = codes.float(), None if zero_point is None else zero_point.float()
    for scale in wide:
        if bool((scale < 0).any()):
            raise misfit(files, name, "it holds negative scales")
    inner = wide[0]
    empty = inner == 0
    if bool(empty.any()):
        shape = values.shape
        rest = torch.zeros_like(inner) if zero is None else zero
        values = torch.where(expand_blocks(empty, spec.block, shape), expand_blocks(rest, spec.block, shape), values)
        wide[0] = torch.where(empty, 1.0, inner)
    zero = None if zero is None else zero.contiguous()
    return Coded(values.contiguous(), tuple(scale.contiguous() for scale in wide), zero, spec, columns)
