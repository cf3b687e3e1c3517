"""What a plan does to the results, tried on a few samples before anything is quantized.

Formula   operands and results of assigned operators go through their grids, to the nearest value; ranges of weights are
          the best of a few shrunk ones per block, those of static activations likewise on the samples themselves
Shapes    any; all float values of the samples are kept, so that only what a plan changes is computed anew
Promise   the float program where nothing is assigned; solvers that do better than the nearest value lose less
Needs     samples, and memory for their activations
Source    toggling one unit at a time after Hubara et al. 2020, "AdaQuant"; own
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from qcompiler.errors import InputError
from qcompiler.ir.interp import check_inputs, compute
from qcompiler.ir.program import Node, Program, all_nodes
from qcompiler.ir.types import TensorType
from qcompiler.layout import channels_last
from qcompiler.measure import limit_samples, sample_count
from qcompiler.passes.allocate.harm import Results, errors
from qcompiler.plan import Assignment
from qcompiler.spec import QuantSpec, Scales, block_reduce, choose_qparams, fake_quantize, nearest, qparams_from_range
from qcompiler.spec.outliers import with_outliers, without_outliers
from qcompiler.stats import Batch

_HELD = 1 << 27
"""Elements of activations that are held at once."""
_SHRINKS = {1: (1.0, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3), 2: (1.0, 0.85, 0.75, 0.65, 0.55, 0.45, 0.35)}
_SHRINKS |= {3: (1.0, 0.9, 0.8, 0.7, 0.6, 0.5), 4: (1.0, 0.95, 0.9, 0.85, 0.8, 0.7), 5: (1.0, 0.95, 0.9, 0.85)}
_FINE = (1.0, 0.95, 0.9)
"""Ranges to try by bits: the more bits, the more is lost by what is cut off."""

Grid = tuple[Scales, Tensor]
Plan = Mapping[str, Assignment]
"""Assignment of each node by name."""
Rounding = Callable[[Tensor, Grid, QuantSpec], Tensor]
"""What a grid does to a value."""


class Trial:
    """Runs plans on samples.

    Args:
        program: at stage canonical; must not change meanwhile.
        batches: flat inputs; as many of the first samples are looked at as have room for their activations.

    Raises:
        InputError: when there are no samples, or they do not fit the program.
    """

    def __init__(self, program: Program, batches: Sequence[Batch]) -> None:
        self.program = program
        self.order = [node for node in program.graph.nodes if node.op == "call_function"]
        self._spent = _last_reads(self.order, program.outputs)
        self._weights: dict[tuple[str, QuantSpec], Tensor] = {}
        self._params: dict[Node, Tensor] = {node: program.param(node).detach() for node in program.param_nodes}
        self._grids: dict[tuple[Node, QuantSpec], Grid] = {}
        self._floats: list[dict[Node, object]] = []
        self.wanted: list[Sequence[Tensor]] = []
        with torch.no_grad():
            for batch in limit_samples(program, batches, affordable_samples(program, batches)):
                self._floats.append(self._float_values(batch))
        if not self._floats:
            raise InputError(
                "plans are to be tried on real samples, and there is no calibration data",
                mend="pass calibration=..., or sensitivity=weight, which needs none",
            )
        self.wanted = [_tensors([values[node] for node in program.outputs]) for values in self._floats]

    def results(
        self, plan: Plan, given: Mapping[Node, Tensor] | None = None, rounding: Rounding | None = None
    ) -> list[Results]:
        """The results under a plan, per batch.

        Args:
            plan: what is quantized.
            given: other values of parameters.
            rounding: instead of the nearest value of each static grid.
        """
        found: list[Results] = []
        with torch.no_grad():
            for values, wanted in zip(self._floats, self.wanted, strict=True):
                changed = self._changed(plan, values, given=given, rounding=rounding)
                got = [changed.get(node, values[node]) for node in self.program.outputs]
                found.append(Results(wanted, _tensors(got)))
        return found

    def own_errors(self, node: Node, assigned: Assignment) -> Tensor:
        """Squared error of an operator's result, when it alone is quantized, as `harm.errors`: float64 [samples]."""
        at = next((user for user in node.users if user.name == assigned.result_at), node)
        found: list[Results] = []
        with torch.no_grad():
            for values in self._floats:
                changed = self._changed({node.name: assigned}, values, [node, at])
                found.append(Results(_tensors([values[at]]), _tensors([changed[at]])))
        return errors(found)

    def samples(self, node: Node) -> list[Tensor]:
        """The float values of a node, per batch."""
        return _tensors([values[node] for values in self._floats])

    def through(self, node: Node, spec: QuantSpec, value: Tensor) -> Tensor:
        """A value of a node after the grid that is best for its samples."""
        found = self._through(node, spec, value)
        return found if isinstance(found, Tensor) else value

    def _changed(
        self,
        plan: Plan,
        values: Mapping[Node, object],
        order: Sequence[Node] | None = None,
        given: Mapping[Node, Tensor] | None = None,
        rounding: Rounding | None = None,
    ) -> dict[Node, object]:
        """What differs from the float values: the results, and what nothing in the order reads any more is gone."""
        results = {item.result_at: item.result for item in plan.values() if item.result is not None}
        changed: dict[Node, object] = dict(given or {})
        around = ChainMap(changed, values, self._params)  # pyright: ignore[reportArgumentType]
        for node in self.order if order is None else order:
            assigned = plan.get(node.name)
            if node not in changed and (assigned or any(source in changed for source in node.all_input_nodes)):
                changed[node] = self._value(node, assigned, around, rounding)
            spec = results.get(node.name)
            if spec is not None:
                changed[node] = self._through(node, spec, changed.get(node, values[node]), rounding)
            # Fresh memory for every value costs more than most operators do.
            for source in self._spent.get(node, ()):
                changed.pop(source, None)
        return changed

    def _value(
        self, node: Node, assigned: Assignment | None, values: Mapping[Node, object], rounding: Rounding | None
    ) -> object:
        sources = {source: values[source] for source in node.all_input_nodes}
        if assigned is not None:
            bound = self.program.bind(node)
            for name, spec in assigned.inputs.items():
                for source in all_nodes(bound[name]):
                    sources[source] = self._through(source, spec, sources[source], rounding)
        return compute(self.program, node, sources)

    def _through(self, node: Node, spec: QuantSpec, value: object, rounding: Rounding | None = None) -> object:
        """A value after its grid."""
        if not isinstance(value, Tensor):
            return value
        if rounding is not None:
            return with_outliers(rounding(value, self._grid(node, spec, value), spec), value, spec)
        if node.op == "get_attr":
            key = (str(node.target), spec)
            if key not in self._weights:
                self._weights[key] = through_grid(value, spec)
            return self._weights[key]
        if spec.dynamic:
            return nearest(value, spec)
        return fake_quantize(value, *self._grid(node, spec, value), spec)

    def _grid(self, node: Node, spec: QuantSpec, value: Tensor) -> Grid:
        if spec.dynamic:
            return choose_qparams(value, spec)
        if (node, spec) not in self._grids:
            samples = self._params[node] if node.op == "get_attr" else self._samples(node)
            self._grids[node, spec] = best_grid(samples, spec)
        return self._grids[node, spec]

    def _samples(self, node: Node) -> Tensor:
        """The float values of a node in all batches, in the first one only where their shapes differ."""
        found = _tensors([values[node] for values in self._floats])
        alike = len({value.shape[1:] for value in found}) == 1 and found[0].dim() > 0
        return torch.cat(found) if alike else found[0]

    def _float_values(self, batch: Batch) -> dict[Node, object]:
        check_inputs(self.program, batch)
        values: dict[Node, object] = dict(zip(self.program.inputs, channels_last(batch), strict=True))
        around = ChainMap(values, self._params)  # pyright: ignore[reportArgumentType]
        for node in self.order:
            sources = {source: around[source] for source in node.all_input_nodes}
            values[node] = compute(self.program, node, sources)
        return values


