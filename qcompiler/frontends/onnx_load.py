"""Opens ONNX models: files, protos and onnx-ir models, checked and with local functions inlined."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir
from google.protobuf.message import DecodeError
from onnx_ir.passes.common import InlinePass

from qcompiler.errors import InputError, UnsupportedError

LOWEST_OPSET = 7
_EXPORT_AGAIN = "export the model again; is the file complete?"


def load_model(source: str | Path | onnx.ModelProto | onnx_ir.Model) -> onnx_ir.Model:
    """Reads a model; its tensors stay where they are until they are asked for.

    Raises:
        InputError: for a file that is missing, cut off, or no ONNX model.
        UnsupportedError: for an opset outside the supported range.
    """
    where = str(source) if isinstance(source, str | Path) else "the given model"
    if isinstance(source, onnx_ir.Model):
        model = source.clone() if source.functions else source
    else:
        model = _read(source, where)
    if not model.graph.outputs:
        raise InputError("the model has no outputs", where=where, step="import onnx", mend=_EXPORT_AGAIN)
    version = opset_of(model)
    newest = onnx.defs.onnx_opset_version()
    if not LOWEST_OPSET <= version <= newest:
        raise UnsupportedError(
            f"the model uses opset {version}, qcompiler reads {LOWEST_OPSET} to {newest}",
            where=where,
            step="import onnx",
            mend="convert it with onnx.version_converter.convert_version(model, 21)",
        )
    if model.functions:
        InlinePass()(model)
    return model


def _read(source: str | Path | onnx.ModelProto, where: str) -> onnx_ir.Model:
    try:
        if isinstance(source, onnx.ModelProto):
            return onnx_ir.from_proto(source)
        if not Path(source).is_file():
            raise InputError(f"there is no file '{source}'", step="import onnx", mend="check the path")
        return onnx_ir.load(source, format="protobuf")
    except (DecodeError, onnx_ir.serde.SerdeError, ValueError, KeyError, TypeError, OSError) as error:
        reason = str(error).strip().splitlines()
        raise InputError(
            f"this is not a readable ONNX model: {reason[0] if reason else type(error).__name__}",
            where=where,
            step="import onnx",
            mend=_EXPORT_AGAIN,
        ) from error


def opset_of(model: onnx_ir.Model) -> int:
    """Version of the standard operator set; 1 when the model does not say."""
    return model.opset_imports.get("", model.opset_imports.get("ai.onnx", 1))


def module_of(node: onnx_ir.Node) -> str:
    """Where an ONNX node comes from: the module path that the exporter noted, else the node's name."""
    scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes")
    if scopes:
        try:
            names = [str(name) for name in ast.literal_eval(scopes)]
        except (ValueError, SyntaxError):
            names = []
        if names and names[0] == "":
            return word(names[-2]) if len(names) > 1 else ""
    return word(node.name or node.outputs[0].name or node.op_type)


def word(text: str) -> str:
    """`text` as one word of the text form."""
    return re.sub(r"[\s;]+", "_", text.strip())


def live_nodes(graph: onnx_ir.Graph) -> list[onnx_ir.Node]:
    """The nodes of a graph that its outputs depend on, in order."""
    live: set[onnx_ir.Node] = set()
    pending = [value.producer() for value in graph.outputs]
    while pending:
        node = pending.pop()
        if node is None or node in live:
            continue
        live.add(node)
        pending += [value.producer() for value in read_values(node)]
    return [node for node in graph if node in live]


def read_values(node: onnx_ir.Node) -> Iterator[onnx_ir.Value]:
    """Values that a node reads, those that its subgraphs read included."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type == onnx_ir.AttributeType.GRAPH:
            branch = attribute.as_graph()
            yield from branch.outputs
            for inner in branch:
                yield from read_values(inner)
