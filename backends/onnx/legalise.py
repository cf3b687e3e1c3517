"""Brings a quantized ONNX model, whoever wrote it, into forms that onnxruntime runs in integers.

Every rule is narrow and keeps what the model computes: codes move by exact integers, biases by less than half of one
step of the int32 sum. What no rule can mend without new statistics stays as it is, and the audit names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import InlinePass, RemoveUnusedNodesPass, ShapeInferencePass, TopologicalSortPass

from qcompiler.backends.onnx.foreign import EXTERNAL_FOLDER, read_model
from qcompiler.backends.onnx.legal import RULES
from qcompiler.backends.onnx.legal.edit import Editor, Rule
from qcompiler.backends.onnx.legal.results import quantizing_results, unquantized_results
from qcompiler.backends.onnx.session import open_session
from qcompiler.backends.onnx.writer import save_model
from qcompiler.errors import InputError

OLDEST_OPSET = 13
_MOST_ROUNDS = 8


@dataclass(frozen=True)
class Change:
    """One rewrite.

    Args:
        rule: name of the rule.
        node: name of the node it was found at.
        reason: what the runtime would have done.
    """

    rule: str
    node: str
    reason: str

    def __str__(self) -> str:
        return f"{self.rule} at {self.node}: {self.reason}"


def legalise(model: ir.Model, rules: Sequence[Rule] = RULES, *, prepare: bool = True) -> tuple[Change, ...]:
    """Rewrites a model in place until no rule applies; returns what was done, in order.

    Args:
        model: what is rewritten.
        rules: tried in this order.
        prepare: whether functions are written out and shapes computed first, for models from elsewhere.

    Raises:
        InputError: for an operator set that is older than scales per channel.
    """
    opset = model.graph.opset_imports.get("", 0)
    if opset < OLDEST_OPSET:
        mend = "convert the model with onnx.version_converter"
        raise InputError(f"opset {opset} has no scales per channel, {OLDEST_OPSET} has", mend=mend)
    if prepare:
        InlinePass()(model)
        ShapeInferencePass()(model)
    editor = Editor(model.graph)
    changes: list[Change] = []
    for _ in range(_MOST_ROUNDS):
        done = [change for rule in rules for change in _sweep(editor, rule)]
        if not done:
            break
        RemoveUnusedNodesPass()(model)
        changes += done
    if changes:
        TopologicalSortPass()(model)
    for domain, version in editor.domains.items():
        model.graph.opset_imports.setdefault(domain, version)
    return tuple(changes)


def legalise_file(source: Path, result: Path, samples: Sequence[Mapping[str, torch.Tensor]] = ()) -> tuple[Change, ...]:
    """Reads a model, legalises it and writes the result, weights beyond 1.5 GiB beside it.

    Args:
        source: the model.
        result: where it goes.
        samples: inputs by name, whole batches; with them, results of convolutions that nothing quantizes get a grid.

    Raises:
        InputError: when the file cannot be read or written, or is too old.
    """
    read_model(source)
    model = ir.load(source)
    changes = legalise(model)
    if samples:
        found = unquantized_results(model.graph)
        ranges = observed_ranges(model, found, samples, source.parent)
        changes += legalise(model, (quantizing_results(ranges), *RULES)) if ranges else ()
    save_model(model, result)
    return changes


def observed_ranges(
    model: ir.Model, values: Sequence[ir.Value], samples: Sequence[Mapping[str, torch.Tensor]], folder: Path
) -> dict[str, tuple[float, float]]:
    """Smallest and largest element of some values over all samples, by name; as the plain arithmetic of the file.

    Raises:
        InputError: when the samples do not fit the model.
    """
    names = [value.name for value in values if value.name]
    if not names:
        return {}
    watched = ir.serde.serialize_model(model)
    known = {item.name for item in watched.graph.output}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    entries = {EXTERNAL_FOLDER: str(folder.resolve()), "session.disable_quant_qdq": "1"}
    session = open_session(watched.SerializeToString(), entries=entries)
    ranges: dict[str, tuple[float, float]] = {}
    for sample in samples:
        results = dict(zip(session.outputs, session.run(sample), strict=True))
        for name in names:
            low, high = (float(end) for end in torch.aminmax(results[name]))
            before = ranges.get(name, (low, high))
            ranges[name] = (min(low, before[0]), max(high, before[1]))
    return ranges


def _sweep(editor: Editor, rule: Rule) -> list[Change]:
    found: list[Change] = []
    for node in list(editor.graph):
        if node.graph is editor.graph and rule.apply(editor, node):
            found.append(Change(rule.name, node.name or node.op_type, rule.reason))
    return found
