"""Rotary embeddings that are written out become one kernel of generated C, to the bit what its meaning says."""

from __future__ import annotations

from pathlib import Path

import torch

import qcompiler
from qcompiler.backends.c.backend import CBackend, runner
from qcompiler.backends.c.emission import write_module
from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.project import write_project
from qcompiler.backends.c.settings import Settings
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Node, Program

X = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(0))


class Heads(torch.nn.Module):
    """Queries and keys turned by tables of places, the keys' halves by other angles; `mirrored` is no rotation."""

    def __init__(self, mirrored: bool = False) -> None:
        super().__init__()
        self.query, self.key, self.last = (torch.nn.Linear(24, 24) for _ in range(3))
        angles = torch.outer(torch.arange(9.0), 10.0 ** -torch.arange(0, 2, 0.5))
        self.angles = torch.cat([angles, angles], -1)
        self.others = torch.cat([angles, angles * 3], -1)[None, None]
        self.sign = 1.0 if mirrored else -1.0

    def turned(self, x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        low, high = x.chunk(2, -1)
        turn = torch.cat([high, low], -1) if self.sign > 0 else torch.cat([-high, low], -1)
        return x * angles.cos() + turn * angles.sin()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key = (layer(x).unflatten(-1, (3, 8)).transpose(1, 2) for layer in (self.query, self.key))
        query, key = self.turned(query, self.angles), self.turned(key, self.others)
        mixed = torch.nn.functional.scaled_dot_product_attention(query, key, key, is_causal=True)
        return self.last(mixed.transpose(1, 2).flatten(2))


def compiled(mirrored: bool) -> Program:
    torch.manual_seed(0)
    return qcompiler.compile(Heads(mirrored).eval(), "host", calibration=[X], recipe="w8a8", dynamic="none").program


def turned(program: Program) -> list[Node]:
    calls = [node for node in program.nodes if program.op(node) == "qc.kernel"]
    return [node for node in calls if node.args[0] == "rotary_heads"]


def test_each_is_one_kernel_that_gives_the_bits_of_its_meaning(tmp_path: Path) -> None:
    program = compiled(mirrored=False).copy()
    found = turned(program)
    assert len(found) == 2
    assert "aten.neg" not in map(program.op, program.nodes)
    program.set_outputs(found)
    write_project(write_module(program, Settings(isa=Isa.PORTABLE)), tmp_path)
    meant = evaluate(program, [X], kernels=CBackend().meanings())
    for one, other in zip(runner(tmp_path)([X]), meant, strict=True):
        assert torch.equal(one, other)


def test_what_mirrors_is_left_as_it_is() -> None:
    assert not turned(compiled(mirrored=True))
