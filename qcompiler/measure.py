"""How far a quantized program is from the float one: per layer, per layer alone, and at the output.

Source: the signal-to-quantization-noise ratio of Jayant and Noll 1984, "Digital Coding of Waveforms".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.fx.node import map_arg

from qcompiler.errors import InputError
from qcompiler.ir import ops
from qcompiler.ir.interp import KernelMeaning, evaluate
from qcompiler.ir.program import Node, Program, Stage, all_nodes
from qcompiler.layout import channels_last, memory_order
from qcompiler.stats import Batch

LIMIT_DB = 300.0
_LARGEST = 1e30
_STRIP = 4096
# sums of squares that neither overflow nor underflow in float32
_SAFE = (1e-20, 1e30)
_QUANTIZERS = frozenset({ops.quantize, ops.dequantize, ops.choose_qparams})


@dataclass(frozen=True)
class LayerError:
    """What quantization does to the result of one operator.

    Args:
        sqnr_db: of the result in the quantized program against the float one, everything upstream quantized
            too.
        own_noise: noise energy over signal energy when this operator alone reads quantized operands; zero when it
            only hands codes on.
        share: `own_noise` as a part of the sum over all operators.
    """

    sqnr_db: float
    own_noise: float
    share: float


@dataclass(frozen=True)
class Measurement:
    """Errors of a quantized program.

    Args:
        output_sqnr_db: over all results together.
        layers: by node name; empty when the program holds kernel calls, whose results are codes.
        samples: how many were measured.
        references: the float results of each batch, cut to the samples that were measured.
    """

    output_sqnr_db: float
    layers: Mapping[str, LayerError]
    samples: int
    references: Sequence[Sequence[Tensor]] = field(default=(), repr=False)


def sqnr_db(reference: Tensor, value: Tensor) -> float:
    """Signal-to-quantization-noise ratio of `value` in decibels.

    Formula: `10 log10(sum(reference^2) / sum((reference - value)^2))`, summed in float64. Places where both
    hold the same infinity or NaN count as equal and silent; where only one does, the result is lost. Held
    within +-300 dB: 300 is equality, -300 noise without a signal or a lost result, so that the number always
    has a JSON form.
    Shapes: both [...] of one shape, any real dtype. Raises InputError when the shapes differ.
    """
    return _energy_of(reference, value).sqnr_db


def output_sqnr_db(reference: Sequence[Tensor], results: Sequence[Tensor]) -> float:
    """`sqnr_db` over several tensors together.

    Raises InputError when their number or a shape differs.
    """
    return _energy_of_all(reference, results).sqnr_db


def limit_samples(program: Program, batches: Iterable[Batch], samples: int) -> Iterator[Batch]:
    """The first `samples` samples; a batch is cut where all inputs begin with the same free symbol.

    Shapes: batches as the program's flat inputs -> the same, fewer.
    """
    firsts = {program.shape(node)[0] if program.shape(node) else 0 for node in program.inputs}
    dim = firsts.pop() if len(firsts) == 1 else 0
    symbol = program.dimensions.symbols.get(str(dim))
    taken = 0
    for batch in batches:
        if taken >= samples:
            return
        if symbol is not None:
            batch = [value[: max(samples - taken, symbol.low)] for value in batch]
        taken += sample_count(batch)
        yield batch


def measure_layers(
    reference: Program,
    quantized: Program,
    batches: Iterable[Batch],
    *,
    kernels: Mapping[str, KernelMeaning] | None = None,
    samples: int = 8,
) -> Measurement:
    """Compares a quantized program with its float reference.

    Operators of both programs are matched by name. Both are walked together, so that no more values are alive
    than a run needs; three evaluations of each operator at most.

    Args:
        reference: the float program, at stage canonical.
        quantized: at stage quantized, or lowered (then only the output is compared).
        batches: flat inputs.
        kernels: meaning of each kernel, for stage lowered.
        samples: most samples to look at.

    Raises:
        InputError: when there is no batch or the results have different shapes.
    """
    tally = _Tally()
    counted = 0
    references: list[Sequence[Tensor]] = []
    lowered = quantized.stage is Stage.LOWERED
    with torch.no_grad():
        for batch in limit_samples(reference, batches, samples):
            counted += sample_count(batch)
            if lowered:
                expected, found = evaluate(reference, batch), evaluate(quantized, batch, kernels=kernels)
                tally.output += _energy_of_all(expected, found)
            else:
                expected = _Walk(reference, quantized, channels_last(batch), tally).run()
            references.append(expected)
    if not counted:
        raise InputError("there is no sample to measure on", mend="pass calibration data or example inputs")
    return Measurement(tally.output.sqnr_db, tally.layers(), counted, references)


def sample_count(batch: Batch) -> int:
    """Samples in a batch: the longest first axis."""
    return max((value.shape[0] for value in batch if value.dim()), default=1)


@dataclass(frozen=True)
class _Energy:
    signal: float = 0.0
    noise: float = 0.0

    def __add__(self, other: _Energy) -> _Energy:
        return _Energy(self.signal + other.signal, self.noise + other.noise)

    @property
    def ratio(self) -> float:
        if not self.noise:
            return 0.0
        return min(self.noise / self.signal, _LARGEST) if self.signal else _LARGEST

    @property
    def sqnr_db(self) -> float:
        if not self.ratio:
            return LIMIT_DB
        return max(-LIMIT_DB, min(LIMIT_DB, -10 * math.log10(self.ratio)))


@dataclass
class _Tally:
    output: _Energy = _Energy()
    streams: dict[str, _Energy] = field(default_factory=dict)
    alone: dict[str, _Energy] = field(default_factory=dict)

    def layers(self) -> dict[str, LayerError]:
        total = sum(energy.ratio for energy in self.alone.values())
        found: dict[str, LayerError] = {}
        for name, energy in self.streams.items():
            own = self.alone.get(name, _Energy()).ratio
            found[name] = LayerError(energy.sqnr_db, own, own / total if total else 0.0)
        return found


def _energy_of(reference: Tensor, value: Tensor) -> _Energy:
    if reference.shape != value.shape:
        raise InputError(f"a result of shape {list(value.shape)} where the float model gives {list(reference.shape)}")
    wide = reference.is_floating_point() and value.is_floating_point()
    a, b = (reference, value) if wide else (reference.double(), value.double())
    energy = _Energy(_square_sum(a), _square_sum(a - b))
    if math.isfinite(energy.signal) and math.isfinite(energy.noise):
        return energy
    same = (a == b) | (a.isnan() & b.isnan())
    noise = _square_sum(torch.where(same, 0.0, a.double() - b.double()))
    signal = _square_sum(torch.where(a.isfinite(), a, 0.0))
    return _Energy(signal, math.inf if math.isnan(noise) else noise)


def _square_sum(value: Tensor) -> float:
    if value.dtype == torch.float32 and value.numel() >= _STRIP:
        # Short strips in float32 and their sum in float64 are as good as float64 throughout, and ten times as fast.
        flat = value.permute(memory_order(value)).flatten()
        whole = flat.numel() // _STRIP * _STRIP
        strips = torch.linalg.vector_norm(flat[:whole].view(-1, _STRIP), dim=1).double()
        total = float(strips @ strips) + _square_sum(flat[whole:])
        if _SAFE[0] < total < _SAFE[1]:
            return total
    return float(torch.linalg.vector_norm(value, dtype=torch.float64)) ** 2


def _energy_of_all(reference: Sequence[Tensor], results: Sequence[Tensor]) -> _Energy:
    if len(reference) != len(results):
        raise InputError(f"{len(results)} results where the float model gives {len(reference)}")
    energy = _Energy()
    for expected, found in zip(reference, results, strict=True):
        energy += _energy_of(expected, found)
    return energy


class _Stream:
    """Values of one evaluation, each freed after its last use."""

    def __init__(self, program: Program, inputs: Batch) -> None:
        self.program = program
        self.values: dict[Node, object] = dict(zip(program.inputs, inputs, strict=True))
        self.remaining = Counter({node: len(node.users) for node in program.graph.nodes})

    def compute(self, node: Node) -> object:
        """The value of a node from the values at hand."""
        if node.op == "placeholder":
            return self.values[node]
        if node.op == "get_attr":
            return self.program.param(node).detach()
        call = (node.args, node.kwargs)
        args, kwargs = map_arg(call, lambda source: self.values[source])  # pyright: ignore[reportArgumentType]
        return node.target(*args, **kwargs)  # pyright: ignore[reportCallIssue]

    def settle(self, node: Node, value: object) -> None:
        """Keeps the value of a node and lets go of operands that nobody needs any more."""
        self.values[node] = value
        for source in node.all_input_nodes:
            self.remaining[source] -= 1
            if not self.remaining[source]:
                del self.values[source]


class _Walk:
    """One batch through three streams: float, quantized, and quantized but restarted at every operator."""

    def __init__(self, reference: Program, quantized: Program, batch: Batch, tally: _Tally) -> None:
        self.reference, self.quantized, self.tally = reference, quantized, tally
        self.exact, self.noisy = _Stream(reference, batch), _Stream(quantized, batch)
        self.restarted = _Stream(quantized, batch)
        names = {node.name: quantized.op(node) for node in quantized.nodes}
        self.matched = {node.name for node in reference.nodes if names.get(node.name) == reference.op(node)}
        self.waiting: dict[str, object] = {}
        self.coming = iter([node for node in reference.graph.nodes if node.op != "output"])
        self.tainted: set[Node] = set()
        self.constant: set[Node] = set()

    def run(self) -> Sequence[Tensor]:
        """Walks to the end; the float results."""
        for node in self.quantized.graph.nodes:
            if node.op != "output":
                self.step(node)
        for node in self.coming:
            self.exact.settle(node, self.exact.compute(node))
        expected = [self.exact.values[node] for node in self.reference.outputs]
        found = [self.noisy.values[node] for node in self.quantized.outputs]
        self.tally.output += _energy_of_all(expected, found)  # pyright: ignore[reportArgumentType]
        return expected  # pyright: ignore[reportReturnType]

    def step(self, node: Node) -> None:
        noisy = self.noisy.compute(node)
        self.noisy.settle(node, noisy)
        reads_noise = any(source in self.tainted for source in node.all_input_nodes)
        exact = self.advance(node.name) if node.name in self.matched else None
        if exact is None or (isinstance(exact, Tensor) and exact.shape != getattr(noisy, "shape", None)):
            if reads_noise or node.target in _QUANTIZERS:
                self.tainted.add(node)
            if node.op != "placeholder" and all(source in self.constant for source in node.all_input_nodes):
                self.constant.add(node)
            # What no input reaches is the same in both streams; weights are not dequantized twice.
            self.restarted.settle(node, noisy if node in self.constant else self.restarted.compute(node))
            return
        if isinstance(exact, Tensor) and exact.is_floating_point():
            self.record(self.tally.streams, node, exact, noisy)
            if reads_noise and not self.hands_on(node):
                self.record(self.tally.alone, node, exact, self.restarted.compute(node))
        self.restarted.settle(node, exact)

    def hands_on(self, node: Node) -> bool:
        """Whether the operator only hands codes on, in one grid: their rounding is counted where they are used."""
        read = {self.grid(source) for source in node.all_input_nodes if source.target is ops.dequantize}
        written = {self.grid(user) for user in node.users if user.target is ops.quantize}
        return len(read) == 1 and read == written

    def grid(self, node: Node) -> tuple[Node, ...]:
        bound = self.quantized.bind(node)
        return tuple(all_nodes((bound["scale"], bound["zero_point"])))

    def record(self, into: dict[str, _Energy], node: Node, exact: Tensor, value: object) -> None:
        if isinstance(value, Tensor):
            into[node.name] = into.get(node.name, _Energy()) + _energy_of(exact, value)

    def advance(self, name: str) -> object:
        """The float value of the operator called `name`; what is met on the way is kept until asked for."""
        while name not in self.waiting:
            node = next(self.coming)
            value = self.exact.compute(node)
            self.exact.settle(node, value)
            if node.name in self.matched:
                self.waiting[node.name] = value
        return self.waiting.pop(name)
