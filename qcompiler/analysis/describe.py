"""The symmetries of a program as text and as plain data."""

from __future__ import annotations

from collections.abc import Sequence

from qcompiler.analysis.groups import Action, Blocker, Site, SymmetryGroup
from qcompiler.analysis.relations import ROTATIONS
from qcompiler.analysis.symmetry import Symmetries
from qcompiler.analysis.weights import spatial_axes
from qcompiler.ir.program import Node, Program

_WIDTH = 120
_INDENT = 16
_ORDER = tuple(Action)


MOST_REASONS = 8
"""Refusals told of one input."""


def largest_action(group: SymmetryGroup) -> Action:
    """The largest set of matrices that may act on a group."""
    return min(group.actions, key=_ORDER.index)


def refused_readers(program: Program, found: Symmetries) -> list[tuple[Node, tuple[Blocker, ...]]]:
    """Operators with weights whose input no rotation reaches for free, and why."""
    rotated = {site.node for group in found.orthogonal for site in group.readers}
    readers = [node for node in program.nodes if spatial_axes(program, node) is not None and node not in rotated]
    return [(node, tuple(item for item in found.blockers(node) if item.actions & ROTATIONS)) for node in readers]


def describe(program: Program, found: Symmetries) -> str:
    """One paragraph per group, then what was refused."""
    counts = f"{len(found.orthogonal)} rotations, {len(found.permutations)} permutations, {len(found.scales)} scales"
    lines = [f"symmetries of @{program.name}: {counts}"]
    for group in found.groups:
        lines += ["", *_paragraph(group)]
    refusals = refused_readers(program, found)
    if refusals:
        lines += ["", "inputs that no rotation reaches for free"]
        lines += [f"  %{node.name}: {_reasons(items)}" for node, items in refusals]
    return "\n".join(lines)


def _reasons(items: Sequence[Blocker]) -> str:
    told = [f"%{item.node} {item.reason}" for item in items[:MOST_REASONS]]
    if len(items) > MOST_REASONS:
        told.append(f"{len(items) - MOST_REASONS} more")
    return "; ".join(told) or "nothing writes it"


def _paragraph(group: SymmetryGroup) -> list[str]:
    count = f"{group.fibres} x {group.size}" if group.fibres > 1 else str(group.size)
    smaller = " and shifts" if Action.SHIFT in group.actions else ""
    lines = [f"{group.name}  {largest_action(group)}{smaller}, {count} coordinates"]
    for title, role in (("written by", "writer"), ("read by", "reader"), ("multiplied", "multiplier")):
        lines += _entry(title, [_site_text(site) for site in group.sites if site.role == role])
    lines += _entry(
        "values", [_power(f"%{port.node.name}.{port.place.axis}", port.dual, port.exponent) for port in group.ports]
    )
    lines += _entry("gains", [f"%{node.name}" for node in group.folded_gains])
    lines += _entry("centred", [f"%{node.name}" for node in group.centred_norms])
    return lines + _entry("refused", [_refusal(item) for item in group.blockers])


def _refusal(item: Blocker) -> str:
    return f"{min(item.actions, key=_ORDER.index)}: %{item.node} {item.reason}"


def _site_text(site: Site) -> str:
    text = f"%{site.node.name}.{site.argument}.{site.place.axis}{_stretch(site)}"
    return _power(text, site.dual, site.exponent)


def _power(text: str, dual: bool, exponent: int) -> str:
    power = "" if exponent == 1 else f" ^{exponent}"
    return f"{text}{' dual' if dual else ''}{power}"


def _stretch(site: Site) -> str:
    """The coordinates, where they are not all of the axis."""
    index = site.place.index
    low, high = int(index.min()), int(index.max())
    if site.constant is not None and site.place.groups == 1:
        length = site.constant.meta["type"].shape[site.place.axis : site.place.axis + 1]
        if index.numel() in length:
            return ""
    spaced = "" if high - low + 1 == index.unique().numel() else " spaced"
    return f"[{low}..{high}{spaced}]"


def _entry(title: str, items: Sequence[str]) -> list[str]:
    """A titled list, wrapped between its items."""
    lines: list[str] = []
    for item in items:
        if lines and len(lines[-1]) + len(item) + 2 <= _WIDTH:
            lines[-1] += f", {item}"
        else:
            lines.append((" " * _INDENT if lines else f"    {title}".ljust(_INDENT)) + item)
    return lines


def as_json(program: Program, found: Symmetries) -> dict[str, object]:
    """The same as plain data."""
    return {
        "groups": [_group_json(group) for group in found.groups],
        "refused": [
            {"node": node.name, "argument": "input", "reasons": [_blocker_json(item) for item in items]}
            for node, items in refused_readers(program, found)
        ],
    }


def _group_json(group: SymmetryGroup) -> dict[str, object]:
    return {
        "name": group.name,
        "size": group.size,
        "fibres": group.fibres,
        "actions": sorted(group.actions, key=_ORDER.index),
        "sites": [
            {
                "node": site.node.name,
                "argument": site.argument,
                "constant": None if site.constant is None else str(site.constant.target),
                "role": site.role,
                "dual": site.dual,
                "exponent": site.exponent,
                "axis": site.place.axis,
                "index": site.place.index.tolist(),
                "fibre": site.place.fibre.tolist(),
            }
            for site in group.sites
        ],
        "values": [port.node.name for port in group.ports],
        "folded_gains": [node.name for node in group.folded_gains],
        "centred_norms": [node.name for node in group.centred_norms],
        "refused": [_blocker_json(item) for item in group.blockers],
    }


def _blocker_json(item: Blocker) -> dict[str, object]:
    return {"node": item.node, "actions": sorted(item.actions, key=_ORDER.index), "reason": item.reason}
