"""What tests of generated C share: many small programs written as one, so that a compiler is called once for all."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from qcompiler.backends.c.building import Build
from qcompiler.backends.c.emission import write_module
from qcompiler.backends.c.host import HostRunner
from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.project import write_project
from qcompiler.backends.c.settings import Settings
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Node, Program, Signature, Stage
from qcompiler.ir.types import Symbol
from tests.c_harness import runs_here
from tests.onnx_tools import Case, sample

SIZE = 3
"""Of every symbolic dimension."""
QUICK = ("-O1",)
"""What a compiler does in little time: results do not depend on it."""
FASTEST = Isa.AVX2 if runs_here(Isa.AVX2) else Isa.PORTABLE


@dataclass(frozen=True)
class Merged:
    """Cases as one program.

    Args:
        program: whose inputs and results are those of all cases.
        inputs: random, for all cases.
        owners: name of the case of each result.
    """

    program: Program
    inputs: list[torch.Tensor]
    owners: list[str]

    def run(self, isa: Isa = FASTEST, flags: tuple[str, ...] = QUICK) -> Mapping[str, list[torch.Tensor]]:
        """What generated C computes, by case."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_project(write_module(self.program, Settings(isa=isa, batch=SIZE)), folder)
            running = HostRunner(folder, library=Build(flags=flags).run(folder))
            results = self.by_case(running(self.inputs))
            running.close()
            return results

    @cached_property
    def exact(self) -> Mapping[str, list[torch.Tensor]]:
        """What the interpreter computes in double precision, by case."""
        return self.by_case(evaluate(self.program, self.inputs, widen=True))

    @cached_property
    def wanted(self) -> Mapping[str, list[torch.Tensor]]:
        """What the interpreter computes, by case."""
        return self.by_case(evaluate(self.program, self.inputs))

    def by_case(self, results: Sequence[torch.Tensor]) -> Mapping[str, list[torch.Tensor]]:
        """Results by the case that they belong to."""
        found: dict[str, list[torch.Tensor]] = {}
        for owner, result in zip(self.owners, results, strict=True):
            found.setdefault(owner, []).append(result.detach())
        return found


def merged(cases: Sequence[Case], special: Mapping[str, torch.Tensor] | None = None) -> Merged:
    """One program of many cases; `special` replaces the first input of those that it names."""
    program = Program(stage=Stage.CANONICAL)
    for symbol in ("s0", "s1"):
        program.dimensions.add(symbol, Symbol(SIZE))
    nodes = [
        [program.add_input(f"x{number}_{i}", type_) for i, type_ in enumerate(types)]
        for number, (_, _, types) in enumerate(cases)
    ]
    outputs: list[Node] = []
    owners: list[str] = []
    inputs: list[torch.Tensor] = []
    for (name, body, types), given in zip(cases, nodes, strict=True):
        result = body(program.append(), *given)
        found = [result] if isinstance(result, Node) else list(result)  # pyright: ignore[reportArgumentType]
        outputs += found
        owners += [name] * len(found)
        values = [sample(type_, {"s0": SIZE, "s1": SIZE}, seed) for seed, type_ in enumerate(types)]
        if special and name in special:
            values[0] = special[name]
        inputs += values
    program.set_outputs(outputs)
    program.signature = Signature.flat(len(inputs), len(outputs))
    return Merged(program, inputs, owners)
