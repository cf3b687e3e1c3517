"""ARCQuant: what the rounding of the largest input channels leaves is quantized again and appended as more channels.

Formula   channels by max |x_j|, the largest last; q = Q(x), e = x - q on the last S of them, q2 = Q(e);
          y = [q | q2] [W | W_S]^T, one product over K + S columns. S = K rho, rounded up to whole `align`s, rho the
          share of numbers with |x| > max |row| / 8
Shapes    x [..., K] -> [..., K + S]; W [out, K] -> [out, K + S], whose equal columns get equal codes if rounded
Promise   Lossy; a value keeps its plain rounding where that measures better
Needs     activations quantized at run time, linears with weights that are not solved yet; calibration data
Source    Meng et al. 2026, "ARCQuant: Boosting NVFP4 Quantization with Augmented Residual Channels for LLMs". The
          second stage has a tensor scale of its own, where the format has one
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from qcompiler.analysis.weights import weight_quantizer
from qcompiler.errors import SpecError
from qcompiler.ir import ops
from qcompiler.ir.fill import Fill
from qcompiler.ir.program import Builder, Node, Program, Stage
from qcompiler.ir.types import TensorType
from qcompiler.pipeline import Context, Lossy, Promise
from qcompiler.plan import Decomposition
from qcompiler.reducers import Samples
from qcompiler.spec import QuantSpec, bits_per_element, nearest
from qcompiler.stats import Request

_SAMPLES = Samples(-1, 1024)
_LARGE = 8.0


@dataclass(frozen=True)
class ArcQuant:
    """Appends the quantized residuals of outlier channels to what linears read.

    Args:
        align: the number of appended channels is a multiple of it.
        channels: how many to append; 0 for the rule of the formula.
    """

    align: int = 64
    channels: int = 0
    name: ClassVar[str] = "arcquant"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    def __post_init__(self) -> None:
        if self.align < 1 or self.channels < 0:
            raise SpecError(f"{self.channels} channels in steps of {self.align}", mend="64 is usual")

    def requests(self, program: Program) -> list[Request]:
        """Rows of the values in question."""
        return [Request(value.source.name, _SAMPLES) for value in augmentable(program)]

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with wider inputs of its linears.

        Raises:
            InputError: without calibration data.
        """
        count, added, before = 0, 0, 0
        values = augmentable(program)
        for value in values:
            x = ctx.stats.get(value.source.name, _SAMPLES).float()
            weights = [
                (program.param(_param(program, node)).float(), _weight_spec(program, node)) for node in value.readers
            ]
            order = x.abs().amax(0).argsort(stable=True)
            extra = min(self.channels or residual_count(x, self.align), x.shape[1])
            before += x.shape[1]
            if extra and augmented_error(x, weights, value.spec, order, extra) < plain_error(x, weights, value.spec):
                append_residuals(program, value, order, extra, self.name)
                count, added = count + 1, added + extra
        ctx.log(f"{count} of {len(values)} values with residual channels: {added / max(before, 1):.1%} more columns")
        return program


@dataclass(frozen=True, eq=False)
class Value:
    """What some linears read, quantized at run time.

    Args:
        source: the value before it is quantized.
        rounded: after it is dequantized.
        spec: its numbers.
        readers: linears with weights that are not solved yet.
    """

    source: Node
    rounded: Node
    spec: QuantSpec
    readers: tuple[Node, ...]


def augmentable(program: Program) -> list[Value]:
    """The values that can get residual channels."""
    found: dict[Node, list[Node]] = {}
    for node in program.nodes:
        if program.op(node) != "aten.linear" or weight_quantizer(program, node) is None:
            continue
        read = program.bind(node)["input"]
        codes = read.args[0] if isinstance(read, Node) and read.target is ops.dequantize else None
        if isinstance(codes, Node) and codes.target is ops.quantize and _spec(program, codes).dynamic:
            found.setdefault(cast(Node, read), []).append(node)
    return [
        Value(read.all_input_nodes[0].all_input_nodes[0], read, _spec(program, read), tuple(nodes))
        for read, nodes in found.items()
    ]


