"""Folds a change of basis into the constants around a symmetry group: one surgery for all methods.

Formula   the group's values v become `v T` (`v T^-T` at dual ports): writers c become `c T`, readers `c T^-T`; dual
          sites the other way round; multipliers are permuted
Shapes    T [size, size] per fibre; constants keep theirs, except that a missing gain or bias may be added
Promise   Exact: computed in float64, rounded once
Needs     a group of `analysis.symmetry`; gains and centring done before (`gains.prepare`)
Source    Ashkboos et al. 2024, "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs"; own for any graph
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qcompiler.analysis.groups import Place, Site, SymmetryGroup, gathered, scattered
from qcompiler.certificate import Basis, claim_group
from qcompiler.errors import VerifyError
from qcompiler.ir.program import Node, Program
from qcompiler.passes.transform.constants import constant_at, shift_obstacle, zero_or_one
from qcompiler.passes.transform.factors import Dense, Factor, matrix_of
from qcompiler.passes.transform.wanted import offset, reading_of, weight_of

Rows = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True, eq=False)
class Edit:
    """What happens to some coordinates of one constant.

    Args:
        node: the operator that takes the constant.
        argument: by its parameter name.
        place: the coordinates.
        rows: the new rows [..., size] from the old ones and their fibre.
        kind: edits with equal kind, place and constant are the same edit; it tells shared constants from others.
        fill: what a missing constant stands for, 0 or 1; None where it needs no edit.
        constant: the parameter, where the argument is a list of values.
    """

    node: Node
    argument: str
    place: Place
    rows: Rows
    kind: str
    fill: float | None = None
    constant: Node | None = None


def apply(program: Program, group: SymmetryGroup, transform: Tensor | Factor | Sequence[Factor], step: str) -> None:
    """Changes the basis of a group.

    Args:
        program: edited.
        group: of this program.
        transform: [fibres, size, size], or [size, size] or one factor for all fibres, or one factor for each.
        step: name of the pass.

    Raises:
        VerifyError: when the transform does not fit the group, or a site is no constant.
    """
    factors = _per_fibre(group, transform)
    orthogonal = all(factor.orthogonal for factor in factors)
    edits = []
    for site in _sites(program, group):
        if site.role == "multiplier":
            edits += _permuted(program, site, factors, group.size)
            continue
        forwards = (site.role == "writer") != site.dual
        kind = "both" if orthogonal else "times" if forwards else "contrary"
        edits.append(edit_of(site, _turned(factors, forwards or orthogonal), kind))
    edit_constants(program, edits, step)
    matrices = torch.stack([matrix_of(factor, group.size) for factor in factors])
    claim_group(program, group, Basis("orthogonal" if orthogonal else "general", matrices))


def scale(program: Program, group: SymmetryGroup, vector: Tensor, step: str) -> None:
    """Multiplies the values of a scale group by `vector ** exponent`.

    Args:
        program: edited.
        group: of this program.
        vector: positive, [size] or [fibres, size].
        step: name of the pass.

    Raises:
        VerifyError: when the vector does not fit the group or is not positive and finite.
    """
    wide = vector.double().expand(group.fibres, -1)
    if wide.shape != (group.fibres, group.size) or not bool((wide.isfinite() & (wide > 0)).all()):
        raise VerifyError(
            f"a scale of group {group.name} must be {group.fibres} x {group.size} positive numbers",
            where=f"shape {list(vector.shape)}",
            step=step,
        )
    edits = []
    for site in _sites(program, group):
        sign = (1 if site.role == "writer" else -1) * (-1 if site.dual else 1) * site.exponent
        if site.role != "multiplier" and sign:
            rows = _scaled(wide**sign)
            fill = zero_or_one(site.argument)
            edits.append(edit_of(site, rows, f"scale {sign}", fill or None))
    edit_constants(program, edits, step)
    claim_group(program, group, Basis("scale", wide))


def shift(program: Program, group: SymmetryGroup, vector: Tensor, step: str) -> None:
    """Takes `vector` off the values of a group: off the bias of its writer, and back in the biases of its readers.

    Args:
        program: edited.
        group: of this program; its values have one writer.
        vector: [size] or [fibres, size].
        step: name of the pass.

    Raises:
        VerifyError: when the values have several writers, or a reader has no bias that could make up for it.
    """
    wide = vector.double().expand(group.fibres, -1)
    writers = {site.node for site in group.writers}
    if len(writers) != 1 or any(site.role == "multiplier" for site in group.sites):
        raise VerifyError(f"group {group.name} has {len(writers)} writers: a shift needs exactly one", step=step)
    answers = [_answer(program, site, wide, step) for site in group.readers]
    node, argument, place = added_constant(program, group, step)
    moved = Edit(node, argument, place, lambda rows, fibre: rows - wide[fibre], "shift", 0.0)
    edit_constants(program, [moved, *answers], step)
    claim_group(program, group, Basis("shift", -wide))


def _sites(program: Program, group: SymmetryGroup) -> list[Site]:
    """The sites of a group, and the biases that shifts of other groups have given its writers since it was found."""
    known = {site.node for site in group.sites if site.argument == "bias"}
    late = [
        replace(site, argument="bias", place=Place(0, site.place.index, site.place.fibre), constant=None)
        for site in group.writers
        if site.argument == "weight" and site.node not in known and program.bind(site.node).get("bias") is not None
    ]
    return [*group.sites, *late]


def edit_of(site: Site, rows: Rows, kind: str, fill: float | None = None) -> Edit:
    """An edit of the constant at a site."""
    return Edit(site.node, site.argument, site.place, rows, kind, fill, site.constant)


def edit_constants(program: Program, edits: Iterable[Edit], step: str) -> None:
    """Makes the edits. A constant that others read too is edited for all when all want the same, and is split else.

    Raises:
        VerifyError: when an argument is no constant.
    """
    by_reader: dict[tuple[Node, Node], list[Edit]] = defaultdict(list)
    for edit in edits:
        param = constant_at(program, edit.node, edit.argument, edit.place, edit.fill, step, edit.constant)
        if param is not None:
            by_reader[param, edit.node].append(edit)
    by_param: dict[Node, dict[Node, list[Edit]]] = defaultdict(dict)
    for (param, node), wanted in by_reader.items():
        by_param[param][node] = wanted
    for param, readers in by_param.items():
        alike: dict[object, list[Node]] = defaultdict(list)
        for node, wanted in readers.items():
            alike[tuple(_signature(edit) for edit in wanted)].append(node)
        whole = len(alike) == 1 and len(readers) == len(param.users)
        for nodes in alike.values():
            own = param if whole else _copy(program, param, nodes, step)
            value = program.exact(own)
            for edit in readers[nodes[0]]:
                value = _edited(value, edit)
            program.set_exact(own, value)


def _copy(program: Program, param: Node, nodes: Sequence[Node], step: str) -> Node:
    """A parameter that only these nodes read."""
    first = min(nodes)
    value, type_ = program.params[str(param.target)], program.tensor_type(param)
    clone = program.before(first, step).param(str(param.target), value, type_)
    for node in nodes:
        program.redirect(node, param, clone)
    return clone


def _signature(edit: Edit) -> tuple[object, ...]:
    place = edit.place
    return edit.kind, place.axis, place.groups, tuple(place.index.flatten().tolist()), tuple(place.fibre.tolist())


def _edited(value: Tensor, edit: Edit) -> Tensor:
    groups = edit.place.groups
    moved = (value if groups == 1 else gathered(value, groups)).movedim(edit.place.axis, -1)
    result = moved.clone()
    for fibre in sorted(set(edit.place.fibre.tolist())):
        index = edit.place.index[edit.place.fibre == fibre]
        result[..., index] = edit.rows(moved[..., index], int(fibre))
    result = result.movedim(-1, edit.place.axis)
    return (result if groups == 1 else scattered(result, groups)).contiguous()


def _turned(factors: Sequence[Factor], forwards: bool) -> Rows:
    return lambda rows, fibre: factors[fibre].times(rows) if forwards else factors[fibre].contrary(rows)


def _scaled(scales: Tensor) -> Rows:
    return lambda rows, fibre: rows * scales[fibre]


def _permuted(program: Program, site: Site, factors: Sequence[Factor], size: int) -> list[Edit]:
    """A gain of one number per coordinate goes where its coordinate goes; none where there is no gain."""
    if program.bind(site.node).get(site.argument) is None:
        return []
    patterns = [(matrix_of(factor, size).abs() > 0).double() for factor in factors]
    for pattern in patterns:
        if not bool((pattern.sum(0) == 1).all() and (pattern.sum(1) == 1).all()):
            raise VerifyError(
                f"'%{site.node.name}' multiplies by one number per coordinate: only a permutation may act there",
                where=f"%{site.node.name}",
            )
    return [edit_of(site, lambda rows, fibre: rows @ patterns[fibre], "permuted")]


def added_constant(program: Program, group: SymmetryGroup, step: str) -> tuple[Node, str, Place]:
    """The constant that is added to the values that a group's one writer node writes."""
    first = group.writers[0]
    bias = next((site for site in group.writers if site.argument == "bias"), None)
    if bias is not None:
        return bias.node, bias.argument, bias.place
    if "bias" in program.bind(first.node):
        return first.node, "bias", Place(0, first.place.index, first.place.fibre)
    if program.op(first.node) in ("aten.embedding", "aten.add.Tensor"):
        return first.node, first.argument, first.place
    raise VerifyError(f"'%{first.node.name}' adds no constant that a shift could go into", step=step)


