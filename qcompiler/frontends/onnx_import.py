"""The ONNX front-end: a model file becomes a Program at stage traced.

Shape arithmetic is evaluated symbolically, constants are folded, branches with a constant condition are taken; what is
left are ATen calls on tensors. Operators live in `onnx_ops`, one small function each.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx
import onnx_ir

from qcompiler.errors import InputError, UnsupportedError, VerifyError
from qcompiler.frontends.onnx_branches import Decisions, settled
from qcompiler.frontends.onnx_control import CONTROL, Frame
from qcompiler.frontends.onnx_functions import body_of, has_body
from qcompiler.frontends.onnx_load import live_nodes, load_model, module_of, opset_of, word
from qcompiler.frontends.onnx_ops import OPERATORS, REFUSED, Operator
from qcompiler.frontends.onnx_ops.context import Emitter, Known, OpContext, Result, Sizes, Value
from qcompiler.frontends.onnx_ops.heed import heeded
from qcompiler.frontends.onnx_ops.sizes import LARGEST, SIZES, simplify
from qcompiler.frontends.onnx_ops.tensors import torch_dtype, torch_tensor
from qcompiler.ir.finite import check_finite
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Node, Program, Signature
from qcompiler.ir.structure import Structure
from qcompiler.ir.types import Dim, Symbol, TensorType, symbol_expr

FOLD_LIMIT = 2**20
HINT_SCALES = (1, 16, 32, 224)
_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97)
_STANDARD = ("", "ai.onnx")


def import_onnx(
    source: str | Path | onnx.ModelProto | onnx_ir.Model,
    name: str | None = None,
    *,
    sizes: Mapping[str, int] | None = None,
) -> Program:
    """Reads an ONNX model of opset 7 or newer.

    Args:
        source: path of an `.onnx` file (external data beside it), or a model in memory.
        name: of the program; the graph's own name when None.
        sizes: fixed sizes for dimensions that the model leaves free, by their name in the model (`input_axis`, such as
            `x_0`, for one without a name). All others stay symbolic.

    Returns:
        A Program that takes the model's inputs by order or name; one output comes back bare, several as a dict.

    Raises:
        InputError: for a file that is missing, damaged or inconsistent, or weights that hold NaN or infinity.
        UnsupportedError: naming every operator that cannot be read.
    """
    model = load_model(source)
    where = str(source) if isinstance(source, str | Path) else "the given model"
    check_operators(model, where)
    failure: VerifyError | None = None
    for shared, scale in itertools.product((False, True), HINT_SCALES):
        free: dict[str, str] = {}

        def attempt(scale: int, decided: Decisions, *, shared: bool = shared, free: dict[str, str] = free) -> Program:
            hints = _Hints(dict(sizes or {}), scale, shared, decided)
            importer = _Importer(model, where, hints, Program(name=word(name or model.graph.name or "model")))
            try:
                return importer.run()
            finally:
                free.update(importer.symbols)

        try:
            return settled(attempt, HINT_SCALES, scale, {})
        except VerifyError as error:
            failure = failure or error
            if not free:
                break
    raise InputError(
        failure.what if failure else "the model is empty",
        where=failure.where if failure else where,
        step="import onnx",
        mend="run onnx.checker.check_model on the file; if it passes, give the free dimensions fixed sizes",
    ) from failure


def check_operators(model: onnx_ir.Model, where: str) -> None:
    """Refuses a model with operators that the front-end does not read.

    Raises:
        UnsupportedError: naming each of them once, with its first node and the source module.
    """
    unknown: dict[str, str] = {}
    for node in live_nodes(model.graph):
        if node.domain in _STANDARD and (node.op_type in OPERATORS or node.op_type in CONTROL):
            continue
        if node.domain in _STANDARD and node.op_type not in REFUSED and has_body(node.op_type, opset_of(model)):
            continue
        label = node.op_type if node.domain in _STANDARD else f"{node.domain}::{node.op_type}"
        reason = f" ({REFUSED[node.op_type]})" if node.op_type in REFUSED else ""
        unknown.setdefault(label, f"{label} first at node '{node.name}', module '{module_of(node)}'{reason}")
    if unknown:
        raise UnsupportedError(
            f"the model uses operators that qcompiler does not read: {', '.join(unknown)}",
            where="; ".join([where, *unknown.values()]),
            step="import onnx",
            mend=f"qcompiler reads {len(OPERATORS)} ONNX operators: {', '.join(sorted(OPERATORS))}; "
            "rewrite or export the model with these",
        )


@dataclass(frozen=True)
class _Hints:
    """How one attempt treats free dimensions.

    Small example sizes are tried first; a window or a pool may need larger ones.

    Args:
        sizes: fixed sizes by dimension name.
        scale: factor on the example size of every axis but the first.
        shared: whether dimensions without a name are the same on the same axis of all inputs.
        decided: which branch to take where the types of both do not fit together.
    """

    sizes: Mapping[str, int]
    scale: int
    shared: bool
    decided: Decisions


@dataclass
class _Importer:
    """One attempt at one model."""

    model: onnx_ir.Model
    where: str
    hints: _Hints
    program: Program
    symbols: dict[str, str] = field(default_factory=dict)
    values: dict[onnx_ir.Value, Value] = field(default_factory=dict)
    rewritten: bool = False
    frame: Frame | None = None

    def __post_init__(self) -> None:
        self.emitter = Emitter(self.program)
        self.version = opset_of(self.model)

    def run(self) -> Program:
        graph = self.model.graph
        self.inputs()
        self.nodes(live_nodes(graph))
        self.emitter.module = ""
        outputs = [self.emitter.tensor(self.value(value)) for value in graph.outputs]
        self.program.set_outputs(outputs)
        if self.rewritten:
            # what was begun and then given up for the standard's definition
            self.program.erase_dead()
        self.program.signature = self.signature()
        self.program.edits = 0
        return self.program

    def signature(self) -> Signature:
        names = [value.name or f"output_{index}" for index, value in enumerate(self.model.graph.outputs)]
        leaves = tuple(Structure("leaf", index=index) for index in range(max(len(names), len(self.program.inputs))))
        result = leaves[0] if len(names) == 1 else Structure("dict", leaves[: len(names)], tuple(names))
        return Signature(Structure("tuple", leaves[: len(self.program.inputs)]), Structure("dict"), result)

    # -- inputs -------------------------------------------------------------------------------------------------------

    def inputs(self) -> None:
        """Declares the inputs; initializers that the model also lists as inputs are parameters instead."""
        parameters = set(self.model.graph.initializers)
        wanted = [value for value in self.model.graph.inputs if value.name not in parameters]
        taken = {dim for value in wanted for dim in value.shape or () if isinstance(dim, int)}
        examples = (hint for hint in itertools.chain(_PRIMES, itertools.count(101, 2)) if hint not in taken)
        for value in wanted:
            if not isinstance(value.type, onnx_ir.TensorType):
                raise UnsupportedError(f"input '{value.name}' is not a tensor", where=self.where, step="import onnx")
            if value.shape is None:
                raise InputError(
                    f"input '{value.name}' has no shape",
                    where=self.where,
                    step="import onnx",
                    mend="run onnx.shape_inference on the model, or set the input's rank",
                )
            dtype = torch_dtype(value.dtype, f"input '{value.name}' of {self.where}")
            dims = [self.dimension(value, axis, examples) for axis in range(len(value.shape))]
            self.values[value] = self.program.add_input(value.name or "input", TensorType(dtype, tuple(dims)))
        for node in self.program.inputs:
            self.emitter.remember_shape(node)

    def dimension(self, value: onnx_ir.Value, axis: int, examples: Iterator[int]) -> Dim:
        dim = value.shape[axis] if value.shape is not None else None
        if isinstance(dim, int) and dim >= 0:
            return dim
        given = dim.value if isinstance(dim, onnx_ir.SymbolicDim) else None
        label = given or f"{value.name}_{axis}"
        if label in self.hints.sizes:
            return self.hints.sizes[label]
        label = f"axis_{axis}" if self.hints.shared and given is None else label
        if label not in self.symbols:
            # the prefix keeps names clear of those that torch reads a meaning into
            self.symbols[label] = f"s_{len(self.symbols)}_" + re.sub(r"\W", "_", label, flags=re.ASCII)
            hint = next(examples) * (1 if axis == 0 else self.hints.scale)
            self.program.dimensions.add(self.symbols[label], Symbol(hint, low=1))
        return symbol_expr(self.symbols[label])

    # -- nodes --------------------------------------------------------------------------------------------------------

    def nodes(self, nodes: Sequence[onnx_ir.Node]) -> None:
        for node in nodes:
            self.emitter.module = module_of(node)
            inputs = tuple(self.value(value) if value is not None else None for value in node.inputs)
            context = OpContext(self.emitter, node, self.version, inputs)
            try:
                control = CONTROL.get(node.op_type) if node.domain in _STANDARD else None
                results = control(self, context) if control else self.results(context)
            except VerifyError as error:
                raise VerifyError(error.what, where=f"{context.where} of {self.where}: {error.where}") from error
            self.bind(context, [results] if isinstance(results, Node | Known | Sizes) else list(results))

    def bind(self, context: OpContext, results: Sequence[Value | None]) -> None:
        """Gives the node's outputs their values; one that is read but was not made is refused."""
        for index, output in enumerate(context.node.outputs):
            result = results[index] if index < len(results) else None
            if result is None and (output.uses() or output.is_graph_output()):
                raise context.refuse(f"its output {index} is not supported")
            if isinstance(result, Sizes):
                result = simplify(result, output.name or context.name)
            if result is not None:
                self.values[output] = result

    def results(self, context: OpContext) -> Result:
        operator = OPERATORS.get(context.node.op_type)
        if context.node.domain not in _STANDARD or (
            operator is None and not has_body(context.node.op_type, self.version)
        ):
            raise UnsupportedError(
                f"operator '{context.node.op_type}' is not supported",
                where=context.where,
                step="import onnx",
                mend=f"qcompiler reads {len(OPERATORS)} ONNX operators; rewrite or export the model with these",
            )
        if any(isinstance(value, Sizes) for value in context.inputs) and _is_small(context.inputs):
            rule = SIZES.get(context.node.op_type)
            folded = rule(context) if rule else None
            if folded is not None:
                return folded
        if operator and context.inputs and all(value is None or isinstance(value, Known) for value in context.inputs):
            folded = _fold(context)
            if folded is not None:
                return folded
        return self.emitted(context, operator)

    def emitted(self, context: OpContext, operator: Operator | None) -> Result:
        """What the operator's own function makes, or else the standard's definition of it by other operators."""
        try:
            results = heeded(operator, context) if operator else None
        except UnsupportedError:
            body = body_of(context)
            if body is None:
                raise
        else:
            if results is not None and not _lacks(context, results):
                return results
            body = body_of(context)
            if results is not None and body is None:
                return results
        if body is None:
            raise context.refuse("the standard has no definition of it by other operators for these element types")
        return self.inlined(context, *body)

    def inlined(self, context: OpContext, body: onnx_ir.Model, places: Sequence[int]) -> Result:
        """The results of a node's definition, each at its place among the node's outputs."""
        given = {value.name: context.inputs[i] for i, value in enumerate(context.node.inputs) if value is not None}
        for value in body.graph.inputs:
            found = given[value.name]
            if found is not None:
                self.values[value] = found
        version, self.version = self.version, opset_of(body)
        try:
            self.nodes(live_nodes(body.graph))
        finally:
            self.version = version
        self.rewritten = True
        results: list[Value | None] = [None] * len(context.node.outputs)
        for place, value in zip(places, body.graph.outputs, strict=True):
            results[place] = self.value(value)
        return results

    @property
    def decided(self) -> Decisions:
        """Which branch to take where the types of both do not fit together."""
        return self.hints.decided

    def nested(self, program: Program) -> _Importer:
        """What imports the nodes of a graph inside this one, into a program of its own."""
        inner = _Importer(self.model, self.where, self.hints, program, self.symbols)
        inner.version = self.version
        return inner

    def value(self, value: onnx_ir.Value) -> Value:
        """What an ONNX value became; initializers are read at first use."""
        if value not in self.values and self.frame is not None:
            self.values[value] = self.frame.value(value)
        if value not in self.values:
            if value.const_value is None:
                raise InputError(
                    f"value '{value.name}' is read but nothing defines it",
                    where=self.where,
                    step="import onnx",
                    mend="the graph is damaged; export the model again",
                )
            name = value.name or "constant"
            tensor = torch_tensor(value.const_value, f"initializer '{name}' of {self.where}")
            check_finite(name, tensor, self.where, "import onnx")
            self.values[value] = Known(name, tensor)
        return self.values[value]


