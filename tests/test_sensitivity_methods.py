"""What each sensitivity computes, against what it is an estimate of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from qcompiler.errors import UnsupportedError
from qcompiler.ir.program import Program
from qcompiler.job import prepare, run_job
from qcompiler.passes.allocate.harm import Results, divergences, errors
from qcompiler.passes.allocate.problem import Unit
from qcompiler.passes.allocate.sensitivity import gradients as gr
from qcompiler.passes.allocate.sensitivity import measure, measure_table, read_terms
from qcompiler.passes.allocate.sensitivity.additive import Link, Setting, choose, fit
from qcompiler.passes.allocate.sensitivity.curvature import largest_eigenvalue, probe_traces
from qcompiler.passes.allocate.sensitivity.images import gradient_distance, structural_distance
from qcompiler.passes.allocate.sensitivity.joint import random_plans, trials
from qcompiler.passes.allocate.sensitivity.method import Place, Subject
from qcompiler.passes.allocate.sensitivity.proxies import alignment, gram, synaptic_flow
from qcompiler.passes.allocate.sensitivity.relevance import read_relevance
from qcompiler.passes.allocate.sensitivity.results import decibels, loss_rises
from qcompiler.passes.allocate.sensitivity.stability import spearman
from qcompiler.passes.allocate.sensitivity.statistics import code_entropy, kurtosis
from qcompiler.passes.allocate.sensitivity.stirred import step_noise
from qcompiler.passes.allocate.trial import best_grid
from qcompiler.passes.allocate.units import offer
from qcompiler.passes.recipes import Recipe
from qcompiler.pipeline import Context
from qcompiler.spec import QuantSpec, parse_scheme


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Residual(nn.Module):
    """Blocks `x + gain * relu(linear(x))` and a head."""

    def __init__(self, gains: Sequence[float], width: int = 24, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gains = list(gains)
        self.blocks = nn.ModuleList(nn.Linear(width, width, bias) for _ in gains)
        self.head = nn.Linear(width, 5, bias)

    def forward(self, x: Tensor) -> Tensor:
        for gain, block in zip(self.gains, self.blocks, strict=True):
            x = x + gain * torch.relu(block(x))
        return self.head(x)


def measured(module: nn.Module, data: Sequence[Tensor], schemes: Sequence[str]) -> tuple[Subject, tuple[Unit, ...]]:
    job = prepare(module.eval(), "simulation", calibration=list(data), recipe=Recipe("none", ()))
    program = run_job(job)[1]
    context = Context(job.target, batches=list(job.batches))
    return Subject(program, context), offer(program, job.target, list(map(parse_scheme, schemes)), ()).units


def residual(
    schemes: Sequence[str] = ("w8a16", "w6a16", "w4a16"), samples: int = 48
) -> tuple[Subject, tuple[Unit, ...]]:
    return measured(Residual([0.05, 1.0, 0.3, 0.6]), [noise(samples, 24, seed=1)], schemes)


def flat(subject: Subject, units: Sequence[Unit], name: str) -> Tensor:
    return torch.cat(measure(read_terms(name), subject, units).plain())


# -- curvature ---------------------------------------------------------------------------------------------------------


def hessians(subject: Subject, units: Sequence[Unit]) -> tuple[gr.Run, Tensor, list[Place]]:
    """A run, its task's loss, and the places of the weights."""
    places = [place for table in gr.places(subject, units) for place in table]
    part = gr.samples(subject, 48)[0]
    run = gr.run(subject.program, part.inputs, places)
    return run, gr.task_loss(run, "divergence", 1.0, None), places


def exact_hessian(program: Program, loss: Tensor, leaf: Tensor) -> Tensor:
    (first,) = torch.autograd.grad(loss, [leaf], create_graph=True)
    rows = [torch.autograd.grad(entry, [leaf], retain_graph=True)[0].flatten() for entry in first.flatten()]
    return torch.stack(rows)


def test_random_signs_find_the_trace_and_powers_the_eigenvalue() -> None:
    subject, units = measured(Residual([1.0], width=8), [noise(48, 8, seed=1)], ["w8a16", "w4a16"])
    run, loss, places = hessians(subject, units)
    first = gr.differentiate(subject.program, loss, run.leaves, again=True)
    traces: dict[Place, list[float]] = {place: [] for place in places}
    probe_traces(first, run.leaves, 400, torch.Generator().manual_seed(0), traces)
    for place in places:
        exact = exact_hessian(subject.program, loss, run.leaves[place])
        assert traces[place][0] == pytest.approx(float(exact.trace()), rel=0.15)
        top = largest_eigenvalue([first[place]], [run.leaves[place]], 60, torch.Generator().manual_seed(0))
        assert top == pytest.approx(float(torch.linalg.eigvalsh(exact)[-1]), rel=0.05)