def _answer(program: Program, site: Site, wide: Tensor, step: str) -> Edit:
    """Adds what a shift of its input takes from a layer to the layer's bias."""
    bound = program.bind(site.node)
    reading = reading_of(program, site.node)
    obstacle = shift_obstacle(program, site.node)
    if "bias" not in bound or obstacle or reading is None or site.place.axis == 0:
        reason = obstacle or "has no bias, or acts on each channel alone"
        raise VerifyError(f"'%{site.node.name}' cannot take in a shift of its input: it {reason}", step=step)
    weight = weight_of(program, reading)
    channels = weight.shape[reading.weight_axis] * reading.groups
    taken = torch.zeros(channels, dtype=torch.float64)
    taken[site.place.index] = wide[site.place.fibre]
    amount = offset(weight, reading, taken)
    place = Place(0, torch.arange(len(amount))[None], torch.zeros(1, dtype=torch.int64))
    return Edit(site.node, "bias", place, lambda rows, fibre: rows + amount, f"answer {site.node.name}", 0.0)


def _per_fibre(group: SymmetryGroup, transform: Tensor | Factor | Sequence[Factor]) -> list[Factor]:
    if isinstance(transform, Tensor):
        given: list[Factor] = [Dense(matrix) for matrix in ([transform] if transform.dim() == 2 else transform)]
    else:
        given = list(transform) if isinstance(transform, Sequence) else [transform]
    factors = given * group.fibres if len(given) == 1 else given
    fits = all(not isinstance(f, Dense) or f.matrix.shape == (group.size,) * 2 for f in factors)
    if len(factors) != group.fibres or not fits:
        raise VerifyError(
            f"group {group.name} takes {group.fibres} transforms of {group.size} coordinates", where=f"{len(given)}"
        )
    return factors
