"""A lowered program as C functions: where each value lies, what each layer does, what is constant."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from qcompiler.backends.c import arena
from qcompiler.backends.c.extent import PREFIX, OnlyARunTellsError, most
from qcompiler.backends.c.isa import LEVELS, Isa
from qcompiler.backends.c.joining import joining_of
from qcompiler.backends.c.kernels import MICRO_KERNELS
from qcompiler.backends.c.kernels.row import Blocked
from qcompiler.backends.c.loops import Computed, Operand, leaves, loop, weight
from qcompiler.backends.c.module import ALIGNMENT, Layer
from qcompiler.backends.c.names import Names, comment
from qcompiler.backends.c.sizes import Sizes
from qcompiler.backends.c.value import BYTES, Buffer, Element, Value, row_major
from qcompiler.backends.lowering.call import Call
from qcompiler.errors import UnsupportedError
from qcompiler.formats import BINARY
from qcompiler.ir.program import Node, Program
from qcompiler.ir.types import DTYPE_NAMES, Dim, SymbolType, TensorType, TupleType

Emitted = Operand | list[Operand | None]
Emitter = Callable[["Generator", Call], Emitted]

ELEMENTS: dict[torch.dtype, Element] = {
    torch.float32: "float",
    torch.float64: "double",
    torch.int64: "int64_t",
    torch.int32: "int32_t",
    torch.int16: "int16_t",
    torch.int8: "int8_t",
    torch.uint8: "uint8_t",
    torch.bool: "uint8_t",
}
_NUMPY: dict[Element, type] = {
    "float": np.float32,
    "double": np.float64,
    "int64_t": np.int64,
    "int32_t": np.int32,
    "int16_t": np.int16,
    "int8_t": np.int8,
    "uint8_t": np.uint8,
}
_BYTE = 8
_PLACE = re.compile(r"@(\d+)@")
_MOST_FUSED = 24
"""Operations in one loop body, beyond which compilers run out of registers."""


@dataclass
class Draft:
    """A layer while buffers have no places yet.

    Args:
        name: of its function.
        title: lines of its comment.
        lines: of its body; `@n@` stands for the address of buffer n.
    """

    name: str
    title: str
    lines: list[str] = field(default_factory=list)


@dataclass
class Generator:
    """A model under construction.

    Args:
        program: at stage lowered.
        sizes: of each symbolic dimension.
        isa: the least that the processor has.
        emitters: how operators are written, by name.
        sized: operators whose emitters are written for sizes that a call chooses.
        quantized: codes of tensors whose scales are chosen at run time, by the node that chooses.
        packed: bits of codes that are signs, by the node of the codes.
        summed: sums that the layer of an operand has made already.
        joined: memory of tensors whose parts are written there by whoever computes them.
        kept: memory that lasts from call to call, by the input that is a state.
        bound: what every node became.
    """

    program: Program
    sizes: Sizes
    isa: Isa
    emitters: Mapping[str, Emitter]
    sized: frozenset[str] = frozenset()
    quantized: dict[Node | None, Value] = field(default_factory=dict)
    packed: dict[Node, Value] = field(default_factory=dict)
    joined: dict[Node, Value] = field(default_factory=dict)
    summed: dict[Node, Value] = field(default_factory=dict)
    kept: dict[Node, Value] = field(default_factory=dict)
    bound: dict[Node, Emitted] = field(default_factory=dict)
    names: Names = field(default_factory=Names)
    drafts: list[Draft] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    kernels: set[str] = field(default_factory=set)
    constants: bytearray = field(default_factory=bytearray)
    _known: dict[bytes, int] = field(default_factory=dict)
    _weights: Buffer = field(default_factory=lambda: Buffer("weights", 0, 0))

    # -- sizes and types ---------------------------------------------------------------------------------------------

    def size(self, dim: Dim | Node | bool) -> int:
        """A dimension as a number, or what stands for it where a call chooses it."""
        if isinstance(dim, Node):
            type_ = dim.meta["type"]
            if not isinstance(type_, SymbolType):
                raise UnsupportedError("a size that only a run can tell", where=f"%{dim.name}", step="emit")
            dim = type_.expr
        return self.sizes.of(dim)

    def shape(self, node: Node) -> tuple[int, ...]:
        """Sizes of a tensor."""
        return tuple(map(self.size, self.program.shape(node)))

    @property
    def signed(self) -> bool:
        """Whether 8-bit activations lie in memory signed."""
        return LEVELS[self.isa].architecture not in ("x86",)

    def element(self, type_: TensorType) -> tuple[Element, int]:
        """C type of a tensor in memory, and its shift when it holds codes of activations."""
        if type_.spec is None:
            found = ELEMENTS.get(type_.dtype)
            if found is None:
                raise UnsupportedError(f"generated C has no {type_.dtype}", step="emit", mend="convert with .float()")
            return found, 0
        format_ = type_.spec.format
        if format_ == BINARY:
            return "int8_t", 0
        if not format_.is_integer or type_.spec.bits > _BYTE:
            raise UnsupportedError(f"activations of {format_.name} have no kernel in generated C", step="emit")
        half = 1 << (_BYTE - 1)
        return "qc_act", (0 if format_.signed else -half) if self.signed else (half if format_.signed else 0)

    def layout(self, kernel: str) -> Blocked:
        """The order in which a kernel reads packed weights."""
        return MICRO_KERNELS[kernel].layout(self.isa)

    # -- values ------------------------------------------------------------------------------------------------------

    def bind(self, node: Node, value: Emitted) -> None:
        """Remembers what a node became."""
        self.bound[node] = value

    def operand(self, node: Node) -> Operand:
        """What a node became, in memory or not."""
        found = self.bound.get(node)
        if found is None and node.op == "get_attr":
            found = self.bound[node] = self.parameter(node)
        if found is None or isinstance(found, list):
            raise UnsupportedError("several results are read as one", where=f"%{node.name}", step="emit")
        return found

    def results(self, node: Node) -> list[Operand | None]:
        """What a node with several results became."""
        found = self.bound[node]
        if not isinstance(found, list):
            raise UnsupportedError("one result is read as several", where=f"%{node.name}", step="emit")
        return found

    def value(self, node: Node) -> Value:
        """What a node became, in memory."""
        found = self.settled(self.operand(node))
        self.bound[node] = found
        return found

    def settled(self, operand: Operand, order: Sequence[int] | None = None, border: int = 0) -> Value:
        """An operand in memory: as it is when it is there, else written by a loop in the current layer."""
        if isinstance(operand, Value):
            return operand
        if order is None:
            full = [leaf for leaf in leaves(operand) if leaf.shape == operand.shape and leaf.buffer.kind != "weights"]
            order = full[0].order if full else None
        out = self.new(operand.shape, operand.element, order, operand.shift, border)
        self.loop(out, operand)
        return out

    def contiguous(self, operand: Operand) -> Value:
        """An operand row-major without gaps."""
        value = self.settled(operand, range(len(operand.shape)))
        return value if value.dense else self.copied(value, range(len(value.shape)))

    def copied(self, value: Operand, order: Sequence[int], border: int = 0) -> Value:
        """A copy with axes in another order of memory."""
        out = self.new(value.shape, value.element, order, value.shift, border)
        self.loop(out, value)
        return out

    def new(
        self,
        shape: Sequence[int],
        element: Element,
        order: Sequence[int] | None = None,
        shift: int = 0,
        border: int = 0,
    ) -> Value:
        """Fresh memory in the arena, axes in `order`, images with `border` pixels around them."""
        outer = list(shape)
        for axis in range(2, len(outer)) if border else ():
            outer[axis] += 2 * border
        strides = row_major(outer, order)
        offset = border * sum(strides[2:]) if border else 0
        buffer = Buffer("arena", most(math.prod(outer)) * BYTES[element])
        self.buffers.append(buffer)
        return Value(buffer, element, tuple(shape), strides, offset, shift, border)

    def room(self, node: Node, order: Sequence[int]) -> Value:
        """Memory for a result: its part of the tensor that joins it to others, where one does, else its own."""
        element, shift = self.element(self.program.tensor_type(node))
        shape = self.shape(node)
        joining = joining_of(self.program, node, self.element)
        if joining is None:
            return self.new(shape, element, order, shift)
        user, tensors, axis = joining
        whole = self.joined.get(user)
        if whole is None:
            whole = self.joined[user] = self.new(self.shape(user), element, order, shift)
        start = sum(self.shape(other)[axis] for other in tensors[: tensors.index(node)])
        return whole.sliced(axis, start, shape[axis])

    def constant(self, array: np.ndarray, element: Element) -> Value:
        """A constant in the weights; equal ones are stored once."""
        data = np.ascontiguousarray(array)
        digest = hashlib.sha256(data.dtype.str.encode() + data.tobytes()).digest()
        if digest not in self._known:
            self.constants += bytes(-len(self.constants) % ALIGNMENT)
            self._known[digest] = len(self.constants)
            self.constants += data.tobytes()
        offset = self._known[digest] // data.dtype.itemsize
        return Value(self._weights, element, data.shape, row_major(data.shape), offset)

    def parameter(self, node: Node) -> Value:
        """A parameter in its own order."""
        element, _ = self.element(TensorType(self.program.tensor_type(node).dtype, ()))
        return self.constant(self.program.param(node).detach().numpy().astype(_NUMPY[element]), element)

    @property
    def panel(self) -> int:
        """Columns to which vectors of epilogues are filled up: whole panels of any kernel."""
        return 64

    # -- layers ------------------------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Number of the current layer."""
        return len(self.drafts) - 1

    def emit(self, call: Call) -> Emitted:
        """Writes an operator into the current layer; raises UnsupportedError for one that generated C lacks."""
        emitter = self.emitters.get(call.op)
        if emitter is None:
            raise UnsupportedError(f"generated C has no '{call.op}'", where=f"%{call.node.name}", step="emit")
        chosen = self.sizes.seen_by(call.node)
        fix = f"leave {' and '.join(chosen)} out of the setting `sizes`"
        if chosen and call.op not in self.sized:
            raise call.unsupported("it is not written for sizes that a call chooses", fix)
        try:
            return emitter(self, call)
        except OnlyARunTellsError as error:
            raise call.unsupported(error.what, fix) from error

    def begin(self, node: Node, op: str) -> None:
        """Starts the layer of a node; it is dropped again when it does nothing."""
        self.drop_idle()
        module = self.program.origin(node).module
        sources = [self._words(source) for source in node.all_input_nodes if source.op != "get_attr"]
        text = f"{module or '(top)'}: {op} of {', '.join(sources)} to {self._words(node)}"
        self.drafts.append(Draft(f"{module}.{node.name}" if module else node.name, comment(text)))

    def _words(self, node: Node) -> str:
        """Number format and sizes of a tensor, such as `uint8 [1, 64, 56, 56]`."""
        type_ = self.program.type(node)
        if not isinstance(type_, TensorType):
            return "several tensors" if isinstance(type_, TupleType) else "a size"
        name = DTYPE_NAMES.get(type_.dtype, str(type_.dtype)) if type_.spec is None else type_.spec.format.name
        return f"{name} {list(self.shape(node))}"

    def begin_output(self, node: Node, index: int) -> None:
        """Starts the layer that hands out a result."""
        self.drop_idle()
        text = f"result {index}: {node.name}, {self._words(node)}"
        self.drafts.append(Draft(f"result_{index}", comment(text)))

    def drop_idle(self) -> None:
        """Forgets the current layer when nothing was written in it."""
        if self.drafts and not self.drafts[-1].lines:
            self.drafts.pop()

    def write(self, *lines: str) -> None:
        """Adds lines to the current layer."""
        self.drafts[-1].lines += lines

    def loop(self, out: Value, operand: Operand) -> None:
        """Writes every element of `out`."""
        self.write("{", *(f"    {line}" for line in loop(out, operand, self.pointer)), "}")

    def pointer(self, value: Value) -> str:
        """Address of a value's first element, of the right type; marks the buffer as used in this layer."""
        const = "const " if value.buffer.kind in ("weights", "input") else ""
        offset = f" + {value.offset}" if value.offset != 0 else ""
        return f"({const}{value.element} *)({self.address(value.buffer)}){offset}"

    def address(self, buffer: Buffer) -> str:
        """Address of a buffer, without a type; marks it as used in this layer."""
        self.touch(buffer)
        return f"@{self._number(buffer)}@"

    def touch(self, buffer: Buffer) -> None:
        """Marks a buffer as used in the current layer."""
        buffer.first = self.step if buffer.first < 0 else buffer.first
        buffer.last = max(buffer.last, self.step)

    def call(self, kernel: str, fields: Mapping[str, str | int | float], tasks: int | str) -> None:
        """A call of a micro-kernel; nested fields are written `epilogue.bias`."""
        self.kernels.add(kernel)
        lines = [f"const qc_{kernel}_args args = {{"]
        lines += [f"    .{name} = {value}," for name, value in fields.items()]
        lines += ["};", f"QC_RUN(c, {kernel}, &args, {tasks});"]
        self.write("{", *(f"    {line}" for line in lines), "}")

    def fused(self, node: Node, computed: Computed) -> Operand:
        """An elementwise result: left to its only reader when that is elementwise too, else written now."""
        alone = len(node.users) <= 1 and node not in self.program.outputs
        return computed if alone and weight(computed) <= _MOST_FUSED else self.settled(computed)

    # -- the end -----------------------------------------------------------------------------------------------------

    def finish(self, persistent: Sequence[Buffer] = ()) -> tuple[tuple[Layer, ...], int]:
        """Plans the arena; returns the layers with addresses, and the bytes of the arena."""
        self.drop_idle()
        for buffer in persistent:
            buffer.first, buffer.last = 0, len(self.drafts)
        used = [buffer for buffer in self.buffers if buffer.first >= 0]
        size = arena.plan(used)
        return tuple(self._layer(draft) for draft in self.drafts), size

    def _layer(self, draft: Draft) -> Layer:
        name = self.names.take(draft.name)
        body = "\n".join(f"    {line}" for line in [*self._sizes(draft.lines), *draft.lines])
        body = _PLACE.sub(lambda match: _address(self._numbered[int(match[1])]), body)
        return Layer(name, f"/* {draft.title} */\nstatic void {name}(const qc_context *c) {{\n{body}\n}}\n")

    def _sizes(self, lines: Sequence[str]) -> list[str]:
        """The sizes that a layer uses, by name."""
        words = set(re.findall(rf"\b{PREFIX}(\w+)", "\n".join(lines)))
        return [
            f"const ptrdiff_t {PREFIX}{free.name} = c->sizes[{index}];"
            for index, free in enumerate(self.sizes.free)
            if free.name in words
        ]

    _numbered: list[Buffer] = field(default_factory=list)
    _numbers: dict[int, int] = field(default_factory=dict)

    def _number(self, buffer: Buffer) -> int:
        if id(buffer) not in self._numbers:
            self._numbers[id(buffer)] = len(self._numbered)
            self._numbered.append(buffer)
        return self._numbers[id(buffer)]


def _address(buffer: Buffer) -> str:
    if buffer.kind == "arena":
        return f"c->arena + {buffer.place}" if buffer.place else "c->arena"
    if buffer.kind == "weights":
        return "c->weights"
    return f"c->{buffer.kind}s[{buffer.place}]"
