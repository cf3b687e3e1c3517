"""Scales of what ports hold: folded into the writers of a value where nobody else reads it, else multiplied online."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qcompiler.analysis.groups import Site, SymmetryGroup
from qcompiler.analysis.symmetry import symmetries
from qcompiler.ir.program import Program
from qcompiler.passes.transform import surgery
from qcompiler.passes.transform.branches.driver import BranchPort, multiply, now, set_weight, source_now


def scale_ports(program: Program, wanted: Sequence[tuple[BranchPort, Tensor]], step: str) -> int:
    """Lets the layers of ports read their value divided by a vector, and undoes it in their weights.

    Args:
        program: edited; nothing but constants changes where a writer takes the scale.
        wanted: ports, each with its float64 [channels] of positive numbers.
        step: name of the pass.

    Returns:
        how many values are multiplied when the model runs.
    """
    groups = symmetries(program).scales if wanted else ()
    found = [(port, scale, absorbing(groups, port)) for port, scale in wanted]
    # All groups first: a multiplication in between would hide a value from its group.
    for port, scale, group in found:
        if group is not None:
            surgery.scale(program, group, scale ** (-1.0 / exponent_of(group, port)), step)
    online = [(port, scale) for port, scale, group in found if group is None]
    for port, scale in online:
        _multiply(program, port, scale, step)
    return len(online)


def absorbing(groups: Sequence[SymmetryGroup], port: BranchPort) -> SymmetryGroup | None:
    """The group that scales the channels of a port's value one by one, and that its layers alone read."""
    layers = {layer.node for layer in port.layers}
    for group in groups:
        fits = group.fibres == 1 and group.size == port.channels and not group.folded_gains
        if not fits or {site.node for site in group.readers} != layers or not group.writers:
            continue
        exponent = exponent_of(group, port)
        if exponent and all(_plain(site, port) and site.exponent == exponent for site in group.readers):
            return group
    return None


def exponent_of(group: SymmetryGroup, port: BranchPort) -> int:
    """Of the scale in the value; 0 where the group does not reach it, or part of it only."""
    found = [each for each in group.ports if each.node is port.source]
    if len(found) != 1 or found[0].dual or not torch.equal(found[0].place.index, _all_channels(port)):
        return 0
    return found[0].exponent


def _plain(site: Site, port: BranchPort) -> bool:
    """Whether a layer reads each channel once, in order."""
    place = site.place
    whole = site.argument == "weight" and place.axis == 1 and place.groups == 1 and place.along is None
    return whole and not site.dual and torch.equal(place.index, _all_channels(port))


def _all_channels(port: BranchPort) -> Tensor:
    return torch.arange(port.channels)[None]


def _multiply(program: Program, port: BranchPort, scale: Tensor, step: str) -> None:
    source = source_now(program, port)
    moved = multiply(program, port, source, 1.0 / scale, f"{source.name}_smoothed", step)
    for layer in now(program, port).layers:
        weight = layer.weight * scale.reshape(-1, *[1] * (layer.weight.dim() - 2))
        set_weight(program, layer, weight, step, moved)
