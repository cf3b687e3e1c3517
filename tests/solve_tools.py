"""What tests of weight solvers share: small layers, also bad ones, and expressions that go through nodes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Program, Stage
from qcompiler.job import prepare, run_job
from qcompiler.passes.recipes import Recipe
from qcompiler.passes.solve.expression import Expression
from qcompiler.passes.solve.layers import Geometry, Inputs, Layer
from qcompiler.pipeline import Context, Pass
from qcompiler.spec import QuantSpec

SPEC = QuantSpec.parse("uint2 asym block=(1,16) scale=f32")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(weight: Tensor, inputs: Tensor, spec: QuantSpec = SPEC) -> Layer:
    """A linear layer as a solver gets it; both streams see the same inputs."""
    return Layer("layer", weight, 1, spec, Inputs(lambda stream: [inputs], Geometry()))


def plain_layer(rows: int = 12, columns: int = 48, tokens: int = 96, spec: QuantSpec = SPEC, seed: int = 0) -> Layer:
    """Random weights on correlated inputs of different sizes."""
    inputs = noise(tokens, columns // 4, seed=seed + 1) @ noise(columns // 4, columns, seed=seed + 2)
    inputs = (inputs + noise(tokens, columns, seed=seed + 3)) * torch.exp(0.7 * noise(columns, seed=seed + 4))
    return layer(noise(rows, columns, seed=seed) / 8, inputs, spec)


def odd_layers(spec: QuantSpec = SPEC) -> dict[str, Layer]:
    """Layers that make formulas divide by zero or run out of columns."""
    weight, inputs = noise(6, 37), noise(50, 37, seed=1)
    dead, zeros = inputs.clone(), weight.clone()
    dead[:, 5:9] = 0
    zeros[2], zeros[:, 7] = 0, 0
    found = {
        "zero rows and columns": (zeros, inputs),
        "nothing but zeros": (torch.zeros(6, 37), inputs),
        "constant rows": (torch.full((6, 37), 0.3), inputs),
        "dead inputs": (weight, dead),
        "no inputs at all": (weight, torch.zeros(4, 37)),
        "one sample": (weight, inputs[:1]),
        "few columns": (weight[:, :3], inputs[:, :3]),
        "one row": (weight[:1], inputs),
        "tiny weights": (weight * 1e-9, inputs),
        "huge weights": (weight * 1e7, inputs),
    }
    return {name: layer(values, seen, spec) for name, (values, seen) in found.items()}


def error(expression: Expression, problem: Layer) -> float:
    """Squared output error over the squared output."""
    moment = problem.inputs.second_moment[0]
    wrong, weight = expression.value() - problem.weight, problem.weight
    return float(((wrong @ moment) * wrong).sum() / ((weight @ moment) * weight).sum())


def through_nodes(expression: Expression) -> Tensor:
    """The value that the nodes of an expression compute."""
    program = Program(stage=Stage.QUANTIZED)
    program.set_outputs([expression.build(program.append("test"), "weight")])
    program.verify()
    return evaluate(program, [])[0]


def prepared(model: nn.Module, data: Tensor, scheme: str) -> tuple[Program, Context]:
    """A model with quantized weights that no pass has solved yet."""
    recipe = Recipe.of("test", [f"assign{{scheme={scheme}}}", "apply_plan"])
    job = prepare(model.eval(), "simulation", calibration=[(data,)], recipe=recipe)
    return run_job(job)[1], Context(job.target, batches=job.batches)


def model_error(model: nn.Module, data: Tensor, start: tuple[Program, Context], method: Pass) -> float:
    """Squared error of the results over the squared results, with all weights solved by a method."""
    program, ctx = start
    solved = method.run(program.copy(), ctx)
    solved.verify()
    found, wanted = evaluate(solved, [data])[0], model(data).detach()
    left = [node for node in solved.nodes if solved.op(node) == "qc.quantize"]
    return float("inf") if left else float((found - wanted).square().sum() / wanted.square().sum())
