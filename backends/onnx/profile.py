"""What onnxruntime says it ran, from the profile of one call: the witness that audits are held against."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from qcompiler.backends.onnx.realised import FLOAT_PRODUCTS, INTEGER_PRODUCTS, PACKED_PRODUCTS
from qcompiler.backends.onnx.session import open_session
from qcompiler.target import LayerAudit

WITNESSED = FLOAT_PRODUCTS | INTEGER_PRODUCTS | PACKED_PRODUCTS


def executed(
    model: Path | bytes, inputs: Mapping[str, torch.Tensor], entries: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Operator type by node name, of every node of the outermost graph and of those inside it that ran in one call.

    Raises:
        InputError: when the runtime refuses the model or the inputs.
    """
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(model, threads=1, profile=Path(folder) / "profile", entries=entries)
        session.run(inputs)
        events = json.loads(Path(session.inner.end_profiling()).read_text())
    found: dict[str, str] = {}
    for event in events:
        details = event.get("args", {})
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            found[event["name"].removesuffix("_kernel_time")] = details["op_name"]
    return found


def false_answers(layers: Iterable[LayerAudit], ran: Mapping[str, str]) -> tuple[str, ...]:
    """Where an audit and a profile disagree on which products ran; empty when they agree.

    Args:
        layers: of the audit.
        ran: what `executed` found.
    """
    claimed = Counter(kernel for layer in layers for kernel in claimed_kernels(layer))
    witnessed = Counter(kind for kind in ran.values() if kind in WITNESSED)
    kinds = sorted(set(claimed) | set(witnessed))
    return tuple(
        f"{kind}: the audit says {claimed[kind]}, the runtime ran {witnessed[kind]}"
        for kind in kinds
        if claimed[kind] != witnessed[kind]
    )


def claimed_kernels(layer: LayerAudit) -> list[str]:
    """The products of the runtime that an audit names, without the words around them."""
    return [word for word in re.findall(r"\w+", layer.realised) if word in WITNESSED]
