"""What is wrong with the tensors of a quantized program, beyond being coarse: findings with their evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from qcompiler.explain.causes import Grid, block_extremes, grid_of
from qcompiler.explain.sites import Record, Site
from qcompiler.explain.weight_faults import Fault, weight_fault
from qcompiler.ir import ops
from qcompiler.ir.interp import compute
from qcompiler.ir.program import Node, all_nodes
from qcompiler.passes.allocate.trial import best_grid
from qcompiler.report.explanation import FindingKind
from qcompiler.spec import QuantSpec, Scales, fake_quantize, qparams_from_range

ACTIVATION_EXCESS = 4.0
"""Times the error of the best grid on the same samples."""
CHANGED = 0.02
"""Change of a parameter in float, relative to its size, beyond what correcting the mean of rounding errors needs."""
_STALE = (3, 0.3)
"""So many static activations, and such a part of all, out of range mean that the data are others."""
_NORMS = frozenset({"aten.layer_norm", "aten.rms_norm", "aten.group_norm", "aten.batch_norm", "aten.instance_norm"})


def diagnose(record: Record, shares: Mapping[Site, float]) -> dict[Site, Fault]:
    """What is wrong at each site; sites in order are left out.

    Args:
        record: a batch through both programs.
        shares: of the whole error, by site.
    """
    found: dict[Site, Fault] = {}
    ranged = 0
    for site in record.errors:
        grid = grid_of(record, site)
        fault: Fault | None = None
        if site.constant:
            fault = _weight(record, site, grid) if grid is not None else _parameter(record, site, shares.get(site, 0.0))
        elif grid is not None and not grid.dynamic:
            ranged += 1
            fault = activation_fault(_float_value(record, site), grid)
        if fault is not None:
            found[site] = fault
    return _stale(_norms(record, found), ranged)


def activation_fault(x: Tensor, grid: Grid) -> Fault | None:
    """What is wrong with a static grid for the float values of an activation, None when it fits them.

    Shapes: x of the spec's rank.
    """
    if not grid.plain or len(grid.spec.levels) != 1 or not isinstance(grid.scale, Tensor):
        return None
    x = x.detach().float()
    if not bool(x.any()):
        return Fault("dead tensor", "it is zero throughout", 0.0)
    now = _error(x, grid, grid.scale, grid.zero_point)
    scale, zero = best_grid(x, grid.spec)
    least = _error(x, grid, scale, zero)
    if now <= ACTIVATION_EXCESS * least + 1e-12 * float(x.double().square().sum()):
        return None
    ratio = float((grid.scale.reshape(-1) / _first(scale).reshape(-1)).log().abs().max().exp())
    wider = bool((grid.scale.reshape(-1) > _first(scale).reshape(-1)).any())
    text = f"its step is {ratio if wider else 1 / ratio:.3g} times what the values seen now need"
    by_scale = Fault("bad scale", text, 1.0)
    if grid.spec.symmetric or grid.zero_point is None:
        return by_scale
    fitting = _fitting_zero(x, grid)
    left = _error(x, grid, grid.scale, fitting)
    part = (now - left) / (now - least)
    # A step that is right needs no more than the right zero point; a wrong one stays wrong with any.
    if part > 0.9 and left <= ACTIVATION_EXCESS * least:
        off = grid.zero_point.reshape(-1) - fitting.reshape(-1)
        text = f"the zero point is {float(off[off.abs().argmax()]):+.0f} steps off"
        return Fault("wrong zero point", text, min(part, 1.0))
    return by_scale


def repaired_results(record: Record, sites: Sequence[Site]) -> list[Tensor]:
    """The results of the quantized program with the best grid for what some sites read, and for what shares their grid.

    Where there is no grid, the float program's tensor takes the place.
    """
    program = record.sites.quantized
    constants = {site.noisy: _best_constant(record, site) for site in sites if site.constant}
    grids = {node: grid for site in sites for node, grid in _best_ranges(record, site).items()}
    values: dict[Node, object] = dict(zip(program.inputs, record.batch, strict=True))
    with torch.no_grad():
        for node in program.graph.nodes:
            if node in constants:
                values[node] = constants[node]
            elif node in grids:
                values[node] = _through(values[node.all_input_nodes[0].all_input_nodes[0]], *grids[node])
            elif node.op in ("get_attr", "call_function"):
                values[node] = compute(program, node, values)
    return [value for node in program.outputs if isinstance(value := values[node], Tensor)]


def _through(value: object, scale: Scales, zero: Tensor, spec: QuantSpec) -> object:
    return fake_quantize(value, scale, zero, spec) if isinstance(value, Tensor) else value


def _best_constant(record: Record, site: Site) -> Tensor:
    grid, exact = grid_of(record, site), record.meant[site]
    return (
        exact
        if grid is None or not _has_one_range(grid)
        else fake_quantize(exact, *best_grid(exact, grid.spec), grid.spec)
    )


def _best_ranges(record: Record, site: Site) -> dict[Node, tuple[Scales, Tensor, QuantSpec]]:
    """The best grid of an activation for every node that dequantizes by the same scales, each with its own spec."""
    grid = grid_of(record, site)
    if site.constant or grid is None or not _has_one_range(grid):
        return {}
    scale, zero = best_grid(_float_value(record, site), grid.spec)
    sharing = [node for node in record.sites.quantized.nodes if _shares(node, site.noisy)]
    specs = {node: record.sites.quantized.bind(node)["spec"] for node in sharing}
    return {node: (scale, zero, spec) for node, spec in specs.items() if isinstance(spec, QuantSpec)}


def _has_one_range(grid: Grid) -> bool:
    return grid.plain and not grid.dynamic


def _shares(node: Node, other: Node) -> bool:
    """Whether a node dequantizes an activation by the scales of another one."""
    if node.target is not ops.dequantize or node.args[1:3] != other.args[1:3]:
        return False
    return node.all_input_nodes[0].target is ops.quantize


def _weight(record: Record, site: Site, grid: Grid) -> Fault | None:
    return weight_fault(record.meant[site], grid, _output_axis(record, site))


def _output_axis(record: Record, site: Site) -> int:
    """The axis of output channels: that along which the first reader's kernel writes."""
    reader = next((node for node in record.sites.reference.nodes if node.name == site.readers[0]), None)
    transposed = reader is not None and "transpose" in record.sites.reference.op(reader)
    return 1 if transposed and record.meant[site].dim() > 1 else 0


