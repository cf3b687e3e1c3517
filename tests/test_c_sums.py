"""Sums that generated C makes in the layer of an operand: the same codes and reals, and no loop of their own."""

from __future__ import annotations

from pathlib import Path

import torch

import qcompiler
from qcompiler.artifact import Artifact
from qcompiler.backends.c.backend import runner
from qcompiler.backends.c.emission import write_module
from qcompiler.backends.c.isa import LEVELS, Isa
from qcompiler.backends.c.project import write_project
from qcompiler.backends.c.settings import Settings
from qcompiler.backends.c.toolchain import find_compiler, find_emulator
from qcompiler.errors import UnsupportedError
from qcompiler.passes.recipes import Recipe


class Blocks(torch.nn.Module):
    """Residual blocks: the layer on the left, on the right, one that is read twice, one with a skip of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.skip = torch.nn.Conv2d(3, 20, 3, 2, 1), torch.nn.Conv2d(20, 20, 1)
        self.layers = torch.nn.ModuleList(torch.nn.Conv2d(20, 20, 3, padding=1) for _ in range(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second, third, fourth, last = self.layers
        x = torch.relu(self.stem(x))
        x = torch.relu(first(x) + x)
        x = torch.relu(x + second(x))
        y = third(x)
        x = torch.relu(y + x) * y
        x = torch.relu(fourth(x) + self.skip(x))
        return last(x)


class Rows(torch.nn.Module):
    """Layers of reals on a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.last = torch.nn.Linear(32, 64), torch.nn.Linear(64, 32), torch.nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.down(torch.relu(self.up(x)))
        y = self.last(x)
        return (y + x) * y


IMAGES = torch.randn(3, 3, 18, 14, generator=torch.Generator().manual_seed(0))


def compiled() -> Artifact:
    torch.manual_seed(1)
    return qcompiler.compile(Blocks().eval(), "host", calibration=[IMAGES], recipe="w8a8")


def text_of(artifact: Artifact) -> str:
    assert artifact.folder is not None
    return (artifact.folder / "c" / "model.c").read_text()


def test_codes_of_a_block_are_those_of_the_meanings_on_every_level(tmp_path: Path) -> None:
    artifact = compiled()
    foretold = artifact.simulate(IMAGES)
    assert isinstance(foretold, torch.Tensor)
    for isa in (None, Isa.PORTABLE, Isa.AVX2, Isa.NEON, Isa.DOTPROD, Isa.I8MM):
        if isa is None:
            found = artifact(IMAGES)
        else:
            try:
                find_compiler(LEVELS[isa].architecture)
                find_emulator(LEVELS[isa].architecture)
            except UnsupportedError:
                continue
            (tmp_path / isa.value).mkdir()
            write_project(write_module(artifact.program, Settings(isa=isa)), tmp_path / isa.value)
            (found,) = runner(tmp_path / isa.value)([IMAGES])
        assert isinstance(found, torch.Tensor)
        assert torch.equal(found, foretold), isa


def test_the_last_operand_makes_the_sum_unless_others_read_it() -> None:
    text = text_of(compiled())
    assert text.count(".epilogue.residual.codes") == 3
    assert text.count(".epilogue.residual.leads = 1") == 2


def test_a_low_rank_branch_is_added_in_its_last_layer() -> None:
    torch.manual_seed(1)
    x = torch.randn(7, 32)
    recipe = Recipe.of("branch", ["svdquant{rank=4}", "assign{scheme=w4a16g32}", "apply_plan", "nearest"])
    artifact = qcompiler.compile(Rows().eval(), "host", calibration=[x], recipe=recipe)
    text, (found, foretold) = text_of(artifact), (artifact(x), artifact.simulate(x))
    branches = [node for node in artifact.program.nodes if node.name.endswith("_branch")]
    assert len(branches) == 3
    assert text.count(".added = ") == 3
    assert "_joined(" not in text
    torch.testing.assert_close(found, foretold, rtol=1e-5, atol=1e-5)
