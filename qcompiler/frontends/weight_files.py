"""Weights that lie in safetensors files, found by the names of a model and left where they are."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open

from qcompiler.errors import InputError
from qcompiler.ir.fill import Fill
from qcompiler.ir.stored import CONVERTIBLE, Stored
from qcompiler.spec import QuantSpec

_STEP = "bind weights"
_INDEX = ".safetensors.index.json"
_SHOWN = 5
DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "U16": torch.uint16,
    "BOOL": torch.bool,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""Dtypes by their names in a checkpoint."""


@dataclass(frozen=True)
class Coded:
    """A weight that its checkpoint stores quantized.

    Args:
        codes: grid values in a float32 carrier, shaped like the weight.
        scales: float32, one tensor per level of `spec`, innermost first.
        zero_point: whole numbers in float32, shaped like the innermost scale; None when symmetric.
        spec: the numbers.
        columns: int64; column i of the codes is column `columns[i]` of the weight. None when they lie in order.
    """

    codes: torch.Tensor
    scales: tuple[torch.Tensor, ...]
    zero_point: torch.Tensor | None
    spec: QuantSpec
    columns: torch.Tensor | None = None


class Decoder(Protocol):
    """What knows how a checkpoint stores quantized weights."""

    def decode(self, files: WeightFiles, name: str, shape: tuple[int, ...]) -> Coded | None:
        """The weight called `name`; None when the checkpoint does not store it quantized; raises InputError."""
        ...


