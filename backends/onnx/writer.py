"""A Program as an ONNX model: one emitter per operator, names and provenance kept, weights shared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from qcompiler.backends.onnx.call import Call
from qcompiler.backends.onnx.context import Context, Emitted, KernelEmitter
from qcompiler.backends.onnx.dtypes import onnx_dtype
from qcompiler.backends.onnx.ops import EMITTERS
from qcompiler.errors import InputError, UnsupportedError
from qcompiler.ir import ops
from qcompiler.ir.program import Node, Program
from qcompiler.ir.region import nested_programs
from qcompiler.ir.structure import Structure

OLDEST_OPSET = 21
NEWEST_OPSET = 25
EXTERNAL_DATA_BYTES = 3 << 29


def write_model(
    program: Program, *, opset: int = OLDEST_OPSET, kernel_emitters: Mapping[str, KernelEmitter] | None = None
) -> ir.Model:
    """Writes a program at stage canonical, quantized or lowered as an ONNX model.

    Inputs keep their names, outputs take the keys of the result structure (`output_0`, ... without keys),
    values the names of the program's nodes; ONNX nodes are called `module/node`, helpers `module/node.Kind`.
    Weights share the memory of the program's parameters until the model is saved.

    Args:
        program: what to write; it is not changed.
        opset: version of the standard operator set, 21 to 25.
        kernel_emitters: how each kernel of a lowered program is written, by kernel name.

    Raises:
        UnsupportedError: for an operator, an argument or a number format that ONNX has no form for.
    """
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise UnsupportedError(f"ONNX opset {opset} cannot be written", mend=f"choose {OLDEST_OPSET} to {NEWEST_OPSET}")
    context = Context(program, opset, partial(_write_body, kernel_emitters or {}))
    inputs = [_input(context, node) for node in program.inputs]
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


def check_writable(program: Program, opset: int = OLDEST_OPSET) -> None:
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


def save_model(model: ir.Model, path: Path | str) -> None:
    """Writes a model to a file; weights beyond 1.5 GiB go to `NAME.data` beside it. Same model, same bytes.

    Raises:
        InputError: when the file cannot be written.
    """
    path = Path(path)
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    try:
        ir.save(model, path, external_data=f"{path.name}.data" if weights > EXTERNAL_DATA_BYTES else None)
    except OSError as error:
        raise InputError(
            f"the ONNX model cannot be written: {error.strerror or error}",
            where=str(path),
            step="write onnx",
            mend="check that the folder exists, is writable and has room",
        ) from error


def _input(context: Context, node: Node) -> ir.Value:
    type_ = context.program.tensor_type(node)
    value = ir.Value(
        name=context.unique(str(node.target)),
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
    paths = dict(_leaf_paths(program.signature.result, ()))
    names = [paths.get(i, ()) for i in range(len(program.outputs))]
    return [
        ".".join(path) if any(not part.isdigit() for part in path) else f"output_{i}" for i, path in enumerate(names)
    ]


def _leaf_paths(structure: Structure, path: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    if structure.kind == "leaf":
        yield structure.index, path
    keys = structure.keys or tuple(str(i) for i in range(len(structure.children)))
    for key, child in zip(keys, structure.children, strict=True):
        yield from _leaf_paths(child, (*path, key))


def _ir_version(opset: int) -> int:
    return onnx.helper.find_min_ir_version_for([onnx.helper.make_operatorsetid("", opset)])
