"""What the second-order methods share: their switches, and the solver that the switches make.

Every method is the column core with its own target and its own terms: a *shift* of the weight before the loop, a *push*
of what the two streams differ by, a *recall* of what earlier columns have moved, a *pull* back to the float weight, a
*penalty* on differences between paired samples. Layers that read one value share one factorisation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.ir.program import Program
from qcompiler.passes.solve.column import BLOCK, Trail, column_sequential_solve
from qcompiler.passes.solve.curvature import Curvature, factorise
from qcompiler.passes.solve.expression import Codes
from qcompiler.passes.solve.front_to_back import solve_layers
from qcompiler.passes.solve.layers import Inputs, Layer
from qcompiler.passes.solve.ranges import Search, SearchName
from qcompiler.passes.solve.rounder import GridRounder
from qcompiler.passes.solve.rows import row_slices
from qcompiler.pipeline import Context
from qcompiler.stats import Stream

Groups = Literal["static", "dynamic"]
Trailing = Literal["auto", "latent", "clamped", "quantized"]
NORM = 2.4
_NARROW_BITS = 2
_FIRST_ORDER_LIMIT = 0.5
SHARE = 1 << 23
"""Elements that are solved at once, where rows allow it."""


@dataclass(frozen=True)
class Switches:
    """A method of the second-order family.

    Args:
        act_order: whether columns with the largest inputs are solved first.
        groups: `static` or `dynamic` scales; see `rounder`. Columns out of order, scales that are given and scales of
            several levels are always static.
        damping: share of the mean diagonal that is added to the second moment.
        search: how ranges are found.
        block: columns per matrix product.
        guard: whether a layer that comes out no better than rounding to the nearest value is rounded so.
        shift: share of the exact answer to the difference of the streams that is added to the weight beforehand.
        push: share of that difference that is answered column by column.
        recall: share of what columns moved before they were rounded that is answered by later ones.
        pull: share of the way back to the float weight that each column goes just before it is rounded.
        pulled: whether the pull moves columns, or enters their error only.
        trailing: what a column hands on: its latent value, that within the range of the grid, or its rounded one;
            `auto` is `quantized` at 2 bits and less and `clamped` above.
        penalty: weight of the differences between paired samples.
        first_order: whether the answer to the penalty leaves the penalty out of its curvature.

    Raises:
        SpecError: for a choice that does not exist.
    """

    act_order: bool = True
    groups: str = "static"
    damping: float = 0.01
    search: SearchName = "minmax"
    block: int = BLOCK
    guard: bool = True
    shift: float = 0.0
    push: float = 0.0
    recall: float = 0.0
    pull: float = 0.0
    pulled: bool = True
    trailing: str = "auto"
    penalty: float = 0.0
    first_order: bool = False

    def __post_init__(self) -> None:
        one_of("groups", self.groups, get_args(Groups))
        one_of("trailing", self.trailing, get_args(Trailing))
        if self.block < 1:
            raise SpecError(f"blocks of {self.block} columns", mend="128 is usual")
        Search(self.search)

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The streams of activations that are looked at."""
        return ("float", "quantized") if self.shift or self.push else ("quantized",)


def solve_by(switches: Switches, program: Program, ctx: Context, step: str) -> Program:
    """Solves every layer of a program by the method of these switches; see `front_to_back.solve_layers`."""
    count = solve_layers(program, ctx, second_order(switches), switches.streams, step)
    ctx.log(f"{count} weights by {step}")
    return program


@dataclass(frozen=True)
class Common:
    """What layers that read one value share.

    Args:
        moment: [groups, columns, columns], in the order of solving, as all below.
        curvature: its factorisation.
        gap: cross moment less second moment, None where the streams are not compared.
        push: P, see `column`, and the matrix R that W0 is recalled by; None without push and recall.
    """

    moment: Tensor
    curvature: Curvature
    gap: Tensor | None = None
    push: Tensor | None = None
    recall: Tensor | None = None


def second_order(
    switches: Switches, penalised: Callable[[Layer], bool] = lambda layer: True
) -> Callable[[Layer], Codes]:
    """The solver of a method.

    Args:
        switches: of the method.
        penalised: which layers the penalty concerns.
    """
    latest: list[tuple[Inputs, Common]] = []

    def solve(layer: Layer) -> Codes:
        if not latest or latest[0][0] is not layer.inputs:
            latest[:] = [(layer.inputs, prepare(layer.inputs, switches))]
        return solve_layer(layer, latest[0][1], switches, penalised(layer))

    return solve


def prepare(inputs: Inputs, switches: Switches) -> Common:
    """Everything that does not depend on the weight."""
    moment = inputs.second_moment
    curvature = factorise(moment, switches.damping, switches.act_order)
    moment = curvature.arrange_moment(moment)
    gap = None
    if switches.shift or switches.push:
        gap = curvature.arrange_moment(inputs.cross_moment) - moment
    push = curvature.push(gap).mul_(switches.push) if gap is not None and switches.push else None
    recall = None
    if switches.recall:
        crossed = moment if gap is None else moment + gap
        recall = curvature.push(crossed).mul_(switches.recall)
        push = -recall if push is None else push - recall
    return Common(moment, curvature, gap, push, recall)


