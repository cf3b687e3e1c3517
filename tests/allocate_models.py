"""Small models that tests of the allocation share, and how they are compiled."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from torch import Tensor, nn

from qcompiler.ir.program import Program
from qcompiler.job import Job, backends, prepare, run_job
from qcompiler.passes.allocate.mixed import read_scheme
from qcompiler.passes.allocate.units import Offer, offer
from qcompiler.passes.recipes import Recipe
from qcompiler.pipeline import Context
from qcompiler.plan import Assignment
from qcompiler.target import Accept, Kernel, Slot, Target
from qcompiler.targets import load_target

WEIGHTS = "w8a16|w4a16g16|w3a16g16|w2a16g16"


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Branches(nn.Module):
    """Three projections of one value, a residual addition, a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v = (nn.Linear(32, 32) for _ in range(3))
        self.out, self.head = nn.Linear(32, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        mixed = torch.sigmoid(self.q(x)) * torch.tanh(self.k(x)) + self.v(x)
        return self.head(torch.relu(x + self.out(mixed)))


class Tied(nn.Module):
    """An embedding whose table is the head's weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.body = nn.Embedding(24, 32), nn.Linear(32, 32)

    def forward(self, ids: Tensor) -> Tensor:
        return torch.nn.functional.linear(torch.relu(self.body(self.table(ids))), self.table.weight)


class Convolutions(nn.Module):
    """A strided stem and a residual block."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.left = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.right, self.head = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.left(x) + self.right(x))
        return self.head(x).mean((2, 3))


DATA = [noise(16, 32, seed=1), noise(16, 32, seed=2)]
SAMPLES: dict[type[nn.Module], list[Tensor]] = {
    Branches: DATA,
    Tied: [torch.arange(8).reshape(2, 4)],
    Convolutions: [noise(4, 3, 8, 8, seed=3)],
}


@cache
def traced(kind: type[nn.Module]) -> Program:
    """The program of a module, once for all tests."""
    return prepare(kind().eval(), "simulation", calibration=SAMPLES[kind], recipe=Recipe("none", ())).program


@cache
def canonical(kind: type[nn.Module]) -> tuple[Program, Context]:
    """A canonical program and what passes are told."""
    job = prepare(traced(kind), "simulation", calibration=SAMPLES[kind], recipe=Recipe("none", ()))
    return run_job(job)[1], Context(job.target, batches=job.batches)


def job_of(options: str, program: Program | None = None, target: str = "simulation") -> Job:
    """A compilation of the branches by one configured pass."""
    recipe = Recipe.of("test", [f"mixed_precision{{{options}}}", "apply_plan", "nearest{search=mse}"])
    return prepare(program or traced(Branches), target, calibration=DATA, recipe=recipe)


def offered(kind: type[nn.Module], schemes: str, target: Target | None = None) -> Offer:
    program, context = canonical(kind)
    return offer(program, target or context.target, [read_scheme(text) for text in schemes.split("|")], ())


def joining_target() -> Target:
    """The simulation with an addition in any numbers."""
    plain = load_target("simulation", backends())
    anything = Slot((Accept.parse("any"),))
    relu = ("aten.relu",)
    add = Kernel("add", ("aten.add.Tensor",), {"self": anything, "other": anything}, anything, relu, joins=True)
    rows = [replace(row, result=anything, absorbs=relu) if row.name == "conv" else row for row in plain.kernels]
    return replace(plain, kernels=(*rows, add))


def widths(job: Job) -> dict[str, int]:
    """Bits of the weight of every assigned layer, by module."""
    _, program, _ = run_job(job)
    found = {}
    for node in program.nodes:
        assigned = node.meta.get("assignment")
        if isinstance(assigned, Assignment) and "weight" in assigned.inputs:
            found[program.origin(node).module] = assigned.inputs["weight"].bits
    return found
