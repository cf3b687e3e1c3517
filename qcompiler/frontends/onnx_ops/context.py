"""What an ONNX operator's import function sees: its inputs, its attributes, and a way to add ATen nodes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

import numpy as np
import onnx_ir
import sympy
import torch
from torch.utils._sympy.functions import FloorDiv, Max, Min, Mod, PythonMod

from qcompiler.errors import InputError, UnsupportedError, VerifyError
from qcompiler.ir.program import Node, Program
from qcompiler.ir.types import Dim, Type

_Option = TypeVar("_Option", int, float, str)

Number = int | float
Size = int | Node


@dataclass(frozen=True, eq=False)
class Known:
    """A tensor whose value is known at import: an initializer, a constant, or a fold of those."""

    name: str
    tensor: torch.Tensor


@dataclass(frozen=True, eq=False)
class Sizes:
    """An integer tensor computed from shapes alone; `items` is an object array of dimensions."""

    items: np.ndarray
    dtype: torch.dtype = torch.int64


Value = Node | Known | Sizes
Result = Value | Sequence[Value | None]

_FOLDS: dict[type, str] = {sympy.Add: "sym.add", sympy.Mul: "sym.mul", Max: "sym.max", Min: "sym.min"}
_PAIRS: dict[type, str] = {FloorDiv: "sym.floordiv", Mod: "sym.mod", PythonMod: "sym.mod", sympy.Pow: "sym.pow"}


@dataclass
class Emitter:
    """Appends nodes to a Program; keeps one node per parameter and per size.

    Args:
        program: grows.
        module: where the nodes to come are from.
        borrow: yields a symbol that no value at hand has as a size; None when there is nowhere to ask.
    """

    program: Program
    module: str = ""
    borrow: Callable[[sympy.Symbol], Node] | None = None
    _params: dict[tuple[Known, str], Node] = field(default_factory=dict)
    _stored: dict[tuple[Known, str], torch.Tensor] = field(default_factory=dict)
    _sizes: dict[Dim, Node] = field(default_factory=dict)
    _sources: dict[Dim, tuple[Node, int]] = field(default_factory=dict)
    _first: Node | None = None

    def call(
        self, op: str, *args: object, kwargs: Mapping[str, object] | None = None, type_: Type | None = None
    ) -> Node:
        """Adds one operator call; its type is inferred when None.

        Raises:
            VerifyError: when the arguments do not fit the operator.
        """
        name = op.split(".")[1] if "." in op else op
        node = self.program.append(module=self.module).call(op, *args, kwargs=kwargs, name=name, type_=type_)
        self._first = self._first or node
        return node

    def param(self, known: Known, variant: str = "", value: torch.Tensor | None = None, name: str = "") -> Node:
        """The parameter node of a known tensor.

        Args:
            known: the tensor.
            variant: tells several forms of one tensor apart.
            value: the form to store when it is not the tensor itself.
            name: of the parameter; the tensor's own when empty.
        """
        key = (known, variant)
        if key not in self._params:
            stored = self._stored.setdefault(key, known.tensor if value is None else value)
            if self._first is None:
                node = self.program.add_param(name or known.name, stored)
            else:
                node = self.program.before(self._first).param(name or known.name, stored)
            self._params[key] = node
        return self._params[key]

    def nested(self, program: Program, borrow: Callable[[sympy.Symbol], Node]) -> Emitter:
        """What appends to the program of a subgraph; forms of one tensor are shared."""
        return Emitter(program, self.module, borrow, _stored=self._stored)

    def remember_shape(self, node: Node) -> None:
        """Lets later sizes that equal a dimension of `node` be read from it."""
        for axis, dim in enumerate(self.program.shape(node)):
            self._sources.setdefault(dim, (node, axis))

    def size(self, dim: Dim) -> Size:
        """A dimension as an argument: an int, or the node that yields it.

        Raises:
            UnsupportedError: for an expression that has no operators.
        """
        if isinstance(dim, int) or dim.is_Integer:
            return int(dim)
        if dim not in self._sizes:
            self._sizes[dim] = self._size_node(dim)
        return self._sizes[dim]

    def _size_node(self, dim: sympy.Expr) -> Node:
        if dim in self._sources:
            node, axis = self._sources[dim]
            return self.call("aten.sym_size.int", node, axis)
        if self.borrow is not None and isinstance(dim, sympy.Symbol):
            return self.borrow(dim)
        arguments = [self.size(cast(Dim, argument)) for argument in dim.args]
        kind = type(dim)
        if kind in _PAIRS:
            return self.call(_PAIRS[kind], *arguments)
        if kind not in _FOLDS:
            raise UnsupportedError(
                f"the size expression '{dim}' has no operators", mend="give that dimension a fixed size"
            )
        total = arguments[0]
        for argument in arguments[1:]:
            total = self.call(_FOLDS[kind], total, argument)
        return cast(Node, total)

    def tensor(self, value: Value) -> Node:
        """Any value as a tensor node; sizes become an integer tensor."""
        if isinstance(value, Node):
            return value
        if isinstance(value, Known):
            return self.param(value)
        options = {"dtype": value.dtype}
        if value.items.ndim == 0:
            return self.call("aten.full", [], self.size(value.items.item()), kwargs=options)
        parts = [self.call("aten.full", [1], self.size(dim), kwargs=options) for dim in value.items.reshape(-1)]
        flat = parts[0] if len(parts) == 1 else self.call("aten.cat", parts, 0)
        return flat if value.items.ndim == 1 else self.call("aten.reshape", flat, list(value.items.shape))


@dataclass(frozen=True)
class OpContext:
    """One ONNX node during import.

    Args:
        emitter: where nodes are added.
        node: the ONNX node.
        version: opset version of the node's domain.
        inputs: its inputs in order, None where an optional one is absent.
        read: names of the attributes and numbers of the inputs that were looked at so far.
    """

    emitter: Emitter
    node: onnx_ir.Node
    version: int
    inputs: tuple[Value | None, ...]
    read: set[str | int] = field(default_factory=set)

    # -- inputs -------------------------------------------------------------------------------------------------------

    def value(self, index: int) -> Value:
        """Input `index`, which must be there.

        Raises:
            InputError: when it is absent.
        """
        self.read.add(index)
        value = self.inputs[index] if index < len(self.inputs) else None
        if value is None:
            raise InputError(
                f"{self.node.op_type} lacks its input {index}", where=self.where, mend="export the model again"
            )
        return value

    def has(self, index: int) -> bool:
        """Whether input `index` is given."""
        self.read.add(index)
        return index < len(self.inputs) and self.inputs[index] is not None

    def tensor(self, index: int) -> Node:
        """Input `index` as a tensor node."""
        return self.emitter.tensor(self.value(index))

    def optional(self, index: int) -> Node | None:
        """Input `index` as a tensor node, None when absent."""
        return self.tensor(index) if self.has(index) else None

    def tensors(self) -> list[Node]:
        """All given inputs as tensor nodes."""
        return [self.tensor(index) for index in range(len(self.inputs)) if self.has(index)]

    def known(self, index: int) -> torch.Tensor | None:
        """The value of input `index` when it is known at import."""
        value = self.inputs[index] if self.has(index) else None
        return value.tensor if isinstance(value, Known) else None

    def constant(self, index: int, what: str) -> torch.Tensor:
        """The value of input `index`.

        Raises:
            UnsupportedError: when it depends on the model's inputs.
        """
        tensor = self.known(index)
        if tensor is None:
            raise self.refuse(f"{what} must be constant, here it is computed from the model's inputs")
        return tensor

    def ints(self, index: int, what: str) -> list[int]:
        """Input `index` as constant integers, flat."""
        return [int(item) for item in self.constant(index, what).reshape(-1).tolist()]

    def dims(self, index: int, what: str) -> list[Dim]:
        """Input `index` as dimensions, flat.

        Raises:
            UnsupportedError: when it is computed from data instead of shapes.
        """
        value = self.value(index)
        if isinstance(value, Sizes):
            return list(value.items.reshape(-1))
        if isinstance(value, Known):
            return [*self.ints(index, what)]
        raise self.refuse(f"{what} must be constant or computed from shapes, here it depends on data")

    def scalar(self, index: int, rank: int) -> Number | None:
        """Input `index` as a Python number, when it is one known number that broadcasts into `rank` axes."""
        tensor = self.known(index)
        if (
            tensor is None
            or tensor.numel() != 1
            or tensor.dim() > rank
            or tensor.dtype == torch.bool
            or tensor.is_complex()
        ):
            return None
        return _shortest(tensor.item(), tensor.dtype)

    # -- attributes ---------------------------------------------------------------------------------------------------

    def attribute(self, name: str) -> onnx_ir.Attr | None:
        """Attribute `name`, None when absent."""
        self.read.add(name)
        return self.node.attributes.get(name)

    def integer(self, name: str, default: int | None = None) -> int:
        """Integer attribute; without a default it must be there."""
        attribute = self.attribute(name)
        return attribute.as_int() if attribute else self._default(name, default)

    def real(self, name: str, default: float | None = None) -> float:
        """Real attribute; without a default it must be there."""
        attribute = self.attribute(name)
        return float(_shortest(attribute.as_float(), torch.float32)) if attribute else self._default(name, default)

    def word(self, name: str, default: str | None = None) -> str:
        """Text attribute; without a default it must be there."""
        attribute = self.attribute(name)
        return attribute.as_string() if attribute else self._default(name, default)

    def integers(self, name: str) -> list[int] | None:
        """Integer-list attribute, None when absent."""
        attribute = self.attribute(name)
        return list(attribute.as_ints()) if attribute else None

    def reals(self, name: str) -> list[float] | None:
        """Real-list attribute, None when absent."""
        attribute = self.attribute(name)
        return list(attribute.as_floats()) if attribute else None

    def _default(self, name: str, default: _Option | None) -> _Option:
        if default is None:
            raise InputError(
                f"{self.node.op_type} lacks its attribute '{name}'", where=self.where, mend="export the model again"
            )
        return default

    # -- types --------------------------------------------------------------------------------------------------------

    def shape(self, node: Node) -> tuple[Dim, ...]:
        """Shape of a tensor node."""
        return self.emitter.program.shape(node)

    def rank(self, node: Node) -> int:
        """Number of axes of a tensor node."""
        return len(self.shape(node))

    def dtype(self, node: Node) -> torch.dtype:
        """Element type of a tensor node."""
        return self.emitter.program.tensor_type(node).dtype

    def axis(self, axis: int, rank: int) -> int:
        """A non-negative axis.

        Raises:
            VerifyError: when it lies outside the rank.
        """
        if not -rank <= axis < max(rank, 1):
            raise VerifyError(f"axis {axis} of {self.node.op_type} lies outside a tensor with {rank} axes")
        return axis % max(rank, 1)

    def static(self, dim: Dim, what: str) -> int:
        """A dimension that must have a fixed size.

        Raises:
            UnsupportedError: when it is symbolic.
        """
        if isinstance(dim, int) or dim.is_Integer:
            return int(dim)
        raise self.refuse(
            f"{what} must have a fixed size, here it is symbolic", mend="give that dimension a fixed size"
        )

    # -- making -------------------------------------------------------------------------------------------------------

    def call(self, op: str, *args: object, kwargs: Mapping[str, object] | None = None) -> Node:
        """Adds one operator call."""
        return self.emitter.call(op, *args, kwargs=kwargs)

    def size(self, dim: Dim) -> Size:
        """A dimension as an argument."""
        return self.emitter.size(dim)

    def items(self, node: Node, count: int) -> list[Node]:
        """The first `count` results of a tuple-valued node."""
        return [self.call("getitem", node, index) for index in range(count)]

    def fixed(self, name: str, tensor: torch.Tensor) -> Node:
        """A parameter that the import itself makes."""
        return self.emitter.param(Known(name, tensor))

    def weight_name(self, index: int) -> str:
        """Name for the weight in input `index`: its own, or one after the module where the exporter numbered it."""
        value = self.value(index)
        name = value.name if isinstance(value, Known) else ""
        numbered = re.fullmatch(r"val_\d+|onnx::\w+|\d+", name) is not None
        return f"{self.emitter.module}.weight" if numbered and self.emitter.module else name

    def reform(self, index: int, variant: str, value: torch.Tensor, name: str = "") -> Node:
        """The parameter of the known input `index` in another form, shared by all who ask for that form."""
        known = self.value(index)
        if not isinstance(known, Known):
            raise self.refuse(f"input {index} must be constant")
        return self.emitter.param(known, variant, value, name)

    def cast(self, node: Node, dtype: torch.dtype) -> Node:
        """`node` converted to `dtype`; itself when it has that type."""
        return node if self.dtype(node) == dtype else self.call("aten._to_copy", node, kwargs={"dtype": dtype})

    # -- words --------------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Name of the ONNX node, or of its first output."""
        return self.node.name or self.node.outputs[0].name or self.node.op_type

    @property
    def where(self) -> str:
        """The node in words."""
        module = self.emitter.module
        return f"node '{self.name}' ({self.node.op_type})" + (
            f" from module {module}" if module and module != self.name else ""
        )

    def refuse(self, what: str, mend: str = "") -> UnsupportedError:
        """An error about a form of this operator that the import does not know."""
        return UnsupportedError(
            f"{self.node.op_type}: {what}",
            where=self.where,
            step="import onnx",
            mend=mend or "change the model or its export so that the operator keeps to the supported form",
        )


def _shortest(number: Number, dtype: torch.dtype) -> Number:
    """The shortest decimal that rounds to the same float32, which is what the model's author wrote."""
    return float(str(np.float32(number))) if dtype == torch.float32 else number


def floor_divide(left: Dim, right: Dim) -> Dim:
    """`left // right` as torch writes it."""
    if isinstance(left, int) and isinstance(right, int):
        return left // right
    return cast(sympy.Expr, FloorDiv(sympy.sympify(left), sympy.sympify(right)))
