"""A copy of a program to learn on: activations pass through quantize nodes, transforms are parameters that can vary.

The copy computes the same function as long as every transform is the identity. Ranges are taken from what passes by at
run time, also where they will be static later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import torch
from torch import Tensor

from qcompiler.analysis.groups import Place, Site, SymmetryGroup
from qcompiler.analysis.segments import segments
from qcompiler.ir.program import Builder, Node, Program, all_nodes
from qcompiler.passes.transform.constants import constant_at, zero_or_one
from qcompiler.passes.transform.cut import cut_in
from qcompiler.passes.transform.factors import Dense
from qcompiler.passes.transform.learned.constants import Constant, Edit, shifted, transformed
from qcompiler.passes.transform.learned.tasks import Folded, Online, Task
from qcompiler.passes.transform.surgery import added_constant
from qcompiler.passes.transform.wanted import Reading, channels, offset, reading_of, weight_of
from qcompiler.plan import Assignment
from qcompiler.spec import QuantSpec

Change = Callable[[Tensor, Tensor], Tensor]


@dataclass(eq=False)
class Bed:
    """What is learned on.

    Args:
        program: with quantize nodes.
        nodes: by the name that they have in the program that it was copied from.
        constants: parameters that are rounded or change.
        spans: per task, the operators that it concerns.
        segment: of every node.
    """

    program: Program
    nodes: Mapping[str, Node]
    constants: dict[Node, Constant] = field(default_factory=dict)
    spans: list[set[Node]] = field(default_factory=list)
    segment: dict[Node, int] = field(default_factory=dict)


def bed_of(program: Program, tasks: Sequence[Task], step: str) -> Bed:
    """A bed with these transforms in it, all of them the identity.

    Args:
        program: canonical, with assignments; the tasks' nodes are its own.
        tasks: their numbers count in `Edit.basis`.
        step: who asks.
    """
    copy = program.copy()
    bed = Bed(copy, {node.name: node for node in copy.graph.nodes})
    starts = {segment.start: number for number, segment in enumerate(segments(copy, layers_of(copy)))}
    _number(bed, starts)
    for number, task in enumerate(tasks):
        bed.spans.append({bed.nodes[node.name] for node in task.nodes if node.name in bed.nodes})
        if isinstance(task, Online):
            _insert(bed, number, task, step)
        elif task.kind == "shift":
            _shift(bed, program, number, task.group, step)
        else:
            _vary(bed, number, task, step)
    _quantize(bed, step)
    _number(bed, starts)
    return bed


def layers_of(program: Program) -> list[Node]:
    """Operators that will be quantized, in order."""
    return [node for node in program.nodes if isinstance(node.meta.get("assignment"), Assignment)]


def _number(bed: Bed, starts: Mapping[Node, int]) -> None:
    """Tells every node its segment; what was put in front of an operator belongs to that operator's."""
    number, waiting = 0, []
    for node in bed.program.graph.nodes:
        number = starts.get(node, number)
        waiting.append(node)
        if bed.nodes.get(node.name) is node or node in starts:
            bed.segment.update(dict.fromkeys(waiting, number))
            waiting.clear()
    bed.segment.update(dict.fromkeys(waiting, number))


def _vary(bed: Bed, number: int, task: Folded, step: str) -> None:
    """Lets the constants at the sites of a group vary; gains that a scale needs come into being."""
    for site in task.group.sites:
        fill = zero_or_one(site.argument) if task.kind == "scale" else None
        _edit(bed, number, site, partial(transformed, site=site), fill or None, step)