def test_the_largest_eigenvalue_is_not_the_one_of_largest_size() -> None:
    leaf = torch.zeros(4, requires_grad=True)
    (first,) = torch.autograd.grad(
        (leaf.square() * torch.tensor([-8.0, 3.0, 1.0, 0.5])).sum(), [leaf], create_graph=True
    )
    assert largest_eigenvalue([first], [leaf], 12, torch.Generator().manual_seed(0)) == pytest.approx(6.0, rel=1e-4)


@pytest.mark.parametrize(("name", "tolerance"), [("gauss_newton(draws=24)", 0.35), ("fisher(draws=24)", 0.6)])
def test_curvature_predicts_the_divergence_of_small_changes(name: str, tolerance: float) -> None:
    subject, units = residual(("w8a16", "w6a16"))
    wanted, found = flat(subject, units, "kl"), flat(subject, units, name)
    assert bool(((found / wanted).log().abs() < tolerance).double().mean() >= 0.8)
    assert float(found.sum() / wanted.sum()) == pytest.approx(1.0, abs=0.4)


@pytest.mark.parametrize("loss", ["squares"])
def test_curvature_predicts_squared_errors(loss: str) -> None:
    subject, units = residual(("w8a16", "w6a16"))
    wanted, found = flat(subject, units, "output"), flat(subject, units, f"gauss_newton(draws=24; loss={loss})")
    assert float(found.sum() / wanted.sum()) == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize("name", ["fisher", "gauss_newton", "hessian_trace", "noise_toggle", "output"])
def test_these_rank_losses_as_the_divergence_does(name: str) -> None:
    subject, units = residual()
    assert spearman(flat(subject, units, "kl"), flat(subject, units, name)) > 0.9


def test_sums_of_losses_rank_whole_plans() -> None:
    subject, units = residual(("w6a16", "w4a16", "w3a16"))
    plans = random_plans(units, 80, 1)
    harms = []
    for plan in plans:
        picked = [unit.options[option].assignments for unit, option in zip(units, plan, strict=True)]
        together = {name: item for assignments in picked for name, item in assignments.items()}
        harms.append(float(divergences(subject.trial.results(together)).mean()))
    for name in ("kl", "fitted(plans=60)"):
        table = measure_table(name, subject.program, units, subject.ctx)
        sums = [sum(row[k] for row, k in zip(table, plan, strict=True)) for plan in plans]
        assert spearman(torch.tensor(sums, dtype=torch.float64), torch.tensor(harms, dtype=torch.float64)) > 0.9


