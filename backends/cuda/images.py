"""From kernel calls on images to layers of a library: their codes stay bytes, channels last, from layer to layer.

Sizes of images are those of the example; only their number is free.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from qcompiler.backends.cuda.codes import (
    IMAGE_RANK,
    Form,
    Stored,
    as_image,
    brought,
    filled,
    numbers,
    plain,
    shift_of,
    stored_shape,
)
from qcompiler.backends.cuda.image_calls import Calls, Workshop, number
from qcompiler.backends.cuda.image_guards import MAX_POOLS
from qcompiler.backends.cuda.image_launches import (
    Convolution,
    Scaled,
    Size,
    launch_add,
    launch_average,
    launch_codes,
    launch_max,
    launch_mean,
    launch_table,
    table_of,
)
from qcompiler.backends.cuda.layer import Layer, Port
from qcompiler.backends.cuda.steps import STEP, Plan, Step
from qcompiler.backends.lowering.operands import operand_of
from qcompiler.backends.reference.arithmetic import Grid
from qcompiler.backends.reference.pointwise import table
from qcompiler.ir import ops
from qcompiler.ir.program import Node
from qcompiler.ir.types import TensorType


@dataclass
class Images:
    """Layers whose results are codes.

    Args:
        work: where they are put together.
        stored: the bytes of values of the program, in each form that somebody asked for.
    """

    work: Workshop
    stored: dict[tuple[Node, Form], Stored] = field(default_factory=dict)

    @property
    def calls(self) -> Calls:
        """What kernel calls say."""
        return Calls(self.work)

    def add(self, node: Node) -> None:
        """Puts layers, or operators on bytes, in the place of a kernel call."""
        LAYERS[str(node.args[0])](self, node)

    def made(self, node: Node) -> bool:
        """Whether a layer yields a value's codes."""
        return any((node, form) in self.stored for form in ("rows", "image", "plain"))

    def rows(self, node: Node) -> Node:
        """The codes that a layer yields as rows."""
        return self.taken(node, "rows").node

    def conv(self, node: Node) -> None:
        """A convolution."""
        source = self.calls.operand(node, 1).codes
        called = self.calls.convolution(node, self.calls.size(source), self.calls.size(node))
        port = called.out.stored if called.result else called.out.reals(called.compute, channels_last=True)
        read = self.taken(source, "image").node
        layer = self.convolved(node, called, called.source.stored, port)
        if called.result:
            self.keep(node, layer, [read], "image")
        else:
            self.real(node, layer, read)

    def dense(self, node: Node) -> None:
        """A linear layer that yields codes."""
        columns, depth = (int(size) for size in self.work.program.shape(self.calls.operand(node, 2).codes))
        called = self.calls.convolution(node, Size(depth, 1, 1), Size(columns, 1, 1))
        ports = (Port(width=filled(width), element="int8") for width in (depth, columns))
        read = self.work.rows(node)
        self.keep(node, self.convolved(node, called, *ports), [read], "rows")

    def convolved(self, node: Node, called: Convolution, source: Port, out: Port) -> Layer:
        """The layer of a convolution."""
        tensors = called.tensors()

        def step(plan: Plan) -> None:
            called.launch(plan, tensors)

        return self.layer(node, str(called), (source,), out, step, tensors)

    def join(self, node: Node) -> None:
        """A sum of two images."""
        operands, result = [self.calls.operand(node, place) for place in (1, 2)], self.calls.needed(node)
        left, right = (self.calls.scaled(node, operand) for operand in operands)
        port = self.calls.size(node).stored
        reads = [self.taken(operand.codes, "image").node for operand in operands]
        step = partial(launch_add, width=port.width, left=left, right=right, result=result)
        self.keep(node, self.layer(node, f"add {_two(left, right)}", (port, port), port, step), reads, "image")

    def table(self, node: Node) -> None:
        """A function of one code, which its meaning tells of all of them."""
        operand, result = self.calls.operand(node, 1), self.calls.needed(node)
        codes, op = self.calls.scaled(node, operand), str(node.kwargs["op"])

        def function(found: Tensor) -> Tensor:
            options = {"op": op, "low": result.low, "high": result.high}
            parts = (result.codes.scale, result.codes.zero_point)
            return table([found, codes.scale, codes.zero_point], *node.args[2:], result=parts, **options)

        tensors, port = {"table": table_of(codes, result, function)}, self.calls.size(node).stored
        read, step = self.taken(operand.codes, "image").node, partial(launch_table, width=port.width)
        self.keep(node, self.layer(node, f"{op} by table", (port,), port, step, tensors), [read], "image")

    def carry(self, node: Node) -> None:
        """Codes that are moved or picked: a pool of the largest ones, or what torch does with bytes."""
        if node.kwargs["op"] in MAX_POOLS:
            self.max_pool(node)
        else:
            self.by_bytes(node, *node.args[2:])

    def limit(self, node: Node) -> None:
        """Codes between two bounds."""
        result = self.calls.needed(node)
        shift = result.codes.shift
        self.by_bytes(node, int(result.low) + shift, int(result.high) + shift, op="aten.clamp")

    def pad(self, node: Node) -> None:
        """Codes with the code of a real around them."""
        result, (around, *values) = self.calls.needed(node), node.args[2:]
        grid = Grid(result.codes.scale, result.codes.zero_point, result.low, result.high)
        code = int(grid.quantize(torch.tensor(number(values[0]) if values else 0.0)))
        self.by_bytes(node, around, code + result.codes.shift)

    def cat(self, node: Node) -> None:
        """Codes of one grid side by side."""
        parts = node.args[1]
        operands = [operand_of(part) for part in parts] if isinstance(parts, list | tuple) else []
        known = [operand for operand in operands if operand is not None]
        if not known or len(known) != len(operands):
            raise self.work.refusal(node, "its parts are not all codes")
        reads = [self.taken(operand.codes, "plain").node for operand in known]
        builder = self.work.program.before(node, STEP)
        joined = builder.call("aten.cat", reads, *node.args[2:])
        self.hold(node, Stored(joined, "plain", 0, self.calls.needed(node).codes.spec))

    def by_bytes(self, node: Node, *arguments: object, op: str = "") -> None:
        """What torch does with bytes as with any numbers."""
        builder, operand = self.work.program.before(node, STEP), self.calls.operand(node, 1)
        moved = builder.call(op or str(node.kwargs["op"]), self.taken(operand.codes, "plain").node, *arguments)
        self.hold(node, Stored(moved, "plain", 0, operand.spec))

    def max_pool(self, node: Node) -> None:
        """The largest code of each window."""
        operand, window = self.calls.operand(node, 1), self.calls.pool(node)
        source, out = self.calls.size(operand.codes), self.calls.size(node)
        read = self.taken(operand.codes, "image").node
        step = partial(launch_max, source=source, out=out, window=window)
        layer = self.layer(node, f"max pool {window.size[0]}x{window.size[1]}", (source.stored,), out.stored, step)
        self.keep(node, layer, [read], "image")

    def average(self, node: Node) -> None:
        """The mean of each window."""
        operand, window = self.calls.operand(node, 1), self.calls.pool(node, dilated=False)
        source, out = self.calls.size(operand.codes), self.calls.size(node)
        read = self.taken(operand.codes, "image").node
        whole = bool(node.args[6]) if len(node.args) > 6 else True
        codes, result = self.calls.scaled(node, operand), self.calls.needed(node)
        step = partial(launch_average, source=source, out=out, window=window, whole=whole, codes=codes, result=result)
        layer = self.layer(node, f"average pool {window.size[0]}x{window.size[1]}", (source.stored,), out.stored, step)
        self.keep(node, layer, [read], "image")

    def mean(self, node: Node) -> None:
        """The mean of each image."""
        operand = self.calls.operand(node, 1)
        source, shape = self.calls.size(operand.codes), self.work.program.shape(node)
        form: Literal["image", "rows"] = "rows" if len(shape) == 2 else "image"
        width = filled(source.channels)
        port = Size(source.channels, 1, 1).stored if form == "image" else Port(width=width, element="int8")
        read, codes = self.taken(operand.codes, "image").node, self.calls.scaled(node, operand)
        step = partial(launch_mean, source=source, codes=codes, result=self.calls.needed(node))
        layer = self.layer(node, f"mean of {source.height}x{source.width}", (source.stored,), port, step)
        self.keep(node, layer, [read], form)

    def taken(self, node: Node, form: Form) -> Stored:
        """A value's bytes in a form; those of reals in front of images are found by a layer of their own."""
        found = self.stored.get((node, form))
        if found is None:
            found = self.stored[node, form] = self.derived(node, form)
        return found

    def derived(self, node: Node, form: Form) -> Stored:
        """The same, for the first time."""
        known = [self.stored[key] for key in self.stored if key[0] is node]
        if not known:
            self.quantized(node, form)
            return self.taken(node, form)
        builder = self.work.program.after(known[0].node, STEP)
        if form == "plain":
            return Stored(plain(builder, known[0]), "plain", 0, known[0].spec)
        return brought(builder, known[0], form)

    def quantized(self, node: Node, form: Form) -> None:
        """The codes of an image of reals, or of other reals in front of what moves them."""
        work, program = self.work, self.work.program
        if node.target is not ops.quantize:
            raise work.refusal(node, "it yields no codes")
        shape = program.shape(node)
        if form != "image" and not (len(shape) == IMAGE_RANK and isinstance(shape[1], int)):
            self.stored[node, "plain"] = self.by_torch(node)
            return
        bound, spec = program.bind(node), program.tensor_type(node).spec
        source, scale = bound["x"], program.constant(bound["scale"])
        if not isinstance(source, Node) or spec is None or scale is None:
            raise work.refusal(node, "its scale is not constant")
        size, scaled = self.calls.size(node), Scaled.of(spec, scale, program.constant(bound["zero_point"]))
        compute = work.settings.compute
        step = partial(launch_codes, size=size, codes=scaled, compute=compute)
        name = work.name(f"{program.origin(node).module or node.name}_codes")
        inputs = (size.reals(compute, channels_last=False),)
        meaning = f"codes of images {spec.format.name} static"
        layer = work.layer(name, node, meaning, inputs, (size.stored,), {}, step)
        type_ = TensorType(size.stored.dtype, stored_shape(shape, "image"))
        builder = program.before(node, STEP)
        made = builder.call("qc.kernel", layer.name, as_image(builder, source), type_=type_)
        self.stored[node, "image"] = Stored(made, "image", size.channels, spec, len(shape))

    def by_torch(self, node: Node) -> Stored:
        """The codes of reals that are no images, where a layer moves them."""
        builder, spec = self.work.program.after(node, STEP), self.work.program.tensor_type(node).spec
        if spec is None:
            raise self.work.refusal(node, "it yields no codes")
        moved = builder.call("aten.add.Tensor", node, shift_of(spec))
        return Stored(builder.call("aten._to_copy", moved, kwargs={"dtype": torch.int8}), "plain", 0, spec)

    def layer(
        self,
        node: Node,
        meaning: str,
        inputs: tuple[Port, ...],
        output: Port,
        step: Step,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> Layer:
        """A layer of one result, under the name of its call."""
        return self.work.layer(self.calls.named(node), node, meaning, inputs, (output,), tensors or {}, step)

    def keep(self, node: Node, layer: Layer, reads: Sequence[Node], form: Literal["rows", "image"]) -> None:
        """Calls a layer that yields codes."""
        program, spec = self.work.program, self.calls.needed(node).codes.spec
        shape = program.shape(node)
        width = int(shape[1]) if form == "image" else int(shape[-1])
        type_ = TensorType(layer.outputs[0].dtype, stored_shape(shape, form))
        builder = program.before(node, STEP)
        called = builder.call("qc.kernel", layer.name, *reads, name=f"{node.name}_codes", type_=type_)
        self.hold(node, Stored(called, form, width, spec, len(shape)))

    def hold(self, node: Node, stored: Stored) -> None:
        """Keeps a value's bytes; whoever is no layer reads numbers."""
        program = self.work.program
        self.stored[node, stored.form] = stored
        others = [user for user in node.users if user.target is not ops.kernel]
        if others:
            found = numbers(program.before(node, STEP), stored)
            for user in others:
                user.replace_input_with(node, found)

    def real(self, node: Node, layer: Layer, read: Node) -> None:
        """Calls a layer that yields an image of reals."""
        program = self.work.program
        builder, shape = program.before(node, STEP), program.shape(node)
        type_ = TensorType(program.tensor_type(node).dtype, stored_shape(shape, "image"))
        called = builder.call("qc.kernel", layer.name, read, type_=type_)
        name, spec = node.name, self.calls.operand(node, 1).spec
        made = plain(builder, Stored(called, "image", int(shape[1]), spec, len(shape)))
        program.replace(node, made)
        program.rename(made, name)


LAYERS: Mapping[str, Callable[[Images, Node], None]] = {
    "conv": Images.conv,
    "linear_codes": Images.dense,
    "add": Images.join,
    "table": Images.table,
    "carry": Images.carry,
    "limit": Images.limit,
    "pad": Images.pad,
    "cat": Images.cat,
    "average_pool": Images.average,
    "global_mean": Images.mean,
}
"""By kernel."""


def _two(left: Scaled, right: Scaled) -> str:
    return f"{left.spec.format.name} + {right.spec.format.name}"
