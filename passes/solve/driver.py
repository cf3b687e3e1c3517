"""What all weight solvers share: finding the weights, setting their scales, putting codes in their place."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import reduce
from typing import Protocol, cast

import torch
from torch import Tensor

from qcompiler.errors import InputError
from qcompiler.ir.fill import Fill
from qcompiler.ir.program import Node, Program
from qcompiler.qparams import Qparams, is_set, is_static, qparams_of, quantizers, set_qparams
from qcompiler.spec import QuantSpec, Scales, qparams_from_range

RangeOf = Callable[[Tensor, QuantSpec], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Solved:
    """A weight on its grid.

    Args:
        codes: grid values in the dtype and shape of the weight.
        scale: one tensor per level, bare for one level.
        zero_point: None when symmetric.
    """

    codes: Tensor
    scale: Scales
    zero_point: Tensor | None


class Solver(Protocol):
    """Finds codes and scales of one weight."""

    def solve(self, weight: Tensor, spec: QuantSpec, curvature: Tensor | None = None) -> Solved:
        """Codes of `weight`; `curvature`, broadcastable to it, says what an error of each element costs."""
        ...


@dataclass(frozen=True)
class Site:
    """One weight with one grid.

    Args:
        param: the float parameter.
        spec: its numbers.
        qparams: its scales and zero point.
        quantizers: the quantize nodes that make its codes.
    """

    param: Node
    spec: QuantSpec
    qparams: Qparams
    quantizers: tuple[Node, ...]


def weight_sites(program: Program) -> list[Site]:
    """All parameters that are quantized by static scales, once per grid."""
    found: dict[tuple[Node, QuantSpec, Qparams], list[Node]] = {}
    for node in quantizers(program):
        bound = program.bind(node)
        param, spec, qparams = (
            cast(Node, bound["x"]),
            cast(QuantSpec, bound["spec"]),
            qparams_of(program, node),
        )
        if param.op == "get_attr" and is_static(qparams):
            found.setdefault((param, spec, qparams), []).append(node)
    return [Site(*key, tuple(nodes)) for key, nodes in found.items()]


def set_ranges(program: Program, range_of: RangeOf, only: Collection[Qparams] | None = None) -> int:
    """Sets the scales that no pass has found yet; weights that share scales get a range that holds them all.

    Args:
        program: at stage quantized.
        range_of: low and high of each block of a weight.
        only: the scales to look at, all when None.

    Returns:
        how many grids were set.

    Raises:
        InputError: when a weight holds NaN or infinity.
    """
    open_grids: dict[Qparams, list[Site]] = {}
    for site in weight_sites(program):
        if (only is None or site.qparams in only) and not is_set(program, site.qparams):
            open_grids.setdefault(site.qparams, []).append(site)
    for qparams, sites in open_grids.items():
        ranges = [range_of(finite_weight(program, site.param), site.spec) for site in sites]
        low = reduce(torch.minimum, (low for low, _ in ranges))
        high = reduce(torch.maximum, (high for _, high in ranges))
        set_qparams(program, qparams, *qparams_from_range(low, high, sites[0].spec))
    return len(open_grids)


def put_codes(program: Program, site: Site, codes: Tensor | Fill, step: str) -> None:
    """Stores codes in place of quantize nodes; a parameter that others read in float gets a companion."""
    if set(site.param.users) == set(site.quantizers):
        program.set_param(site.param, codes, site.spec)
        holder = site.param
    else:
        type_ = replace(program.tensor_type(site.param), spec=site.spec)
        holder = program.before(site.quantizers[0], step).param(f"{site.param.target}.codes", codes, type_)
    for node in site.quantizers:
        program.replace(node, holder)


def finite_weight(program: Program, param: Node) -> Tensor:
    """The value of a parameter.

    Raises:
        InputError: when it holds NaN or infinity.
    """
    weight = program.param(param)
    if not bool(torch.isfinite(weight).all()):
        raise InputError(
            f"the weight '{param.target}' holds NaN or infinity",
            mend="the model is broken, or was saved in a type that its weights overflow",
        )
    return weight