def _insert(bed: Bed, number: int, task: Online, step: str) -> None:
    """Puts a product with the identity in front of the layers."""
    layers = [reading_of(bed.program, bed.nodes[layer.node.name]) for layer in task.layers]
    size = int(channels(bed.program, task.layers[0]) or 0)
    turned = cut_in(bed.program, [layer for layer in layers if layer is not None], Dense(torch.eye(size)), step)
    product = turned if bed.program.op(turned) == "aten.matmul" else cast(Node, turned.args[0])
    matrix = cast(Node, product.args[1])
    _constant(bed, product, matrix, step).edits.append(Edit(number, lambda value, basis: basis[0, 0]))
    bed.spans[number].add(product)
    for layer in task.layers:
        place = Place(layer.weight_axis, torch.arange(size)[None], torch.zeros(1, dtype=torch.int64))
        site = Site(layer.node, "weight", "reader", place)
        _edit(bed, number, site, partial(transformed, site=site), None, step)


def _shift(bed: Bed, program: Program, number: int, group: SymmetryGroup, step: str) -> None:
    """Lets a shift move out of the writer's bias into those of the readers."""
    node, argument, place = added_constant(program, group, step)
    _edit(bed, number, Site(node, argument, "writer", place), partial(_taken, place=place), 0.0, step)
    for site in group.readers:
        reading = reading_of(bed.program, bed.nodes[site.node.name])
        if reading is not None:
            weight = weight_of(bed.program, reading).float()
            whole = Place(0, torch.arange(1)[None], torch.zeros(1, dtype=torch.int64))
            bias = Site(site.node, "bias", "writer", whole)
            answer = partial(_answered, weight=weight, reading=reading, place=site.place)
            _edit(bed, number, bias, answer, 0.0, step)


def _taken(value: Tensor, basis: Tensor, place: Place) -> Tensor:
    return shifted(value, place, basis)


def _answered(value: Tensor, basis: Tensor, weight: Tensor, reading: Reading, place: Place) -> Tensor:
    """A layer's bias with what a shift of its input took away."""
    size = weight.shape[reading.weight_axis] * (reading.groups if reading.weight_axis == 1 else 1)
    taken = torch.zeros(size).index_copy(0, place.index.flatten(), basis[place.fibre].flatten())
    return value + offset(weight, reading, taken)


def _edit(bed: Bed, number: int, site: Site, change: Change, fill: float | None, step: str) -> None:
    """Notes an edit of the constant at a site, which is this operator's own from now on."""
    node = bed.nodes[site.node.name]
    listed = None if site.constant is None else bed.nodes.get(site.constant.name)
    found = constant_at(bed.program, node, site.argument, site.place, fill, step, listed)
    if found is not None:
        _constant(bed, node, found, step).edits.append(Edit(number, change))


def _constant(bed: Bed, node: Node, param: Node, step: str) -> Constant:
    own = bed.program.own_param(node, param, step)
    if own not in bed.constants:
        bed.constants[own] = Constant(bed.program.exact(own).float(), bed.program.tensor_type(own).dtype)
    return bed.constants[own]


def _quantize(bed: Bed, step: str) -> None:
    """Quantize nodes at every assigned activation, specs at every assigned weight."""
    pairs: dict[tuple[Node, QuantSpec, int], Node] = {}
    for node in layers_of(bed.program):
        assigned, arguments = cast(Assignment, node.meta["assignment"]), bed.program.bind(node)
        for name, spec in assigned.inputs.items():
            for source in dict.fromkeys(all_nodes(arguments[name])):
                if source.op == "get_attr":
                    _constant(bed, node, source, step).spec = spec
                    continue
                key = source, spec, bed.segment[node]
                if key not in pairs:
                    pairs[key] = _pair(bed.program.before(node, step), source, spec)
                bed.program.redirect(node, source, pairs[key])


def _pair(builder: Builder, source: Node, spec: QuantSpec) -> Node:
    *scales, zero_point = builder.items(builder.call("qc.choose_qparams", source, kwargs={"spec": spec}))
    scale = scales[0] if len(scales) == 1 else scales
    zero = None if spec.symmetric else zero_point
    codes = builder.call("qc.quantize", source, scale, zero, kwargs={"spec": spec})
    return builder.call("qc.dequantize", codes, scale, zero, kwargs={"spec": spec})