def _lacks(context: OpContext, results: Result) -> bool:
    """Whether an output that is read was not made."""
    listed = [results] if isinstance(results, Node | Known | Sizes) else list(results)
    made = [index < len(listed) and listed[index] is not None for index in range(len(context.node.outputs))]
    return any(
        not made[index] and bool(output.uses() or output.is_graph_output())
        for index, output in enumerate(context.node.outputs)
    )


def _is_small(values: Sequence[Value | None]) -> bool:
    return all(
        value is None
        or isinstance(value, Sizes)
        or (isinstance(value, Known) and value.tensor.numel() <= LARGEST and not value.tensor.is_floating_point())
        for value in values
    )


def _fold(context: OpContext) -> Result | None:
    """The node's results when all inputs are known; None when they would take much more memory than the inputs."""
    scratch = Emitter(Program())
    try:
        results = heeded(OPERATORS[context.node.op_type], replace(context, emitter=scratch))
    except UnsupportedError:
        return None
    listed = [results] if isinstance(results, Node | Known | Sizes) else list(results)
    nodes = [result for result in listed if isinstance(result, Node)]
    produced = sum(math.prod(int(dim) for dim in scratch.program.shape(node)) for node in nodes)
    consumed = sum(value.tensor.numel() for value in context.inputs if isinstance(value, Known))
    if produced > max(FOLD_LIMIT, consumed):
        return None
    scratch.program.set_outputs(nodes)
    values = iter(evaluate(scratch.program, []))
    names = [output.name or context.name for output in context.node.outputs]
    return [Known(names[index], next(values)) if isinstance(item, Node) else item for index, item in enumerate(listed)]
