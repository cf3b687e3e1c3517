"""Arguments of kernels: one struct each, which the header states and Python reads from there."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping
from functools import cache

from qcompiler.backends.cuda.kernels.row import RUNTIME, CudaKernel
from qcompiler.errors import VerifyError

_FIELD = re.compile(r"^\s*(?:const )?(\w+) (\*?)(\w+);", re.MULTILINE)
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_KINDS: dict[str, type[ctypes._SimpleCData]] = {
    "int32_t": ctypes.c_int32,
    "uint32_t": ctypes.c_uint32,
    "int64_t": ctypes.c_int64,
    "float": ctypes.c_float,
}
_INTEGERS = 1 << 31
"""Of either sign, of 32 bits."""
Value = int | float
"""Pointers are addresses."""


@cache
def fields_of(kernel: CudaKernel) -> tuple[tuple[str, str], ...]:
    """Names and types of the arguments in order; the type of any pointer is `*`.

    Raises:
        VerifyError: when the header does not state them so that they can be read.
    """
    stated = _COMMENT.sub("", _stated(kernel)[1])
    found = tuple((name, "*" if star else kind) for kind, star, name in _FIELD.findall(stated))
    unknown = [kind for _, kind in found if kind != "*" and kind not in _KINDS]
    if unknown or len(found) != stated.count(";"):
        raise VerifyError(f"{kernel.stated}: a field of {kernel.arguments} is no pointer and none of {list(_KINDS)}")
    return found


def struct_text(kernel: CudaKernel) -> str:
    """The struct with its comments, which is C too; raises VerifyError when the header states none."""
    return _stated(kernel)[0]


def _stated(kernel: CudaKernel) -> re.Match[str]:
    text = (RUNTIME / kernel.stated).read_text()
    match = re.search(rf"struct {kernel.arguments} \{{\n(.*?)\n\}};", text, re.DOTALL)
    if match is None:
        raise VerifyError(f"{kernel.stated} states no struct {kernel.arguments}")
    return match


def pack(kernel: CudaKernel, values: Mapping[str, Value]) -> ctypes.Structure:
    """The struct as kernels take it; fields that are absent are zero.

    Raises:
        VerifyError: for a field that the kernel does not have, or that does not hold its number.
    """
    type_ = structure(kernel)
    unknown = values.keys() - {name for name, _ in fields_of(kernel)}
    if unknown:
        raise VerifyError(f"kernel {kernel.name} has no argument {', '.join(sorted(unknown))}")
    for name, kind in fields_of(kernel):
        if kind == "int32_t" and not -_INTEGERS <= values.get(name, 0) < _INTEGERS:
            raise VerifyError(f"kernel {kernel.name} cannot take {name} of {values[name]}", mend="call it with less")
    return type_(**values)


@cache
def structure(kernel: CudaKernel) -> type[ctypes.Structure]:
    """The struct's type, laid out as C lays it out."""
    fields = [(name, ctypes.c_void_p if kind == "*" else _KINDS[kind]) for name, kind in fields_of(kernel)]
    return type(kernel.arguments, (ctypes.Structure,), {"_fields_": fields})


def grid_of(kernel: CudaKernel, instance_name: str, values: Mapping[str, Value]) -> tuple[int, int, int]:
    """How many blocks an instance needs along each axis for these arguments.

    Raises:
        KeyError: for an instance that does not exist.
    """
    instance = {one.name: one for one in kernel.instances}[instance_name]
    sizes = {name: int(value) for name, value in values.items()}
    x, y, z = (axis.blocks({name: sizes[name] for name in axis.fields}) for axis in instance.grid)
    return x, y, z
