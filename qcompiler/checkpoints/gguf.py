"""GGUF files: floats and the quantized types whose blocks of 32 hold one scale, and one minimum at most.

Formula   Q4_0, Q5_0, Q8_0: (code - middle) * d; Q4_1, Q5_1: code * d + m; d, m are float16
Shapes    a row of K elements is K / 32 blocks: d, m if there is one, high bits (Q5: uint32, bit i of element i), then
          nibbles (byte i: elements i and i + 16) or int8 codes
Source    ggml `ggml-common.h` and `docs/gguf.md`, version 3. The super-blocks of K-quants and IQ types have scales
          of scales in 6 bits with minima of their own, which no spec of codes and scales says: they are not written
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from qcompiler.checkpoints.contents import Layer
from qcompiler.checkpoints.layouts import GGUF_HALVES
from qcompiler.checkpoints.reading import STEP, integer_spec, misfit
from qcompiler.errors import InputError
from qcompiler.formats import Integer
from qcompiler.formats.blocks import expand_blocks
from qcompiler.formats.pack import pack, unpack
from qcompiler.frontends.weight_files import DTYPES, Coded, WeightFiles

BLOCK = 32
_MAGIC, _VERSION, _ALIGNMENT = b"GGUF", 3, 32
_UINT32, _STRING, _ARRAY = 4, 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
Value = str | int | float | bool | list["Value"]


@dataclass(frozen=True)
class BlockType:
    """One quantized type.

    Args:
        name: of the type.
        code: its number in the file.
        bits: of a code.
        minimum: whether a block has a minimum, too; otherwise codes count from the middle.
    """

    name: str
    code: int
    bits: int
    minimum: bool = False

    @property
    def size(self) -> int:
        """Bytes of a block."""
        return 2 + 2 * self.minimum + BLOCK * self.bits // 8


BLOCK_TYPES = (
    BlockType("Q4_0", 2, 4),
    BlockType("Q4_1", 3, 4, True),
    BlockType("Q5_0", 6, 5),
    BlockType("Q5_1", 7, 5, True),
    BlockType("Q8_0", 8, 8),
)
FLOAT_TYPES: dict[int, torch.dtype] = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}
_CODES = {dtype: code for code, dtype in FLOAT_TYPES.items()}


@dataclass(frozen=True)
class Blocks:
    """A weight in blocks of 32.

    Args:
        type: of the blocks.
        codes: unsigned, int32 [N, K].
        scale: float16 [N, K / 32].
        minimum: float16 [N, K / 32]; None for types without.
    """

    type: BlockType
    codes: Tensor
    scale: Tensor
    minimum: Tensor | None

    def data(self) -> Tensor:
        """The bytes, uint8 [N, bytes of a row]."""
        blocks = self.codes.unflatten(-1, (-1, BLOCK))
        parts = [self.scale.unsqueeze(-1).contiguous().view(torch.uint8)]
        if self.minimum is not None:
            parts.append(self.minimum.unsqueeze(-1).contiguous().view(torch.uint8))
        if self.type.bits == 8:
            parts.append((blocks - 128).to(torch.int8).view(torch.uint8))
        else:
            if self.type.bits == 5:
                parts.append(pack(blocks >> 4, 1))
            parts.append(pack(GGUF_HALVES.apply(blocks & 15), 4))
        return torch.cat(parts, -1).flatten(-2)

    @staticmethod
    def of(type_: BlockType, data: Tensor, shape: tuple[int, ...]) -> Blocks:
        """Inverse of `data`; shape [..., K] of the weight."""
        rows = data.reshape(math.prod(shape[:-1]), shape[-1] // BLOCK, type_.size)
        scale = rows[..., :2].contiguous().view(torch.float16).squeeze(-1)
        at = 2
        minimum = None
        if type_.minimum:
            minimum, at = rows[..., 2:4].contiguous().view(torch.float16).squeeze(-1), 4
        if type_.bits == 8:
            codes = rows[..., at:].contiguous().view(torch.int8).int() + 128
        else:
            high = 0
            if type_.bits == 5:
                high, at = unpack(rows[..., at : at + 4].contiguous(), 1, BLOCK) << 4, at + 4
            codes = GGUF_HALVES.undo(unpack(rows[..., at:].contiguous(), 4, BLOCK)) | high
        return Blocks(type_, codes.flatten(-2), scale, minimum)


def blocks_of(layer: Layer) -> Blocks | str:
    """A quantized weight in blocks, or why there is no type for it; its values stay the same to the bit."""
    spec = layer.spec
    if not isinstance(spec.format, Integer) or spec.bits > 8 or spec.parts is not None or len(spec.levels) > 1:
        return f"{spec.format.name}: only integers of at most 8 bits with one level of scales fit"
    columns = layer.codes.shape[-1]
    extent = spec.block[-1]
    if columns % BLOCK or (extent != -1 and extent % BLOCK):
        return f"{spec} on rows of {columns}: scales must hold for whole blocks of {BLOCK}"
    shape = layer.codes.shape
    step = expand_blocks(layer.scales[0], spec.block, shape)[..., ::BLOCK].contiguous()
    if not torch.equal(step.half().float(), step) or bool((step.half() == 0).any()):
        return f"{spec}: its scales are no float16 numbers; ask for scale=f16"
    bits = next(width for width in (4, 5, 8) if spec.bits <= width)
    middle = 1 << (bits - 1)
    zero = torch.zeros_like(step)
    if layer.zero_point is not None:
        zero = expand_blocks(layer.zero_point, spec.block, shape)[..., ::BLOCK]
    centred = layer.codes.unflatten(-1, (-1, BLOCK)) - zero.unsqueeze(-1)
    if -middle <= float(centred.min()) and float(centred.max()) < middle:
        codes = (centred + middle).flatten(-2).int()
        return Blocks(next(t for t in BLOCK_TYPES if t.bits == bits and not t.minimum), codes, step.half(), None)
    minimum = -zero.double() * step.double()
    typed = next((t for t in BLOCK_TYPES if t.bits == bits and t.minimum), None)
    if typed is None or not torch.equal(minimum.half().double(), minimum):
        return f"{spec}: its zero points make minima that float16 cannot hold; ask for symmetric weights"
    return Blocks(typed, layer.codes.int(), step.half(), minimum.half())


def write_gguf(path: Path, tensors: Mapping[str, Blocks | Tensor], metadata: Mapping[str, str | int]) -> None:
    """Writes a GGUF file.

    Args:
        path: of the file.
        tensors: by name; floats in float32, float16 or bfloat16.
        metadata: by key.

    Raises:
        OSError: when it cannot be written.
    """
    infos: list[bytes] = []
    offset = 0
    for name, tensor in tensors.items():
        shape, code, size = _info(tensor)
        text = _text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *reversed(shape))
        infos.append(text + struct.pack("<IQ", code, offset))
        offset += size + -size % _ALIGNMENT
    with path.open("wb") as file:
        file.write(_MAGIC + struct.pack("<IQQ", _VERSION, len(tensors), len(metadata)))
        for key, value in metadata.items():
            typed = struct.pack("<I", _STRING) + _text(value) if isinstance(value, str) else None
            file.write(_text(key) + (typed or struct.pack("<II", _UINT32, int(value))))
        file.write(b"".join(infos))
        file.write(bytes(-file.tell() % _ALIGNMENT))
        for tensor in tensors.values():
            data = tensor.data() if isinstance(tensor, Blocks) else tensor.contiguous().reshape(-1).view(torch.uint8)
            file.write(data.contiguous().numpy().data)
            file.write(bytes(-data.numel() % _ALIGNMENT))


def _info(tensor: Blocks | Tensor) -> tuple[tuple[int, ...], int, int]:
    """Shape, type number and bytes."""
    if isinstance(tensor, Blocks):
        shape = tuple(tensor.codes.shape)
        return shape, tensor.type.code, math.prod(shape) // BLOCK * tensor.type.size
    return tuple(tensor.shape), _CODES[tensor.dtype], tensor.numel() * tensor.element_size()


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


@dataclass(frozen=True)
class GgufFile:
    """What a GGUF file holds; tensors are read when somebody asks.

    Args:
        path: of the file.
        metadata: by key.
        places: shape, type number and first byte of each tensor, by name.
    """

    path: Path
    metadata: Mapping[str, Value]
    places: Mapping[str, tuple[tuple[int, ...], int, int]]

    def read(self, name: str) -> Coded | Tensor:
        """A tensor: floats as they are, quantized ones as codes.

        Raises:
            InputError: when the file is cut off, or the tensor holds NaN, or is of a type that is not read here.
        """
        shape, code, start = self.places[name]
        with _readable(self.path), self.path.open("rb") as file:
            file.seek(start)
            return _tensor(self.path, file, name, shape, code)

    def decode(self, files: WeightFiles, name: str, shape: tuple[int, ...]) -> Coded | None:
        """The weight called `name`; None when it is not stored quantized.

        Raises:
            InputError: when it has another shape, or cannot be read.
        """
        if name not in self.places or self.places[name][1] in FLOAT_TYPES:
            return None
        if self.places[name][0] != shape:
            found = list(self.places[name][0])
            raise misfit(files, name, f"it has shape {found}, the model wants {list(shape)}")
        coded = self.read(name)
        return coded if isinstance(coded, Coded) else None


def open_gguf(path: Path) -> GgufFile:
    """Reads the head of a GGUF file of version 2 or 3.

    Raises:
        InputError: when it is cut off, or no such file.
    """
    with _readable(path), path.open("rb") as file:
        if file.read(4) != _MAGIC:
            raise _unreadable(path, "it is no GGUF file")
        version, count, keys = _unpacked(file, "<IQQ")
        if version not in (2, 3):
            raise _unreadable(path, f"it has version {version}, 2 and 3 are read")
        metadata = {_string(file): _value(path, file, int(_unpacked(file, "<I")[0])) for _ in range(int(keys))}
        infos = [_tensor_info(file) for _ in range(int(count))]
        alignment = metadata.get("general.alignment", _ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise _unreadable(path, f"its alignment is {alignment!r}")
        start = file.tell() + -file.tell() % alignment
    return GgufFile(path, metadata, {name: (shape, code, start + offset) for name, shape, code, offset in infos})


def gguf_weights(path: Path) -> WeightFiles:
    """The tensors of a GGUF file, to be bound to a model that calls them by the same names.

    Raises:
        InputError: when the file cannot be read.
    """
    file = open_gguf(path)
    names = {dtype: name for name, dtype in DTYPES.items()}
    floats = {name: file.read(name) for name, (_, code, _) in file.places.items() if code in FLOAT_TYPES}
    plain = {name: tensor for name, tensor in floats.items() if isinstance(tensor, Tensor)}
    tensors = {name: ("quantized", shape) for name, (shape, _, _) in file.places.items()}
    tensors |= {name: (names[tensor.dtype], tuple(tensor.shape)) for name, tensor in plain.items()}
    return WeightFiles(path, dict.fromkeys(tensors, path), tensors, file, plain)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, struct.error, UnicodeDecodeError) as error:
        raise _unreadable(path, f"it cannot be read: {error}") from error


def _tensor_info(file: BinaryIO) -> tuple[str, tuple[int, ...], int, int]:
    name = _string(file)
    rank = int(_unpacked(file, "<I")[0])
    shape = tuple(int(size) for size in reversed(_unpacked(file, f"<{rank}Q")))
    code, offset = _unpacked(file, "<IQ")
    return name, shape, int(code), int(offset)


def _tensor(path: Path, file: BinaryIO, name: str, shape: tuple[int, ...], code: int) -> Coded | Tensor:
    type_ = next((known for known in BLOCK_TYPES if known.code == code), None)
    if type_ is None and code not in FLOAT_TYPES:
        known = ", ".join(["F32", "F16", "BF16", *(known.name for known in BLOCK_TYPES)])
        raise _unreadable(path, f"tensor '{name}' is of type {code}, and these are read: {known}")
    if type_ is not None and (not shape or shape[-1] % BLOCK):
        raise _unreadable(path, f"tensor '{name}' of shape {list(shape)} has no whole blocks of {BLOCK}")
    size = math.prod(shape)
    size = size // BLOCK * type_.size if type_ is not None else size * FLOAT_TYPES[code].itemsize
    data = torch.frombuffer(bytearray(_exactly(file, size)) or bytearray(1), dtype=torch.uint8)[:size]
    if type_ is None:
        tensor = data.view(FLOAT_TYPES[code]).reshape(shape)
        _check(path, name, tensor)
        return tensor
    return _coded(path, name, Blocks.of(type_, data, shape), shape)


def _coded(path: Path, name: str, blocks: Blocks, shape: tuple[int, ...]) -> Coded:
    """Codes under a positive scale: those of a negative one are counted from the other end."""
    bits, block = blocks.type.bits, (*(1 for _ in shape[:-1]), BLOCK)
    codes, scale = blocks.codes.unflatten(-1, (-1, BLOCK)), blocks.scale.float()
    _check(path, name, scale)
    top, middle = (1 << bits) - 1, 1 << (bits - 1)
    if blocks.minimum is not None:
        _check(path, name, blocks.minimum)
        zero = -blocks.minimum.float() / torch.where(scale == 0, 1.0, scale)
        whole = torch.equal(zero.round(), zero) and bool(((zero >= 0) & (zero <= top)).all())
        exact = torch.equal(zero.double() * scale.double(), -blocks.minimum.double())
        if not whole or not exact or bool((scale < 0).any()):
            raise _unreadable(path, f"tensor '{name}' has minima that are no whole number of steps")
    else:
        zero = torch.full_like(scale, float(middle))
    turned, empty = scale < 0, scale == 0
    codes = torch.where(turned.unsqueeze(-1), top - codes, codes)
    zero = torch.where(turned, top - zero, zero)
    codes = torch.where(empty.unsqueeze(-1), zero.unsqueeze(-1).to(codes.dtype), codes)
    scale = torch.where(empty, 1.0, scale.abs())
    symmetric = bool((zero == middle).all())
    values = (codes - middle if symmetric else codes).float().reshape(shape)
    counts = (*shape[:-1], shape[-1] // BLOCK)
    spec = integer_spec(bits, symmetric, block, "f16")
    return Coded(values, (scale.reshape(counts),), None if symmetric else zero.reshape(counts), spec)


def _check(path: Path, name: str, tensor: Tensor) -> None:
    if not bool(torch.isfinite(tensor).all()):
        raise _unreadable(path, f"tensor '{name}' holds NaN or infinity")


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise struct.error("the file ends too early")
    return data


def _unpacked(file: BinaryIO, layout: str) -> tuple[int, ...]:
    return struct.unpack(layout, _exactly(file, struct.calcsize(layout)))


def _string(file: BinaryIO) -> str:
    return _exactly(file, int(_unpacked(file, "<Q")[0])).decode()


def _value(path: Path, file: BinaryIO, kind: int) -> Value:
    if kind == _STRING:
        return _string(file)
    if kind == _ARRAY:
        inner, count = _unpacked(file, "<IQ")
        return [_value(path, file, int(inner)) for _ in range(int(count))]
    if kind not in _SCALARS:
        raise _unreadable(path, f"it has a value of kind {kind}")
    return _unpacked(file, f"<{_SCALARS[kind]}")[0]


def _unreadable(path: Path, why: str) -> InputError:
    return InputError(
        f"'{path.name}' is not what is read here: {why}",
        where=str(path),
        step=STEP,
        mend="is the file complete, and of the types that are read?",
    )
