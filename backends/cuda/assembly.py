"""From a lowered program to the layers of a library, and to the program that calls them.

A layer takes reals and finds their codes itself; codes that several layers read are found by a layer of their own.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.fx.node import Argument

from qcompiler.backends.cuda import weight_only
from qcompiler.backends.cuda.epilogue import Taking, beside
from qcompiler.backends.cuda.fronts import Source, front_of
from qcompiler.backends.cuda.groups import block_of
from qcompiler.backends.cuda.image_guards import IMAGES
from qcompiler.backends.cuda.images import Images
from qcompiler.backends.cuda.layer import Argument as KernelArgument
from qcompiler.backends.cuda.layer import Element, Input, Layer, Output, Port, WeightRecord
from qcompiler.backends.cuda.lower import WEIGHT_ONLY
from qcompiler.backends.cuda.product import Matrix, adds_branches, launch_product, packed
from qcompiler.backends.cuda.reading import KINDS, Places, Reading, quantize, reading_of
from qcompiler.backends.cuda.settings import Settings
from qcompiler.backends.cuda.signs import signs_behind
from qcompiler.backends.cuda.steps import STEP, Plan, Step, variants_of
from qcompiler.backends.cuda.vectors import CODEBOOK, packed_vectors, vectors_at
from qcompiler.backends.lowering.operands import operand_of
from qcompiler.errors import VerifyError
from qcompiler.formats import BINARY
from qcompiler.ir import ops
from qcompiler.ir.program import Node, Program
from qcompiler.ir.types import TensorType, TupleType


@dataclass(frozen=True)
class Assembly:
    """What a library is made of.

    Args:
        program: calls a layer by each `qc.kernel`, whose name is the layer's.
        layers: in order of their calls.
        tensors: packed weights by `layer.name`.
    """

    program: Program
    layers: tuple[Layer, ...]
    tensors: Mapping[str, Tensor]


def assemble(program: Program, settings: Settings) -> Assembly:
    """The layers of a lowered program.

    Raises:
        VerifyError: for a call that is not as `lower` leaves it.
    """
    work = _Assembler(program.copy(), settings)
    calls = [node for node in work.program.nodes if node.target is ops.kernel]
    work.readers.update(read for node in calls if isinstance(read := _codes(node), Node))
    for node in calls:
        work.add(node)
    work.program.erase_dead()
    return Assembly(work.program, tuple(work.layers), work.tensors)


@dataclass
class _Assembler:
    program: Program
    settings: Settings
    layers: list[Layer] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    quantizers: dict[Node, list[Node]] = field(default_factory=dict)
    readers: Counter[Node] = field(default_factory=Counter)
    images: Images = field(init=False)

    def __post_init__(self) -> None:
        self.images = Images(self)

    def add(self, node: Node) -> None:
        """Puts the call of a layer in the place of a kernel call."""
        if node.args[0] in IMAGES:
            self.images.add(node)
        elif node.args[0] in (WEIGHT_ONLY, CODEBOOK):
            self.weight_only(node)
        else:
            self.product(node)

    def weight_only(self, node: Node) -> None:
        """A layer whose activations stay in floats."""
        source = node.args[1]
        if not isinstance(source, Node):
            raise self.refusal(node, "its activations are no tensor")
        compute, element = self.settings.compute, weight_only.element_of(self.settings.compute)
        kind, weight = self.coded(node) if node.args[0] == CODEBOOK else self.scaled(node)
        inputs = (Port(width=weight.depth, element=element),)
        after = beside(self.program, node, Taking(element, clamps=False), compute, 1)
        weights = {**weight.tensors, **after.weights}

        def multiply(plan: Plan) -> None:
            weight_only.launch_weight_only(plan, weight, Output(output=0), compute, after.arguments)

        name = self.name(self.program.origin(node).module or node.name)
        meaning = f"linear float x {kind} [{weight.columns}, {weight.depth}]{after.meaning}"
        outputs = (Port(width=weight.columns, element=compute),)
        layer = self.layer(name, node, meaning, (*inputs, *after.ports), outputs, weights, multiply)
        self.call(after.end, layer, [source, *after.sources])

    def scaled(self, node: Node) -> tuple[str, weight_only.Packed]:
        """A weight of codes with scales, and what it is for people."""
        matrix = self.matrix(node, node.args[2])
        return str(matrix.spec), weight_only.packed(matrix, self.constant(node, 3), self.settings.compute)

    def coded(self, node: Node) -> tuple[str, weight_only.Packed]:
        """The same for a weight of codes of vectors."""
        found = vectors_at(self.program, node)
        weight = packed_vectors(found, self.constant(node, 5), self.settings.compute)
        return f"{len(found.tables[0])} vectors of {found.length}", weight

    def product(self, node: Node) -> None:
        """A layer between codes."""
        matrix, bias = self.matrix(node, node.args[2]), self.constant(node, 3)
        read, found, reading = self.reading(node)
        shared = self.readers[read] > 1 or found.kept is not None or read in self.quantizers
        sources, inputs = found.nodes, reading.inputs
        if shared:
            # First of all, for what this layer yields besides takes the place of a norm.
            sources, inputs = self.quantized(read, found, reading), reading.outputs
            reading = replace(reading, front=None)
        factors: Element | None = "float16" if adds_branches(matrix.spec, reading.spec) else None
        after = beside(self.program, node, Taking(factors, clamps=True), reading.compute, len(inputs))
        weights = {**packed(matrix, reading, bias), **after.weights}
        signs = signs_behind(self.program, node)
        arguments = after.arguments if signs is None else signs.arguments

        def multiply(plan: Plan, places: Places) -> None:
            launch_product(plan, matrix, reading, weights, places, Output(output=0), arguments)

        def whole(plan: Plan) -> None:
            places = Places.of_workspace(reading, plan)
            quantize(plan, reading, _inputs(reading), places)
            multiply(plan, places)

        def behind(plan: Plan) -> None:
            multiply(plan, Places.of_ports(reading, Input))

        name = self.name(self.program.origin(node).module or node.name)
        meaning = f"linear {reading} x {matrix}{after.meaning}"
        outputs = (Port(width=matrix.columns, element=reading.compute) if signs is None else signs.port,)
        kept = weights | reading.weights
        taken = (*inputs, *after.ports)
        layer = self.layer(name, node, meaning, taken, outputs, kept, behind if shared else whole)
        if signs is None:
            self.call(after.end, layer, [*sources, *after.sources])
        else:
            type_ = TensorType(signs.port.dtype, (*self.program.shape(node)[:-1], signs.port.width))
            made = self.program.before(node, STEP).call("qc.kernel", layer.name, *sources, type_=type_)
            self.quantizers[signs.read] = [made]

    def quantized(self, read: Node, source: Source, reading: Reading) -> list[Node]:
        """Codes, scales and zero points by a layer of their own, which all their readers share."""
        if read in self.quantizers:
            return self.quantizers[read]
        places = Places.of_ports(reading, Output)
        outputs = reading.outputs
        if source.kept is not None:
            places, outputs = replace(places, reals=Output(output=len(outputs))), (*outputs, reading.real)
        name = self.name(f"{self.program.origin(read).module or read.name}_codes")
        layer = self.layer(
            name,
            read,
            f"codes {reading}",
            reading.inputs,
            outputs,
            reading.weights,
            lambda plan: quantize(plan, reading, _inputs(reading), places),
        )
        lead = self.program.shape(source.nodes[0])[:-1]
        types = [TensorType(port.dtype, (*lead, port.width)) for port in reading.outputs]
        types += [] if source.kept is None else [self.program.tensor_type(source.kept)]
        builder = self.program.before(source.kept or read, STEP)
        type_ = types[0] if len(types) == 1 else TupleType(tuple(types))
        call = builder.call("qc.kernel", layer.name, *source.nodes, type_=type_)
        found = [call] if len(types) == 1 else [item for item in builder.items(call) if item is not None]
        if source.kept is not None:
            self.program.replace(source.kept, found.pop())
        self.quantizers[read] = found
        return found

    def layer(
        self,
        name: str,
        node: Node,
        meaning: str,
        inputs: tuple[Port, ...],
        outputs: tuple[Port, ...],
        weights: Mapping[str, Tensor],
        step: Step,
    ) -> Layer:
        """A layer with its weights, kept."""
        made = Layer(
            name=name,
            node=node.name,
            module=self.program.origin(node).module,
            meaning=meaning,
            inputs=inputs,
            outputs=outputs,
            weights={key: _record(tensor) for key, tensor in weights.items()},
            variants={one.capability: variants_of([step], one) for one in self.settings.generations},
        )
        self.layers.append(made)
        self.tensors |= {f"{name}.{key}": tensor for key, tensor in weights.items()}
        return made

    def call(self, node: Node, layer: Layer, sources: Sequence[Node]) -> None:
        """Lets everybody who read a kernel call read the layer's."""
        name = node.name
        builder = self.program.before(node, STEP)
        made = builder.call("qc.kernel", layer.name, *sources, type_=self.program.type(node))
        self.program.replace(node, made)
        self.program.rename(made, name)

    def reading(self, node: Node) -> tuple[Node, Source, Reading]:
        """The node that quantizes a layer's activations, what it reads, and how."""
        read = _codes(node)
        if isinstance(read, Node) and self.images.made(read):
            return self.behind(node, read)
        if not isinstance(read, Node) or read.target is not ops.quantize:
            raise self.refusal(node, "its activations are not quantized in front of it")
        bound, spec = self.program.bind(read), self.program.tensor_type(read).spec
        source, scale = bound["x"], self.program.constant(bound["scale"])
        if not isinstance(source, Node) or spec is None or (scale is None) != spec.dynamic:
            raise self.refusal(node, "its activations have no constant scale")
        width = self.program.shape(source)[-1]
        if not isinstance(width, int):
            raise self.refusal(node, "the width of its input is not known")
        zero = self.program.constant(bound["zero_point"])
        compute = self.settings.compute
        found = (
            Source((source,))
            if spec.format == BINARY or block_of(spec)
            else front_of(self.program, source, KINDS[compute])
        )
        return read, found, reading_of(spec, width, compute, scale, zero, found.front)

    def rows(self, node: Node) -> Node:
        """The codes that a linear layer reads, in memory."""
        return self.quantized(*self.reading(node))[0]

    def behind(self, node: Node, read: Node) -> tuple[Node, Source, Reading]:
        """The same where a layer yields the codes."""
        known, width = operand_of(node.args[1]), self.program.shape(read)[-1]
        scale = None if known is None else self.program.constant(known.scale)
        if known is None or scale is None or not isinstance(width, int):
            raise self.refusal(node, "its activations have no constant scale")
        codes = self.images.rows(read)
        self.quantizers[read] = [codes]
        zero = self.program.constant(known.zero_point)
        return read, Source((codes,)), reading_of(known.spec, width, self.settings.compute, scale, zero)

    def matrix(self, node: Node, parts: Argument) -> Matrix:
        """A quantized weight."""
        nodes = list(parts) if isinstance(parts, list | tuple) else []
        levels = list(nodes[1]) if len(nodes) == 3 and isinstance(nodes[1], list | tuple) else nodes[1:2]
        codes, zero, *scales = (self.program.constant(part) for part in (*nodes[:1], *nodes[2:], *levels))
        spec = self.program.tensor_type(nodes[0]).spec if nodes and isinstance(nodes[0], Node) else None
        known = [scale.detach().float() for scale in scales if scale is not None]
        if codes is None or spec is None or not known or len(known) != len(levels):
            raise self.refusal(node, "its weight is not constant")
        return Matrix(codes.detach(), known[0], zero, spec, math.prod(float(outer) for outer in known[1:]))

    def constant(self, node: Node, index: int) -> Tensor | None:
        """A parameter among the arguments, such as a bias; None where there is none."""
        value = node.args[index] if len(node.args) > index else None
        found = self.program.constant(value)
        if value is not None and found is None:
            raise self.refusal(node, "its bias is not constant")
        return None if found is None else found.detach()

    def name(self, wanted: str) -> str:
        """A name for a layer that no other has."""
        base = re.sub(r"[^A-Za-z0-9]+", "_", wanted).strip("_")
        base = base if base[:1].isalpha() else f"layer_{base}"
        taken = {layer.name for layer in self.layers}
        name, count = base, 1
        while name in taken:
            name, count = f"{base}_{count}", count + 1
        return name

    def refusal(self, node: Node, why: str) -> VerifyError:
        return VerifyError(f"%{node.name} cannot become a layer of a library: {why}", step=STEP)


def _codes(node: Node) -> Argument:
    """The codes that a kernel call reads; None where it reads reals."""
    parts = node.args[1]
    return parts[0] if isinstance(parts, list | tuple) else None


def _inputs(reading: Reading) -> list[KernelArgument]:
    """A layer's inputs that a reading reads, which are the first ones."""
    return [Input(input=index) for index in range(len(reading.inputs))]


def _record(tensor: Tensor) -> WeightRecord:
    names: dict[torch.dtype, Element] = {
        torch.float32: "float32",
        torch.float16: "float16",
        torch.bfloat16: "bfloat16",
        torch.int8: "int8",
        torch.uint8: "uint8",
        torch.int32: "int32",
    }
    return WeightRecord(element=names[tensor.dtype], shape=tuple(tensor.shape))
