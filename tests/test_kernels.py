"""Every kernel's meaning against what onnxruntime runs for its written form: integers bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.onnx.kernels import WRITERS, kernel_emitters
from qcompiler.backends.onnx.settings import Settings
from qcompiler.backends.onnx.writer import write_model
from qcompiler.backends.reference import MEANINGS
from qcompiler.backends.reference.arithmetic import MOST_TERMS, Grid, fused_multiply_add
from qcompiler.backends.reference.dense import linear
from qcompiler.errors import UnsupportedError
from qcompiler.formats import parse_format
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Builder, Node, Program, Signature, Stage
from qcompiler.ir.types import TensorType
from qcompiler.ir.verify import verify
from qcompiler.measure import sqnr_db
from qcompiler.spec import Level, Number, QuantSpec, qparams_from_range
from tests.onnx_tools import F32, run_onnx

Operand = list[Node | None]
FEW = settings(deadline=None, max_examples=25)
STANDARD, CONTRIB = Settings(opset=21), Settings(opset=21, linear="contrib")


@dataclass
class Bench:
    """A lowered program around one kernel call: codes come in as whole floats, codes leave as whole floats."""

    seed: int = 0

    def __post_init__(self) -> None:
        self.program = Program(stage=Stage.LOWERED)
        self.random = torch.Generator().manual_seed(self.seed)
        self.feeds: list[torch.Tensor] = []

    @property
    def builder(self) -> Builder:
        return self.program.append()

    def uniform(self, low: float, high: float, shape: Sequence[int] = ()) -> torch.Tensor:
        return torch.empty(list(shape)).uniform_(low, high, generator=self.random)

    def integers(self, low: int, high: int, shape: Sequence[int] = ()) -> torch.Tensor:
        return torch.randint(low, high + 1, list(shape), generator=self.random).float()

    def inputs(self, *shapes: Sequence[int], low: int = 0, high: int = 255) -> list[Node]:
        self.feeds = [self.integers(low, high, shape) for shape in shapes]
        return [self.program.add_input(f"x{i}", TensorType(F32, tuple(shape))) for i, shape in enumerate(shapes)]

    def grid(self, rank: int, zero_point: int | None = None) -> tuple[Node, Node]:
        scale = self.uniform(0.002, 0.05, [1] * rank)
        zero = self.integers(0, 255, [1] * rank) if zero_point is None else torch.full([1] * rank, float(zero_point))
        return self.builder.param("scale", scale), self.builder.param("zero", zero)

    def activation(self, node: Node, zero_point: int | None = None) -> Operand:
        """Codes of an input, read with a scale and zero point of their own."""
        rank = len(self.program.shape(node))
        spec = bytes_spec(rank)
        ones, zeros = (self.builder.param("unit", value) for value in (torch.ones([1] * rank), torch.zeros([1] * rank)))
        codes = self.builder.call("qc.quantize", node, ones, zeros, kwargs={"spec": spec})
        return [codes, *self.grid(rank, zero_point)]

    def weight(self, shape: Sequence[int], spec_text: str, axis: int = 0) -> tuple[Operand, QuantSpec]:
        number = Number.parse(spec_text)
        spec = number.spec(len(shape), axis, 1 - axis)
        codes = self.integers(int(spec.format.lowest), int(spec.format.highest), shape)
        scales = self.uniform(0.002, 0.05, [int(size) for size in spec.levels[0].scale_shape(list(shape))])
        node = self.builder.param("w", codes, TensorType(F32, tuple(shape), spec))
        zero = None
        if not spec.symmetric:
            zero = self.builder.param("wz", self.integers(0, int(spec.format.highest), scales.shape))
        return [node, self.builder.param("ws", scales), zero], spec

    def bias(self, x: Operand, w: Operand, count: int) -> Operand:
        scales = [self.program.constant(part[1]) for part in (x, w)]
        assert scales[0] is not None
        assert scales[1] is not None
        spec = QuantSpec(parse_format("int32"), (Level((1 if scales[1].numel() > 1 else -1,)),))
        codes = self.integers(-40000, 40000, [count])
        node = self.builder.param("b", codes, TensorType(F32, (count,), spec))
        return [node, self.builder.param("bs", (scales[0].reshape(()) * scales[1]).reshape(-1)), None]

    def finish(
        self,
        kernel: str,
        op: str,
        arguments: Sequence[object],
        shape: Sequence[int],
        result: Sequence[Node | None] | None = None,
        limits: tuple[float, float] = (0, 255),
        **attributes: object,
    ) -> Program:
        type_ = TensorType(F32, tuple(shape), bytes_spec(len(shape)) if result else None)
        kwargs: dict[str, object] = {"op": op, **attributes}
        if result is not None:
            kwargs |= {"result": result, "low": limits[0], "high": limits[1]}
        node = self.builder.call("qc.kernel", kernel, *arguments, kwargs=kwargs, type_=type_)
        if result is not None:
            ones, zeros = (torch.ones([1] * len(shape)), torch.zeros([1] * len(shape)))
            parts = (self.builder.param("one", ones), self.builder.param("none", zeros))
            node = self.builder.call("qc.dequantize", node, *parts, kwargs={"spec": type_.spec})
        self.program.set_outputs([node])
        self.program.signature = Signature.flat(len(self.feeds), 1)
        verify(self.program)
        return self.program

    def both(self, settings: Settings = STANDARD) -> tuple[torch.Tensor, torch.Tensor, ir.Model]:
        """What the meaning says, what onnxruntime says, and the written model."""
        model = write_model(self.program, opset=settings.opset, kernel_emitters=kernel_emitters(settings))
        meant = evaluate(self.program, self.feeds, kernels=MEANINGS)[0]
        return meant, run_onnx(model, self.feeds)[0], model


def bytes_spec(rank: int) -> QuantSpec:
    return QuantSpec(parse_format("uint8"), (Level((-1,) * rank, "f32", "int"),))


def assert_equal(bench: Bench, settings: Settings = STANDARD) -> ir.Model:
    meant, ran, model = bench.both(settings)
    assert torch.equal(meant, ran), f"{(meant != ran).sum()} of {meant.numel()} differ by {(meant - ran).abs().max()}"
    return model


@FEW
@given(
    seed=st.integers(0, 10**6),
    rank=st.integers(1, 3),
    groups=st.sampled_from([1, 2]),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.integers(0, 1),
    bias=st.sampled_from(["int32", "none"]),
    limits=st.sampled_from([(0.0, 255.0), (17.0, 255.0), (20.0, 90.0)]),
    weight=st.sampled_from(["int8 sym channel scale=f32", "int8 sym tensor scale=f32", "int4 sym channel scale=f32"]),
)
def test_conv(seed, rank, groups, kernel, stride, padding, bias, limits, weight):
    bench = Bench(seed)
    size = kernel + 2
    (x,) = bench.inputs([2, 2 * groups, *[size] * rank])
    result = list(bench.grid(rank + 2))
    a = bench.activation(x)
    w, _ = bench.weight([3 * groups, 2, *[kernel] * rank], weight)
    b = bench.bias(a, w, 3 * groups) if bias == "int32" else None
    out = (size + 2 * padding - kernel) // stride + 1
    window = ([stride] * rank, [padding] * rank, [1] * rank, groups)
    bench.finish("conv", f"aten.conv{rank}d", [a, w, b, *window], [2, 3 * groups, *[out] * rank], result, limits)
    assert_equal(bench)


@FEW
@given(
    seed=st.integers(0, 10**6),
    leading=st.sampled_from([(3,), (2, 3), (1, 2, 3)]),
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 20)),
    bias=st.sampled_from(["int32", "float", "none"]),
    quantized=st.booleans(),
)
def test_linear(seed, leading, sizes, bias, quantized):
    bench = Bench(seed)
    k, n = sizes
    (x,) = bench.inputs([*leading, k])
    result = list(bench.grid(len(leading) + 1)) if quantized else None
    a = bench.activation(x)
    w, _ = bench.weight([n, k], "int8 sym channel scale=f32")
    biases = {
        "int32": lambda: bench.bias(a, w, n),
        "float": lambda: bench.builder.param("b", bench.uniform(-1, 1, [n])),
    }
    b = biases[bias]() if bias in biases else None
    bench.finish("linear", "aten.linear", [a, w, b], [*leading, n], result)
    assert_equal(bench, STANDARD if bias != "float" else CONTRIB)


@FEW
@given(seed=st.integers(0, 10**6), shift=st.integers(1, 4))
def test_ties_of_requantization(seed, shift):
    """Scales whose quotient is a power of two put many sums right between two codes."""
    bench = Bench(seed)
    (x,) = bench.inputs([64, 5])
    a = bench.activation(x)
    w, _ = bench.weight([16, 5], "int8 sym tensor scale=f32")
    x_scale, w_scale = bench.program.constant(a[1]), bench.program.constant(w[1])
    assert x_scale is not None
    assert w_scale is not None
    result = [bench.builder.param("tied", x_scale * w_scale * 2.0**shift), bench.grid(2)[1]]
    bench.finish("linear", "aten.linear", [a, w, None], [64, 16], result)
    assert_equal(bench)


@FEW
@given(seed=st.integers(0, 10**6), tenths=st.sampled_from([1, 3, 5, 7]), ratio=st.sampled_from([1.0, 2.0, 3.0]))
def test_ties_of_sums(seed, tenths, ratio):
    bench = Bench(seed)
    nodes = bench.inputs([64, 64], [64, 64])
    a, b = (bench.activation(node, 0) for node in nodes)
    scale = bench.program.constant(a[1])
    assert scale is not None
    b[1] = bench.builder.param("other", scale * ratio)
    result = [bench.builder.param("tied", scale * 10 / tenths), bench.grid(2, 0)[1]]
    bench.finish("add", "aten.add.Tensor", [a, b], [64, 64], result)
    assert_equal(bench)


@FEW
@given(seed=st.integers(0, 10**6))
def test_sums_of_rows_with_single_elements(seed):
    """The kernel swaps its operands then, which shows where it rounds."""
    bench = Bench(seed)
    nodes = bench.inputs([64, 1], [64, 64])
    a, b = (bench.activation(node, 0) for node in nodes)
    scale = bench.program.constant(a[1])
    assert scale is not None
    b[1] = bench.builder.param("other", scale * 7)
    result = [bench.builder.param("tied", scale * 10), bench.grid(2, 0)[1]]
    bench.finish("add", "aten.add.Tensor", [a, b], [64, 64], result)
    assert_equal(bench)


@FEW
@given(seed=st.integers(0, 10**6), size=st.sampled_from([3, 5, 6, 7]))
def test_ties_of_means(seed, size):
    bench = Bench(seed)
    (x,) = bench.inputs([4, 64, size, size], low=118, high=138)
    a = bench.activation(x, 128)
    scale = bench.program.constant(a[1])
    assert scale is not None
    result = [bench.builder.param("tied", scale * 2 / size**2), bench.grid(4, 128)[1]]
    bench.finish("global_mean", "aten.mean.dim", [a, [2, 3], True], [4, 64, 1, 1], result)
    assert_equal(bench)


@FEW
@given(seed=st.integers(0, 10**6))
def test_ties_of_joins(seed):
    bench = Bench(seed)
    (x,) = bench.inputs([4, 256])
    a = bench.activation(x, 0)
    scale = bench.program.constant(a[1])
    assert scale is not None
    result = [bench.builder.param("tied", scale * 2), bench.grid(2, 0)[1]]
    bench.finish("cat", "aten.cat", [[a, a], 0], [8, 256], result)
    assert_equal(bench)


@pytest.mark.parametrize("form", [STANDARD, CONTRIB], ids=["standard", "contrib"])
@pytest.mark.parametrize("biased", [True, False])
def test_linear_dynamic(form, biased):
    bench = Bench(3)
    (x,) = bench.inputs([2, 5, 33])
    bench.feeds = [torch.randn(2, 5, 33, generator=bench.random)]
    spec = QuantSpec(parse_format("uint8"), (Level((-1, -1, -1), "f32", "int"),), dynamic=True)
    scale, zero = bench.builder.items(bench.builder.call("qc.choose_qparams", x, kwargs={"spec": spec}))
    codes = bench.builder.call("qc.quantize", x, scale, zero, kwargs={"spec": spec})
    w, _ = bench.weight([7, 33], "int8 sym channel scale=f32")
    b = bench.builder.param("b", bench.uniform(-1, 1, [7])) if biased else None
    bench.finish("linear_dynamic", "aten.linear", [[codes, scale, zero], w, b], [2, 5, 7])
    assert_equal(bench, form)


@FEW
@given(
    seed=st.integers(0, 10**6),
    op=st.sampled_from(["add", "mul"]),
    shapes=st.sampled_from(
        [((2, 3, 4, 5), (2, 3, 4, 5)), ((2, 3, 4, 5), (2, 3, 1, 1)), ((1, 3, 1, 1), (2, 3, 4, 5)), ((4, 7), (7,))]
    ),
    limits=st.sampled_from([(0.0, 255.0), (11.0, 200.0)]),
)
def test_sums_and_products(seed, op, shapes, limits):
    bench = Bench(seed)
    nodes = bench.inputs(*shapes)
    out = torch.broadcast_shapes(*shapes)
    result = list(bench.grid(len(out)))
    operands = [bench.activation(node) for node in nodes]
    bench.finish(op, f"aten.{op}.Tensor", operands, out, result, limits)
    assert_equal(bench)


@FEW
@given(seed=st.integers(0, 10**6), shape=st.tuples(*[st.integers(1, 9)] * 4), keep=st.booleans())
def test_global_mean(seed, shape, keep):
    bench = Bench(seed)
    (x,) = bench.inputs(shape)
    out = [*shape[:2], 1, 1] if keep else list(shape[:2])
    result = list(bench.grid(len(out)))
    bench.finish("global_mean", "aten.mean.dim", [bench.activation(x), [2, 3], keep], out, result)
    assert_equal(bench)


@FEW
@given(seed=st.integers(0, 10**6), padding=st.integers(0, 1), counted=st.booleans())
def test_average_pool(seed, padding, counted):
    bench = Bench(seed)
    (x,) = bench.inputs([2, 3, 7, 6])
    sizes = [(size + 2 * padding - 3) // 2 + 1 for size in (7, 6)]
    window = ([3, 3], [2, 2], [padding, padding], False, counted)
    result = list(bench.grid(4))
    bench.finish("average_pool", "aten.avg_pool2d", [bench.activation(x), *window], [2, 3, *sizes], result)
    assert_equal(bench)


@pytest.mark.parametrize("seed", range(5))
def test_cat(seed):
    bench = Bench(seed)
    nodes = bench.inputs([2, 3, 5], [2, 1, 5], [2, 2, 5])
    result = list(bench.grid(3))
    bench.finish("cat", "aten.cat", [[bench.activation(node) for node in nodes], 1], [2, 6, 5], result)
    assert_equal(bench)


@pytest.mark.parametrize(("op", "options"), [("aten.sigmoid", []), ("aten.leaky_relu", [0.1])])
def test_table_within_one_code(op, options):
    bench = Bench(5)
    (x,) = bench.inputs([8, 256])
    result = list(bench.grid(2))
    bench.finish("table", op, [bench.activation(x), *options], [8, 256], result)
    meant, ran, _ = bench.both()
    assert (meant - ran).abs().max() <= 1


CARRIED = [
    ("carry", "aten.max_pool2d", [[3, 3], [2, 2], [1, 1], [1, 1], False], (2, 4, 4, 3)),
    ("carry", "aten.reshape", [[2, -1]], (2, 168)),
    ("carry", "aten.permute", [[0, 3, 1, 2]], (2, 6, 4, 7)),
    ("carry", "aten.unsqueeze", [1], (2, 1, 4, 7, 6)),
    ("carry", "aten.slice.Tensor", [2, 1, 6, 2], (2, 4, 3, 6)),
    ("carry", "aten.select.int", [1, 2], (2, 7, 6)),
    ("carry", "aten.expand", [[3, 2, 4, 7, 6]], (3, 2, 4, 7, 6)),
    ("carry", "aten.flip", [[2]], (2, 4, 7, 6)),
    ("carry", "aten.repeat", [[1, 2, 1, 1]], (2, 8, 7, 6)),
    ("carry", "aten.pixel_shuffle", [2], (2, 1, 14, 12)),
    ("resize", "aten.upsample_nearest2d.vec", [None, [2.0, 3.0]], (2, 4, 14, 18)),
]


@pytest.mark.parametrize(("kernel", "op", "rest", "out"), CARRIED, ids=[case[1] for case in CARRIED])
def test_carried_codes(kernel, op, rest, out):
    bench = Bench(1)
    (x,) = bench.inputs([2, 4, 7, 6])
    a = bench.activation(x)
    result = [a[1], a[2]]
    bench.finish(kernel, op, [a, *rest], out, result)
    assert_equal(bench)


def test_padding_writes_the_code_of_the_value():
    bench = Bench(2)
    (x,) = bench.inputs([1, 2, 3, 3])
    a = bench.activation(x)
    program = bench.finish("pad", "aten.constant_pad_nd", [a, [1, 0, 0, 2], 0.5], [1, 2, 5, 4], [a[1], a[2]])
    assert_equal(bench)
    scale, zero = (program.constant(part) for part in a[1:])
    assert scale is not None
    assert zero is not None
    corner = evaluate(program, bench.feeds, kernels=MEANINGS)[0][0, 0, 0, 0]
    assert corner == ((0.5 / scale).round() + zero).clamp(0, 255).reshape(())


def test_limits_are_a_clip_of_codes():
    bench = Bench(2)
    (x,) = bench.inputs([4, 5])
    a = bench.activation(x)
    bench.finish("limit", "aten.relu", [a], [4, 5], [a[1], a[2]], (40, 180))
    model = assert_equal(bench)
    assert "Clip" in [node.op_type for node in model.graph]


WEIGHT_ONLY = [
    "uint4 asym group=32",
    "int4 sym group=16",
    "uint3 asym group=32",
    "int8 sym channel",
    "uint8 asym group=64",
]


@pytest.mark.parametrize("text", WEIGHT_ONLY)
@pytest.mark.parametrize("width", [64, 72])
def test_weight_only_is_exact_by_default(text, width):
    bench = Bench(4)
    (x,) = bench.inputs([2, 3, width])
    bench.feeds = [torch.randn(2, 3, width, generator=bench.random)]
    w, spec = bench.weight([10, width], f"{text} scale=f32")
    b = bench.builder.param("b", bench.uniform(-1, 1, [10]))
    bench.finish("linear_weight_only", "aten.linear", [x, w, b], [2, 3, 10], spec=spec)
    meant, ran, _ = bench.both()
    assert sqnr_db(meant, ran) > 120


@pytest.mark.parametrize(
    "text", ["uint4 asym group=32", "int4 sym group=32", "int8 sym channel", "uint2 asym group=32"]
)
def test_fast_weight_only_says_how_it_rounds_activations(text):
    bench = Bench(4)
    (x,) = bench.inputs([2, 3, 72])
    bench.feeds = [torch.randn(2, 3, 72, generator=bench.random)]
    w, spec = bench.weight([10, 72], f"{text} scale=f32")
    fast = Settings(weight_only="fast")
    program = bench.finish("linear_weight_only", "aten.linear", [x, w, None], [2, 3, 10], spec=spec, block=32)
    meant, ran, model = bench.both(fast)
    exact = MEANINGS["linear_weight_only"](*_values(program, bench), op="aten.linear", spec=spec)
    assert isinstance(exact, torch.Tensor)
    assert sqnr_db(meant, ran) > 100 > sqnr_db(exact, ran)
    assert [node.attributes["accuracy_level"].as_int() for node in model.graph if node.op_type == "MatMulNBits"] == [4]


def _values(program: Program, bench: Bench) -> list[object]:
    w = [program.constant(node) for node in program.nodes[0].args[2]]  # pyright: ignore[reportGeneralTypeIssues, reportOptionalIterable]
    return [bench.feeds[0], w]


@pytest.mark.parametrize("text", ["uint4 asym group=16", "int4 sym group=32", "int8 sym channel", "int8 sym group=32"])
@pytest.mark.parametrize("width", [48, 16])
def test_embedding(text, width):
    bench = Bench(6)
    rows = bench.program.add_input("rows", TensorType(torch.int64, (2, 3)))
    bench.feeds = [torch.randint(0, 10, (2, 3), generator=bench.random)]
    w, spec = bench.weight([10, width], f"{text} scale=f32")
    bench.finish("embedding_weight_only", "aten.embedding", [w, rows, -1, False, False], [2, 3, width], spec=spec)
    assert_equal(bench)


def test_sums_that_might_overflow_are_refused():
    operand = [torch.zeros(1, MOST_TERMS + 1), torch.ones(()), None]
    with pytest.raises(UnsupportedError, match="int32"):
        linear(operand, operand, op="aten.linear")


def test_largest_sum_is_exact():
    x = [torch.full((1, MOST_TERMS), 255.0), torch.ones(()), None]
    w = [torch.full((1, MOST_TERMS), -128.0), torch.ones(1, 1), None]
    assert linear(x, w, op="aten.linear").item() == -255 * 128 * MOST_TERMS


def test_fused_multiply_add_rounds_once():
    a = torch.tensor(1 + 2**-12)
    assert fused_multiply_add(a, a, torch.tensor(-1.0)).item() == 2**-11 + 2**-24
    assert (a * a - 1).item() == 2**-11


def test_grid_rounds_half_to_even():
    grid = Grid(torch.tensor(2.0), torch.tensor(3.0), 0, 255)
    assert grid.quantize(torch.tensor([1.0, 3.0, 5.0, -3.0, 1e9])).tolist() == [3, 5, 5, 1, 255]


def test_quantized_reals_come_back():
    spec = bytes_spec(1)
    scale, zero = qparams_from_range(torch.tensor([-1.0]), torch.tensor([2.0]), spec)
    assert isinstance(scale, torch.Tensor)
    grid = Grid.of([scale, zero], 0, 255)
    reals = torch.linspace(-1, 2, 50)
    assert ((grid.quantize(reals) - zero) * scale - reals).abs().max() <= scale.item() / 2 + 1e-6


def test_every_kernel_is_meant_and_written():
    assert set(MEANINGS) == set(WRITERS)


def test_integer_gemm_is_standard():
    bench = Bench(0)
    (x,) = bench.inputs([2, 3, 8])
    a = bench.activation(x)
    w, _ = bench.weight([4, 8], "int8 sym channel scale=f32")
    bench.finish("linear", "aten.linear", [a, w, bench.bias(a, w, 4)], [2, 3, 4])
    proto = ir.to_proto(assert_equal(bench))
    assert isinstance(proto, onnx.ModelProto)
    assert {node.domain for node in proto.graph.node} == {""}
