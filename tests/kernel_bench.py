"""One kernel call as a lowered program: drawn at random, evaluated by its meaning, run by onnxruntime."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

import onnx
import onnx_ir as ir
import torch

from qcompiler.backends.onnx.kernels import kernel_emitters
from qcompiler.backends.onnx.session import Session, open_session
from qcompiler.backends.onnx.settings import Settings
from qcompiler.backends.onnx.writer import write_model
from qcompiler.backends.reference import MEANINGS
from qcompiler.backends.reference.weights import roundings
from qcompiler.formats import parse_format
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Builder, Node, Program, Signature, Stage
from qcompiler.ir.types import TensorType
from qcompiler.ir.verify import verify
from qcompiler.spec import Level, Number, QuantSpec, expand_blocks

F32 = torch.float32
Operand = list[Node | None]
Drawing = Literal["codes", "reals", "rows"]
STANDARD, CONTRIB = Settings(opset=21), Settings(opset=21, linear="contrib")
_KINDS = 7


@dataclass(frozen=True)
class Feed:
    """How an input is drawn.

    Args:
        shape: of the input.
        drawing: whole numbers from `low` to `high`, real numbers, or row numbers from `low` to `high`.
        low: least number.
        high: largest number.
        scale: of codes: what comes in is `(code - zero) * scale`.
        zero: likewise.
    """

    shape: tuple[int, ...]
    drawing: Drawing = "codes"
    low: int = 0
    high: int = 255
    scale: float = 1.0
    zero: float = 0.0


@dataclass
class Bench:
    """A lowered program around one kernel call, between a quantizer of its inputs and a dequantizer of its result."""

    seed: int = 0
    settings: Settings = STANDARD
    feeds: list[torch.Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.program = Program(stage=Stage.LOWERED)
        self.random = torch.Generator().manual_seed(self.seed)
        self.drawn: list[Feed] = []
        self.number = "uint8"
        self.step = 1.0
        self.ties = self.seed % 3 == 0

    @property
    def builder(self) -> Builder:
        return self.program.append()

    def uniform(self, low: float, high: float, shape: Sequence[int] = ()) -> torch.Tensor:
        return torch.empty(list(shape)).uniform_(low, high, generator=self.random)

    def integers(self, low: int, high: int, shape: Sequence[int] = ()) -> torch.Tensor:
        return torch.randint(low, high + 1, list(shape), generator=self.random).float()

    def pick(self, low: int, high: int) -> int:
        return int(self.integers(low, high))

    def chance(self, part: float) -> bool:
        return float(self.uniform(0, 1)) < part

    def scales(self, shape: Sequence[int]) -> torch.Tensor:
        """Scales over four decades; powers of two in benches of ties, which put many results between two codes."""
        if self.ties:
            return 2.0 ** self.integers(-9, -3, shape)
        return 10.0 ** self.uniform(-4, 0, shape)

    def inputs(self, *shapes: Sequence[int], low: int | None = None, high: int | None = None) -> list[Node]:
        """Inputs of codes of the bench's number."""
        number = parse_format(self.number)
        limits = (int(number.lowest) if low is None else low, int(number.highest) if high is None else high)
        return [self.input(Feed(tuple(shape), "codes", *limits)) for shape in shapes]

    def input(self, feed: Feed) -> Node:
        dtype = torch.int64 if feed.drawing == "rows" else F32
        node = self.program.add_input(f"x{len(self.drawn)}", TensorType(dtype, feed.shape))
        self.drawn.append(feed)
        self.feeds.append(self.drawing(feed, 0))
        return node

    def redraw(self, round_: int) -> None:
        """New values for all inputs; every few rounds another kind of extreme."""
        self.feeds = [self.drawing(feed, round_) for feed in self.drawn]

    def drawing(self, feed: Feed, round_: int) -> torch.Tensor:
        if feed.drawing == "reals":
            return self.reals(feed.shape, round_)
        drawn = self.integers(feed.low, feed.high, feed.shape)
        if feed.drawing == "rows":
            return drawn.long()
        return (self.extreme(drawn, feed, round_ % _KINDS) - feed.zero) * feed.scale

    def extreme(self, drawn: torch.Tensor, feed: Feed, kind: int) -> torch.Tensor:
        """Codes that are all equal, or all at the ends, or as drawn."""
        if kind == 1:
            return torch.full(feed.shape, float(self.pick(feed.low, feed.high)))
        if kind == 2:
            return torch.where(self.uniform(0, 1, feed.shape) < 0.5, float(feed.low), float(feed.high))
        return drawn

    def reals(self, shape: Sequence[int], round_: int) -> torch.Tensor:
        """Real numbers: of any magnitude, equal, zeros, with outliers, halves of steps, denormals."""
        kind, normal = round_ % _KINDS, torch.empty(list(shape)).normal_(generator=self.random)
        if kind == 1:
            return torch.full(list(shape), float(self.uniform(-3, 3)))
        if kind == 2:
            return torch.zeros(list(shape))
        if kind == 3:
            return normal * 1e-3 + 100 * (self.uniform(0, 1, shape) < 0.02)
        if kind == 4:
            steps = self.integers(-126, 126, shape) + 0.5
            return torch.where(self.uniform(0, 1, shape) < 0.1, 127.0, steps) * 2.0 ** float(self.integers(-20, 20))
        if kind == 5:
            return normal * 1e-40
        return normal * 10 ** float(self.uniform(-6, 6))

    def grid(self, rank: int, zero_point: int | None = None) -> Operand:
        number = parse_format(self.number)
        shape = [1] * rank
        zero = self.integers(int(number.lowest), int(number.highest), shape)
        if zero_point is not None:
            zero = torch.full(shape, float(zero_point))
        return [self.builder.param("scale", self.scales(shape)), self.builder.param("zero", zero)]

    def result(self, rank: int, *sources: Operand, gain: float = 1.0, zero_point: int | None = None) -> Operand:
        """A grid of a result about as wide as the product of its sources' grids, so that few codes are cut off."""
        found = self.grid(rank, zero_point)
        known = [self.program.constant(source[1]) for source in sources]
        scale = torch.stack([value.mean() for value in known if value is not None]).prod() * gain
        power = 2.0 ** torch.log2(scale).round() if self.ties else scale * self.uniform(0.3, 3.0)
        return [self.builder.param("scale", power.reshape([1] * rank).float()), found[1]]

    def activation(self, node: Node, zero_point: int | None = None) -> Operand:
        """Codes of an input, by a scale and zero point of their own."""
        rank, index = len(self.program.shape(node)), self.program.inputs.index(node)
        parts = self.grid(rank, zero_point)
        scale, zero = (float(value) for part in parts if (value := self.program.constant(part)) is not None)
        self.drawn[index] = replace(self.drawn[index], scale=scale, zero=zero)
        self.feeds[index] = self.drawing(self.drawn[index], 0)
        codes = self.builder.call("qc.quantize", node, *parts, kwargs={"spec": tensor_spec(self.number, rank)})
        return [codes, *parts]

    def weight(self, shape: Sequence[int], spec_text: str, axis: int = 0) -> tuple[Operand, QuantSpec]:
        spec = Number.parse(f"{spec_text} scale=f32").spec(len(shape), axis, 1 - axis)
        lowest, highest = int(spec.format.lowest), int(spec.format.highest)
        codes = self.integers(lowest, highest, shape)
        scales = self.scales([int(size) for size in spec.levels[0].scale_shape(list(shape))])
        node = self.builder.param("w", codes, TensorType(F32, tuple(shape), spec))
        zero = None
        if not spec.symmetric:
            zero = self.builder.param("wz", self.integers(0, highest, scales.shape))
        return [node, self.builder.param("ws", scales), zero], spec

    def bias(self, x: Operand, w: Operand, count: int) -> Operand:
        scales = [self.program.constant(part[1]) for part in (x, w)]
        assert scales[0] is not None
        assert scales[1] is not None
        spec = QuantSpec(parse_format("int32"), (Level((1 if scales[1].numel() > 1 else -1,)),))
        codes = self.integers(-40000, 40000, [count])
        node = self.builder.param("b", codes, TensorType(F32, (count,), spec))
        return [node, self.builder.param("bs", (scales[0].reshape(()) * scales[1]).reshape(-1)), None]

    def float_bias(self, count: int) -> Node:
        return self.builder.param("b", self.uniform(-1, 1, [count]))

    def finish(
        self,
        kernel: str,
        op: str,
        arguments: Sequence[object],
        shape: Sequence[int],
        result: Sequence[Node | None] | None = None,
        limits: tuple[float, float] | None = None,
        **attributes: object,
    ) -> Program:
        spec = tensor_spec(self.number, len(shape)) if result else None
        kwargs: dict[str, object] = {"op": op, **attributes}
        if result is not None and spec is not None:
            low, high = limits or (spec.format.lowest, spec.format.highest)
            kwargs |= {"result": result, "low": low, "high": high}
            scale = self.program.constant(result[0])
            self.step = 1.0 if scale is None else float(scale)
        node = self.builder.call(
            "qc.kernel", kernel, *arguments, kwargs=kwargs, type_=TensorType(F32, tuple(shape), spec)
        )
        if spec is not None and result is not None:
            node = self.builder.call("qc.dequantize", node, *result, kwargs={"spec": spec})
        return self.close([node])

    def close(self, outputs: Sequence[Node]) -> Program:
        """The whole program."""
        self.program.set_outputs(list(outputs))
        self.program.signature = Signature.flat(len(self.drawn), len(outputs))
        verify(self.program)
        return self.program

    def written(self) -> ir.Model:
        return write_model(self.program, opset=self.settings.opset, kernel_emitters=kernel_emitters(self.settings))

    def session(self) -> tuple[Session, frozenset[str]]:
        """Onnxruntime on the written program, and the operators that it really runs."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "optimized.onnx"
            written = ir.to_proto(self.written()).SerializeToString()
            session = open_session(written, threads=1, optimized=path)
            graph = onnx.load(str(path)).graph
            return session, frozenset(node.op_type for node in graph.node)

    def meant(self) -> torch.Tensor:
        """What the meaning says."""
        with torch.no_grad():
            return evaluate(self.program, self.feeds, kernels=MEANINGS)[0]

    def excess(self, difference: torch.Tensor) -> float:
        """The largest difference of a float32 sum from what its kernel states, as a part of what it allows."""
        call = next(node for node in self.program.nodes if self.program.op(node) == "qc.kernel")
        _, _, parts, bias = call.args
        spec = cast(QuantSpec, call.kwargs["spec"])
        block = call.kwargs.get("block", 0)
        codes, scale, zero = (self.program.constant(part) for part in parts)  # pyright: ignore[reportGeneralTypeIssues, reportOptionalIterable]
        assert isinstance(block, int)
        assert codes is not None
        assert scale is not None
        lowest = spec.format.lowest
        unsigned, point = codes - lowest, (torch.zeros_like(scale) if zero is None else zero) - lowest
        spread, points = (expand_blocks(part, spec.block, codes.shape) for part in (scale, point))
        # With a block, sums of unsigned codes and of zero points are made apart.
        weight = (unsigned + points if block else (unsigned - points).abs()) * spread
        total = self.feeds[0].double().abs() @ weight.double().t()
        known = self.program.constant(bias) if isinstance(bias, Node) else None
        magnitude = total if known is None else total + known.double().abs()
        # Products below the normal numbers are rounded to multiples of 2^-149.
        allowed = (magnitude * 2.0**-24 + 2.0**-149) * roundings(codes.shape[-1], block)
        parts_of = torch.where(difference == 0, 0.0, difference.double().abs() / allowed)
        return float(parts_of.max())

    def ran(self, session: Session) -> torch.Tensor:
        """What onnxruntime says."""
        names = [f"x{index}" for index in range(len(self.drawn))]
        return session.run(dict(zip(names, self.feeds, strict=True)))[0]


def tensor_spec(number: str, rank: int, *, dynamic: bool = False) -> QuantSpec:
    """A number with one scale and zero point for a whole tensor."""
    return QuantSpec(parse_format(number), (Level((-1,) * rank, "f32", "int"),), dynamic=dynamic)