def _last_reads(order: Sequence[Node], kept: Collection[Node]) -> dict[Node, list[Node]]:
    """By operator, the values that it is the last one to read; none of those that are kept."""
    last = {source: node for node in order for source in node.all_input_nodes if source.op == "call_function"}
    found: dict[Node, list[Node]] = {}
    for source, node in last.items():
        if source not in kept:
            found.setdefault(node, []).append(source)
    return found


def affordable_samples(program: Program, batches: Sequence[Batch]) -> int:
    """How many samples there is room for, at least one."""
    if not len(batches):
        return 1
    bound = check_inputs(program, batches[0])
    types = [type_ for type_ in map(program.type, program.nodes) if isinstance(type_, TensorType)]
    held = sum(math.prod(program.dimensions.hint(size, bound) for size in type_.shape) for type_ in types)
    return max(_HELD * sample_count(batches[0]) // max(held, 1), 1)


def through_grid(weight: Tensor, spec: QuantSpec) -> Tensor:
    """A weight at the nearest values of its grid."""
    return with_outliers(fake_quantize(weight, *best_grid(weight, spec), spec), weight, spec)


def best_grid(value: Tensor, spec: QuantSpec) -> Grid:
    """Scale and zero point of the range, out of a few shrunk ones, with the least squared error in each block.

    Shapes: value of the spec's rank, floating. Specs of several levels keep the whole range; elements that are kept
    beside the codes are in no range.
    """
    value = without_outliers(value.detach().float(), spec)
    low, high = block_reduce(value, spec.block, "amin"), block_reduce(value, spec.block, "amax")
    if len(spec.levels) > 1:
        return qparams_from_range(low, high, spec)
    best, least = torch.ones_like(low), torch.full(low.shape, torch.inf)
    for shrink in _shrinks(spec):
        error = fake_quantize(value, *qparams_from_range(low * shrink, high * shrink, spec), spec) - value
        total = block_sums(error.square_(), spec.block)
        best, least = torch.where(total < least, shrink, best), torch.minimum(total, least)
    return qparams_from_range(low * best, high * best, spec)


def _shrinks(spec: QuantSpec) -> Sequence[float]:
    """What is tried for the widths of a spec, that of every segment."""
    segments = spec.parts.segments if spec.parts is not None else ()
    widths = {number.storage_bits for _, number in segments} or {spec.bits}
    return sorted({shrink for width in widths for shrink in _SHRINKS.get(width, _FINE)}, reverse=True)


def block_sums(x: Tensor, block: tuple[int, ...]) -> Tensor:
    """The sum of each block; shapes as of `block_reduce`."""
    whole = [axis for axis, extent in enumerate(block) if extent == -1]
    x = x.sum(whole, keepdim=True) if whole else x
    for axis, extent in enumerate(block):
        if extent > 1:
            missing = -x.shape[axis] % extent
            rest = [*x.shape[:axis], missing, *x.shape[axis + 1 :]]
            x = torch.cat([x, x.new_zeros(rest)], axis) if missing else x
            x = x.unflatten(axis, (-1, extent)).sum(axis + 1)
    return x


def _tensors(values: Sequence[object]) -> list[Tensor]:
    return [value for value in values if isinstance(value, Tensor)]
