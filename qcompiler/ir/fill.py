"""Parameter values that are a recipe instead of bytes: what the text form prints where weights would stand."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from qcompiler.errors import InputError
from qcompiler.ir.types import TensorType

FillKind = Literal["zeros", "ones", "normal", "uniform", "values", "digest", "unset"]


@dataclass(frozen=True)
class Fill:
    """How to make a parameter.

    Args:
        kind: `zeros`, `ones`, seeded `normal` (mean 0, deviation 1) or `uniform` ([0, 1)), explicit `values` (flat,
            row-major), `digest` of a tensor that lies in a weight file, or `unset`: a scale that no pass has found yet.
        seed: seed of `normal` and `uniform`.
        values: numbers of `values`.
        digest: first 16 hex digits of the content's SHA-256.
    """

    kind: FillKind
    seed: int = 0
    values: tuple[float, ...] = ()
    digest: str = ""

    def materialize(self, type_: TensorType) -> torch.Tensor:
        """The tensor that this fill stands for.

        Raises:
            InputError: for a digest, whose bytes are elsewhere.
        """
        shape = [int(dim) for dim in type_.shape]
        generator = torch.Generator().manual_seed(self.seed)
        if self.kind == "zeros":
            return torch.zeros(shape, dtype=type_.dtype)
        if self.kind == "ones":
            return torch.ones(shape, dtype=type_.dtype)
        if self.kind == "normal":
            return torch.randn(shape, generator=generator).to(type_.dtype)
        if self.kind == "uniform":
            return torch.rand(shape, generator=generator).to(type_.dtype)
        if self.kind == "values":
            exact = torch.float64 if type_.dtype.is_floating_point else torch.int64
            return torch.tensor(self.values, dtype=exact).to(type_.dtype).reshape(shape)
        if self.kind == "unset":
            raise InputError(
                "a scale or zero point was never set",
                mend="run calibrate and a weight solver after apply_plan, with calibration data",
            )
        raise InputError(
            f"the weights with digest {self.digest} are not at hand",
            mend="parse the text together with its weights (`parse(text, weights=...)`)",
        )


def is_unset(value: torch.Tensor | Fill) -> bool:
    """Whether a scale or zero point still waits for a pass to find it."""
    return isinstance(value, Fill) and value.kind == "unset"


def digest_of(tensor: torch.Tensor) -> str:
    """First 16 hex digits of the SHA-256 of a tensor's bytes, dtype and shape."""
    flat = tensor.detach().contiguous().reshape(-1)
    header = f"{tensor.dtype}{tuple(tensor.shape)}".encode()
    body = flat.view(torch.uint8).numpy().data if flat.numel() else b""
    return hashlib.sha256(header + bytes(body)).hexdigest()[:16]


def resolve(
    params: Mapping[str, torch.Tensor | Fill], weights: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor | Fill]:
    """Replaces digests by the tensors of the same name.

    Raises:
        InputError: when a weight is missing or its bytes are not those of the digest.
    """
    resolved: dict[str, torch.Tensor | Fill] = {}
    for name, value in params.items():
        if not isinstance(value, Fill) or value.kind != "digest":
            resolved[name] = value
            continue
        if name not in weights:
            raise InputError(
                f"weight '{name}' is missing", mend="use the weight file that was written with this program"
            )
        if digest_of(weights[name]) != value.digest:
            raise InputError(
                f"weight '{name}' is not the one this program was written with",
                mend="the file was changed; write the artefact again",
            )
        resolved[name] = weights[name]
    return resolved
