"""What a file says about itself: who made it, and of every node what was asked and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

NODE_KEY = "qcompiler.node"


def annotate(path: Path, model: Mapping[str, str], nodes: Mapping[str, Mapping[str, str]]) -> None:
    """Adds properties to a file that was written; weights beside it are not touched.

    Args:
        path: of the ONNX file.
        model: properties of the model, keys without the prefix `qcompiler.`.
        nodes: properties of program nodes, by name; the ONNX node that yields their value gets them.
    """
    proto = onnx.load(str(path), load_external_data=False)
    _set(proto, model)
    last = {owner: node for node in proto.graph.node for owner in _owners(node)}
    for owner, node in last.items():
        _set(node, nodes.get(owner, {}))
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _owners(node: onnx.NodeProto) -> list[str]:
    return [entry.value for entry in node.metadata_props if entry.key == NODE_KEY]


def _set(holder: onnx.ModelProto | onnx.NodeProto, properties: Mapping[str, str]) -> None:
    known = {entry.key: entry for entry in holder.metadata_props}
    for name, value in properties.items():
        key = f"qcompiler.{name}"
        entry = known[key] if key in known else holder.metadata_props.add()
        entry.key, entry.value = key, value
