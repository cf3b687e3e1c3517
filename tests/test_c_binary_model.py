"""Layers of signs in whole models of generated C: the numbers of their meanings, on every level."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import qcompiler
from qcompiler.artifact import Artifact
from qcompiler.backends.c.backend import runner
from qcompiler.backends.c.building import Build
from qcompiler.backends.c.emission import write_module
from qcompiler.backends.c.host import HostRunner
from qcompiler.backends.c.isa import LEVELS, Isa
from qcompiler.backends.c.kernels.row import ROOT
from qcompiler.backends.c.project import write_project
from qcompiler.backends.c.settings import Settings
from qcompiler.backends.c.toolchain import find_compiler, find_emulator, is_native
from qcompiler.backends.lowering.guards import signs_fit
from qcompiler.backends.reference import MEANINGS
from qcompiler.backends.reference.bits import BIT_MEANINGS
from qcompiler.backends.reference.semantics import BIT_SEMANTICS
from qcompiler.errors import UnsupportedError
from qcompiler.ir.interp import evaluate
from qcompiler.ir.pattern import Refusal
from qcompiler.ir.program import Builder, Node, Program, Stage
from qcompiler.ir.types import TensorType
from qcompiler.job import backends
from qcompiler.passes.recipes import Recipe
from qcompiler.spec import Number, parse_scheme
from qcompiler.targets import load_target
from tests.c_harness import runs_here
from tests.c_programs import QUICK

BINARY = Recipe.of(
    "binary",
    [
        "assign{scheme=w1a1,edges=w8a8}",
        "apply_plan",
        "calibrate{method=mse}",
        "weight_ranges{search=mse}",
        "bias_correction",
        "nearest",
    ],
)
MEANT = {**MEANINGS, **BIT_MEANINGS}
SIGN = Number.parse("binary sym tensor scale=f32")


class Signs(nn.Module):
    """A residual block of signs between layers of eight bits; two convolutions read the same signs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 20, 3, padding=1, stride=2)
        self.first = nn.Conv2d(20, 70, 3, padding=1)
        self.norm = nn.BatchNorm2d(70)
        self.second = nn.Conv2d(70, 20, 3, padding=2, dilation=2, bias=False)
        self.wide = nn.Conv2d(20, 20, 5, padding=2)
        self.token = nn.Linear(20, 33)
        self.head = nn.Linear(33, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x)) - 0.3
        x = x + self.second(self.norm(self.first(x))) + self.wide(x)
        return self.head(self.token(x.mean((2, 3))))


def images() -> Tensor:
    return torch.randn(2, 3, 17, 19, generator=torch.Generator().manual_seed(0))


@cache
def compiled(target: str) -> Artifact:
    torch.manual_seed(3)
    return qcompiler.compile(Signs().eval(), target, calibration=[images()], recipe=BINARY)


def skip_without(isa: Isa) -> None:
    if not runs_here(isa):
        pytest.skip(f"this processor lacks {isa.value}")
    try:
        find_compiler(LEVELS[isa].architecture)
        find_emulator(LEVELS[isa].architecture)
    except UnsupportedError as error:
        pytest.skip(error.what)


def kernels_of(artifact: Artifact) -> list[str]:
    return [str(node.args[0]) for node in artifact.program.nodes if artifact.program.op(node) == "qc.kernel"]


@pytest.mark.parametrize(("target", "isa"), [("host", Isa.PORTABLE), ("arm64", Isa.NEON)])
def test_an_artefact_computes_what_its_simulation_foretells(target: str, isa: Isa) -> None:
    skip_without(isa)
    artifact = compiled(target)
    found, foretold = artifact(images()), artifact.simulate(images())
    assert kernels_of(artifact).count("conv_binary") == 3
    assert kernels_of(artifact).count("linear_binary") == 1
    assert isinstance(found, Tensor)
    assert isinstance(foretold, Tensor)
    assert torch.equal(found, foretold)


def test_signs_that_follow_a_product_of_signs_are_never_reals() -> None:
    module = write_module(compiled("host").program, Settings())
    texts = {layer.name: layer.text for layer in module.layers}
    packing = [name for name, text in texts.items() if "pack_bits" in text]
    assert len(packing) == 2
    assert [name for name, text in texts.items() if ".threshold" in text and "gemm_b1" in text]


@dataclass(frozen=True)
class Shape:
    """A convolution of signs, or a linear layer where there is no window."""

    image: tuple[int, ...]
    outputs: int
    window: tuple[int, ...] = ()
    stride: int = 1
    padding: tuple[int, ...] = ()
    dilation: int = 1
    bias: bool = True
    follows: bool = False


SHAPES = (
    Shape((1, 64, 5, 7), 8, (3, 3), padding=(1, 1), bias=False),
    Shape((2, 5, 6, 4), 3, (2, 3), stride=2, padding=(0, 1)),
    Shape((1, 65, 9, 5), 17, (3, 1), padding=(2, 0), dilation=2, follows=True),
    Shape((1, 128, 1, 3), 64, (1, 1), padding=(0, 0), follows=True),
    Shape((2, 70, 11), 65, (5,), padding=(4,), stride=2, follows=True),
    Shape((1, 3, 13), 1, (4,), padding=(3,), bias=False, follows=True),
    Shape((3, 130), 9, follows=True),
    Shape((2, 3, 63), 65, bias=False, follows=True),
    Shape((1, 1), 1),
)


