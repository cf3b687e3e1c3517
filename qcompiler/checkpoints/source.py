"""The model that a checkpoint is written for: which tensors it wants, and the files that lie beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from qcompiler.checkpoints.contents import Contents, refuse
from qcompiler.checkpoints.settings import MODEL_CONFIG, read_json
from qcompiler.frontends.weight_files import open_weights

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".index.json", ".onnx")
_NO_BIAS = "compile with a recipe without bias_correction, or with bias_correction{add=false}, which adds no biases"
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Source:
    """What the loader of a checkpoint expects.

    Args:
        tensors: shape and floating dtype of each tensor, by name; None for any other dtype.
        tied: groups of names for one tensor; one of each group is enough.
        config: the model's `config.json`.
        files: that belong to the model beside its weights.
    """

    tensors: Mapping[str, tuple[tuple[int, ...], torch.dtype | None]]
    tied: tuple[frozenset[str], ...] = ()
    config: Mapping[str, object] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    @staticmethod
    def of(source: str | Path | torch.nn.Module) -> Source:
        """From a module, or the folder of a checkpoint; no weight is read.

        Raises:
            InputError: when the folder holds no checkpoint.
        """
        if isinstance(source, torch.nn.Module):
            state = source.state_dict(keep_vars=True)
            names: dict[int, list[str]] = {}
            for name, value in state.items():
                names.setdefault(id(value), []).append(name)
            tied = tuple(frozenset(group) for group in names.values() if len(group) > 1)
            floats = {name: value.dtype if value.is_floating_point() else None for name, value in state.items()}
            return Source({name: (tuple(value.shape), floats[name]) for name, value in state.items()}, tied)
        folder = Path(source)
        found = open_weights(folder)
        files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
        config = folder / MODEL_CONFIG
        return Source(
            {name: (shape, _DTYPES.get(stored_as)) for name, (stored_as, shape) in found.tensors.items()},
            config=read_json(config) if config.is_file() else {},
            files=tuple(path for path in files if not path.name.endswith(_WEIGHTS) and path != config),
        )

    def fitted(self, contents: Contents) -> Contents:
        """The contents under the names of this model, without what it does not know.

        Raises:
            UnsupportedError: naming weights that the model lacks, or has in another shape, and tensors of the model
                that the contents lack.
        """
        prefix = self._prefix(contents)
        layers = {name.removeprefix(prefix): layer for name, layer in contents.layers.items()}
        plain = {name.removeprefix(prefix): tensor for name, tensor in contents.plain.items()}
        problems = [
            f"'{name}' of shape {list(layer.codes.shape)}, which the model has {self._as(name)}"
            for name, layer in layers.items()
            if name not in self.tensors or self.tensors[name][0] != tuple(layer.codes.shape)
        ]
        problems += [
            f"'{name}' of shape {list(tensor.shape)}, which the model has {self._as(name)}"
            for name, tensor in plain.items()
            if name in self.tensors and self.tensors[name][0] != tuple(tensor.shape)
        ]
        there = set(layers) | set(plain)
        problems += [f"'{name}', which the compiled program lacks" for name in self._missing(there)]
        refuse(problems, "the compiled program and the model that the checkpoint is for do not have the same weights")
        new = [f"'{name}'" for name in plain if self._is_new_bias(name)]
        refuse(new, "the compilation gave biases to layers that have none in the model that would load them", _NO_BIAS)
        lost = list(contents.lost)
        kept = {name: self._cast(name, tensor, lost) for name, tensor in plain.items() if name in self.tensors}
        left = sorted(name for name, (_, dtype) in self.tensors.items() if dtype is None and name not in there)
        lost += [f"the constant '{name}', which the compiled program does not read" for name in left]
        floats = tuple(name.removeprefix(prefix) for name in contents.floats)
        return replace(contents, layers=layers, plain=kept, floats=floats, lost=tuple(lost))

    def _prefix(self, contents: Contents) -> str:
        """What stands before all names when a wrapper of the model was compiled."""
        first = next(iter(contents.layers))
        parts = first.split(".")
        prefixes = ["".join(f"{part}." for part in parts[:count]) for count in range(len(parts))]
        return next((prefix for prefix in prefixes if first.removeprefix(prefix) in self.tensors), "")

    def _as(self, name: str) -> str:
        return f"as {list(self.tensors[name][0])}" if name in self.tensors else "not at all"

    def _is_new_bias(self, name: str) -> bool:
        """A bias that the compilation gave to a module without one."""
        module, _, part = name.rpartition(".")
        return part == "bias" and name not in self.tensors and f"{module}.weight" in self.tensors

    def _missing(self, there: set[str]) -> list[str]:
        covered = there.union(*(group for group in self.tied if group & there))
        return [name for name, (_, dtype) in self.tensors.items() if dtype is not None and name not in covered]

    def _cast(self, name: str, tensor: Tensor, lost: list[str]) -> Tensor:
        """In the dtype of the model where that holds the values."""
        dtype = self.tensors[name][1]
        if dtype is None or dtype == tensor.dtype or not tensor.is_floating_point():
            return tensor
        cast = tensor.to(dtype)
        if torch.equal(cast.to(tensor.dtype), tensor):
            return cast
        lost.append(f"'{name}' stays {tensor.dtype}: the model's {dtype} cannot hold what the compilation made of it")
        return tensor
