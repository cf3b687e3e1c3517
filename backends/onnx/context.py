"""What an emitter writes into: ONNX nodes, shared constants, sizes, and the value of every program node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
import onnx_ir as ir
import torch

from qcompiler.backends.lowering.call import Call, static_size
from qcompiler.backends.onnx.dtypes import OPEN_ENDED, as_numpy, container, onnx_dtype
from qcompiler.backends.onnx.older import Wanted, check_known, rule_for
from qcompiler.backends.onnx.whole import narrowed, widened
from qcompiler.errors import UnsupportedError
from qcompiler.ir.program import Node, Origin, Program
from qcompiler.ir.text import print_dim
from qcompiler.ir.types import Dim, SymbolType, TensorType, TupleType, Type

Attribute = int | float | str | Sequence[int] | Sequence[float] | Sequence[str] | ir.Graph
Emitted = ir.Value | list[ir.Value]
Emitter = Callable[["Context", Call], Emitted]
KernelEmitter = Emitter

_DEDUPLICATED_BYTES = 4096


@dataclass
class Context:
    """One ONNX graph under construction.

    Args:
        program: the program that is written.
        opset: version of the standard operator set.
        nodes: the ONNX nodes so far, in order.
        initializers: the constants so far, in order.
        domains: operator sets used beside the standard one, with their versions.
        write_body: writes the nodes of a program into a context; what the graphs inside this one are written with.
        four_bit_floats: whether the reader of the file knows the element type FLOAT4E2M1.
    """

    program: Program
    opset: int
    write_body: Callable[[Context], None]
    four_bit_floats: bool = False
    nodes: list[ir.Node] = field(default_factory=list)
    initializers: list[ir.Value] = field(default_factory=list)
    domains: dict[str, int] = field(default_factory=dict)
    _values: dict[Node, Emitted] = field(default_factory=dict)
    _shared: dict[object, ir.Value] = field(default_factory=dict)
    _constants: dict[object, ir.Value] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)
    _named: int = 0

    # -- writing -------------------------------------------------------------------------------------------

    def op(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Attribute] | None = None,
        domain: str = "",
    ) -> ir.Value:
        """Adds an ONNX node with one result; None stands for an input that is left out."""
        return self.ops(kind, inputs, attributes, domain)[0]

    def ops(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Attribute] | None = None,
        domain: str = "",
        outputs: int = 1,
    ) -> list[ir.Value]:
        """Adds an ONNX node with several results; what the operator set lacks is written with what it has.

        Raises:
            UnsupportedError: for what the operator set has no form for.
        """
        given = list(inputs)
        while given and given[-1] is None:
            given.pop()
        if domain:
            self.domains[domain] = 1
        else:
            wanted = Wanted(kind, given, attributes or {}, outputs)
            rule = rule_for(kind, self.opset)
            written = rule(self, wanted) if rule is not None else wanted
            if isinstance(written, list):
                return written
            check_known(written, self.opset)
            given, attributes = list(written.inputs), written.attributes
        node = ir.node(kind, given, dict(attributes or {}), domain=domain, num_outputs=outputs)
        self.nodes.append(node)
        return list(node.outputs)

    def shared(
        self, kind: str, inputs: Sequence[ir.Value], attributes: Mapping[str, Attribute] | None = None
    ) -> ir.Value:
        """Like `op`, but an equal earlier call is used again: sizes and masks repeat in every layer."""
        given = sorted((name, repr(value)) for name, value in (attributes or {}).items())
        key = (kind, tuple(map(id, inputs)), tuple(given))
        return self.memo(key, lambda: self.op(kind, inputs, attributes))

    def memo(self, key: object, make: Callable[[], ir.Value]) -> ir.Value:
        """The value made under `key` before, or what `make` makes now."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    def memo_constant(self, key: object, make: Callable[[], ir.Value]) -> ir.Value:
        """Like `memo` for initializers, which the graphs inside this one and around it share."""
        if key not in self._constants:
            self._constants[key] = make()
        return self._constants[key]

    def nested(self, program: Program) -> Context:
        """The context of a graph inside this one: it sees the values made so far, and shares names and initializers."""
        inner = replace(self, program=program, nodes=[], _values={}, _shared={}, _constants={}, _names=set(), _named=0)
        inner._shared, inner._constants, inner._names = dict(self._shared), self._constants, self._names
        return inner

    # -- constants -----------------------------------------------------------------------------------------

    def constant(self, value: torch.Tensor | np.ndarray, name: str = "") -> ir.Value:
        """An initializer that shares the memory of `value`; small equal constants become one."""
        array = as_numpy(value) if isinstance(value, torch.Tensor) else value
        if array.nbytes > _DEDUPLICATED_BYTES:
            return self.initializer(ir.Tensor(array), name or "constant")
        key = ("constant", array.dtype.str, array.dtype.name, array.shape, array.tobytes())
        return self.memo_constant(key, lambda: self.initializer(ir.Tensor(array), name or "constant"))

    def initializer(self, tensor: ir.TensorProtocol, name: str) -> ir.Value:
        """A new initializer called `name`, or `name_1`, `name_2`, ... when that is taken."""
        unique = self.unique(name)
        tensor.name = unique
        value = ir.Value(
            name=unique,
            shape=ir.Shape(tensor.shape.numpy()),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self.initializers.append(value)
        return value

    def lazy(self, make: Callable[[], np.ndarray], dtype: ir.DataType, shape: Sequence[int], name: str) -> ir.Value:
        """An initializer whose bytes are computed when the model is written out."""
        tensor = ir.LazyTensor(lambda: ir.Tensor(make(), dtype), dtype, ir.Shape(shape))
        return self.initializer(tensor, name)

    def scalar(self, value: float, dtype: torch.dtype) -> ir.Value:
        """A constant of rank 0."""
        return self.constant(torch.tensor(value, dtype=dtype))

    def ints(self, values: Iterable[int]) -> ir.Value:
        """A constant int64 vector."""
        return self.constant(np.array(list(values), dtype=np.int64))

    # -- reading the program -------------------------------------------------------------------------------

    @cached_property
    def varying(self) -> frozenset[Node]:
        """The nodes that depend on an input."""
        found = set(self.program.inputs)
        for node in self.program.nodes:
            if not found.isdisjoint(node.all_input_nodes):
                found.add(node)
        return frozenset(found)

    def value(self, node: Node) -> ir.Value:
        """The ONNX value of a program node: a tensor, or an int64 vector of one element for a symbolic size.

        Raises:
            UnsupportedError: for the codes of a parameter in a format without ONNX element type.
        """
        if node not in self._values and node.op == "get_attr":
            self._values[node] = self.parameter(node)
        found = self._values[node]
        if isinstance(found, list):
            raise UnsupportedError(f"'%{node.name}' has several results and is read as one", step="write onnx")
        return found

    @contextmanager
    def standing_in(self, values: Mapping[Node, ir.Value]) -> Iterator[None]:
        """Lets emitters see other values behind some nodes: reals where the node holds codes."""
        own = self._values
        self._values = {**own, **values}
        try:
            yield
        finally:
            self._values = own

    def results(self, node: Node) -> list[ir.Value]:
        """All ONNX values of a program node."""
        found = self._values[node]
        return found if isinstance(found, list) else [found]

    def parameter(self, node: Node, *, transposed: bool = False) -> ir.Value:
        """A parameter as an initializer, matrices transposed on request; codes become integers.

        Large whole numbers, such as places, are stored as narrow as they are.
        """
        type_ = self.program.tensor_type(node)
        # a parameter that several regions hold is written once
        key = ("parameter", id(self.program.params[str(node.target)]), type_, transposed)
        if type_.spec is None and type_.dtype == torch.int64:
            narrow = self.memo_constant((*key, "narrow"), lambda: self.initializer(*self._whole_numbers(node)))
            return self.memo(key, lambda: widened(self, narrow, self.program.shape(node)))
        return self.memo_constant(key, lambda: self._stored(node, type_, transposed))

    def _whole_numbers(self, node: Node) -> tuple[ir.TensorProtocol, str]:
        return ir.Tensor(narrowed(as_numpy(self.program.param(node)))), str(node.target)

    def _stored(self, node: Node, type_: TensorType, transposed: bool) -> ir.Value:
        """The initializer; what does not lie in memory as it is written is made when the model is written out."""
        value, spec = self.program.rounded(node), type_.spec
        if spec is None and isinstance(value, torch.Tensor) and not transposed:
            return self.initializer(ir.Tensor(as_numpy(value)), str(node.target))
        dtype = onnx_dtype(type_.dtype) if spec is None else container(spec.format, self.opset, stored=True)
        shape = [int(dim) for dim in type_.shape]
        read = partial(_read, self.program, node, transposed)
        make = read if spec is None else lambda: read().astype(dtype.numpy())
        return self.lazy(make, dtype, shape[::-1] if transposed else shape, str(node.target))

    def operand(self, argument: object, dtype: torch.dtype) -> ir.Value:
        """A tensor, symbolic size or Python number as an operand of element type `dtype`."""
        if not isinstance(argument, Node):
            if not isinstance(argument, bool | int | float):
                raise UnsupportedError(f"{argument!r} is not an operand", step="write onnx")
            return self.scalar(argument, dtype)
        type_ = self.program.type(argument)
        if isinstance(type_, SymbolType):
            if isinstance(type_.expr, int):
                return self.scalar(type_.expr, dtype)
            vector = self.shared("Cast", [self.value(argument)], {"to": onnx_dtype(dtype).value})
            return self.shared("Squeeze", [vector, self.ints([0])])
        return self.cast(self.value(argument), self.program.tensor_type(argument).dtype, dtype)

    def cast(self, value: ir.Value, source: torch.dtype, wanted: torch.dtype) -> ir.Value:
        """`value` in another element type."""
        if source == wanted:
            return value
        # torch lets numbers beyond these types become infinite or no number; ONNX would stop them at the largest
        open_ended = {"saturate": 0} if wanted in OPEN_ENDED else {}
        return self.op("Cast", [value], {"to": onnx_dtype(wanted).value, **open_ended})

    def size(self, node: Node, axis: int) -> int | ir.Value:
        """One dimension of a tensor: an int when static, else an int64 vector of one element.

        Equal symbolic dimensions are one value, read from the first tensor that has it.
        """
        dim = self.program.shape(node)[axis]
        if isinstance(dim, int):
            return dim
        bounds = {"start": axis, "end": axis + 1}
        return self.memo(("dimension", dim), lambda: self.op("Shape", [self.value(node)], bounds))

    def sizes(self, items: Sequence[int | Node | ir.Value]) -> ir.Value:
        """An int64 vector of sizes, each static, a symbolic node, or a vector of one element."""
        parts: list[ir.Value] = []
        run: list[int] = []
        for item in items:
            size = item if isinstance(item, ir.Value) else static_size(item)
            if isinstance(size, int):
                run.append(size)
                continue
            parts += [self.ints(run)] if run else []
            run = []
            parts.append(size if isinstance(size, ir.Value) else self.vector(item))
        parts += [self.ints(run)] if run or not parts else []
        return parts[0] if len(parts) == 1 else self.shared("Concat", parts, {"axis": 0})

    def vector(self, item: int | Node | ir.Value) -> ir.Value:
        """One size as an int64 vector of one element."""
        if isinstance(item, Node):
            size = static_size(item)
            return self.ints([size]) if isinstance(size, int) else self.value(item)
        return self.ints([item]) if isinstance(item, int) else item

    def reshape(
        self, value: ir.Value, before: Sequence[Dim], after: Sequence[Dim], sizes: Sequence[int | Node]
    ) -> ir.Value:
        """Reshapes; dimensions that stay are copied and one may be inferred, so most targets are constants.

        Args:
            value: the tensor.
            before: its shape.
            after: the wanted shape.
            sizes: what computes each wanted dimension, read where two or more are neither static nor copied.
        """
        kept = [0 if i < len(before) and dim == before[i] and dim != 0 else dim for i, dim in enumerate(after)]
        unknown = [i for i, dim in enumerate(kept) if not isinstance(dim, int)]
        if 0 in after or 0 in before:
            return self.op("Reshape", [value, self.sizes(list(sizes))], {"allowzero": 1})
        if len(unknown) > 1:
            items = [dim if isinstance(dim, int) else size for dim, size in zip(kept, sizes, strict=True)]
            return self.op("Reshape", [value, self.sizes(items)])
        return self.op("Reshape", [value, self.ints([dim if isinstance(dim, int) else -1 for dim in kept])])

    # -- names ---------------------------------------------------------------------------------------------

    def unique(self, name: str) -> str:
        """`name` when it is free, else with a number; taken from then on."""
        wanted, count = name, 0
        while wanted in self._names:
            count += 1
            wanted = f"{name}_{count}"
        self._names.add(wanted)
        return wanted

    def bind(self, node: Node, emitted: Emitted) -> None:
        """Records what a program node became, and names what was added for it."""
        self._values[node] = emitted
        results = emitted if isinstance(emitted, list) else [emitted]
        types = _types_of(node, len(results))
        added = self.nodes[self._named :]
        fresh = {id(value) for onnx_node in added for value in onnx_node.outputs}
        for value, type_, name in zip(results, types, _result_names(node, len(results)), strict=True):
            if id(value) in fresh and value.name is None:
                value.name = self.unique(name)
                self._describe(value, type_)
        origin = self.program.origin(node)
        for onnx_node in added:
            self._label(onnx_node, node.name, origin, any(value in results for value in onnx_node.outputs))
        self._named = len(self.nodes)

    def shape_of(self, type_: TensorType) -> ir.Shape:
        """An ONNX shape; symbolic dimensions keep their expression as text."""
        return ir.Shape([dim if isinstance(dim, int) else print_dim(dim) for dim in type_.shape])

    def _describe(self, value: ir.Value, type_: Type | None) -> None:
        if not isinstance(type_, TensorType):
            return
        value.shape = self.shape_of(type_)
        if value.type is None:
            spec = type_.spec
            dtype = onnx_dtype(type_.dtype) if spec is None else container(spec.format, self.opset, stored=False)
            value.type = ir.TensorType(dtype)

    def _label(self, onnx_node: ir.Node, name: str, origin: Origin, yields: bool) -> None:
        path = f"{origin.module}/{name}" if origin.module else name
        onnx_node.name = self.unique(f"node:{path}" if yields else f"node:{path}.{onnx_node.op_type}")[len("node:") :]
        for value in onnx_node.outputs:
            if value.name is None:
                value.name = self.unique(f"{name}.{onnx_node.op_type}")
        onnx_node.metadata_props["qcompiler.node"] = name
        # Helpers lead to the node itself by its name, so that small models do not drown in provenance.
        told = {"module": origin.module, "step": origin.step} if yields else {}
        onnx_node.metadata_props.update({f"qcompiler.{key}": text for key, text in told.items() if text})


def _types_of(node: Node, count: int) -> list[Type | None]:
    """Types of the results; an emitter may yield values of its own after those of the program."""
    type_ = node.meta["type"]
    known = list(type_.items) if isinstance(type_, TupleType) else [type_]
    return [*known, *[None] * (count - len(known))]


def _result_names(node: Node, count: int) -> list[str]:
    if not isinstance(node.meta["type"], TupleType):
        return [node.name]
    readers = {user.args[1]: user.name for user in node.users if len(user.args) == 2}
    return [readers.get(i, f"{node.name}.{i}") for i in range(count)]


def _read(program: Program, node: Node, transposed: bool) -> np.ndarray:
    values = program.param(node)
    # Element by element, as numpy writes a turned view, a large matrix takes ten times as long.
    return as_numpy(values.t().contiguous() if transposed else values)
