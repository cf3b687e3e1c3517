"""A Program as an ONNX model: one emitter per operator, names and provenance kept, weights shared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from qcompiler.backends.lowering.call import Call
from qcompiler.backends.onnx.context import Context, Emitted, KernelEmitter
from qcompiler.backends.onnx.dtypes import onnx_dtype
from qcompiler.backends.onnx.ops import EMITTERS
from qcompiler.errors import InputError, UnsupportedError
from qcompiler.ir import ops
from qcompiler.ir.program import Node, Program
from qcompiler.ir.region import nested_programs
from qcompiler.ir.states import arguments, results
from qcompiler.ir.structure import Structure

OLDEST_OPSET = 13
NEWEST_OPSET = 25
USUAL_OPSET = 21
# A file must stay below 2 GiB; what lies in it is copied more than once when it is read.
INLINE_BYTES = 3 << 29
# Larger weights begin where memory maps of every system can.
_ALIGNMENT = 1 << 16


def write_model(
    program: Program,
    *,
    opset: int = USUAL_OPSET,
    kernel_emitters: Mapping[str, KernelEmitter] | None = None,
    four_bit_floats: bool = False,
) -> ir.Model:
    """Writes a program at stage canonical, quantized or lowered as an ONNX model.

    Inputs keep their names, a state `x` becomes input `past.x` and output `present.x`, other outputs take the keys of
    the result structure (`output_0`, ... without keys), values the names of the program's nodes; ONNX nodes are called
    `module/node`, helpers `module/node.Kind`.
    Weights share the memory of the program's parameters until the model is saved.

    Args:
        program: what to write; it is not changed.
        opset: version of the standard operator set, 13 to 25.
        kernel_emitters: how each kernel of a lowered program is written, by kernel name.
        four_bit_floats: whether the reader knows the element type FLOAT4E2M1, which onnxruntime has no CPU kernels for.

    Raises:
        UnsupportedError: for an operator, an argument or a number format that ONNX has no form for.
    """
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise UnsupportedError(f"ONNX opset {opset} cannot be written", mend=f"choose {OLDEST_OPSET} to {NEWEST_OPSET}")
    context = Context(program, opset, partial(_write_body, kernel_emitters or {}), four_bit_floats)
    names = [*(str(node.target) for node in arguments(program)), *(f"past.{name}" for name in program.states)]
    inputs = [_input(context, node, name) for node, name in zip(program.inputs, names, strict=True)]
    output_names = [context.unique(name) for name in _output_names(program)]
    context.write_body(context)
    graph = ir.Graph(
        inputs,
        _outputs(context, output_names),
        nodes=context.nodes,
        initializers=context.initializers,
        opset_imports={"": opset, **context.domains},
        name=program.name,
    )
    model = ir.Model(graph, ir_version=_ir_version(opset), producer_name="qcompiler")
    RemoveUnusedNodesPass()(model)
    return model


def check_writable(program: Program, opset: int = USUAL_OPSET) -> None:
    """Finds out before any other work whether a canonical program can be written.

    Raises:
        UnsupportedError: naming every operator without a form in ONNX, with its first node and the source module; or
            the first whose arguments have none.
    """
    unknown: dict[str, tuple[Program, Node]] = {}
    for _, each in nested_programs(program):
        for node in each.nodes:
            if each.op(node) not in EMITTERS and each.op(node) != ops.GETITEM:
                unknown.setdefault(each.op(node), (each, node))
    if unknown:
        owner, first = next(iter(unknown.values()))
        error = _unsupported(f"operator {', '.join(map(repr, unknown))}", owner, first, sorted(EMITTERS))
        raise UnsupportedError(
            error.what,
            where="; ".join(_place(owner, node) for owner, node in unknown.values()),
            step=error.step,
            mend=error.mend,
        )
    write_model(program, opset=opset)


def save_model(model: ir.Model, path: Path | str, inline_bytes: int = INLINE_BYTES) -> None:
    """Writes a model to a file; weights beyond a size go to `NAME.data` beside it. Same model, same bytes.

    Weights that are computed or read when they are asked for are written one after the other, so that beside a data
    file only the largest of them is in memory.

    Args:
        model: what `write_model` made.
        path: of the file.
        inline_bytes: the most bytes of weights that lie in the file itself.

    Raises:
        InputError: when the file cannot be written.
    """
    path = Path(path)
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    external = f"{path.name}.data" if weights > inline_bytes else None
    try:
        ir.save(model, path, external_data=external, alignment=_ALIGNMENT)
    except OSError as error:
        raise InputError(
            f"the ONNX model cannot be written: {error.strerror or error}",
            where=str(path),
            step="write onnx",
            mend="check that the folder exists, is writable and has room",
        ) from error


def _input(context: Context, node: Node, name: str) -> ir.Value:
    type_ = context.program.tensor_type(node)
    value = ir.Value(
        name=context.unique(name),
        shape=context.shape_of(type_),
        type=ir.TensorType(onnx_dtype(type_.dtype)),
    )
    context.bind(node, value)
    return value


def _write_body(kernels: Mapping[str, KernelEmitter], context: Context) -> None:
    for node in context.program.nodes:
        _write_node(context, node, kernels)


def _write_node(context: Context, node: Node, kernels: Mapping[str, KernelEmitter]) -> None:
    try:
        context.bind(node, _emit(context, node, kernels))
    except UnsupportedError as error:
        if error.where:
            raise
        raise UnsupportedError(
            error.what, where=_place(context.program, node), step="write onnx", mend=error.mend
        ) from error


def _place(program: Program, node: Node) -> str:
    return f"%{node.name} = {program.op(node)} from module {program.origin(node).module or '(top)'}"


def _emit(context: Context, node: Node, kernels: Mapping[str, KernelEmitter]) -> Emitted:
    program = context.program
    name = program.op(node)
    if name == ops.GETITEM:
        source, index = node.args
        if isinstance(source, Node) and isinstance(index, int):
            return context.results(source)[index]
    if node.target is ops.kernel:
        kernel = str(node.args[0])
        if kernel not in kernels:
            raise _unsupported(f"kernel '{kernel}'", program, node, sorted(kernels))
        return kernels[kernel](context, Call(node, kernel, node.kwargs, node.args[1:]))
    if name not in EMITTERS:
        raise _unsupported(f"operator '{name}'", program, node, sorted(EMITTERS))
    return EMITTERS[name](context, Call(node, name, program.bind(node)))


def _unsupported(what: str, program: Program, node: Node, known: list[str]) -> UnsupportedError:
    names = sorted({name.removeprefix("aten.").split(".")[0] for name in known})
    return UnsupportedError(
        f"{what} cannot be written as ONNX",
        where=_place(program, node),
        step="write onnx",
        mend=f"keep the module outside of the compiled model, or write it with these: {', '.join(names)}",
    )


def _outputs(context: Context, names: list[str]) -> list[ir.Value]:
    outputs: list[ir.Value] = []
    for node, name in zip(context.program.outputs, names, strict=True):
        value = context.value(node)
        if value.producer() is None or any(value is other for other in outputs):
            # An input, a weight or a result given twice cannot carry the name of this output.
            identity = context.op("Identity", [value])
            identity.type = value.type
            context.bind(node, identity)
            value = identity
        value.name = name
        outputs.append(value)
    return outputs


def _output_names(program: Program) -> list[str]:
    """The keys of each result, joined by dots; its number where the model returns it without one."""
    names = dict(_leaf_names(program.signature.result, (), keyed=False))
    own = [names.get(i) or f"output_{i}" for i in range(len(results(program)))]
    return [*own, *(f"present.{name}" for name in program.states)]


def _leaf_names(structure: Structure, path: tuple[str, ...], *, keyed: bool) -> Iterator[tuple[int, str]]:
    if structure.kind == "leaf":
        yield structure.index, ".".join(path) if keyed else ""
    keys = structure.keys or tuple(str(i) for i in range(len(structure.children)))
    for key, child in zip(keys, structure.children, strict=True):
        yield from _leaf_names(child, (*path, key), keyed=keyed or bool(structure.keys))


def _ir_version(opset: int) -> int:
    return onnx.helper.find_min_ir_version_for([onnx.helper.make_operatorsetid("", opset)])