@dataclass(frozen=True)
class WeightFiles:
    """The tensors of one checkpoint.

    Args:
        source: the file or folder that was named.
        files: which file holds a tensor, by the tensor's name.
        tensors: dtype name and shape of each tensor, by its name.
        decoder: reads the weights that are stored quantized; None when none is.
        loaded: tensors of a file that is no safetensors file, by name.
    """

    source: Path
    files: Mapping[str, Path]
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    decoder: Decoder | None = None
    loaded: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def decode(self, names: Sequence[str], wanted: torch.Tensor) -> Coded | None:
        """The weight stored quantized under one of `names` for a parameter like `wanted`; None when there is none.

        Raises:
            InputError: when its tensors do not fit together.
        """
        if self.decoder is None:
            return None
        decoder, shape = self.decoder, tuple(wanted.shape)
        return next((coded for name in names if (coded := decoder.decode(self, name, shape)) is not None), None)

    def read(self, name: str) -> torch.Tensor:
        """The tensor called `name`, as it is stored.

        Raises:
            InputError: when it cannot be read or is not finite, or its dtype is unknown.
        """
        stored_as, shape = self.tensors[name]
        if stored_as not in DTYPES:
            raise InputError(
                f"tensor '{name}' is stored as {stored_as}, which is not known here",
                where=str(self.files[name]),
                step=_STEP,
                mend=f"known are {', '.join(DTYPES)}",
            )
        dtype = DTYPES[stored_as]
        return Stored(str(self.files[name]), name, dtype, shape).read(shape, dtype)

    def find(self, names: Sequence[str], wanted: torch.Tensor) -> Fill | torch.Tensor | None:
        """The tensor stored under one of `names` for a parameter like `wanted`; None when there is none.

        Args:
            names: of the parameter; several when it is tied to others.
            wanted: has the parameter's dtype and shape.

        Raises:
            InputError: when the tensor has another shape, or a dtype that cannot be converted.
        """
        name = next((name for name in names if name in self.files), None)
        if name is None:
            return None
        stored_as, shape = self.tensors[name]
        dtype = DTYPES.get(stored_as)
        where = str(self.files[name])
        if shape != tuple(wanted.shape):
            raise InputError(
                f"weight '{name}' has shape {list(shape)}, the model wants {list(wanted.shape)}",
                where=where,
                step=_STEP,
                mend="build the model with the configuration that belongs to these weights",
            )
        if dtype is None or (dtype != wanted.dtype and not {dtype, wanted.dtype} <= set(CONVERTIBLE)):
            raise InputError(
                f"weight '{name}' is stored as {stored_as}, the model wants {wanted.dtype}",
                where=where,
                step=_STEP,
                mend="floating-point weights of 16 bits and more are converted to one another, nothing else is; "
                "give the weights as the model was trained, not quantized",
            )
        if name in self.loaded:
            return self.loaded[name].to(wanted.dtype)
        return Fill("file", stored=Stored(where, name, dtype, shape))

    def check(self, missing: Sequence[str]) -> None:
        """Refuses a checkpoint that lacks parameters.

        Args:
            missing: names of the model's parameters that were not found.

        Raises:
            InputError: naming them, and the nearest names that the files do hold.
        """
        if not missing:
            return
        named = ", ".join(f"'{name}'" for name in missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        raise InputError(
            f"{len(missing)} of the model's weights are not in the files: {named}",
            where=str(self.source),
            step=_STEP,
            mend=self._advice(missing[0]),
        )

    def _advice(self, name: str) -> str:
        inside = [key for key in self.files if key.endswith(f".{name}")]
        if inside:
            prefix = inside[0].removesuffix(name)
            return f"the files hold '{inside[0]}': trace the module whose part '{prefix[:-1]}' this model is"
        outside = [key for key in self.files if name.endswith(f".{key}")]
        if outside:
            prefix = name.removesuffix(max(outside, key=len))
            return f"the files hold '{max(outside, key=len)}': trace the part '{prefix[:-1]}' of the model alone"
        near = difflib.get_close_matches(name, self.files, 3, 0.6)
        listed = ", ".join(f"'{key}'" for key in near or sorted(self.files)[:3])
        return f"the {'nearest' if near else 'first'} names in the files are {listed or 'none'}"


def open_weights(source: str | Path) -> WeightFiles:
    """Reads the headers of a checkpoint; no weight is loaded.

    Args:
        source: a `.safetensors` file; a Hugging Face index, `model.safetensors.index.json`; or a folder that holds an
            index, or else one `.safetensors` file.

    Raises:
        InputError: when a file is missing, cut off or damaged, or the folder holds several files without an index.
    """
    path = Path(source)
    if path.is_dir():
        path = _chosen(path)
    if not path.is_file():
        raise InputError(f"there is no file '{path}'", step=_STEP, mend="name a .safetensors file, or its folder")
    if path.name.endswith(".json"):
        return _open_index(Path(source), path)
    tensors = _header(path, "")
    return WeightFiles(Path(source), dict.fromkeys(tensors, path), tensors)


def _chosen(folder: Path) -> Path:
    """The index of a folder, or its only weight file."""
    found = sorted(folder.glob(f"*{_INDEX}")) or sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    names = ", ".join(path.name for path in found)
    raise InputError(
        f"the folder holds {'several checkpoints: ' + names if found else 'no .safetensors file'}",
        where=str(folder),
        step=_STEP,
        mend="name the file itself" if found else "name a folder with .safetensors files",
    )


def _open_index(source: Path, index: Path) -> WeightFiles:
    try:
        listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = {str(name): index.parent / file for name, file in listed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"this is not an index of safetensors files: {error}",
            where=str(index),
            step=_STEP,
            mend='an index is JSON and holds "weight_map": {tensor name: file name}',
        ) from error
    headers = {file: _header(file, f", which {index.name} names") for file in sorted(set(files.values()))}
    for name, file in files.items():
        if name not in headers[file]:
            raise InputError(
                f"tensor '{name}' is not in {file.name}, where the index has it",
                where=str(index),
                step=_STEP,
                mend="download the checkpoint again: index and files do not belong together",
            )
    return WeightFiles(source, files, {name: headers[file][name] for name, file in files.items()})


def _header(path: Path, role: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    if not path.is_file():
        raise InputError(
            f"there is no file '{path.name}'{role}",
            where=str(path.parent),
            step=_STEP,
            mend="download the missing part of the checkpoint",
        )
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"'{path.name}' cannot be read: {error}",
            where=str(path),
            step=_STEP,
            mend="is the file complete? download it again, and compare its size",
        ) from error
