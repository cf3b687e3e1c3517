"""Cuts a change of basis into the graph in front of layers, as nodes that run with the model.

Formula   the layers read `x T` in place of x and get `W T^-T`
Shapes    x of any rank, its channels on one axis
Promise   Exact: the weights undo what the stored numbers of T really do
Needs     layers with constant weights and without groups
Source    Ashkboos et al. 2024, "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs", section 4
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from qcompiler.analysis.groups import Place
from qcompiler.certificate import hide
from qcompiler.errors import VerifyError
from qcompiler.ir.program import Node, Program
from qcompiler.passes.transform.factors import Factor
from qcompiler.passes.transform.surgery import Edit, edit_constants
from qcompiler.passes.transform.wanted import Reading, channels


def cut_in(program: Program, layers: Sequence[Reading], factor: Factor, step: str) -> Node:
    """Lets layers that read the same axis of the same value read it in another basis.

    Args:
        program: edited.
        layers: what is to read the new value; whoever else reads the old one is left alone.
        factor: of as many coordinates as the axis has.
        step: name of the pass.

    Returns:
        the node of the new value.

    Raises:
        VerifyError: when the layers read different values, in groups, or a number of channels that is free.
    """
    first = layers[0]
    size = channels(program, first)
    if size is None or any(layer.key != first.key or layer.groups != 1 for layer in layers):
        raise VerifyError("an online transform serves whole layers that read one value", where=f"%{first.source.name}")
    dtype = program.tensor_type(first.source).dtype
    stored = factor.rounded(dtype)
    turned = _insert(program, layers, stored, step)
    place = Place(first.weight_axis, torch.arange(size)[None], torch.zeros(1, dtype=torch.int64))
    edits = [
        Edit(layer.node, "weight", place, lambda rows, fibre: stored.contrary(rows), "contrary") for layer in layers
    ]
    edit_constants(program, edits, step)
    for layer in layers:
        program.redirect(layer.node, layer.source, turned)
    hide(turned)
    return turned


def _insert(program: Program, layers: Sequence[Reading], factor: Factor, step: str) -> Node:
    """The nodes of the new value, in front of the first of the layers; channels are put last for them and back."""
    first = layers[0]
    builder = program.before(min(layer.node for layer in layers), step)
    rank = program.tensor_type(first.source).rank
    if first.axis == rank - 1:
        return factor.insert(builder, first.source, first.source.name)
    there = [*(axis for axis in range(rank) if axis != first.axis), first.axis]
    back = [there.index(axis) for axis in range(rank)]
    value = builder.call("aten.permute", first.source, there, name=f"{first.source.name}_last")
    value = factor.insert(builder, value, first.source.name)
    return builder.call("aten.permute", value, back, name=f"{first.source.name}_turned")
