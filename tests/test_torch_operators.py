"""Functions of torch, each through the whole front: traced, made canonical, written, run; eager torch is the judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.export import default_decompositions
from torch.nn import functional as F

from qcompiler.backends.onnx.ops import EMITTERS
from qcompiler.backends.onnx.writer import write_model
from qcompiler.errors import QCompilerError, UnsupportedError
from qcompiler.frontends.torch_whole import WHOLE
from qcompiler.ir.ops import op_name
from qcompiler.ir.program import Program
from qcompiler.job import backends
from qcompiler.passes.canonical import CANONICAL
from qcompiler.passes.canonical.normalize import rules
from qcompiler.pipeline import Context, run_passes
from qcompiler.targets import load_target
from qcompiler.tracer import trace
from tests.onnx_tools import run_onnx

CONTEXT = Context(load_target("onnxruntime", backends()))
ROWS, IMAGE = (2, 6, 8), (2, 4, 9, 7)
PLACES = torch.tensor([0, 2, 2, 3, 4, 5])
EDGES = torch.linspace(-1, 1, 5)
WEIGHT, KERNEL = torch.linspace(-1, 1, 64).reshape(8, 8), torch.linspace(-1, 1, 144).reshape(4, 4, 3, 3)


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def written(function: Callable[[Tensor, Tensor], object]) -> Callable[[Tensor], Tensor]:
    """A function that returns a copy of its input after writing into it."""

    def call(x: Tensor) -> Tensor:
        copy = x.clone()
        function(copy, x)
        return copy

    return call


def canonical(module: nn.Module, x: Tensor) -> Program:
    return run_passes(trace(module, (x,)), CANONICAL, CONTEXT)[0]


Case = tuple[str, Callable[[Tensor], Tensor], Sequence[int]]
CASES: list[Case] = [
    ("pad reflect", lambda x: F.pad(x, (1, 2, 2, 0), mode="reflect"), IMAGE),
    ("pad replicate", lambda x: F.pad(x, (1, 2, 2, 0), mode="replicate"), IMAGE),
    ("pad circular", lambda x: F.pad(x, (1, 2, 2, 0), mode="circular"), IMAGE),
    ("unfold an axis", lambda x: x.unfold(1, 3, 2), ROWS),
    ("unfold an image", lambda x: F.unfold(x, 3, padding=1), IMAGE),
    ("fold", lambda x: F.fold(x, (6, 4), 2, stride=2), (2, 16, 6)),
    ("average to free cells", lambda x: F.adaptive_avg_pool2d(x, (2, 3)), IMAGE),
    ("average of rows to free cells", lambda x: F.adaptive_avg_pool1d(x, 3), ROWS),
    ("sample", lambda x: F.grid_sample(x, x[:, :2, :3, :3].permute(0, 2, 3, 1), align_corners=False), IMAGE),
    ("sample with borders", lambda x: F.grid_sample(
        x, x[:, :2, :3, :3].permute(0, 2, 3, 1), "nearest", "border", align_corners=True), IMAGE),
    ("bucketize", lambda x: torch.bucketize(x, EDGES), ROWS),
    ("searchsorted", lambda x: torch.searchsorted(EDGES, x, right=True), ROWS),
    ("moments", lambda x: torch.cat(torch.var_mean(x, -1, keepdim=True), -1), ROWS),
    ("deviation", lambda x: torch.cat(torch.std_mean(x, (0, 2)), -1), ROWS),
    ("distances", lambda x: torch.cdist(x, x + 1), ROWS),
    ("hypot", lambda x: torch.hypot(x, x + 1), ROWS),
    ("exp2", torch.exp2, ROWS),
    ("erfc", torch.erfc, ROWS),
    ("logaddexp", lambda x: torch.logaddexp(x, x * 2), ROWS),
    ("logit", lambda x: torch.logit(x.sigmoid()), ROWS),
    ("isfinite", lambda x: torch.isfinite(x / (x > 0)), ROWS),
    ("one hot", lambda x: F.one_hot((x > 0).long(), 3), ROWS),
    ("meshgrid", lambda x: torch.stack(torch.meshgrid(x[0, 0], x[0, :, 0], indexing="xy")), ROWS),
    ("diagonal", lambda x: x[:, :5, :5].diagonal(1, 1, 2), ROWS),
    ("scatter add", lambda x: torch.zeros(2, 9, 8).scatter_add(1, (x > 0).long(), x), ROWS),
    ("index add", lambda x: torch.zeros(2, 9, 8).index_add(1, PLACES, x), ROWS),
    ("write by mask", written(lambda y, x: y.__setitem__(x > 0, 0.0)), ROWS),
    ("write rows by mask", written(lambda y, x: y.__setitem__(x[..., 0] > 0, -1.0)), ROWS),
    ("write columns", written(lambda y, x: y.__setitem__((slice(None), slice(None), PLACES[:2]), x[0, :, :2])), ROWS),
    ("write every other", written(lambda y, x: y[..., ::2].copy_(x[..., 1::2])), ROWS),
    ("write a block", written(lambda y, x: y.__setitem__((slice(None), slice(1, 3), slice(2, None)), 1.0)), ROWS),
    ("clear a row", written(lambda y, x: y[:, 0].zero_()), ROWS),
    ("cosine similarity", lambda x: F.cosine_similarity(x, x + 1, dim=-1), ROWS),
    ("norm", lambda x: torch.linalg.norm(x, dim=-1), ROWS),
    ("outer", lambda x: torch.outer(x[0, 0], x[0, 1]), ROWS),
    ("tensordot", lambda x: torch.tensordot(x, x[0].t(), dims=1), ROWS),
    ("log sigmoid", F.logsigmoid, ROWS),
    ("channel shuffle", lambda x: F.channel_shuffle(x, 2), IMAGE),
    ("masked scatter", lambda x: x.masked_scatter(x > 0, x * 2 + 1), ROWS),
    ("masked scatter of rows", lambda x: x.masked_scatter(x[..., :1] > 0, x * 2 + 1), ROWS),
    ("zeros around a max pool", lambda x: F.max_pool2d(F.pad(x - 5, (1, 1, 1, 1)), 3, 2), IMAGE),
    ("relu of integers", lambda x: torch.relu((x * 3).long()), ROWS),
    ("statistics of the batch", lambda x: F.batch_norm(x, None, None, x[0, :, 0, 0], training=True), IMAGE),
    ("bias at run time", lambda x: F.linear(x, WEIGHT, x.mean((0, 1))), ROWS),
    ("bias of a convolution at run time", lambda x: F.conv2d(x, KERNEL, x.mean((0, 2, 3))), IMAGE),
    ("spectrum", lambda x: torch.fft.fftn(x, dim=(1, 2)).real, ROWS),
    ("spectrum and back", lambda x: torch.view_as_real(torch.fft.ifft2(torch.fft.fft2(x) * x)), ROWS),
    ("half a spectrum", lambda x: torch.fft.rfft(x).abs(), ROWS),
    ("mean squared error", lambda x: F.mse_loss(x, x * 2), ROWS),
]  # fmt: skip


@pytest.mark.parametrize(("name", "function", "shape"), CASES, ids=[case[0] for case in CASES])
def test_it_runs_as_torch_does(name: str, function: Callable[[Tensor], Tensor], shape: Sequence[int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    program = canonical(Function(function), x)
    [found] = run_onnx(write_model(program, opset=23), [x])
    wanted = function(x)
    assert found.dtype == wanted.dtype
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", [nn.LSTM(8, 4, batch_first=True), nn.GRU(8, 4, batch_first=True, bidirectional=True)])
def test_recurrent_layers_are_unrolled(layer: nn.Module) -> None:
    x = torch.randn(ROWS)
    found = run_onnx(write_model(canonical(layer, x), opset=23), [x])[0]
    torch.testing.assert_close(found, layer(x)[0].detach(), rtol=1e-4, atol=1e-5)


def test_parts_of_constants_are_constants() -> None:
    program = canonical(Function(lambda x: F.linear(x, WEIGHT, EDGES.repeat(5)[:24].chunk(3)[1])), torch.randn(ROWS))
    assert [program.op(node) for node in program.nodes] == ["aten.linear"]
    assert program.constant(program.nodes[0].args[2]) is not None


def test_an_adaptive_maximum_of_known_sizes_is_one_per_window() -> None:
    x = torch.randn(IMAGE)
    program = run_passes(trace(nn.AdaptiveMaxPool2d((2, 3)), (x,), "none"), CANONICAL, CONTEXT)[0]
    [found] = run_onnx(write_model(program, opset=23), [x])
    assert torch.equal(found, F.adaptive_max_pool2d(x, (2, 3)))


SPECTRA: list[Case] = [
    ("even", lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * 2), ROWS),
    ("odd", lambda x: torch.fft.irfft(torch.fft.rfft(x) * 2, n=7), (2, 6, 7)),
    ("orthonormal", lambda x: torch.fft.rfft(x, norm="ortho").imag, ROWS),
]


@pytest.mark.parametrize(("name", "function", "shape"), SPECTRA, ids=[case[0] for case in SPECTRA])
def test_half_spectra_of_known_sizes_turn_back(
    name: str, function: Callable[[Tensor], Tensor], shape: Sequence[int]
) -> None:
    x = torch.randn(shape)
    program = run_passes(trace(Function(function), (x,), "none"), CANONICAL, CONTEXT)[0]
    [found] = run_onnx(write_model(program, opset=23), [x])
    torch.testing.assert_close(found, function(x), rtol=1e-4, atol=1e-5)


def test_free_cells_follow_the_size_at_hand() -> None:
    program = canonical(nn.AdaptiveAvgPool2d(3), torch.randn(IMAGE))
    larger = torch.randn(1, 4, 11, 5)
    [found] = run_onnx(write_model(program, opset=23), [larger])
    torch.testing.assert_close(found, F.adaptive_avg_pool2d(larger, 3), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pick", [torch.nonzero, lambda x: x[x > 0], torch.unique])
def test_sizes_that_depend_on_data_are_refused(pick: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(UnsupportedError, match="depends on data"):
        trace(Function(pick), (torch.randn(ROWS),))


def test_operators_that_the_compiler_knows_stay_whole() -> None:
    apart = set()
    for target in default_decompositions():
        try:
            apart.add(op_name(target))
        except QCompilerError:
            continue
    known = (set(EMITTERS) | set(rules(Program(), "test"))) & apart
    # Recurrent layers of torch are taken apart all the same: their cells then are linears, which can be quantized.
    unrolled = {"lstm.input", "gru.input", "rnn_tanh.input", "rnn_relu.input"}
    assert {name.removeprefix("aten.") for name in known} - set(WHOLE) == unrolled
