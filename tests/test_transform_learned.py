"""Learned transforms: matrices stay what they are, what is trained is what is folded, and what each method gains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qcompiler.analysis.groups import Action, Place
from qcompiler.errors import SpecError
from qcompiler.ir.program import Node, Program
from qcompiler.job import prepare, run_job
from qcompiler.pass_text import parse_pass
from qcompiler.passes.recipes import Recipe
from qcompiler.passes.transform.evaluate import rounded
from qcompiler.passes.transform.learned import METHODS, AffineQuant, SpinQuant
from qcompiler.passes.transform.learned.bases import Band, Basis, Invertible, Kronecker, Rotation, Vector
from qcompiler.passes.transform.learned.bed import bed_of
from qcompiler.passes.transform.learned.constants import multiplied, scaled
from qcompiler.passes.transform.learned.driver import Lesson, at_once, fold, learn, quantized_error
from qcompiler.passes.transform.learned.matrices import (
    band_widths,
    banded,
    cayley_map,
    cayley_step,
    kronecker_factors,
    nearest_orthogonal,
)
from qcompiler.passes.transform.learned.sites import (
    mixing_factors,
    random_hadamard,
    scale_groups,
    turning_groups,
    with_biases,
)
from qcompiler.passes.transform.learned.tasks import Folded, Online, Task
from qcompiler.passes.transform.learned.units import units_of
from qcompiler.passes.transform.wanted import by_source, wanted
from qcompiler.pipeline import Context, Pass, difference, run_passes
from qcompiler.plan import Assignment
from qcompiler.spec import QuantSpec
from qcompiler.training import Loss, Sample, Schedule, reconstruct
from tests.torch_models import noise, seeded

TOKEN4 = QuantSpec.parse("int4 sym block=(1,-1) scale=f32 dynamic")
ROW4 = QuantSpec.parse("int4 sym block=(1,-1) scale=f32")
W4A4 = "assign{weight=int4 sym channel scale=f32, activation=int4 sym token scale=f32 dynamic}"
SIZES = st.integers(1, 12)
WIDTH, HEADS, WORDS = 16, 2, 11
SEVERAL = 10


class Block(nn.Module):
    """Attention and a gated feed-forward part, each behind a norm."""

    def __init__(self, norm: type[nn.Module], bias: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norm(WIDTH) for _ in range(2))
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH, bias) for _ in range(4))
        self.gate, self.up, self.down = (
            nn.Linear(WIDTH, 24, bias),
            nn.Linear(WIDTH, 24, bias),
            nn.Linear(24, WIDTH, bias),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[0](x)
        q, k, v = (part(y).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        y = self.norms[1](x)
        return x + self.down(nn.functional.silu(self.gate(y)) * self.up(y))


class Words(nn.Module):
    """Two blocks between an embedding and a head; some channels of the stream are outliers."""

    def __init__(self, norm: type[nn.Module] = nn.RMSNorm, bias: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.Sequential(Block(norm, bias), Block(norm, bias))
        self.norm, self.head = norm(WIDTH), nn.Linear(WIDTH, WORDS, bias)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embedding(ids))))


def sentences(count: int = 8) -> list[tuple[Tensor, ...]]:
    return [(torch.randint(0, WORDS, (4, 7), generator=torch.Generator().manual_seed(seed)),) for seed in range(count)]


@cache
def words(norm: type[nn.Module] = nn.RMSNorm, bias: bool = False) -> tuple[Program, Context]:
    """A tiny language model with four bits wanted everywhere; batches and tokens are free in number."""
    model = Words(norm, bias)
    seeded(model)
    with torch.no_grad():
        model.embedding.weight[:, ::5] *= SEVERAL
    job = prepare(model, "simulation", calibration=sentences(), recipe=Recipe.of("test", [W4A4]))
    return run_job(job)[1], Context(job.target, batches=job.batches)


def square(size: int, seed: int, fibres: int = 1) -> Tensor:
    return noise(fibres, size, size, seed=seed)


def turned(size: int, seed: int, fibres: int = 1) -> Tensor:
    return nearest_orthogonal(square(size, seed, fibres))


def gap_to_identity(matrix: Tensor) -> float:
    return float((matrix @ matrix.mT - torch.eye(matrix.shape[-1], dtype=matrix.dtype)).abs().max())


def stirred(basis: Basis, seed: int = 0) -> Basis:
    """The basis with leaves that are not where they started; a rotation stays one."""
    for index, leaf in enumerate(basis.trained()):
        change = 0.3 * noise(*leaf.tensor.shape, seed=seed + index).to(leaf.tensor)
        moved = leaf.tensor + change if leaf.move is None else leaf.move(leaf.tensor, change, 0.5)
        leaf.tensor.data.copy_(moved)
    return basis


def bases(size: int = 6) -> dict[str, Basis]:
    band = Band(noise(1, size).abs() + 0.5, 0.1)
    band.width = 3
    left, right = (turned(order, order)[0] for order in kronecker_factors(size))
    return {
        "rotation": Rotation(turned(size, 1), 0.1),
        "band": band,
        "invertible": Invertible(turned(size, 2), 0.1),
        "kronecker": Kronecker(left, right, 0.1),
    }


@given(size=SIZES, seed=st.integers(0, 99), rate=st.floats(1e-3, 10.0))
@settings(deadline=None, max_examples=30)
def test_a_cayley_step_stays_on_the_rotations_and_within_a_radian(size: int, seed: int, rate: float) -> None:
    start, gradient = turned(size, seed), square(size, seed + 1).double()
    after = cayley_step(start, gradient, rate)
    skew = (gradient @ start.mT - start @ gradient.mT) / 2
    assert gap_to_identity(after) < 1e-12
    assert float(torch.linalg.matrix_norm(after - start, 2)) <= min(rate * torch.linalg.matrix_norm(skew, 2), 1) + 1e-9


def test_cayley_steps_find_a_rotation() -> None:
    wanted_matrix, rotation = turned(6, 1), turned(6, 2)
    if torch.linalg.det(wanted_matrix)[0] * torch.linalg.det(rotation)[0] < 0:
        rotation[:, 0] *= -1
    for _ in range(200):
        rotation = cayley_step(rotation, rotation - wanted_matrix, 0.3)
    assert float((rotation - wanted_matrix).abs().max()) < 1e-6


@given(size=SIZES, seed=st.integers(0, 99), scale=st.floats(0.0, 100.0))
@settings(deadline=None, max_examples=30)
def test_a_cayley_map_is_a_rotation(size: int, seed: int, scale: float) -> None:
    assert gap_to_identity(cayley_map(scale * square(size, seed).double())) < 1e-9


@given(size=SIZES, width=st.integers(1, 12), seed=st.integers(0, 99), scale=st.floats(0.0, 100.0))
@settings(deadline=None, max_examples=30)
def test_a_banded_matrix_always_has_an_inverse(size: int, width: int, seed: int, scale: float) -> None:
    diagonal = noise(1, size, seed=seed).double().abs() + 0.1
    matrix = banded(diagonal, scale * square(size, seed + 1).double(), width)
    near = matrix / diagonal[..., None]
    norms = [value.abs().sum(-1).max() for value in (near, torch.linalg.inv(near))]
    assert float(norms[0] * norms[1]) <= 19 + 1e-9
    assert not matrix[0].triu(width).any()
    assert not matrix[0].tril(-width).any()


@given(size=st.integers(1, 40), stages=st.integers(1, 8))
@settings(deadline=None, max_examples=30)
def test_bands_grow_until_they_hold_everything(size: int, stages: int) -> None:
    widths = band_widths(size, stages)
    assert widths == sorted(widths)
    assert widths[-1] >= size


@given(size=st.integers(1, 300))
@settings(deadline=None, max_examples=50)
def test_kronecker_factors_are_as_square_as_can_be(size: int) -> None:
    first, second = kronecker_factors(size)
    assert first * second == size
    assert first <= second
    assert not any(size % order == 0 for order in range(first + 1, math.isqrt(size) + 1))


@pytest.mark.parametrize("kind", ["rotation", "band", "invertible", "kronecker"])
def test_both_sides_of_a_basis_undo_each_other(kind: str) -> None:
    basis = stirred(bases()[kind])
    times, contrary = basis.soft().detach()
    assert torch.allclose(times @ contrary.mT, torch.eye(6).expand(1, 6, 6), atol=1e-4)
    assert torch.allclose(times, basis.exact().float(), atol=1e-5)
    assert torch.allclose(basis.hard(), basis.soft(), atol=1e-5)


def test_a_folded_rotation_is_exact_whatever_training_did() -> None:
    basis = Rotation(turned(8, 0) + 1e-4 * square(8, 1).double(), 0.1)
    assert gap_to_identity(basis.exact()) < 1e-14


def test_a_kronecker_basis_runs_as_the_matrix_it_is() -> None:
    basis = Kronecker(turned(2, 0)[0], turned(3, 1)[0], 0.1)
    stirred(basis)
    rows = noise(5, 6).double()
    assert torch.allclose(basis.factor().times(rows), rows @ basis.exact()[0])


def test_starts_are_orthogonal_and_mix_everything() -> None:
    left, right = mixing_factors(24, 0)
    for start in (random_hadamard(24, 2, 0), torch.kron(left, right)[None]):
        assert gap_to_identity(start) < 1e-12
        assert float(start.abs().min()) > 0.001


def test_a_place_with_fibres_gets_each_its_own_matrix() -> None:
    place = Place(1, torch.tensor([[0, 1], [4, 2]]), torch.tensor([1, 0]))
    constant, matrices = noise(3, 5), square(2, 1, fibres=2)
    expected = constant.clone()
    expected[:, [0, 1]] = constant[:, [0, 1]] @ matrices[1]
    expected[:, [4, 2]] = constant[:, [4, 2]] @ matrices[0]
    assert torch.allclose(multiplied(constant, place, matrices), expected)
    assert torch.allclose(scaled(constant, place, torch.ones(2, 2)), constant)


def matrix_tasks(action: Action) -> tuple[Program, list[Task]]:
    prepared, groups = turning_groups(words()[0], action, "test", lambda line: None)
    tasks: list[Task] = []
    for number, group in enumerate(groups):
        start = random_hadamard(group.size, group.fibres, number)
        basis = Rotation(start, 0.1) if action is Action.ORTHOGONAL else Invertible(start, 0.1)
        tasks.append(Folded(stirred(basis, number), group, "matrix"))
    return prepared, tasks


def scale_tasks() -> tuple[Program, list[Task]]:
    prepared = words()[0].copy()
    groups = scale_groups(prepared)
    return prepared, [
        Folded(stirred(Vector(torch.ones(group.fibres, group.size), 0.1), number), group, "scale")
        for number, group in enumerate(groups)
    ]


def shift_tasks() -> tuple[Program, list[Task]]:
    prepared, groups = with_biases(words(nn.LayerNorm, True)[0], "test")
    groups = [group for group in groups if Action.SHIFT in group.actions]
    return prepared, [
        Folded(stirred(Vector(torch.zeros(group.fibres, group.size), 0.1, positive=False), number), group, "shift")
        for number, group in enumerate(groups)
    ]


def online_tasks() -> tuple[Program, list[Task]]:
    prepared = words()[0].copy()
    tasks: list[Task] = []
    for number, layers in enumerate(by_source(wanted(prepared))):
        factors = mixing_factors(cast(int, prepared.shape(layers[0].source)[-1]), 0)
        tasks.append(Online(stirred(Kronecker(*factors, 0.1), number), tuple(layers)))  # pyright: ignore[reportArgumentType]
    return prepared, tasks


CASES = {
    "rotations": lambda: matrix_tasks(Action.ORTHOGONAL),
    "matrices": lambda: matrix_tasks(Action.GENERAL),
    "scales": scale_tasks,
    "shifts": shift_tasks,
    "online": online_tasks,
}


def constants_by_use(program: Program, given: dict[Node, Tensor] | None = None) -> dict[tuple[str, str], Tensor]:
    """Every constant by the operator and argument that reads it."""
    found = {}
    for node in program.nodes:
        for name, value in program.bind(node).items():
            if isinstance(value, Node) and value.op == "get_attr" and program.op(node) != "aten.matmul":
                found[node.name, name] = (given or {}).get(value, program.param(value)).float()
    return found


@pytest.mark.parametrize("case", CASES)
def test_what_is_trained_is_what_is_folded(case: str) -> None:
    prepared, tasks = CASES[case]()
    assert len(tasks) > 1
    bed = bed_of(prepared, tasks, "test")
    soft = {number: task.basis.hard() for number, task in enumerate(tasks)}
    for constant in bed.constants.values():
        constant.spec = None
    trained = constants_by_use(bed.program, {node: value.under(soft) for node, value in bed.constants.items()})
    before = prepared.copy()
    for task in tasks:
        fold(prepared, task, "test")
    folded = constants_by_use(prepared)
    shared = trained.keys() & folded.keys()
    assert len(shared) >= len(tasks)
    for use in shared:
        assert torch.allclose(trained[use], folded[use], atol=1e-4), use
    assert difference(before, prepared, sentences(1)[0]) < 1e-9


def test_layers_with_quantized_weights_alone_count_too() -> None:
    program = words()[0].copy()
    for node in program.nodes:
        if isinstance(plan := node.meta.get("assignment"), Assignment):
            node.meta["assignment"] = replace(plan, inputs={"weight": plan.inputs["weight"]})
    assert turning_groups(program, Action.ORTHOGONAL, "test", lambda line: None)[1]
    assert scale_groups(program)


def test_transforms_over_several_blocks_are_learned_together() -> None:
    prepared, tasks = matrix_tasks(Action.ORTHOGONAL)
    bed = bed_of(prepared, tasks, "test")
    (unit,) = units_of(bed)
    assert unit.members == tuple(range(len(tasks)))
    assert unit.stop is None


def test_transforms_of_one_block_are_learned_alone() -> None:
    prepared, tasks = online_tasks()
    units = units_of(bed_of(prepared, tasks, "test"))
    assert len(units) > 1
    assert sorted(member for unit in units for member in unit.members) == list(range(len(tasks)))


def test_activations_are_quantized_in_the_stretch_that_reads_them() -> None:
    prepared, tasks = online_tasks()
    bed = bed_of(prepared, tasks, "test")
    for node in bed.program.nodes:
        if bed.program.op(node) == "qc.quantize":
            readers = {bed.segment[user] for pair in node.users for user in pair.users}
            assert readers == {bed.segment[node]}


def test_a_bed_without_transforms_makes_the_error_of_plain_rounding() -> None:
    model = nn.Linear(16, 8, bias=False).eval()
    data = noise(32, 16)
    job = prepare(model, "simulation", calibration=[(data,)], recipe=Recipe.of("test", [W4A4]))
    program = run_job(job)[1]
    weight = model.weight.detach()
    expected = (rounded(data, TOKEN4) @ rounded(weight, ROW4).T - data @ weight.T).square().mean()
    assert quantized_error(program, [(data,)], Lesson("test", 1, 1, 1, 0)) == pytest.approx(float(expected), rel=1e-5)


def test_a_transform_that_does_not_help_is_not_kept() -> None:
    program, ctx = words()
    prepared = program.copy()
    groups = scale_groups(prepared)
    bad = [Folded(Vector(torch.logspace(-3, 3, group.size)[None], 0.1), group, "scale") for group in groups[:1]]
    assert learn(program, prepared, bad, at_once, Lesson("test", 0, 4, 2, 0), ctx) is program


def test_without_a_guard_everything_is_folded() -> None:
    program, ctx = words()
    after = SpinQuant(steps=0, guard=False).run(program.copy(), ctx)
    assert after.edits > program.edits
    assert difference(program, after, sentences(1)[0]) < 1e-9


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_without_data_or_formats_nothing_is_learned(method: type[Pass]) -> None:
    program, ctx = words()
    plain = program.copy()
    for node in plain.nodes:
        node.meta.pop("assignment", None)
    lines: list[str] = []
    silent = replace(ctx, log=lines.append)
    assert method().run(plain, silent) is plain
    assert method().run(program, replace(silent, batches=())) is program
    assert [line.split(": ")[-1] for line in lines] == ["no operator will be quantized", "there is no calibration data"]


@cache
def learned(text: str) -> tuple[Program, list[str]]:
    """The tiny language model after a pass with these options, as the runner runs it, and what it said."""
    program, ctx = words(nn.LayerNorm, True) if text.startswith("passionsr") else words()
    lines: list[str] = []
    after, _ = run_passes(program, [parse_pass(text, METHODS)], replace(ctx, log=lines.append), ctx.batches)
    return after, lines


@pytest.mark.parametrize("name", [method.name for method in METHODS])
def test_learning_lowers_the_error_and_keeps_the_function(name: str) -> None:
    text = f"{name}{{steps=12, rows=8}}"
    before, ctx = words(nn.LayerNorm, True) if name == "passionsr" else words()
    after, lines = learned(text)
    assert after is not before, lines
    assert difference(before, after, sentences(1)[0]) < 1e-9
    lesson = Lesson("test", 1, 1, 1, 0)
    assert quantized_error(after, ctx.batches, lesson) < quantized_error(before, ctx.batches, lesson)


def test_finishing_together_only_helps() -> None:
    _, lines = learned("flatquant{steps=6, rows=8, finish=6}")
    (line,) = [line for line in lines if "all together: error" in line]
    before, after = (float(word) for word in line.rsplit("error ")[1].split(" -> "))
    assert after <= before


def test_divergence_alone_does_not_see_a_shift_of_all_logits() -> None:
    logits = noise(5, 4)
    sample = Sample({}, ((logits,),))
    assert float(Loss(divergence=True, squares=False)([logits + 3], sample)) == pytest.approx(0, abs=1e-6)
    assert float(Loss(divergence=True, squares=False)([2 * logits], sample)) > 0.01
    assert float(Loss()([logits + 3], sample)) == pytest.approx(9, rel=1e-5)


def test_learning_is_deterministic() -> None:
    program, ctx = words()
    one, two = (SpinQuant(steps=3).run(program.copy(), ctx) for _ in range(2))
    assert str(one) == str(two)


@pytest.mark.parametrize("bad", ["steps=-1", "samples=0", "rows=0"])
def test_a_lesson_needs_something_to_learn_on(bad: str) -> None:
    program, ctx = words()
    with pytest.raises(SpecError, match="nothing to learn on"):
        parse_pass(f"spinquant{{{bad}}}", METHODS).run(program, ctx)


def test_affinequant_needs_a_stage() -> None:
    with pytest.raises(SpecError, match="never widen"):
        AffineQuant(stages=0)


@pytest.mark.parametrize("kind", ["rotation", "band", "invertible", "kronecker"])
def test_a_basis_at_rest_changes_nothing(kind: str) -> None:
    basis = stirred(bases()[kind])
    basis.rest()
    assert torch.allclose(basis.hard(), torch.eye(6).expand(2, 1, 6, 6), atol=1e-6)


def test_learning_starts_from_rest_where_that_is_better() -> None:
    program, ctx = words()
    prepared = program.copy()
    bad = [Vector(torch.logspace(-3, 3, group.size)[None], 0.02) for group in scale_groups(prepared)]
    tasks = [Folded(basis, group, "scale") for basis, group in zip(bad, scale_groups(prepared), strict=True)]
    learn(program, prepared, tasks, at_once, Lesson("test", 2, 4, 2, 0), ctx)
    assert all(float(basis.leaf.detach().abs().max()) < 1 for basis in bad)


CHANNELS, ROWS = 48, "rows"


@dataclass(frozen=True)
class Layer:
    """Inputs of one linear layer, correlated and with a few outlier channels; the second half is held out."""

    inputs: Tensor
    weight: Tensor

    @staticmethod
    def of(seed: int) -> Layer:
        inputs = 0.3 * noise(768, CHANNELS, seed=seed) + noise(768, 3, seed=seed + 5) @ noise(
            3, CHANNELS, seed=seed + 6
        )
        inputs[:, ::16] *= 10
        return Layer(inputs, noise(32, CHANNELS, seed=seed + 100) / 6)

    def draw(self, generator: torch.Generator) -> Sample:
        return self.sample(self.inputs[:384])

    def held_out(self) -> Sequence[Sample]:
        return [self.sample(self.inputs[384:])]

    def sample(self, rows: Tensor) -> Sample:
        return Sample(cast(dict[Node, object], {ROWS: rows}), ((rows @ self.weight.T,),))

    def results(self, values: Sequence[Tensor], sample: Sample) -> list[Tensor]:
        """The layer in four bits, its input multiplied by the bases one after the other."""
        rows, weight = cast(Mapping[str, Tensor], sample.live)[ROWS], self.weight
        for value in values:
            vector = value.dim() == 2
            rows = rows * value if vector else rows @ value[0, 0]
            weight = weight / value if vector else weight @ value[1, 0]
        return [rounded(rows, TOKEN4) @ rounded(weight, ROW4).T]

    def learned(self, bases: Sequence[Basis], steps: int) -> tuple[float, float]:
        """Held-out signal to noise in dB, before and after."""
        schedule = Schedule(steps, penalty=0.0, warmup=0.0, optimizer="adam_cosine")
        outcome = reconstruct(self.results, bases, Loss(), schedule, self, 0)
        power = float(self.held_out()[0].targets[0][0].square().mean())
        before, after = (10 * math.log10(power / error) for error in (outcome.before, outcome.after))
        return before, after

    def smooth(self) -> Tensor:
        return (self.weight.abs().amax(0) / self.inputs.abs().amax(0)).sqrt()[None]


SEEDS = range(3)


def test_learned_rotations_beat_the_hadamard_start_by_half_a_decibel() -> None:
    gains = []
    for seed in SEEDS:
        rotation = Rotation(random_hadamard(CHANNELS, 1, seed), 0.05)
        before, after = Layer.of(seed).learned([rotation], 60)
        gains.append(after - before)
        assert gap_to_identity(rotation.matrix.detach()) < 1e-4
    assert sum(gains) / len(gains) > 0.5


def test_a_growing_band_beats_the_diagonal() -> None:
    gains = []
    for seed in SEEDS:
        layer = Layer.of(seed)
        diagonal = layer.learned([Band(layer.smooth(), 0.02)], 60)[1]
        band, after = Band(layer.smooth(), 0.02, strength=0.3), 0.0
        for width in (1, *band_widths(CHANNELS, 3)):
            band.width = width
            after = layer.learned([band], 30)[1]
        gains.append(after - diagonal)
    assert min(gains) > -0.05
    assert sum(gains) / len(gains) > 0.15


def test_kronecker_pairs_beat_the_hadamard_rotation_by_two_decibels() -> None:
    for seed in SEEDS:
        layer = Layer.of(seed)
        hadamard = layer.learned([Rotation(random_hadamard(CHANNELS, 1, seed), 0.05)], 0)[0]
        pair = Kronecker(*mixing_factors(CHANNELS, 0), 0.02)
        assert layer.learned([Vector(torch.ones(1, CHANNELS), 0.02), pair], 100)[1] > hadamard + 2


class Upscaler(nn.Module):
    """Three convolutions; some channels between the first two are outliers that the second undoes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(*sizes, 3, padding=1) for sizes in ((3, 16), (16, 16), (16, 3)))
        self.between = nn.LeakyReLU(0.1)
        seeded(self)
        with torch.no_grad():
            first, second, _ = (cast(Tensor, layer.weight) for layer in self.layers)
            first[::8] *= 10
            second[:, ::8] /= 10

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[2](self.between(self.layers[1](self.between(self.layers[0](x)))))


def test_learned_scales_beat_their_start_which_beats_no_scales() -> None:
    recipe = Recipe.of("test", ["assign{weight=int6 sym channel scale=f32, activation=int6 asym tensor scale=f32}"])
    job = prepare(Upscaler(), "simulation", calibration=[(noise(8, 3, 8, 8, seed=n),) for n in range(8)], recipe=recipe)
    program, ctx = run_job(job)[1], Context(job.target, batches=job.batches)
    errors = [quantized_error(program, ctx.batches, Lesson("test", 1, 1, 1, 0))]
    for steps in (0, 60):
        passes = [parse_pass(f"passionsr{{steps={steps}, alpha=0.3, learning_rate=0.01}}", METHODS)]
        after, _ = run_passes(program, passes, ctx, ctx.batches)
        errors.append(quantized_error(after, ctx.batches, Lesson("test", 1, 1, 1, 0)))
    assert errors[1] < 0.5 * errors[0]
    assert errors[2] < 0.98 * errors[1]
