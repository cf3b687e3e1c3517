"""Parameter values that are a recipe instead of bytes: what the text form prints where weights would stand."""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, Literal

import torch

from qcompiler.errors import InputError
from qcompiler.formats.pack import pack, packed_size, unpack
from qcompiler.ir.stored import Stored
from qcompiler.ir.types import TensorType
from qcompiler.spec import QuantSpec

FillKind = Literal["zeros", "ones", "normal", "uniform", "values", "digest", "file", "absent", "unset"]


# Codes handled together: of any width they fill whole bytes.
_CHUNK = 1 << 20
_MANY = 1 << 20
"""Weights with at least so many elements wait on disk."""
_PACKED_BITS = 8


@dataclass(frozen=True, eq=False)
class Packed:
    """Codes of one parameter as bytes of their own width, in a file without a name.

    Args:
        file: open for reading.
        offset: of the first byte.
    """

    file: IO[bytes]
    offset: int

    def values(self, count: int, spec: QuantSpec, dtype: torch.dtype) -> torch.Tensor:
        """The grid values, [count]."""
        found = torch.empty(count, dtype=dtype)
        for start in range(0, count, _CHUNK):
            part = found[start : start + _CHUNK]
            size, offset = packed_size(len(part), spec.bits), packed_size(start, spec.bits)
            data = bytearray(os.pread(self.file.fileno(), size, self.offset + offset))
            codes = unpack(torch.frombuffer(data, dtype=torch.uint8), spec.bits, len(part))
            part.copy_(spec.format.decode(codes))
        return found


@dataclass(frozen=True)
class Fill:
    """How to make a parameter.

    Args:
        kind: `zeros`, `ones`, seeded `normal` (mean 0, deviation 1) or `uniform` ([0, 1)), explicit `values` (flat,
            row-major), `digest` of a tensor that lies in a weight file of ours, `file`: a tensor of a safetensors file,
            read when somebody asks, `absent`: a weight of a model that was traced on the meta device, or `unset`: a
            scale that no pass has found yet.
        seed: seed of `normal` and `uniform`.
        values: numbers of `values`.
        digest: first 16 hex digits of the content's SHA-256.
        stored: where the tensor of `file` lies.
        packed: the codes of a `digest` that is at hand after all.
    """

    kind: FillKind
    seed: int = 0
    values: tuple[float, ...] = ()
    digest: str = ""
    stored: Stored | None = None
    packed: Packed | None = field(default=None, compare=False, repr=False)

    @property
    def at_hand(self) -> bool:
        """Whether a digest or file can be read."""
        return self.stored is not None or self.packed is not None

    def materialize(self, type_: TensorType) -> torch.Tensor:
        """The tensor that this fill stands for; on the meta device when it is absent.

        Raises:
            InputError: for a digest, whose bytes are elsewhere, and a file that cannot be read.
        """
        shape = [int(dim) for dim in type_.shape]
        generator = torch.Generator().manual_seed(self.seed)
        if self.stored is not None:
            return self.stored.read(tuple(shape), type_.dtype)
        if self.packed is not None and type_.spec is not None:
            return self.packed.values(math.prod(shape), type_.spec, type_.dtype).reshape(shape)
        if self.kind == "absent":
            return torch.empty(shape, dtype=type_.dtype, device="meta")
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


def put_aside(codes: torch.Tensor, spec: QuantSpec, file: IO[bytes]) -> Fill:
    """Writes grid values behind what lies in a file already, for weights too large to be kept in a float carrier.

    Args:
        codes: grid values of `spec` in a float dtype, any shape.
        spec: of at most 16 bits.
        file: open for reading and writing, unbuffered; it lives as long as a Fill refers to it.

    Raises:
        InputError: when the disk is full.
    """
    flat, offset = codes.detach().flatten(), file.seek(0, os.SEEK_END)
    try:
        for part in flat.split(_CHUNK):
            file.write(pack(spec.format.encode(part), spec.bits).numpy().data)
    except OSError as error:
        raise InputError(
            f"solved weights cannot be put aside: {error.strerror}",
            where=tempfile.gettempdir(),
            mend="free some space there, or let TMPDIR name a larger place",
        ) from error
    return Fill("digest", digest=digest_of(codes), packed=Packed(file, offset))


class Shelf:
    """Where weights in codes wait: small ones as they are, large ones packed in a temporary file."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None

    def keep(self, codes: torch.Tensor, spec: QuantSpec) -> torch.Tensor | Fill:
        """The codes, or what stands for them; raises InputError when the disk is full."""
        if codes.numel() < _MANY or spec.bits > _PACKED_BITS:
            return codes
        if self._file is None:
            # The file has no name and goes with the last parameter that lies in it.
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        return put_aside(codes, spec, self._file)


def is_unset(value: torch.Tensor | Fill) -> bool:
    """Whether a scale or zero point still waits for a pass to find it."""
    return isinstance(value, Fill) and value.kind == "unset"


def is_absent(value: torch.Tensor | Fill) -> bool:
    """Whether nobody knows the value, only its type: that of a model traced on the meta device."""
    return value.kind == "absent" if isinstance(value, Fill) else value.is_meta


def digest_of(tensor: torch.Tensor) -> str:
    """First 16 hex digits of the SHA-256 of a tensor's bytes, dtype and shape."""
    flat = tensor.detach().contiguous().reshape(-1)
    header = f"{tensor.dtype}{tuple(tensor.shape)}".encode()
    found = hashlib.sha256(header)
    if flat.numel():
        found.update(flat.view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


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