def layer(b: Builder, x: Node, shape: Shape, label: str, inputs: int, outputs: int, scale: float) -> Node:
    generator = torch.Generator().manual_seed(len(label) + inputs + outputs)
    signs = Number.parse("binary sym channel scale=f32").spec(2 + len(shape.window), 0, 1)
    size = (outputs, inputs, *shape.window)
    codes = torch.where(torch.rand(size, generator=generator) < 0.5, -1.0, 1.0)
    weight = b.param(f"{label}.weight", codes, TensorType(torch.float32, size, signs))
    factors = torch.rand((outputs, *[1] * (len(size) - 1)), generator=generator) + 0.1
    bias = b.param(f"{label}.bias", torch.randn(outputs, generator=generator)) if shape.bias else None
    step = b.param(f"{label}.step", torch.full([1] * len(size if shape.window else shape.image), scale))
    codes = b.call("qc.quantize", x, step, None, kwargs={"spec": SIGN.spec(b.program.tensor_type(x).rank)})
    parts = [[codes, step, None], [weight, b.param(f"{label}.scale", factors), None], bias]
    rank = len(shape.window)
    window = [[shape.stride] * rank, list(shape.padding), [shape.dilation] * rank, 1] if rank else []
    op = f"aten.conv{rank}d" if rank else "aten.linear"
    name = "conv_binary" if rank else "linear_binary"
    return b.call("qc.kernel", name, *parts, *window, kwargs={"op": op}, type_=result(b, x, shape, outputs))


def result(b: Builder, x: Node, shape: Shape, outputs: int) -> TensorType:
    sizes = [int(size) for size in b.program.shape(x)]
    if not shape.window:
        return TensorType(torch.float32, (*sizes[:-1], outputs))
    space = [
        (size + 2 * pad - shape.dilation * (width - 1) - 1) // shape.stride + 1
        for size, pad, width in zip(sizes[2:], shape.padding, shape.window, strict=True)
    ]
    return TensorType(torch.float32, (sizes[0], outputs, *space))


def products() -> tuple[Program, list[Tensor]]:
    """All shapes as one program, some followed by a second layer, and inputs that zeros of both signs are among."""
    program, inputs, outputs = Program(stage=Stage.LOWERED), [], []
    generator = torch.Generator().manual_seed(0)
    for index, shape in enumerate(SHAPES):
        x = program.add_input(f"x{index}", TensorType(torch.float32, shape.image))
        values = torch.randn(shape.image, generator=generator)
        # Quotients of the smallest reals by a scale of 5 become zeros.
        small = torch.tensor([0.0, -0.0, -1e-45, -3e-45, -4e-45, -1e-38])
        inputs.append(torch.where(values.abs() < 0.3, small[torch.arange(values.numel()) % 6].view_as(values), values))
        axis = 1 if shape.window else -1
        b = program.append()
        y = layer(b, x, shape, f"layer{index}", shape.image[axis], shape.outputs, 5.0)
        outputs.append(layer(b, y, shape, f"next{index}", shape.outputs, 7, 3.0) if shape.follows else y)
    program.set_outputs(outputs)
    return program, inputs


@pytest.mark.parametrize("isa", [Isa.PORTABLE, Isa.AVX2, Isa.AVX512, Isa.NEON], ids=lambda isa: isa.value)
def test_products_of_signs_equal_their_meanings(isa: Isa, tmp_path: Path) -> None:
    skip_without(isa)
    program, inputs = products()
    write_project(write_module(program, Settings(isa=isa)), tmp_path)
    native = is_native(LEVELS[isa].architecture)
    running = HostRunner(tmp_path, library=Build(flags=QUICK).run(tmp_path)) if native else runner(tmp_path)
    found = running(inputs)
    for shape, one, other in zip(SHAPES, found, evaluate(program, inputs, kernels=MEANT), strict=True):
        assert torch.equal(one, other), shape


def test_signs_can_be_results(tmp_path: Path) -> None:
    program = compiled("host").program.copy()
    signs = [node for node in program.nodes if "binary" in str(getattr(program.type(node), "spec", ""))]
    program.set_outputs([node for node in signs if node.op == "call_function"])
    write_project(write_module(program, Settings()), tmp_path)
    found = runner(tmp_path)([images()[:1]])
    wanted = evaluate(program, [images()[:1]], kernels=MEANT)
    assert len(found) == 3
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_sums_too_long_for_the_kernel_are_refused() -> None:
    (words,) = map(int, re.findall(r"#define QC_B1_WORDS (\d+)", (ROOT / "c/runtime/qc_gemm_b1.h").read_text()))
    reasons = []
    for inputs in (64 * words, 64 * words + 1):
        program = Program(stage=Stage.CANONICAL)
        x, w = (program.add_input(name, TensorType(torch.float32, (2, inputs))) for name in "xw")
        reasons.append(signs_fit(program, program.append().call("aten.linear", x, w)))
    assert reasons[0] == ""
    assert "words of signs" in reasons[1]


def test_groups_are_refused_by_name() -> None:
    program = Program(stage=Stage.CANONICAL)
    x = program.add_input("x", TensorType(torch.float32, (1, 8, 5, 5)))
    b = program.append()
    node = b.call("aten.conv2d", x, b.param("w", torch.ones(8, 2, 3, 3)), None, [1, 1], [0, 0], [1, 1], 4)
    choice = load_target("host", backends()).choose(program, node, parse_scheme("w1a1"))
    assert isinstance(choice, Refusal)
    assert "conv_binary: has several groups" in choice.reason


def test_every_kernel_of_signs_says_how_it_rounds() -> None:
    assert set(BIT_SEMANTICS) == set(BIT_MEANINGS)