def solve_layer(
    layer: Layer, common: Common, switches: Switches, penalised: bool = True, elements: int = SHARE
) -> Codes:
    """Codes of one weight; rows of one with more elements than `elements` are solved a share at a time."""
    if layer.groups > 1 or layer.weight.numel() <= elements:
        return _solve_rows(layer, common, switches, penalised)
    codes = torch.empty_like(layer.weight)
    scales: list[tuple[Tensor, ...]] = []
    zero_points: list[Tensor] = []
    for rows in row_slices(layer.weight.shape, layer.spec, elements):
        part = _solve_rows(_part(layer, rows), common, switches, penalised)
        codes[rows] = part.codes
        scales.append(part.scales)
        zero_points += [] if part.zero_point is None else [part.zero_point]
    joined = tuple(torch.cat(level) for level in zip(*scales, strict=True))
    return Codes(
        layer.spec,
        codes,
        joined[0] if len(joined) == 1 else joined,
        torch.cat(zero_points) if zero_points else None,
    )


def _part(layer: Layer, rows: slice) -> Layer:
    """Some rows of a layer; scales that are set are theirs."""
    qparams = None
    if layer.qparams is not None:
        scale, zero_point = layer.qparams
        scales = scale[rows] if isinstance(scale, Tensor) else tuple(level[rows] for level in scale)
        qparams = (scales, None if zero_point is None else zero_point[rows])
    return replace(layer, weight=layer.weight[rows], qparams=qparams)


def _solve_rows(layer: Layer, common: Common, switches: Switches, penalised: bool) -> Codes:
    curvature = common.curvature
    weight = curvature.arrange(layer.weight.unflatten(0, (layer.groups, -1)))
    shifted = _shifted(weight, layer, common, switches, penalised)
    rounder = rounder_of(layer, curvature, switches, shifted.shape)
    found = column_sequential_solve(
        shifted if common.recall is None else shifted + shifted @ common.recall,
        curvature,
        rounder,
        push=common.push,
        trail=_trail(switches, layer.spec.bits, rounder),
        reference=shifted,
        pull=switches.pull,
        pulled=switches.pulled,
        block=switches.block,
    )
    solved = rounder.result()
    if not switches.guard:
        return solved
    grid = (
        rounder if rounder.static else rounder_of(layer, curvature, replace(switches, groups="static"), shifted.shape)
    )
    nearest = grid.nearest(layer.weight)
    rounded = curvature.arrange(nearest.value().unflatten(0, (layer.groups, -1)))
    terms = switches.push or switches.recall or switches.pull
    cost = curvature.cost(shifted - found.value) if terms else found.cost
    better = cost.sum() < curvature.cost(shifted - rounded).sum()
    return solved if bool(better) else nearest


def rounder_of(layer: Layer, curvature: Curvature, switches: Switches, shape: torch.Size) -> GridRounder:
    """The grid of a layer, its scales fixed where they are static."""
    rounder = GridRounder(layer.spec, shape, Search(switches.search, norm=NORM), curvature)
    whole = rounder.extent >= rounder.columns
    if layer.qparams is not None:
        rounder.fix(*layer.qparams)
    elif switches.groups == "static" or switches.act_order or whole or len(layer.spec.levels) > 1:
        rounder.fit(layer.weight)
    return rounder


def _shifted(weight: Tensor, layer: Layer, common: Common, switches: Switches, penalised: bool) -> Tensor:
    """The weight that the loop shall come close to."""
    if switches.shift and common.gap is not None:
        weight = weight + switches.shift * common.curvature.divide(weight @ common.gap)
    if not (switches.penalty and penalised):
        return weight
    pairs = common.curvature.arrange_moment(layer.inputs.pair_moment) * switches.penalty
    if switches.first_order:
        answer = common.curvature.divide(pairs)
        if bool((torch.linalg.matrix_norm(answer, 2) > _FIRST_ORDER_LIMIT).any()):
            raise SpecError(
                f"the first-order answer to penalty {switches.penalty} diverges",
                where=layer.name,
                mend="leave first_order out, or choose a smaller penalty",
            )
        return weight - weight @ answer
    return weight - factorise(common.moment + pairs, switches.damping).divide(weight @ pairs)


def _trail(switches: Switches, bits: int, rounder: GridRounder) -> Trail:
    mode = switches.trailing
    if mode == "auto":
        mode = "quantized" if bits <= _NARROW_BITS else "clamped"
    if mode == "clamped":
        return rounder.clamp
    return (lambda column, latent, value: value) if mode == "quantized" else (lambda column, latent, value: latent)


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Checks an option; raises SpecError that lists the known values."""
    if value not in known:
        raise SpecError(f"{name}={value} does not exist", mend=f"choose one of {', '.join(known)}")
