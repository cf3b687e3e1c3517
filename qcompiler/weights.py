"""A Program on disk: its text form beside a weight file in which codes lie packed at their own width."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from qcompiler.errors import InputError, ParseError, VerifyError
from qcompiler.formats.pack import pack, unpack
from qcompiler.ir.fill import Fill, digest_of
from qcompiler.ir.parse import parse_program
from qcompiler.ir.program import Program
from qcompiler.ir.region import copy_deep, nested_param_nodes, resolve_params
from qcompiler.ir.states import resolve_states, state_place, stored_states
from qcompiler.ir.text import INLINE_VALUES, print_program
from qcompiler.ir.types import TensorType
from qcompiler.spec import QuantSpec

PROGRAM_FILE = "program.qir"
WEIGHT_FILE = "weights.safetensors"
_SHARED = "shared"


def write_program(
    program: Program, folder: Path, text_file: str = PROGRAM_FILE, weight_file: str = WEIGHT_FILE
) -> tuple[str, ...]:
    """Writes text and weights of a program of any stage; returns the names of the files.

    Parameters that hold codes are stored packed, equal ones once; every other one in its dtype. A handful of
    numbers stays in the text.

    Raises:
        VerifyError: when a parameter holds values that its format lacks.
        OSError: when the weights cannot be written.
    """
    written = copy_deep(program)
    stored: dict[str, Tensor] = {}
    first_of: dict[tuple[str, str], str] = {}
    shared: dict[str, str] = {}
    for name, owner, node in nested_param_nodes(written):
        type_, value = owner.tensor_type(node), owner.rounded(node)
        if isinstance(value, Fill):
            if not value.at_hand:
                continue
            value = owner.param(node)
        codes, carrier = encoded(value.detach(), type_.spec, name)
        owner.params[str(node.target)] = fill = _as_text(carrier, type_)
        if fill.kind != "digest":
            continue
        first = first_of.setdefault((fill.digest, str(type_.spec)), name)
        if first == name:
            packed = codes.contiguous()
            stored[name] = packed.clone() if packed.data_ptr() == value.data_ptr() else packed
        else:
            shared[name] = first
    for name, place, value in list(stored_states(written)):
        written.states[name] = fill = _as_text(value, TensorType(value.dtype, tuple(value.shape)))
        if fill.kind == "digest":
            stored[place] = value.contiguous()
    (folder / text_file).write_text(print_program(written), encoding="utf-8")
    path = folder / weight_file
    try:
        save_file(stored, path, metadata={_SHARED: json.dumps(shared, sort_keys=True)})
    except SafetensorError as error:
        raise system_error(error, path) from error
    # The library writes for the owner's eyes only; the folder says who may read an artefact.
    path.chmod(folder.stat().st_mode & 0o666)
    return text_file, weight_file


def read_program(folder: Path, text_file: str = PROGRAM_FILE, weight_file: str = WEIGHT_FILE) -> Program:
    """Reads what `write_program` wrote; never unpickles.

    Raises:
        InputError: when a file is missing, unreadable, or not the one that was written.
    """
    try:
        program = parse_program((folder / text_file).read_text(encoding="utf-8"))
        with safe_open(folder / weight_file, framework="pt") as file:
            shared = json.loads((file.metadata() or {}).get(_SHARED, "{}"))
            present = set(file.keys())
            weights = {
                name: decoded(file.get_tensor(place), owner.tensor_type(node))
                for name, owner, node in nested_param_nodes(program)
                if (place := shared.get(name, name)) in present
            }
            weights |= {place: file.get_tensor(place) for place in map(state_place, program.states) if place in present}
    except (OSError, ValueError, SafetensorError, ParseError) as error:
        text = error.what if isinstance(error, ParseError) else str(error)
        raise InputError(
            f"cannot read the program: {text}", where=str(folder), mend="write the artefact again"
        ) from error
    resolve_params(program, weights)
    resolve_states(program, weights)
    return program


def read_states(
    folder: Path, states: Sequence[tuple[str, TensorType, Fill]], weight_file: str = WEIGHT_FILE
) -> list[Tensor]:
    """What the first call of an artefact starts from, without reading its program.

    Args:
        folder: that `write_program` wrote into.
        states: name, type and value of each, as the manifest has them.
        weight_file: as there.

    Raises:
        InputError: when the file of weights is missing or unreadable.
    """
    found: list[Tensor] = []
    for name, type_, first in states:
        if first.kind != "digest":
            found.append(first.materialize(type_))
            continue
        try:
            with safe_open(folder / weight_file, framework="pt") as file:
                found.append(file.get_tensor(state_place(name)))
        except (OSError, SafetensorError) as error:
            raise InputError(f"cannot read the state '{name}': {error}", where=str(folder)) from error
    return found


def system_error(error: SafetensorError, path: Path) -> OSError:
    """The library's words as the error that the system raised, so that a full disk is recognised as one."""
    match = re.search(r"os error (\d+)", str(error))
    number = int(match[1]) if match else errno.EIO
    return OSError(number, os.strerror(number) if match else str(error), str(path))


def encoded(value: Tensor, spec: QuantSpec | None, name: str) -> tuple[Tensor, Tensor]:
    """What is stored, and the carrier that loading gives back (which has no negative zeros)."""
    if spec is None:
        return value, value
    packed = pack(spec.format.encode(value.reshape(-1) if value.dim() == 0 else value), spec.bits)
    carrier = decoded(packed, TensorType(value.dtype, tuple(value.shape), spec))
    if not torch.equal(carrier, value):
        raise VerifyError(f"parameter '{name}' holds values that {spec.format.name} lacks", where=str(spec))
    return packed, carrier


def decoded(stored: Tensor, type_: TensorType) -> Tensor:
    """What `encoded` stored, as the values of a type."""
    if type_.spec is None:
        return stored
    shape = [int(dim) for dim in type_.shape]
    codes = unpack(stored, type_.spec.bits, shape[-1] if shape else 1)
    return type_.spec.format.decode(codes).to(type_.dtype).reshape(shape)


def _as_text(value: Tensor, type_: TensorType) -> Fill:
    """Numbers where they are few and survive as text, else a digest."""
    digest = digest_of(value)
    if value.numel() <= INLINE_VALUES and not value.is_complex():
        numbers = Fill("values", values=tuple(value.double().reshape(-1).tolist()))
        exact = value.dtype != torch.int64 or bool((value.abs() < 2**53).all())
        if exact and not _negative_zero(value) and digest_of(numbers.materialize(type_)) == digest:
            return numbers
    return Fill("digest", digest=digest)


def _negative_zero(value: Tensor) -> bool:
    return value.is_floating_point() and bool((value.signbit() & (value == 0)).any())
