"""The shape of Python values around tensors: how inputs are passed and how results come back.

A `Structure` mirrors nested tuples, lists, dicts, named tuples and dataclasses, with a leaf index where a tensor stood.
It is plain data: it prints as JSON and is rebuilt without unpickling anything.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from qcompiler.errors import InputError, ParseError

Kind = Literal["leaf", "const", "tuple", "list", "dict", "named"]
Constant = bool | int | float | str | None


@dataclass(frozen=True)
class Structure:
    """One level of nesting.

    Args:
        kind: `leaf` (a tensor), `const` (a plain Python value), `tuple`, `list`, `dict`, or `named` (a dataclass, named
            tuple or mapping class, restored as that class when it can be imported and takes these children, and as a
            dict otherwise).
        children: nested structures.
        keys: names of the children for `dict` and `named`.
        index: position of the tensor among the flat leaves.
        value: the constant.
        class_name: `module:qualname` of a `named` class.
    """

    kind: Kind
    children: tuple[Structure, ...] = ()
    keys: tuple[str, ...] = ()
    index: int = 0
    value: Constant = None
    class_name: str = ""

    def leaf_count(self) -> int:
        """Number of tensors below."""
        return 1 if self.kind == "leaf" else sum(child.leaf_count() for child in self.children)

    def build(self, leaves: Sequence[object]) -> object:
        """Puts the leaves back into their Python containers."""
        if self.kind == "leaf":
            return leaves[self.index]
        if self.kind == "const":
            return self.value
        items = [child.build(leaves) for child in self.children]
        if self.kind == "tuple":
            return tuple(items)
        if self.kind == "list":
            return items
        mapping = dict(zip(self.keys, items, strict=True))
        return mapping if self.kind == "dict" else _restore(self.class_name, mapping)

    def flatten(self, value: object, path: str = "inputs") -> list[object]:
        """The leaves of `value`, which must have this structure.

        Raises:
            InputError: when `value` has another shape; the message names the path to the difference.
        """
        if self.kind == "leaf":
            return [value]
        if self.kind == "const":
            if value is not None and not _equal_constant(value, self.value):
                now = repr(value) if _is_constant(value) else _short(value)
                raise InputError(
                    f"{path} was {self.value!r} when the model was traced and is {now} now",
                    mend="pass the traced value, or trace again with the new one",
                )
            return []
        items = _children_of(value, self, path)
        return [
            leaf for child, (name, item) in zip(self.children, items, strict=True) for leaf in child.flatten(item, name)
        ]

    def to_json(self) -> object:
        """Plain JSON data; `from_json` inverts it."""
        if self.kind == "leaf":
            return self.index
        if self.kind == "const":
            return {"const": self.value}
        children = [child.to_json() for child in self.children]
        if self.kind in ("tuple", "list"):
            return {self.kind: children}
        body = dict(zip(self.keys, children, strict=True))
        return {"dict": body} if self.kind == "dict" else {"named": self.class_name, "fields": body}

    def __str__(self) -> str:
        return json.dumps(self.to_json())


@dataclass(frozen=True)
class Signature:
    """How a Program is called: structures of positional and keyword inputs and of the result, over flat leaves."""

    args: Structure
    kwargs: Structure
    result: Structure

    @staticmethod
    def flat(inputs: int, outputs: int) -> Signature:
        """All inputs positional; one output bare, several as a tuple."""
        leaves = tuple(Structure("leaf", index=i) for i in range(max(inputs, outputs)))
        result = leaves[0] if outputs == 1 else Structure("tuple", leaves[:outputs])
        return Signature(Structure("tuple", leaves[:inputs]), Structure("dict"), result)


def from_json(data: object) -> Structure:
    """Reads what `Structure.to_json` wrote."""
    if isinstance(data, int):
        return Structure("leaf", index=data)
    if not isinstance(data, dict):
        raise ParseError(f"'{data}' is not a value structure")
    if "const" in data:
        return Structure("const", value=data["const"])
    for kind in ("tuple", "list"):
        if kind in data:
            return Structure(kind, tuple(from_json(item) for item in data[kind]))
    body = data["dict"] if "dict" in data else data["fields"]
    children = tuple(from_json(item) for item in body.values())
    return Structure("named" if "named" in data else "dict", children, tuple(body), class_name=data.get("named", ""))


def describe(value: object) -> tuple[Structure, list[torch.Tensor], list[str]]:
    """Takes a Python value apart.

    Returns:
        its structure, its tensors in order, and a dotted path for each tensor.

    Raises:
        InputError: for a value that is neither container, tensor nor plain constant.
    """
    leaves: list[torch.Tensor] = []
    paths: list[str] = []

    def visit(item: object, path: str) -> Structure:
        if isinstance(item, np.ndarray | np.generic):
            item = torch.from_numpy(np.array(item))
        if isinstance(item, torch.Tensor):
            leaves.append(item)
            paths.append(path)
            return Structure("leaf", index=len(leaves) - 1)
        if _is_constant(item):
            return Structure("const", value=item)  # pyright: ignore[reportArgumentType]
        kind, keys, items, class_name = _take_apart(item, path)
        children = tuple(visit(child, f"{path}.{key}" if path else key) for key, child in zip(keys, items, strict=True))
        return Structure(kind, children, keys if kind in ("dict", "named") else (), class_name=class_name)

    return visit(value, ""), leaves, paths


def _take_apart(item: object, path: str) -> tuple[Kind, tuple[str, ...], list[object], str]:
    if isinstance(item, tuple) and hasattr(item, "_fields"):
        return "named", tuple(item._fields), list(item), _class_name(item)  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(item, tuple | list):
        kind: Kind = "tuple" if isinstance(item, tuple) else "list"
        return kind, tuple(str(i) for i in range(len(item))), list(item), ""
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        if isinstance(item, Mapping):
            present = {str(key): value for key, value in item.items()}
        else:
            present = {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
        return "named", tuple(present), list(present.values()), _class_name(item)
    if isinstance(item, Mapping):
        kind = "dict" if type(item) is dict else "named"
        return (
            kind,
            tuple(str(key) for key in item),
            list(item.values()),
            _class_name(item) if kind == "named" else "",
        )
    raise InputError(
        f"a value of type {type(item).__name__} cannot be an input or a result",
        where=path,
        mend="use tensors, numbers, strings, None, and tuples, lists, dicts or dataclasses of them",
    )


def _class_name(item: object) -> str:
    return f"{type(item).__module__}:{type(item).__qualname__}"


def _restore(class_name: str, mapping: dict[str, object]) -> object:
    module_name, _, qualname = class_name.partition(":")
    try:
        target: object = importlib.import_module(module_name)
        for part in qualname.split("."):
            target = getattr(target, part)
    except (ImportError, AttributeError):
        return mapping
    if not isinstance(target, type) or not (dataclasses.is_dataclass(target) or issubclass(target, tuple | Mapping)):
        return mapping
    try:
        return target(**mapping)
    except TypeError:
        return mapping


def _is_constant(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _equal_constant(value: object, traced: Constant) -> bool:
    return type(value) is type(traced) and value == traced


def _children_of(value: object, structure: Structure, path: str) -> list[tuple[str, object]]:
    if structure.kind in ("tuple", "list"):
        if not isinstance(value, tuple | list) or len(value) != len(structure.children):
            raise InputError(
                f"{path} must be a {structure.kind} of {len(structure.children)} values, got {_short(value)}"
            )
        return [(f"{path}[{i}]", item) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        getter = {str(key): item for key, item in value.items()}
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        getter = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        getter = dict(value._asdict())  # pyright: ignore[reportAttributeAccessIssue]
    else:
        raise InputError(f"{path} must hold {', '.join(structure.keys)}, got {_short(value)}")
    unknown = [key for key, item in getter.items() if key not in structure.keys and item is not None]
    missing = [
        key
        for key, child in zip(structure.keys, structure.children, strict=True)
        if key not in getter and child.leaf_count()
    ]
    if unknown or missing:
        raise InputError(
            f"{path}: "
            + "; ".join(
                text
                for text in (
                    f"unknown {', '.join(unknown)}" if unknown else "",
                    f"missing {', '.join(missing)}" if missing else "",
                )
                if text
            ),
            mend=f"the model takes {', '.join(structure.keys)}" if structure.keys else "",
        )
    return [(f"{path}.{key}", getter.get(key)) for key in structure.keys]


def _short(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__
