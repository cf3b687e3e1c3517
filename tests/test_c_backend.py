"""Models in generated C: the codes of the meanings of their kernels, on every level; refusals that name the node."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

import qcompiler
from qcompiler.artifact import Artifact
from qcompiler.backends.c.backend import runner
from qcompiler.backends.c.building import Build
from qcompiler.backends.c.emission import write_module
from qcompiler.backends.c.isa import LEVELS, WARNINGS, Isa
from qcompiler.backends.c.project import write_project
from qcompiler.backends.c.settings import Settings
from qcompiler.backends.c.toolchain import find_compiler, find_emulator
from qcompiler.backends.reference import MEANINGS
from qcompiler.errors import SpecError, UnsupportedError
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Program
from qcompiler.ir.types import TensorType


class Images(torch.nn.Module):
    """Padded, strided, grouped, depthwise and pointwise convolutions, an add, a concatenation, pools and a table."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 20, 3, padding=1, stride=2)
        self.depthwise = torch.nn.Conv2d(20, 20, 3, padding=1, groups=20)
        self.grouped = torch.nn.Conv2d(20, 12, (1, 3), padding=(0, 1), groups=4)
        self.dilated = torch.nn.Conv2d(20, 9, 3, padding=2, dilation=2)
        self.head = torch.nn.Linear(21, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = x + torch.relu(self.depthwise(x))
        x = torch.nn.functional.max_pool2d(x, 3, 2, 1)
        both = torch.cat([torch.relu(self.grouped(x)), torch.nn.functional.leaky_relu(self.dilated(x), 0.1)], 1)
        return self.head(both.mean((2, 3)))


class Tokens(torch.nn.Module):
    """An embedding, attention with a causal mask, norms, a gated layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(50, 32)
        self.norm = torch.nn.RMSNorm(32)
        self.last = torch.nn.LayerNorm(32)
        self.query, self.key, self.value = (torch.nn.Linear(32, 32, bias=False) for _ in range(3))
        self.gate, self.up, self.down = torch.nn.Linear(32, 48), torch.nn.Linear(32, 48), torch.nn.Linear(48, 32)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        y = self.norm(x)
        heads = [layer(y).unflatten(-1, (4, 8)).transpose(1, 2) for layer in (self.query, self.key, self.value)]
        mixed = torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + mixed.transpose(1, 2).flatten(2)
        return self.last(x + self.down(torch.nn.functional.silu(self.gate(x)) * self.up(x)))


INPUTS = {
    "images": lambda: torch.randn(2, 3, 17, 19, generator=torch.Generator().manual_seed(0)),
    "tokens": lambda: torch.randint(0, 50, (2, 11), generator=torch.Generator().manual_seed(0)),
}
MODELS = {"images": Images, "tokens": Tokens}


@cache
def compiled(name: str, recipe: str = "w8a8", target: str = "host") -> Artifact:
    torch.manual_seed(3)
    model = MODELS[name]().eval()
    return qcompiler.compile(model, target, calibration=[INPUTS[name]()], recipe=recipe)


def computed(program: Program, name: str, isa: Isa, folder: Path) -> list[torch.Tensor]:
    try:
        find_compiler(LEVELS[isa].architecture)
        find_emulator(LEVELS[isa].architecture)
    except UnsupportedError as error:
        pytest.skip(error.what)
    write_project(write_module(program, Settings(isa=isa)), folder)
    return runner(folder)([INPUTS[name]()[:1]])


@pytest.mark.parametrize("recipe", ["w8a8", "w8a8_dynamic"])
@pytest.mark.parametrize("name", list(MODELS))
def test_every_code_is_that_of_the_meanings(name: str, recipe: str, tmp_path: Path) -> None:
    program = compiled(name, recipe).program.copy()
    nodes = [node for node in program.nodes if isinstance(program.type(node), TensorType)]
    coded = [node for node in nodes if program.tensor_type(node).spec is not None]
    program.set_outputs(coded)
    found = computed(program, name, Isa.PORTABLE, tmp_path)
    wanted = evaluate(program, [INPUTS[name]()[:1]], kernels=MEANINGS)
    assert coded
    for node, one, other in zip(coded, found, wanted, strict=True):
        assert torch.equal(one, other), node.name


@pytest.mark.parametrize("isa", [Isa.AVX2, Isa.NEON, Isa.DOTPROD, Isa.I8MM], ids=lambda isa: isa.value)
@pytest.mark.parametrize("name", list(MODELS))
def test_levels_give_the_same_bits(name: str, isa: Isa, tmp_path: Path) -> None:
    artifact = compiled(name)
    (found,) = computed(artifact.program, name, isa, tmp_path)
    wanted = artifact(INPUTS[name]()[:1])
    assert isinstance(wanted, torch.Tensor)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("recipe", "target", "least"),
    [
        ("w4a16g32", "host", 15.0),
        ("w4a16g32", "host{weight_only=int8}", 15.0),
        ("nf4", "host{weight_only=int8}", 25.0),
        ("ternary", "host", 10.0),
        ("w8a8", "cortex-m", 25.0),
    ],
)
def test_runs_near_its_simulation(recipe: str, target: str, least: float) -> None:
    artifact = compiled("tokens", recipe, target)
    x = INPUTS["tokens"]()
    found, foretold = artifact(x), artifact.simulate(x)
    assert isinstance(found, torch.Tensor)
    assert isinstance(foretold, torch.Tensor)
    torch.testing.assert_close(found, foretold, rtol=1e-4, atol=1e-4)
    assert artifact.report.sqnr_db is not None
    assert artifact.report.sqnr_db > least


@pytest.mark.parametrize(("recipe", "isa"), [("w4a16g32", "portable"), ("w4a16g32", "avx2"), ("w8a8_dynamic", "neon")])
def test_compilers_have_nothing_to_say(recipe: str, isa: str, tmp_path: Path) -> None:
    try:
        find_compiler(LEVELS[Isa(isa)].architecture)
    except UnsupportedError as error:
        pytest.skip(error.what)
    write_project(write_module(compiled("tokens", recipe).program, Settings(isa=Isa(isa))), tmp_path)
    assert Build("program", LEVELS[Isa(isa)].architecture, flags=WARNINGS).run(tmp_path).exists()


def test_a_larger_batch_is_cut_and_joined() -> None:
    artifact, x = compiled("images"), INPUTS["images"]()
    whole, parts = artifact(x), [artifact(x[i : i + 1]) for i in range(2)]
    assert isinstance(whole, torch.Tensor)
    assert torch.equal(whole, torch.cat(parts))  # pyright: ignore[reportArgumentType, reportCallIssue]


class Skips(torch.nn.Module):
    """What is joined last was computed first: one grid for tensors of several ages."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 8, 3, padding=1)
        self.last = torch.nn.Conv2d(16, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        early = self.first(x)
        early = early + torch.relu(early)
        late = early + self.second(torch.relu(early))
        return self.last(torch.cat([late, early], 1))


def test_tensors_of_several_ages_share_the_grid_of_the_first() -> None:
    x = torch.randn(2, 3, 9, 7, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(1)
    artifact = qcompiler.compile(Skips().eval(), "host", calibration=[x], recipe="w8a8")
    found, foretold = artifact(x), artifact.simulate(x)
    assert isinstance(found, torch.Tensor)
    assert isinstance(foretold, torch.Tensor)
    assert torch.equal(found, foretold)
    assert artifact.report.sqnr_db is not None
    assert artifact.report.sqnr_db > 25


def test_an_operator_that_c_lacks_is_named_with_its_module() -> None:
    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.det(x @ x)

    with pytest.raises(UnsupportedError, match="linalg_det"):
        qcompiler.compile(Odd(), "host", calibration=[torch.randn(2, 4, 4)], recipe="w8a8")


def test_a_setting_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SpecError, match="isaa"):
        qcompiler.compile(Images(), "host{isaa=avx2}", calibration=[INPUTS["images"]()], recipe="w8a8")


def test_an_artefact_opens_again_and_runs(tmp_path: Path) -> None:
    saved = compiled("images").save(tmp_path / "model")
    x = INPUTS["images"]()[:1]
    again = qcompiler.load(tmp_path / "model")
    assert torch.equal(again(x), saved(x))  # pyright: ignore[reportArgumentType]
