"""Turns activations just before the layers that read them: one node for all readers, undone in their weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from qcompiler.analysis.groups import SymmetryGroup
from qcompiler.analysis.symmetry import symmetries
from qcompiler.hadamard import block_of
from qcompiler.ir.program import Program
from qcompiler.passes.transform import surgery
from qcompiler.passes.transform.cut import cut_in
from qcompiler.passes.transform.factors import Chain, Diagonal, Factor, joined
from qcompiler.passes.transform.rotation.driver import seen
from qcompiler.passes.transform.rotation.site import TurnMethod, TurnSite, Verdict, judged
from qcompiler.passes.transform.wanted import Reading, by_source, channels, wanted
from qcompiler.pipeline import Context
from qcompiler.reducers import Samples
from qcompiler.spec import Number
from qcompiler.stats import Request

# What is assumed of a program without assignments.
_ACTIVATION = Number.parse("int8 sym tensor scale=f32")
# An online transform costs time, so that a hair's breadth of error is not enough.
_WORTH = 0.98


class TurnPass(TurnMethod, Protocol):
    """A method with the options that all passes of the family have."""

    @property
    def block(self) -> int:
        """Channels that are mixed."""
        ...

    @property
    def guard(self) -> bool:
        """Whether a value that comes out no better is left alone."""
        ...

    @property
    def samples(self) -> int:
        """How many rows of each value errors are measured on."""
        ...

    @property
    def seed(self) -> int:
        """Of the random signs."""
        ...


def requests(program: Program, method: TurnPass) -> list[Request]:
    """Samples of every value to be turned."""
    return [_request(layers, method) for layers in turned_values(program)]


def turn(program: Program, ctx: Context, method: TurnPass, blind: bool = False) -> Program:
    """Turns every value for which the method has something better than nothing.

    Args:
        program: edited.
        ctx: with the answers to `requests`.
        method: what to put in.
        blind: whether its one proposal is put in everywhere, without looking at data.

    Raises:
        InputError: without calibration data, unless blind.
    """
    found, groups = turned_values(program), symmetries(program).scales
    count, price = 0, 0.0
    for number, layers in enumerate(found, 1):
        site = turn_site(program, ctx, layers, method, blind)
        chosen = decided(site, method, blind)
        if chosen is not None:
            online = folded_scale(program, layers, chosen.best.factor, groups, method.name)
            cut_in(program, layers, online, method.name)
            count, price = count + 1, price + online.additions * site.channels
            measured = "" if blind else f", error {chosen.without:.3g} -> {chosen.error:.3g}"
            ctx.log(f"%{site.name}: {chosen.best.label}{measured}")
        else:
            for layer in layers:
                ctx.refuse(
                    layer.node, f"turning %{site.name}, which it reads, does not lower its error enough", depth=1
                )
        ctx.progress(number, len(found))
    ctx.log(f"{count} of {len(found)} values turned online, {price:.0f} additions per token in all")
    return program


def turned_values(program: Program) -> list[list[Reading]]:
    """The layers that read a value whose channels can be mixed, by value."""
    whole = [layer for layer in wanted(program) if layer.groups == 1]
    return by_source([layer for layer in whole if block_of(channels(program, layer) or 1) > 1])


def turn_site(
    program: Program, ctx: Context, layers: Sequence[Reading], method: TurnPass, blind: bool = False
) -> TurnSite:
    """A value as a method sees it, without samples if blind; signs differ from value to value, not from run to run.

    Raises:
        InputError: without calibration data.
    """
    source = layers[0].source
    if blind:
        site = TurnSite(source.name, torch.empty(0, channels(program, layers[0]) or 1), (), None)
    else:
        site = seen(program, layers, ctx.stats, method.samples)
    spec = site.spec or _ACTIVATION.spec(program.tensor_type(source).rank)
    seed = method.seed + list(program.graph.nodes).index(source)
    return replace(site, spec=spec, seed=seed, block=method.block)


def decided(site: TurnSite, method: TurnPass, blind: bool = False) -> Verdict | None:
    """The candidate to put in; None when doing nothing is as good, or nothing was proposed."""
    if blind:
        return Verdict(method.candidates(site)[0], 0.0, 0.0)
    verdict = judged(site, method.candidates(site), with_identity=method.guard)
    worth = verdict.error <= _WORTH * verdict.without or not method.guard
    return verdict if worth and verdict.best.factor.additions else None


def folded_scale(
    program: Program, layers: Sequence[Reading], factor: Factor, groups: Iterable[SymmetryGroup], step: str
) -> Factor:
    """Folds the scale that a transform begins with into what writes the value, where a group allows that.

    Args:
        program: edited.
        layers: all that read the value in the new basis.
        factor: the transform.
        groups: scale groups of the program.
        step: name of the pass.

    Returns:
        what is left to do online.
    """
    if not isinstance(factor, Chain) or len(factor.factors) == 1 or not isinstance(factor.factors[0], Diagonal):
        return factor
    scale = factor.factors[0].scale.double()
    for group in groups:
        place = _whole_axis(group, layers, len(scale))
        if place is not None:
            index, fibre, exponent = place
            vector = torch.ones(group.fibres, group.size, dtype=torch.float64)
            vector[fibre] = scale[index] ** (1 / exponent)
            surgery.scale(program, group, vector, step)
            return joined(factor.factors[1:])
    return factor


def _whole_axis(group: SymmetryGroup, layers: Sequence[Reading], channels: int) -> tuple[Tensor, Tensor, int] | None:
    """Index, fibre and exponent of the channels in a group that scales each alone and that just these layers read."""
    if not group.writers or {site.node for site in group.readers} != {layer.node for layer in layers}:
        return None
    site = next(site for site in group.readers if site.node is layers[0].node)
    once = len(site.place.index.flatten().unique()) == channels == group.fibres * group.size
    alone = once and site.place.index.numel() == channels and site.argument == "weight"
    return (site.place.index, site.place.fibre, site.exponent) if alone and not site.dual else None


def _request(layers: Sequence[Reading], method: TurnPass) -> Request:
    source, axis = layers[0].key
    return Request(source.name, Samples(axis, method.samples))