def _parameter(record: Record, site: Site, share: float) -> Fault | None:
    """A parameter in float that is not the float program's."""
    value, error = record.meant[site].double(), record.errors[site].double()
    if not bool(torch.isfinite(error).all()):
        return Fault("not finite", "it holds NaN or infinity", 1.0)
    size = float(value.square().sum()) ** 0.5
    change = float(error.square().sum()) ** 0.5
    if share < CHANGED or change < CHANGED * size:
        return None
    kind: FindingKind = "stale norm statistics" if _read_by_norm(record, site) else "changed parameter"
    return Fault(kind, f"it differs by {change / size if size else 1:.1%} of its size", 1.0)


def _norms(record: Record, found: dict[Site, Fault]) -> dict[Site, Fault]:
    """Weight and bias of one operator that both changed, channel by channel: a normalisation folded with others'."""
    by_reader = {reader: site for site in found if site.constant for reader in site.readers if _is_matrix(record, site)}
    merged = dict(found)
    for site, fault in found.items():
        weight = by_reader.get(site.readers[0])
        if fault.kind != "changed parameter" or weight is None or weight is site:
            continue
        if found[weight].kind == "bad scale":
            text = f"a factor for each channel, and the bias of the same layer: {fault.evidence}"
            merged[weight] = Fault("stale norm statistics", text, found[weight].recovered)
            merged[site] = replace(fault, kind="stale norm statistics")
    return merged


def _stale(found: dict[Site, Fault], ranged: int) -> dict[Site, Fault]:
    off = [
        site for site, fault in found.items() if not site.constant and fault.kind in ("bad scale", "wrong zero point")
    ]
    grids = {tuple(all_nodes(site.noisy.args[1])) for site in off}
    if len(grids) < _STALE[0] or len(off) < _STALE[1] * ranged:
        return found
    text = f"{len(off)} of {ranged} ranges do not fit the samples seen now"
    return {
        site: Fault("stale calibration", f"{text}; {fault.evidence}", fault.recovered) if site in off else fault
        for site, fault in found.items()
    }


def _read_by_norm(record: Record, site: Site) -> bool:
    nodes = {node.name: node for node in record.sites.reference.nodes}
    names = [record.sites.reference.op(nodes[reader]) for reader in site.readers if reader in nodes]
    return any(name in _NORMS or "norm" in name for name in names)


def _is_matrix(record: Record, site: Site) -> bool:
    return record.meant[site].dim() > 1


def _float_value(record: Record, site: Site) -> Tensor:
    value = record.exact[site.exact]
    return value if isinstance(value, Tensor) else record.meant[site]


def _fitting_zero(x: Tensor, grid: Grid) -> Tensor:
    """The best zero point for the scale that is there: at either end of the range, or between."""
    spec, scale = grid.spec, _first(grid.scale)
    low, high = block_extremes(x, spec)
    low, high = low.clamp(max=0), high.clamp(min=0)
    ends: Sequence[Tensor] = (
        spec.format.lowest - low / scale.reshape(low.shape),
        spec.format.highest - high / scale.reshape(low.shape),
    )
    _, whole = qparams_from_range(low, high, spec)
    tried = [end.round().clamp(spec.format.lowest, spec.format.highest) for end in (*ends, whole)]
    errors = [_error(x, grid, grid.scale, zero) for zero in tried]
    return tried[errors.index(min(errors))]


def _error(x: Tensor, grid: Grid, scale: object, zero: Tensor | None) -> float:
    return float((fake_quantize(x, scale, zero, grid.spec) - x).double().square().sum())  # pyright: ignore[reportArgumentType]


def _first(scale: object) -> Tensor:
    return scale if isinstance(scale, Tensor) else scale[0]  # pyright: ignore[reportIndexIssue, reportReturnType]