class Wide(nn.Module):
    """A value so wide that few samples of it have room."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x[:, None].expand(-1, 1 << 24, -1)[:, 5])


def test_whole_plans_are_tried_on_every_batch() -> None:
    subject, _ = measured(Wide(), [noise(2, 8), noise(2, 8, seed=1)], ["w8a16"])
    assert len(subject.trial.wanted) == 1
    assert [len(trial.wanted) for trial in trials(subject)] == [1, 1]


def additive_harms(true: Tensor, link: Link) -> tuple[list[list[int]], Tensor]:
    """Random plans, and harms of which the link makes sums of terms: float64 [plans]."""
    options = tuple(object() for _ in range(true.shape[1]))
    units = [Unit(f"u{number}", options) for number in range(len(true))]  # pyright: ignore[reportArgumentType]
    plans = random_plans(units, 200, 0)
    sums = torch.stack([true[torch.arange(len(true)), torch.tensor(plan)].sum() for plan in plans])
    return plans, {"logarithm": sums.exp(), "root": sums.square(), "identity": sums}[link]


@pytest.mark.parametrize("link", get_args(Link))
def test_a_fit_finds_what_toggling_misses(link: Link) -> None:
    alone = [torch.tensor([0.1, 1.0], dtype=torch.float64)] * 4
    true = torch.tensor([[0.0, 0.2], [0.0, 2.0], [0.0, 1.0], [0.0, 0.1]], dtype=torch.float64)
    plans, harms = additive_harms(true, link)
    found = torch.stack(fit(alone, plans, harms, Setting(0, link, 0.1), [[(0, 1)]] * 4))
    assert torch.allclose(found[:, 1] - found[:, 0], true[:, 1], atol=0.05)


def test_fitted_terms_are_monotone_and_the_rest_makes_up_for_it() -> None:
    true = torch.tensor([[0.0, -0.5, 1.0], [0.0, 1.0, 2.0]], dtype=torch.float64)
    plans, harms = additive_harms(true, "identity")
    alone = [torch.tensor([0.1, 0.2, 1.0], dtype=torch.float64)] * 2
    first, second = fit(alone, plans, harms, Setting(0, "identity", 0.1), [[(0, 1), (1, 2), (0, 2)], [(0, 1)]])
    assert first[0] == first[1]
    assert float(first[2] - first[0]) == pytest.approx(1.25, abs=0.1)
    assert float(second[2] - second[0]) == pytest.approx(2.0, abs=0.1)


def test_the_toggled_losses_that_rank_left_out_plans_are_chosen() -> None:
    true = torch.tensor([[0.0, 2.0**-unit] for unit in range(12)], dtype=torch.float64)
    plans, harms = additive_harms(true, "identity")
    wrong = list(true.flip(0))
    for priors, expected in (([wrong, list(true)], 1), ([list(true), wrong], 0)):
        assert choose(priors, plans[:30], harms[:30], (300.0,)).prior == expected


def test_what_no_derivative_passes_is_refused_by_name() -> None:
    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((self.first(x) > 0).float())

    subject, units = measured(Steps(), [noise(4, 8)], ["w8a16", "w4a16"])
    with pytest.raises(UnsupportedError, match=r"no gradient of the results reaches %\S+ at %linear"):
        flat(subject, units, "fisher")


# -- relevance ---------------------------------------------------------------------------------------------------------


def test_relevance_is_kept() -> None:
    subject, _ = measured(Residual([1.0, 0.5], bias=False), [noise(3, 24, seed=2).abs()], ["w8a16"])
    program, x = subject.program, subject.ctx.batches[0][0]
    read = read_relevance(program, [x], "squares")
    through = torch.stack([part for (_, source), part in read.items() if source is program.inputs[0]]).sum(0)
    (result,) = subject.trial.wanted[0]
    # relevance is lost only where all that an operator reads is negative
    assert float(through.sum()) <= float(result.abs().sum()) * (1 + 1e-4)
    assert float(through.sum()) > 0.6 * float(result.abs().sum())


def test_relevance_starts_from_the_label() -> None:
    subject, _ = measured(nn.Linear(6, 3, bias=False), [noise(1, 6).abs()], ["w8a16"])
    program, x = subject.program, subject.ctx.batches[0][0]
    weight = next(program.param(node) for node in program.param_nodes)
    for label in range(3):
        (found,) = read_relevance(program, [x], "divergence", torch.tensor([label])).values()
        share = x[0] * weight[label].clamp(min=0)
        score = (x @ weight.T)[0, label].abs()
        assert torch.allclose(found[0], share / share.sum() * score, atol=1e-5)


def test_relevance_without_a_rule_is_refused_by_name() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cumprod(self.layer(x), 1)

    subject, units = measured(Odd(), [noise(2, 4)], ["w8a16"])
    with pytest.raises(UnsupportedError, match="relevance has no rule for"):
        flat(subject, units, "lrp")


# -- scores ------------------------------------------------------------------------------------------------------------


def test_blocks_that_change_their_value_most_come_first() -> None:
    gains = [0.05, 0.8, 0.3, 1.5]
    subject, units = measured(Residual(gains), [noise(32, 24, seed=1)], ["w4a16"])
    scores = torch.tensor(
        [
            row[0] / subject.noise(unit.options[0])
            for row, unit in zip(measure(read_terms("lim"), subject, units).table(), units, strict=True)
        ]
    )
    assert spearman(scores[:4].double(), torch.tensor(gains)) == pytest.approx(1.0)
    assert float(scores[4]) == pytest.approx(1.0)  # the head keeps no shape


def test_synaptic_flow_is_the_same_through_every_layer_of_a_chain() -> None:
    chain = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 4, bias=False))
    subject, units = measured(chain, [noise(2, 6)], ["w8a16"])
    flow = synaptic_flow(subject.program, {node for unit in units for node in subject.weights(unit)})
    totals = [float((weight * gradient).sum()) for weight, gradient in flow.values()]
    assert totals[0] == pytest.approx(totals[1], rel=1e-9)


def test_kurtosis_of_known_channels() -> None:
    rows = torch.stack([torch.tensor([-1.0, 1.0] * 8), torch.tensor([0.0] * 15 + [1.0]), torch.zeros(16)])
    share = 1 / 16
    wanted = (1 - 3 * share + 3 * share**2) / (share * (1 - share))
    assert kurtosis(rows).tolist() == pytest.approx([1.0, wanted])


def test_entropy_of_codes() -> None:
    spec = QuantSpec.parse("uint2 asym block=(-1) scale=f32")
    assert code_entropy(torch.tensor([0.0, 1.0, 2.0, 3.0] * 4), spec) == pytest.approx(2.0)
    assert code_entropy(torch.zeros(8), spec) == 0.0


def test_noise_is_as_wide_as_the_steps() -> None:
    spec, value = QuantSpec.parse("int4 sym block=(1,-1) scale=f32"), noise(4, 4000)
    grid = best_grid(value, spec)
    found = step_noise(value, grid, spec, torch.Generator().manual_seed(0))
    assert isinstance(grid[0], Tensor)
    steps = grid[0].reshape(-1)
    assert torch.allclose(found.var(1), steps.square() / 12, rtol=0.08)
    uneven = QuantSpec.parse("fp4e2m1 sym block=(1,-1) scale=f32")
    with pytest.raises(UnsupportedError, match="no single step"):
        step_noise(value, best_grid(value, uneven), uneven, torch.Generator())


def test_results_that_are_alike_are_aligned() -> None:
    value = noise(12, 5)
    turned = value @ torch.linalg.qr(noise(5, 5, seed=1))[0]
    assert alignment(gram([value], 64), gram([3 * turned + 1], 64)) == pytest.approx(1.0, rel=1e-5)
    assert alignment(gram([value], 64), gram([noise(12, 5, seed=3)], 64)) < 0.8


# -- harm --------------------------------------------------------------------------------------------------------------


def test_harm_of_samples_is_that_of_the_whole() -> None:
    wanted, found = noise(6, 4), noise(6, 4, seed=1)
    parts = [Results([wanted[:2]], [found[:2]]), Results([wanted[2:]], [found[2:]])]
    whole = float((wanted - found).square().sum() / wanted.square().sum())
    assert errors(parts).shape == (6,)
    assert float(errors(parts).mean()) == pytest.approx(whole, rel=1e-6)
    kl = nn.functional.kl_div(found.log_softmax(1), wanted.log_softmax(1), log_target=True, reduction="batchmean")
    assert float(divergences(parts).mean()) == pytest.approx(float(kl), rel=1e-5)
    ratio = float((wanted[0] - found[0]).square().sum() / wanted[0].square().sum())
    assert float(decibels(parts)[0]) == pytest.approx(120 + 10 * torch.tensor(ratio).log10().item(), rel=1e-5)


def test_the_loss_of_labels_is_cross_entropy() -> None:
    wanted, found, labels = noise(5, 4), noise(5, 4, seed=1), torch.tensor([0, 1, 2, 3, 0])
    entropy = nn.functional.cross_entropy
    rise = entropy(found, labels, reduction="none") - entropy(wanted, labels, reduction="none")
    assert torch.allclose(loss_rises([Results([wanted], [found])], [labels]), rise.double(), atol=1e-5)
    own = entropy(found, wanted.argmax(1), reduction="none") - entropy(wanted, wanted.argmax(1), reduction="none")
    assert torch.allclose(loss_rises([Results([wanted], [found])], [None]), own.double(), atol=1e-5)


def test_distances_of_images() -> None:
    image = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    worse = [(image + size * noise(2, 3, 24, 24, seed=1)).clamp(0, 1) for size in (0.02, 0.2)]
    for distance in (structural_distance, gradient_distance):
        assert float(distance(image, image).abs().max()) < 1e-6
        near, far = (distance(image, other) for other in worse)
        assert bool((near < far).all())


def test_sqnr_is_the_logarithm_of_the_error() -> None:
    subject, units = residual(samples=1)
    plain, log = (flat(subject, units, name) for name in ("output", "sqnr"))
    assert torch.allclose(log, 10 * plain.log10() + 120)
