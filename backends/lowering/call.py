"""One operator call as an emitter reads it: arguments by name, each getter checks the kind of value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import torch
from torch.fx.node import Argument

from qcompiler.errors import UnsupportedError
from qcompiler.ir.program import Node
from qcompiler.ir.types import Dim, SymbolType, TensorType, TupleType
from qcompiler.spec import QuantSpec


@dataclass(frozen=True)
class Call:
    """An operator node with its arguments bound.

    Args:
        node: the program node.
        op: text name of the operator; of the kernel for a kernel call.
        arguments: arguments by parameter name, defaults filled in; only the keyword ones for a kernel call.
        inputs: the positional arguments of a kernel call after its name; empty otherwise.
    """

    node: Node
    op: str
    arguments: Mapping[str, Argument]
    inputs: tuple[Argument, ...] = field(default=())

    @property
    def type(self) -> TensorType:
        """Type of the result; raises UnsupportedError when the node does not yield one tensor."""
        type_ = self.node.meta["type"]
        return type_ if isinstance(type_, TensorType) else self._refuse("its result is not one tensor")

    @property
    def types(self) -> list[TensorType | None]:
        """Types of several results; None where one is absent."""
        type_ = self.node.meta["type"]
        items = type_.items if isinstance(type_, TupleType) else (type_,)
        return [item if isinstance(item, TensorType) else None for item in items]

    def node_at(self, name: str) -> Node:
        """A tensor or symbol argument."""
        found = self.optional(name)
        return found if found is not None else self._refuse(f"'{name}' must be a tensor")

    def optional(self, name: str) -> Node | None:
        """A tensor argument that may be absent."""
        found = self.arguments.get(name)
        return found if found is None or isinstance(found, Node) else self._refuse(f"'{name}' must be a tensor")

    def tensor(self, name: str) -> TensorType:
        """Type of a tensor argument."""
        type_ = self.node_at(name).meta["type"]
        return type_ if isinstance(type_, TensorType) else self._refuse(f"'{name}' must be a tensor")

    def shape(self, name: str) -> tuple[Dim, ...]:
        """Shape of a tensor argument."""
        return self.tensor(name).shape

    def nodes(self, name: str) -> list[Node | None]:
        """A list of tensors, None where one is absent."""
        found = self.arguments[name]
        if not isinstance(found, list | tuple):
            return self._refuse(f"'{name}' must be a list of tensors")
        return [
            item if item is None or isinstance(item, Node) else self._refuse(f"'{name}' must hold tensors")
            for item in found
        ]

    def raw(self, name: str) -> Argument:
        """An argument of any kind."""
        return self.arguments.get(name)

    def integer(self, name: str) -> int:
        """A static integer."""
        found = static_size(self.arguments.get(name))
        return found if isinstance(found, int) else self._refuse(f"'{name}' must be a static integer")

    def integers(self, name: str) -> list[int]:
        """A list of static integers; a bare integer is a list of one."""
        sizes = self.sizes(name)
        return [size if isinstance(size, int) else self._refuse(f"'{name}' must be static") for size in sizes]

    def size(self, name: str, default: int) -> int | Node:
        """An integer, static or the node that computes it; `default` when absent."""
        found = self.arguments.get(name)
        return default if found is None else self._size(found, name)

    def sizes(self, name: str) -> list[int | Node]:
        """A list of integers, each static or a node; empty when absent."""
        found = self.arguments.get(name)
        if found is None:
            return []
        items = found if isinstance(found, list | tuple) else [found]
        return [self._size(item, name) for item in items]

    def axis(self, name: str, rank: int) -> int:
        """An axis counted from the front."""
        axis = self.integer(name)
        return axis + rank if axis < 0 else axis

    def axes(self, name: str, rank: int) -> list[int]:
        """Axes counted from the front; all of them when the argument is absent or empty."""
        found = self.integers(name)
        return [axis + rank if axis < 0 else axis for axis in found] or list(range(rank))

    def number(self, name: str, default: float | None = None) -> float:
        """A static number."""
        found = self.arguments.get(name)
        if found is None and default is not None:
            return default
        return found if isinstance(found, bool | int | float) else self._refuse(f"'{name}' must be a static number")

    def flag(self, name: str) -> bool:
        """A switch; absent means off."""
        return bool(self.arguments.get(name))

    def text(self, name: str) -> str:
        """A string."""
        found = self.arguments.get(name)
        return found if isinstance(found, str) else self._refuse(f"'{name}' must be a string")

    def dtype(self, name: str, default: torch.dtype) -> torch.dtype:
        """An element type; `default` when absent."""
        found = self.arguments.get(name)
        return found if isinstance(found, torch.dtype) else default

    def spec(self, name: str = "spec") -> QuantSpec:
        """A quantization spec."""
        found: object = self.arguments.get(name)
        return found if isinstance(found, QuantSpec) else self._refuse(f"'{name}' must be a spec")

    def unsupported(self, what: str, mend: str = "") -> UnsupportedError:
        """The error for a use of the operator that the target has no form for."""
        module = self.node.meta["origin"].module if "origin" in self.node.meta else ""
        return UnsupportedError(
            f"{self.op} cannot be written: {what}",
            where=f"%{self.node.name} = {self.op} from module {module or '(top)'}",
            step="emit",
            mend=mend,
        )

    def _size(self, found: Argument, name: str) -> int | Node:
        size = static_size(found)
        return size if size is not None else self._refuse(f"'{name}' must hold integers")

    def _refuse(self, what: str) -> NoReturn:
        raise self.unsupported(what)


def static_size(value: object) -> int | Node | None:
    """An integer argument as an int when it is known; None when it is no integer at all."""
    if isinstance(value, Node):
        type_ = value.meta["type"]
        if not isinstance(type_, SymbolType):
            return None
        return type_.expr if isinstance(type_.expr, int) else value
    return value if isinstance(value, int) and not isinstance(value, bool) else None