def residual_count(x: Tensor, align: int) -> int:
    """How many channels hold the share of large numbers, rounded up; x [rows, channels]."""
    large = x.abs() > x.abs().amax(1, keepdim=True) / _LARGE
    return -(-int(large.sum()) // (len(x) * align)) * align


def nearest_rows(x: Tensor, spec: QuantSpec) -> Tensor:
    """The nearest values of a spec whose leading axes may be more than those of `x`."""
    return nearest(x.reshape(*[1] * (spec.rank - x.dim()), *x.shape), spec).reshape(x.shape)


def two_stages(x: Tensor, spec: QuantSpec, extra: int) -> Tensor:
    """What `x` [rows, channels] amounts to with the residuals of its last `extra` channels."""
    first = nearest_rows(x, spec)
    tail = nearest_rows(x[:, -extra:] - first[:, -extra:], spec)
    return torch.cat([first[:, :-extra], first[:, -extra:] + tail], 1)


def plain_error(x: Tensor, weights: Sequence[tuple[Tensor, QuantSpec]], spec: QuantSpec) -> float:
    """Squared output error of linears without residual channels."""
    read = nearest_rows(x, spec)
    return sum(float((read @ nearest_rows(weight, own).T - x @ weight.T).square().sum()) for weight, own in weights)


def augmented_error(
    x: Tensor, weights: Sequence[tuple[Tensor, QuantSpec]], spec: QuantSpec, order: Tensor, extra: int
) -> float:
    """The same with the channels in this order and the residuals of the last ones."""
    read = two_stages(x[:, order], spec, extra)
    return sum(
        float((read @ nearest_rows(weight[:, order], own).T - x @ weight.T).square().sum()) for weight, own in weights
    )


def append_residuals(program: Program, value: Value, order: Tensor, extra: int, step: str) -> None:
    """Orders the channels, appends the residuals, and gives the readers their wider weights."""
    source, axis = value.source, program.tensor_type(value.source).rank - 1
    builder, name, size = program.after(source, step), value.source.name, len(order)
    index = builder.param(f"{name}.order", order)
    ordered = builder.call("aten.index_select", source, axis, index, name=f"{name}_ordered")
    first = _pair(builder, ordered, value.spec)
    tails = [builder.call("aten.slice.Tensor", node, axis, size - extra, size, 1) for node in (ordered, first)]
    left = builder.call("aten.sub.Tensor", *tails, name=f"{name}_residual")
    wide = builder.call("aten.cat", [first, _pair(builder, left, value.spec)], axis, name=f"{name}_augmented")
    for node in value.readers:
        param = _param(program, node)
        weight = program.param(param)[:, order]
        weight = torch.cat([weight, weight[:, -extra:]], 1)
        before = program.before(node, step)
        wider = before.param(f"{param.target}.augmented", weight)
        spec = _weight_spec(program, node)
        codes = _static_pair(before, wider, spec, str(param.target))
        bits = bits_per_element(spec, weight.shape) * weight.shape[1] / size
        node.meta["decomposition"] = Decomposition(step, bits, "its input has residual channels, which no kernel takes")
        program.set_args(node, (wide, codes, *node.args[2:]), node.kwargs)


def _pair(builder: Builder, source: Node, spec: QuantSpec) -> Node:
    """Quantizes at run time, and dequantizes."""
    chosen = builder.call("qc.choose_qparams", source, kwargs={"spec": spec}, name=f"{source.name}_qparams")
    *scales, zero_point = builder.items(chosen)
    scale, zero = scales[0] if len(scales) == 1 else scales, None if spec.symmetric else zero_point
    codes = builder.call("qc.quantize", source, scale, zero, kwargs={"spec": spec}, name=f"{source.name}_q")
    return builder.call("qc.dequantize", codes, scale, zero, kwargs={"spec": spec}, name=f"{source.name}_dq")


def _static_pair(builder: Builder, param: Node, spec: QuantSpec, label: str) -> Node:
    """Quantizes a weight by scales that the solver will set, and dequantizes."""
    shapes = spec.scale_shapes(builder.program.shape(param))
    unset = Fill("unset")
    scales = [builder.param(f"{label}.scale", unset, TensorType(torch.float32, tuple(shape))) for shape in shapes]
    zero = None
    if not spec.symmetric:
        zero = builder.param(f"{label}.zero_point", unset, TensorType(torch.float32, tuple(shapes[0])))
    scale = scales[0] if len(scales) == 1 else scales
    codes = builder.call("qc.quantize", param, scale, zero, kwargs={"spec": spec})
    return builder.call("qc.dequantize", codes, scale, zero, kwargs={"spec": spec})


def _param(program: Program, linear: Node) -> Node:
    """The float weight of a linear that is not solved yet."""
    return cast(Node, weight_quantizer(program, linear)).all_input_nodes[0]


def _weight_spec(program: Program, linear: Node) -> QuantSpec:
    return _spec(program, cast(Node, weight_quantizer(program, linear)))


def _spec(program: Program, node: Node) -> QuantSpec:
    return cast(QuantSpec, program.bind(node)["spec"])
