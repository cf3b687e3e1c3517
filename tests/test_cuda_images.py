"""Convolutional networks on CUDA kernels, run in emulation: codes stay bytes from the first quantizer to the head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qcompiler
from qcompiler.artifact import Artifact
from qcompiler.backends.cuda.assembly import assemble
from qcompiler.backends.cuda.backend import CudaBackend
from qcompiler.backends.cuda.driver import Emulated
from qcompiler.backends.cuda.execution import run_layer
from qcompiler.backends.cuda.image_guards import image_window
from qcompiler.backends.cuda.layer import Layer
from qcompiler.backends.cuda.library import read_library
from qcompiler.backends.cuda.settings import settings_of
from qcompiler.backends.reference import MEANINGS
from qcompiler.errors import VerifyError
from qcompiler.ir.interp import evaluate
from qcompiler.job import backends
from qcompiler.passes.recipes import Recipe
from qcompiler.spec import parse_scheme
from qcompiler.target import Target
from qcompiler.targets import load_target
from qcompiler.weights import read_program
from tests.cuda_interface import built_interface, equals_the_runner, with_code
from tests.symmetry_tools import canonical

TARGET = "orin{device=emulation, build=later, compute=float32}"
SIDE = 9


class Net(nn.Module):
    """Layers by name, called as a function says."""

    def __init__(self, call: Callable[[Net, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.call = call
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, x)


def residual(net: Net, x: Tensor) -> Tensor:
    y = F.relu(net.get_submodule("stem")(x))
    z = net.get_submodule("second")(F.relu(net.get_submodule("first")(y)))
    return net.get_submodule("head")(F.relu(y + z).mean((2, 3)))


def pooled(net: Net, x: Tensor) -> Tensor:
    y = F.max_pool2d(F.silu(net.get_submodule("stem")(x)), 2, ceil_mode=True)
    return net.get_submodule("head")(F.avg_pool2d(net.get_submodule("second")(y), 2).flatten(1))


def windows(net: Net, x: Tensor) -> Tensor:
    y = F.hardtanh(net.get_submodule("stem")(x), 0, 6)
    y = F.relu6(net.get_submodule("alone")(y))
    return net.get_submodule("point")(y)


def joined(net: Net, x: Tensor) -> Tensor:
    y = F.relu(net.get_submodule("stem")(x))
    wide = F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
    return net.get_submodule("head")(torch.cat([wide, net.get_submodule("down")(y)], 1))


def stacked(net: Net, x: Tensor) -> Tensor:
    y = F.relu(net.get_submodule("first")(x.flatten(1)[:, :20]))
    y = net.get_submodule("second")(y)
    return net.get_submodule("third")(y) + net.get_submodule("fourth")(y)


def signal(net: Net, x: Tensor) -> Tensor:
    y = F.max_pool1d(F.relu(net.get_submodule("stem")(x.flatten(2))), 3, 2)
    y = F.relu(net.get_submodule("alone")(y))
    return net.get_submodule("head")(net.get_submodule("last")(y).mean(2))


def conv(inputs: int, outputs: int, size: int = 3, **more: object) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, **{"padding": size // 2, **more})  # pyright: ignore


NETS: dict[str, Callable[[], Net]] = {
    "residual": lambda: Net(
        residual, stem=conv(3, 16), first=conv(16, 24), second=conv(24, 16, bias=False), head=nn.Linear(16, 5)
    ),
    "pooled": lambda: Net(pooled, stem=conv(3, 20), second=conv(20, 6, stride=2), head=nn.Linear(6, 5)),
    "windows": lambda: Net(
        windows, stem=conv(3, 24, stride=2), alone=conv(24, 24, groups=24, dilation=2, padding=2), point=conv(24, 7, 1)
    ),
    "joined": lambda: Net(joined, stem=conv(3, 8), down=conv(8, 16, stride=2), head=conv(32, 4)),
    "signal": lambda: Net(
        signal,
        stem=nn.Conv1d(3, 20, 5, stride=2, padding=2),
        alone=nn.Conv1d(20, 20, 3, groups=20, padding=2, dilation=2),
        last=nn.Conv1d(20, 9, 1),
        head=nn.Linear(9, 3),
    ),
    "stacked": lambda: Net(
        stacked, first=nn.Linear(20, 36), second=nn.Linear(36, 8), third=nn.Linear(8, 3), fourth=nn.Linear(8, 3)
    ),
}
KERNELS = {
    "residual": ["image_codes", "conv_i8", "conv_i8", "conv_i8", "image_add", "image_mean", "gemv_i8"],
    "pooled": ["image_codes", "conv_i8", "image_table", "image_max", "conv_i8", "image_average", "gemv_i8"],
    "windows": ["image_codes", "conv_i8", "depthwise_i8", "gemm_i8"],
    "signal": ["image_codes", "conv_i8", "image_max", "depthwise_i8", "gemm_i8", "image_mean", "gemv_i8"],
    "stacked": ["quantize_rows", "gemv_i8", "gemv_i8", "gemv_i8", "gemv_i8"],
    "joined": ["image_codes", "conv_i8", "conv_i8", "conv_i8"],
}


def images(count: int = 2) -> Tensor:
    """Mostly positive, so that their zero point is not in the middle."""
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(count)) * 4 - 1


@cache
def compiled(name: str) -> Artifact:
    return compile_net(name, TARGET)


def compile_net(name: str, target: str | Target) -> Artifact:
    """A network with the same weights every time."""
    torch.manual_seed(2)
    model = NETS[name]().eval()
    return qcompiler.compile(model, target, calibration=[(images(),)], recipe="w8a8", keep_float=False)


def layers(artifact: Artifact) -> tuple[Layer, ...]:
    return read_library(artifact.folder / "cuda").layers


def tensor(found: object) -> Tensor:
    assert isinstance(found, Tensor)
    return found


@pytest.mark.parametrize("name", NETS)
def test_network_equals_its_meaning(name: str) -> None:
    artifact, x = compiled(name), images(3)
    assert [layer.kernels[0] for layer in layers(artifact)] == KERNELS[name]
    expected = tensor(artifact.simulate(x))
    assert torch.equal(tensor(artifact(x)), expected)
    assert expected.std() > 0


def test_nothing_but_layers_stands_between_codes() -> None:
    program = read_program(compiled("residual").folder / "cuda" / "model")
    assert {program.op(node) for node in program.nodes} == {"qc.kernel"}
    inner = [layer.outputs[0].element for layer in layers(compiled("residual"))[:-1]]
    assert inner == ["int8"] * len(inner)


def test_zero_points_lie_around_images() -> None:
    first = layers(compiled("residual"))[1]
    assert first.meaning.startswith("conv uint8")
    assert first.weights["padding"].shape == (16,)


def test_every_kernel_is_reported() -> None:
    report = compiled("joined").report
    assert not report.fallbacks
    assert {layer.realised for layer in report.layers} == {"conv_i8", "torch, on bytes"}


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(VerifyError, match=r"takes torch.float32 \[..., 3, 9, 9\], not torch.float32 \[1, 3, 8, 9\]"):
        compiled("residual")(torch.zeros(1, 3, 8, SIDE))


def test_c_interface_takes_images_of_bytes(tmp_path: Path) -> None:
    folder = with_code(compiled("residual").folder / "cuda", tmp_path / "cuda")
    interface = built_interface(folder, tmp_path, 2)
    assert [layer.outputs[0].element for layer in interface.library.layers].count("int8") == len(
        KERNELS["residual"]
    ) - 1
    equals_the_runner(interface, 2)


REALS = """
spec @w = int8 sym block=(1,-1,-1,-1) scale=f32
spec @a = uint8 asym block=(-1,-1,-1,-1) scale=f32
program @reals stage=lowered {
  input %x : f32[2,3,6,5]
  param %w : @w[7,3,3,3] = zeros()
  param %v : f32[7,1,1,1] = normal(seed=2)
  param %s : f32[1,1,1,1] = values(0.03)
  param %z : f32[1,1,1,1] = values(9)
  %q = qc.quantize %x, %s, %z : @a[2,3,6,5]
  %y = qc.kernel "conv", [%q, %s, %z], [%w, %v, none], none, [1, 1], [1, 1], [1, 1], 1 {op="aten.conv2d"} : f32[2,7,6,5]
  return %y
}
"""


def test_convolution_yields_reals_where_nobody_reads_codes() -> None:
    program = qcompiler.parse(REALS)
    weight = program.node("w")
    program.set_param(weight, torch.arange(7.0 * 27).reshape(7, 3, 3, 3) % 15 - 7, program.tensor_type(weight).spec)
    assembled = assemble(program, settings_of(load_target(TARGET, backends())))
    x = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    value = x
    for layer in assembled.layers:
        weights = [assembled.tensors[f"{layer.name}.{name}"] for name in layer.weights]
        (value,) = run_layer(layer, Emulated(), 87, [value], [*weights, torch.zeros(64, dtype=torch.int32)])
    (expected,) = evaluate(program, [x], kernels=MEANINGS)
    assert torch.equal(value[..., :7].permute(0, 3, 1, 2), expected)
    assert assembled.program.shape(assembled.program.outputs[0]) == (2, 7, 6, 5)


MOVED = """
spec @a = uint8 asym block=(-1,-1,-1,-1) scale=f32
dim n = 2 in 1..
dim m = 5 in 1..
program @moved stage=lowered {
  input %x : f32[n,m,4,8]
  param %s : f32[1,1,1,1] = values(0.03)
  param %z : f32[1,1,1,1] = values(9)
  %q = qc.quantize %x, %s, %z : @a[n,m,4,8]
  %y = qc.kernel "carry", [%q, %s, %z], [0, 2, 1, 3] {high=255, low=0, op="aten.permute", result=[%s, %z]} : @a[n,4,m,8]
  %d = qc.dequantize %y, %s, %z : f32[n,4,m,8]
  return %d
}
"""


def test_what_is_no_image_is_moved_as_it_lies() -> None:
    program = qcompiler.parse(MOVED)
    assembled = assemble(program, settings_of(load_target(TARGET, backends())))
    assert not assembled.layers
    x = torch.randn(3, 7, 4, 8, generator=torch.Generator().manual_seed(0))
    (found,), (expected,) = evaluate(assembled.program, [x]), evaluate(program, [x], kernels=MEANINGS)
    assert torch.equal(found, expected)


def test_jetson_has_the_same_layers() -> None:
    """There codes are symmetric, and biases floats."""
    target = replace(load_target("jetson", backends()), companions=("orin{build=later, device=emulation}",))
    artifact, x = compile_net("residual", target), images(3)
    assert [layer.kernels[0] for layer in layers(artifact)] == KERNELS["residual"]
    found, expected = CudaBackend().runner(artifact.folder)([x])[0], tensor(artifact(x))
    # Biases in whole steps, a head in half precision.
    assert 10 * torch.log10(expected.square().mean() / (found - expected).square().mean()) > 35


def test_convolutions_without_a_kernel_say_why() -> None:
    program = qcompiler.trace(conv(4, 4, groups=2), torch.randn(2, 4, 5, 5))
    (node,) = [node for node in program.nodes if program.op(node) == "aten.conv2d"]
    refusal = load_target("orin", backends()).choose(program, node, parse_scheme("w8a8"))
    assert "has 2 groups: neither one nor a window for each channel" in str(refusal)


@pytest.mark.parametrize("number", ["ternary", "binary"])
def test_weights_of_few_whole_numbers_are_taken_as_they_are(number: str) -> None:
    torch.manual_seed(2)
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 4)).eval()
    asked = f"assign{{weight={number} sym channel scale=f32, activation=uint8 asym tensor scale=f32}}"
    recipe = Recipe.of("few", [asked, "apply_plan", "calibrate", "nearest"])
    artifact = qcompiler.compile(model, TARGET, calibration=[(images(),)], recipe=recipe, keep_float=False)
    assert [layer.kernels[0] for layer in layers(artifact)] == ["image_codes", "conv_i8", "conv_i8"]
    assert torch.equal(tensor(artifact(images(3))), tensor(artifact.simulate(images(3))))


class Calls(nn.Module):
    """A function of one tensor."""

    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


@pytest.mark.parametrize(
    ("op", "call", "why"),
    [
        ("aten.max_pool2d", lambda x: F.max_pool2d(x[0], 2), "does not read images"),
        ("aten.avg_pool2d", lambda x: F.avg_pool2d(x[0], 2), "does not read images"),
        (
            "aten.add.Tensor",
            lambda x: x.relu().permute(0, 2, 3, 1) + x.permute(0, 2, 3, 1),
            "number of channels is free",
        ),
        ("aten.silu", lambda x: F.silu(x.permute(0, 2, 3, 1)), "number of channels is free"),
        ("aten.mean.dim", lambda x: x.permute(0, 2, 3, 1).mean((2, 3)), "number of channels is free"),
        ("aten.max_pool2d", lambda x: F.max_pool2d(x.permute(0, 2, 3, 1), 2), "number of channels is free"),
    ],
)
def test_what_is_no_image_of_known_channels_is_left_to_floats(op: str, call: Callable[..., Tensor], why: str) -> None:
    program = canonical(qcompiler.trace(Calls(call), torch.randn(2, 4, 6, 6)))
    (node,) = [node for node in program.nodes if program.op(node) == op]
    assert why in str(load_target("orin", backends()).choose(program, node, parse_scheme("w8a8")))


def test_what_surrounds_an_image_belongs_to_its_size() -> None:
    program = qcompiler.trace(torch.nn.Conv1d(1, 1, 3, padding=20000), torch.randn(2, 1, 8))
    (node,) = [node for node in program.nodes if program.op(node) == "aten.conv1d"]
    assert "larger than" in image_window(program, node)
