"""Rotations that cost nothing at run time: folded at every symmetry group that allows one.

The driver finds the groups, folds gains and takes means out of the way, samples what the layers read, asks the method
for one orthogonal map per fibre, and has the surgery fold the best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from qcompiler.analysis.groups import Action, Site, SymmetryGroup
from qcompiler.analysis.symmetry import symmetries
from qcompiler.errors import VerifyError
from qcompiler.hadamard import core, random_orthogonal, random_signs
from qcompiler.ir.program import Node, Program
from qcompiler.passes.transform import surgery
from qcompiler.passes.transform.factors import Chain, Dense, Factor, Hadamard, Placed, keeping_mean
from qcompiler.passes.transform.gains import NORMS, centre, fold_norm, fold_product, without_mean
from qcompiler.passes.transform.rotation.site import TurnSite
from qcompiler.passes.transform.smoothing.sites import reader_of
from qcompiler.passes.transform.wanted import Reading, wanted
from qcompiler.pipeline import Context
from qcompiler.reducers import Samples
from qcompiler.spec import QuantSpec
from qcompiler.stats import Request, Stats, collect

# Gains that one folding reveals are folded in the next; every round takes at least one away.
_ROUNDS = 64
Key = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Folding:
    """What is folded, and how it is judged.

    Args:
        residual: groups that several operators write, such as residual streams.
        values: groups that one operator writes, such as the values of attention heads.
        guard: whether a group stays where a rotation does not lower the error of the layers that read it; that is
            measured on calibration data, and nothing is where there is none.
        samples: rows of each value on which errors are measured.
        block: coordinates that are mixed; 0 for as many as there is a Hadamard matrix for.
        seed: of every random choice.
    """

    residual: bool = True
    values: bool = True
    guard: bool = True
    samples: int = 256
    block: int = 0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class FoldSite:
    """A symmetry group as a method sees it.

    Args:
        name: for the log.
        size: coordinates of each fibre.
        fibres: how many maps are wanted.
        seed: another one for each group, the same in every run.
        block: see `Folding`.
        specs: of what each quantized layer reads of the group, with the axis of its channels.
        turned: what each quantized layer reads of the group, and which of its channels are whose coordinates; empty
            when nothing was sampled.
    """

    name: str
    size: int
    fibres: int
    seed: int
    block: int
    specs: tuple[tuple[QuantSpec | None, int], ...] = ()
    turned: tuple[tuple[TurnSite, Site], ...] = ()

    def hadamard(self, fibre: int = 0, block: int = 0, trial: int = 0) -> Factor:
        """A randomised Hadamard rotation of one fibre, another one for each trial.

        Where no Hadamard matrix mixes all coordinates, any other random rotation costs no more once it is folded.
        """
        seed = self.seed + (trial << 10) + fibre
        order = block or self.block
        if order and self.size % order == 0:
            return Hadamard(order, random_signs(self.size, seed))
        if 0 < core(self.size) <= self.size:
            return Hadamard(self.size, random_signs(self.size, seed))
        return Dense(random_orthogonal(self.size, seed))

    def rows(self, fibre: int = 0) -> Tensor:
        """What all layers read of one fibre, [rows, size]; no rows when nothing was sampled."""
        found = [
            seen.rows[:, site.place.index[site.place.fibre == fibre]].reshape(-1, self.size)
            for seen, site in self.turned
        ]
        return torch.cat(found) if found else torch.empty(0, self.size)

    def error(self, factors: Sequence[Factor]) -> float:
        """Mean over layers of the squared output error relative to the output; 0 when nothing was sampled."""
        errors = [seen.error(Placed(site.place.index, site.place.fibre, tuple(factors))) for seen, site in self.turned]
        return sum(errors) / len(errors) if errors else 0.0


class FoldMethod(Protocol):
    """Proposes rotations of a group; the driver folds the best one, or none."""

    name: ClassVar[str]

    def foldable(self, site: FoldSite) -> Sequence[Sequence[Factor]]:
        """What to try: orthogonal maps, one for each fibre or one for all; the first is folded unmeasured."""
        ...


@dataclass
class Folded:
    """What was folded.

    Args:
        program: the rotated program.
        groups: in graph order.
        layers: by layer whose input is rotated now: the place of the group in its weight.
    """

    program: Program
    groups: list[SymmetryGroup] = field(default_factory=list)
    layers: dict[Node, Site] = field(default_factory=dict)


def fold(program: Program, ctx: Context, method: FoldMethod, folding: Folding) -> Folded:
    """Rotates every group that allows it, that a quantized layer reads, and that comes out better.

    Args:
        program: not changed.
        ctx: its batches are what errors are measured on.
        method: what rotates.
        folding: see `Folding`.
    """
    plain = _plain_errors(program, ctx, folding) if folding.guard and ctx.batches else {}
    staying: frozenset[Key] = frozenset()
    while True:
        trial = program.copy()
        groups, changed = prepared(trial, folding, method.name, staying, ctx.log)
        places = _places(trial, groups)
        stats = sampled(trial, ctx, places, folding.samples) if plain else None
        sites = [fold_site(trial, group, folding, number, stats) for number, group in enumerate(groups, 1)]
        chosen = [_best(site, group, method, plain) for site, group in zip(sites, groups, strict=True)]
        # What was cleared away for a rotation that is not wanted stays where it was.
        losers = {_key(group) for group, best in zip(groups, chosen, strict=True) if best.factors is None}
        if not losers & changed:
            return _applied(trial, ctx, method, groups, chosen)
        staying |= losers & changed


def _applied(
    program: Program, ctx: Context, method: FoldMethod, groups: Sequence[SymmetryGroup], chosen: Sequence[_Best]
) -> Folded:
    done = Folded(program)
    for number, (group, best) in enumerate(zip(groups, chosen, strict=True), 1):
        measured = f", error {best.without:.3g} -> {best.error:.3g}" if best.without else ""
        if best.factors is None:
            for node in dict.fromkeys(site.node for site in group.readers):
                reason = f"what it reads, {group.name}, is not rotated: that does not lower the error{measured}"
                ctx.refuse(node, reason, "guard=false rotates it all the same", depth=1)
            ctx.log(f"{group.name}: {_text(group)} are not rotated, that does not lower the error{measured}")
        else:
            surgery.apply(program, group, list(best.factors), method.name)
            done.groups.append(group)
            done.layers.update({reader.node: reader for reader in group.readers})
            ctx.log(f"{group.name}: rotated {_text(group)}{measured}")
        ctx.progress(number, len(groups))
    return done


def prepared(
    program: Program,
    folding: Folding,
    step: str,
    staying: frozenset[Key] = frozenset(),
    log: Callable[[str], None] = lambda line: None,
) -> tuple[list[SymmetryGroup], set[Key]]:
    """Clears the way for rotations.

    Args:
        program: edited.
        folding: which groups are wanted.
        step: name of the pass.
        staying: groups that are left as they are.
        log: told of gains that cannot be folded.

    Returns:
        the groups to be rotated, in the program as it is now, and those for which something had to be changed.
    """
    refused: set[str] = set()
    changed: set[Key] = set()
    for _ in range(_ROUNDS):
        groups = [
            group
            for group in _chosen(program, folding)
            if _key(group) not in staying and not refused.intersection(node.name for node in group.folded_gains)
        ]
        gains = {node: None for group in groups for node in group.folded_gains if _has_gain(program, node)}
        means = [group for group in groups if _rotates(group) and group.centred_norms]
        if not gains and not means:
            return groups, changed
        changed |= {_key(group) for group in groups if group in means or gains.keys() & set(group.folded_gains)}
        for node in gains:
            try:
                (fold_norm if program.op(node) in NORMS else fold_product)(program, node, step)
            except VerifyError as error:
                refused.add(node.name)
                log(f"%{node.name} keeps its gain: {error.what}")
        for group in [] if gains else means:
            centre(program, group, step)
            for norm in group.centred_norms:
                without_mean(program, norm, step)
    return [], changed


def fold_site(
    program: Program, group: SymmetryGroup, folding: Folding, number: int, stats: Stats | None = None
) -> FoldSite:
    """A group as a method sees it."""
    layers = {reading.node: reading for reading in wanted(program)}
    turned = [
        (seen(program, [layers[site.node]], stats, folding.samples), site)
        for site in group.readers
        if stats is not None and site.node in layers
    ]
    seed = folding.seed + (number << 16)
    specs = [(layers[site.node].input_spec, layers[site.node].axis) for site in group.readers if site.node in layers]
    return FoldSite(group.name, group.size, group.fibres, seed, folding.block, tuple(specs), tuple(turned))


def _chosen(program: Program, folding: Folding) -> list[SymmetryGroup]:
    """Groups of the wanted kinds that a layer with quantized inputs reads."""
    layers = {reading.node for reading in wanted(program)}
    found = []
    for group in symmetries(program).orthogonal:
        shared = len({site.node for site in group.writers}) > 1
        asked = folding.residual if shared else folding.values
        read = any(site.node in layers for site in group.readers)
        if asked and read and group.size > 1 and group.writers:
            found.append(group)
    return found


@dataclass(frozen=True, eq=False)
class _Best:
    """The maps to fold, None for none, with the error that they leave and the one that was there."""

    factors: Sequence[Factor] | None
    error: float = 0.0
    without: float = 0.0


def _best(site: FoldSite, group: SymmetryGroup, method: FoldMethod, plain: Mapping[str, float]) -> _Best:
    candidates = method.foldable(site) if _rotates(group) else [[_keeping_mean(site)]]
    if not site.turned:
        return _Best(candidates[0] if candidates else None)
    before = [plain[reader.node.name] for _, reader in site.turned]
    without = sum(before) / len(before)
    best = _Best(None, math.inf, without)
    for candidate in candidates:
        error = site.error(candidate)
        if error < best.error:
            best = _Best(candidate if error < without else None, error, without)
    return best


def _plain_errors(program: Program, ctx: Context, folding: Folding) -> dict[str, float]:
    """Error of each layer that reads a group that may be rotated, by name, before anything is changed."""
    places = _places(program, _chosen(program, folding))
    stats = sampled(program, ctx, places, folding.samples)
    return {layers[0].node.name: seen(program, layers, stats, folding.samples).error(Chain()) for layers in places}


def _places(program: Program, groups: Sequence[SymmetryGroup]) -> list[list[Reading]]:
    nodes = {site.node for group in groups for site in group.readers}
    return [[layer] for layer in wanted(program) if layer.node in nodes]


def _key(group: SymmetryGroup) -> Key:
    """What tells a group from others, also in a copy of the program and after gains were folded."""
    return frozenset((site.node.name, site.argument) for site in group.sites if site.role != "multiplier")


def _rotates(group: SymmetryGroup) -> bool:
    return Action.ORTHOGONAL in group.actions or Action.GENERAL in group.actions


def _keeping_mean(site: FoldSite) -> Factor:
    """A random rotation for values whose norms take their mean off and must go on doing so."""
    return keeping_mean(Dense(random_orthogonal(site.size - 1, site.seed)), site.size)


def _has_gain(program: Program, node: Node) -> bool:
    bound = program.bind(node)
    return program.op(node) not in NORMS or any(bound.get(name) is not None for name in ("weight", "bias"))


def sampled(program: Program, ctx: Context, places: Sequence[Sequence[Reading]], samples: int) -> Stats:
    """Rows of everything that layers read, as it is now."""
    found = dict.fromkeys(layer.key for layers in places for layer in layers)
    return collect(program, [Request(source.name, Samples(axis, samples)) for source, axis in found], ctx.batches)


def seen(program: Program, layers: Sequence[Reading], stats: Stats, samples: int) -> TurnSite:
    """A value and the layers that read it, as candidates are judged."""
    source, axis = layers[0].key
    value = stats.get(source.name, Samples(axis, samples)).float()
    last = axis == program.tensor_type(source).rank - 1
    readers = tuple(reader_of(program, layer.node) for layer in layers)
    return TurnSite(source.name, value, readers, layers[0].input_spec, -1 if last else axis)


def _text(group: SymmetryGroup) -> str:
    each = f"{group.fibres} x {group.size}" if group.fibres > 1 else str(group.size)
    writers, readers = len({site.node for site in group.writers}), len({site.node for site in group.readers})
    return f"{each} coordinates of {writers} writers and {readers} readers"
