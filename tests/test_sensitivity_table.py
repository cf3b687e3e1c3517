"""Loss tables: sums of sensitivities, the cache, monotone repair, stability, synthetic data, the evolved formula."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qcompiler.errors import SpecError
from qcompiler.job import prepare, run_job
from qcompiler.pass_text import make_pass
from qcompiler.passes.allocate.losses import labels_of
from qcompiler.passes.allocate.mixed import MixedPrecision
from qcompiler.passes.allocate.problem import Option, Unit
from qcompiler.passes.allocate.sensitivity import measure, measure_table, read_terms
from qcompiler.passes.allocate.sensitivity.evolution import KNOWN, Trials, evolve, likeness
from qcompiler.passes.allocate.sensitivity.formula import parse_formula
from qcompiler.passes.allocate.sensitivity.method import Harm, Subject
from qcompiler.passes.allocate.sensitivity.repair import monotone, orders
from qcompiler.passes.allocate.sensitivity.stability import resampled, spearman, stability
from qcompiler.passes.allocate.sensitivity.synthetic import natural_noise, synthetic_batches
from qcompiler.passes.allocate.sensitivity.table import Losses, Term
from qcompiler.passes.allocate.units import offer
from qcompiler.passes.recipes import Recipe
from qcompiler.pipeline import Context
from qcompiler.plan import Assignment
from qcompiler.spec import QuantSpec, parse_scheme

SCHEMES = ("w8a16", "w4a16g16", "w2a16g16")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 6)).eval()


def subject(seed: int = 1, log: list[str] | None = None) -> tuple[Subject, tuple[Unit, ...]]:
    """A small classifier and its units."""
    job = prepare(classifier(), "simulation", calibration=[noise(16, 32, seed=seed)], recipe=Recipe("none", ()))
    program = run_job(job)[1]
    context = Context(job.target, batches=list(job.batches), log=(log if log is not None else []).append)
    return Subject(program, context), offer(program, job.target, list(map(parse_scheme, SCHEMES)), ()).units


ASKED: list[str] = []
ROW = torch.tensor([[1 / 3], [0.1], [2.0]], dtype=torch.float64)


@dataclass(frozen=True)
class Counting:
    """Notes which units it is asked for; breaks off where it meets a unit that is to be feared."""

    name: ClassVar[str] = "counting"
    needs_data: ClassVar[bool] = False
    judged_by: ClassVar[Harm] = "error"
    feared: ClassVar[list[str]] = []

    def losses(self, subject: Subject, units: Sequence[Unit]) -> Iterator[Tensor]:
        """See `Sensitivity`."""
        del subject
        for unit in units:
            if unit.name in self.feared:
                raise KeyboardInterrupt
            ASKED.append(unit.name)
            yield ROW


def counted(folder: Path, seed: int = 1, log: list[str] | None = None) -> list[str]:
    """The units that had to be measured."""
    ASKED.clear()
    base, units = subject(seed, log)
    losses = measure([Term(1.0, Counting())], base, units, str(folder))
    assert all(torch.equal(row, ROW) for row in losses.rows[0])
    return list(ASKED)


# -- the cache ---------------------------------------------------------------------------------------------------------


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    log: list[str] = []
    assert len(counted(tmp_path)) == 2
    assert counted(tmp_path, log=log) == []
    assert log == ["counting: 2 of 2 units were measured before"]


def test_other_data_are_measured_anew(tmp_path: Path) -> None:
    counted(tmp_path)
    assert len(counted(tmp_path, seed=2)) == 2


def test_a_measurement_that_broke_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [unit.name for unit in subject()[1]]
    with monkeypatch.context() as patched:
        patched.setattr(Counting, "feared", names[1:])
        with pytest.raises(KeyboardInterrupt):
            counted(tmp_path)
    assert names[:1] == ASKED
    assert counted(tmp_path) == names[1:]


@pytest.mark.parametrize("damage", ["", "{", '{"losses": [[1.0], [2.0], [3.0]], "digest": "0"}', '{"losses": 3}'])
def test_a_damaged_entry_is_measured_anew(tmp_path: Path, damage: str) -> None:
    counted(tmp_path)
    victim = sorted(tmp_path.glob("*/*.json"))[0]
    victim.write_text(damage)
    log: list[str] = []
    assert len(counted(tmp_path, log=log)) == 1
    assert "damaged and measured anew" in log[0]
    assert counted(tmp_path) == []
    assert not list(tmp_path.glob("*/.*"))


def test_another_sensitivity_has_other_entries(tmp_path: Path) -> None:
    base, units = subject()
    tables = [measure(read_terms(text), base, units, str(tmp_path)).table() for text in ("output", "kl", "output")]
    assert tables[0] == tables[2]
    assert tables[0] != tables[1]
    assert len(list(tmp_path.iterdir())) == 2


# -- words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("taste", "no sensitivity 'taste'"),
        ("output + taste", "no sensitivity 'taste'"),
        ("fisher(draws=0)", "no number of gradients"),
        ("fisher(luck=1)", "no option 'luck'"),
        ("fisher(draws=1", "brackets"),
        ("x*output", "no factor"),
        ("mask(share=2)", "no share"),
    ],
)
def test_words_that_make_no_sense(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        read_terms(text)


def test_sums_do_not_depend_on_units_of_measurement() -> None:
    base, units = subject()
    one, two = (measure(read_terms(text), base, units) for text in ("output", "weight"))
    both = measure(read_terms("output + 0.5*weight"), base, units).plain()
    means = [float(torch.cat(part.plain()).mean()) for part in (one, two)]
    wanted = [a / means[0] + 0.5 * b / means[1] for a, b in zip(one.plain(), two.plain(), strict=True)]
    assert all(torch.allclose(a, b) for a, b in zip(both, wanted, strict=True))


# -- repair ------------------------------------------------------------------------------------------------------------


def pooled(values: list[float]) -> list[float]:
    """The nearest values that never fall, by pooling adjacent violators."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        blocks.append((value, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (one, first), (two, second) = blocks[-2:]
            blocks[-2:] = [((one * first + two * second) / (first + second), first + second)]
    return [mean for mean, count in blocks for _ in range(count)]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 10), min_size=1, max_size=7))
def test_a_chain_is_repaired_by_the_least_squares(values: list[float]) -> None:
    pairs = [(a, b) for a in range(len(values)) for b in range(a + 1, len(values))]
    found = monotone(torch.tensor(values, dtype=torch.float64), pairs)
    assert torch.allclose(found, torch.tensor(pooled(values), dtype=torch.float64), atol=1e-6)
    assert bool((found.diff() >= 0).all())


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 4)), min_size=1, max_size=6))
def test_a_weight_counts_as_so_many_equal_values(values: list[tuple[float, int]]) -> None:
    pairs = [(at, at + 1) for at in range(len(values) - 1)]
    losses, weights = (torch.tensor(column, dtype=torch.float64) for column in zip(*values, strict=True))
    wanted = torch.tensor(pooled([value for value, count in values for _ in range(count)]), dtype=torch.float64)
    places = weights.long().cumsum(0) - 1
    assert torch.allclose(monotone(losses, pairs, weights), wanted[places], atol=1e-5)


def option(name: str, weight: str, activation: str = "") -> Option:
    inputs = {"weight": QuantSpec.parse(weight)} | ({"input": QuantSpec.parse(activation)} if activation else {})
    return Option(name, {"node": Assignment("linear", inputs)})


def test_options_are_ordered_place_by_place() -> None:
    coarse, fine = "int4 sym block=(1,-1) scale=f32", "int8 sym block=(1,-1) scale=f32"
    values = "int8 sym block=(-1,-1) scale=f32"
    unit = Unit("node", (Option("float"), option("a", fine, values), option("b", coarse, values), option("c", coarse)))
    assert set(orders(unit)) == {(0, 1), (0, 2), (0, 3), (1, 2), (3, 2)}
    small = option("d", "int4 sym block=(1,32) scale=f32")
    other = option("e", "fp4e2m1 sym block=(1,32) scale=f32")
    assert set(orders(Unit("node", (small, option("c", coarse), other)))) == {(0, 1)}


def test_repair_is_told() -> None:
    units = (
        Unit("node", (option("a", "int8 sym block=(1,-1) scale=f32"), option("b", "int4 sym block=(1,-1) scale=f32"))),
    )
    rows = torch.tensor([[3.0, 3.0], [1.0, 1.0]], dtype=torch.float64)
    losses = Losses(units, (1.0,), ((rows,),))
    assert losses.table() == [[2.0, 2.0]]
    assert losses.repaired == "2 of 2 losses were not monotone in bits; repaired, by 0.33 of their unit's largest"
    assert Losses(units, (1.0,), ((rows.flip(0),),)).repaired == ""


# -- stability ---------------------------------------------------------------------------------------------------------


def test_losses_that_no_sample_changes_are_stable() -> None:
    found = stability(lambda draw: [[1.0, 2.0], [0.5, 3.0]], lambda table: (0, 1), 5, 0)
    assert (found.rank, found.other_plans, found.other_units) == (1.0, 0.0, 0.0)


def test_losses_that_hang_on_few_samples_are_not() -> None:
    rows = torch.zeros(4, 8, dtype=torch.float64)
    rows[torch.arange(4), torch.arange(4)] = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    found = stability(
        lambda draw: [rows[:, draw(8)].mean(1).tolist()],
        lambda table: (max(range(4), key=table[0].__getitem__),),
        20,
        0,
    )
    assert found.rank < 0.9
    assert 0 < found.other_plans < 1
    assert "another plan in" in str(found)


def test_rank_correlation_shares_ranks() -> None:
    one, two = torch.tensor([1.0, 2.0, 2.0, 3.0]), torch.tensor([10.0, 20.0, 20.0, 15.0])
    assert spearman(one, one.exp()) == pytest.approx(1.0)
    assert spearman(one, -one) == pytest.approx(-1.0)
    assert spearman(one, two) == pytest.approx(1.5 / 4.5)
    assert torch.equal(resampled(3)(9), resampled(3)(9))


# -- data --------------------------------------------------------------------------------------------------------------


def test_labels_come_with_the_samples_and_are_cut_like_them() -> None:
    pairs = [(noise(4, 32), torch.tensor([3, 1, 2, 0])), (noise(4, 32), torch.tensor([1, 1, 1, 1]))]
    job = prepare(classifier(), "simulation", calibration=pairs, recipe=Recipe("none", ()))
    found = labels_of(job.batches, [list(job.batches[0]), [job.batches[1][0][:2]]])
    assert [None if label is None else label.tolist() for label in found] == [[3, 1, 2, 0], [1, 1]]


def test_labels_come_from_a_data_file(tmp_path: Path) -> None:
    classes = torch.arange(40) % 6
    np.savez(tmp_path / "data.npz", input=noise(40, 32).numpy(), labels=classes.numpy())
    job = prepare(classifier(), "simulation", calibration=tmp_path / "data.npz", recipe=Recipe("none", ()))
    assert [len(batch[0]) for batch in job.batches] == [32, 8]
    found = [label for label in labels_of(job.batches, list(job.batches)) if label is not None]
    assert torch.equal(torch.cat(found), classes)


def test_labels_decide_the_loss() -> None:
    base, units = subject()
    other = replace(base, labels=(torch.zeros(16, dtype=torch.int64),))
    tables = [measure(read_terms("loss_delta"), one, units).plain() for one in (base, other)]
    assert not torch.allclose(torch.cat(tables[0]), torch.cat(tables[1]))


def test_made_up_images_have_the_spectrum_of_photographs() -> None:
    images = natural_noise((8, 3, 32, 32), torch.Generator().manual_seed(0))
    assert torch.allclose(images.mean((-2, -1)), torch.zeros(8, 3), atol=1e-5)
    assert torch.allclose(images.std((-2, -1), correction=0), torch.ones(8, 3), atol=1e-4)
    power = torch.fft.fft2(images).abs().square().mean((0, 1))
    assert 2.5 < float(power[0, 2] / power[0, 4]) < 6.5


def test_losses_can_be_measured_without_data() -> None:
    base, units = subject()
    made = synthetic_batches(base.program, 20)
    assert sum(len(batch[0]) for batch in made) >= 20
    table = measure_table("output", base.program, units, replace(base.ctx, batches=made))
    assert all(row[0] < row[1] < row[2] for row in table)


# -- evolution ---------------------------------------------------------------------------------------------------------


def trials(count: int = 40) -> Trials:
    """Plans whose harm follows the sum of squared weights, whatever the gradients."""
    known = [
        {name: noise(20, seed=unit * 10 + at).double() * (1 + unit) for at, name in enumerate(("weight", "gradient"))}
        for unit in range(5)
    ]
    known = [
        {**parts, "curvature": parts["gradient"].square() * 0 + 1, "virtual": parts["gradient"]} for parts in known
    ]
    table = [[0.0, 0.1, 1.0]] * 5
    draw = torch.Generator().manual_seed(0)
    plans = torch.randint(3, (count, 5), generator=draw).tolist()
    scores = [float(parts["weight"].square().sum()) for parts in known]
    harms = [sum(s * table[u][k] for u, (s, k) in enumerate(zip(scores, plan, strict=True))) for plan in plans]
    return Trials(known, table, plans, torch.tensor(harms, dtype=torch.float64))


@pytest.mark.parametrize("text", [*KNOWN, "mean: virtual.log.exp / weight.softmax"])
def test_formulas_read_back(text: str) -> None:
    assert str(parse_formula(text)) == text


@pytest.mark.parametrize(
    "text", ["", "sum: weight", "sum: weight ? weight", "sum: wait * weight", "all: weight * weight"]
)
def test_text_that_is_no_formula(text: str) -> None:
    with pytest.raises(SpecError, match="formula"):
        parse_formula(text)


def test_evolution_beats_where_it_started_and_repeats() -> None:
    base = trials()
    start = max(value for text in KNOWN if (value := base.fitness(parse_formula(text))) is not None)
    found = evolve(base, 80)
    assert found.fitness >= start
    assert found.fitness > 0.97
    assert evolve(base, 80) == found


def test_formulas_without_usable_scores_are_screened_out() -> None:
    base = trials()
    assert base.fitness(parse_formula("sum: curvature.same * curvature.same")) is None  # all alike
    assert base.fitness(parse_formula("sum: weight.abs - weight.square")) is None  # negative
    one, other = (parse_formula(text) for text in KNOWN[:2])
    assert likeness(one, one) == 1
    assert likeness(one, other) < 1


# -- the pass ----------------------------------------------------------------------------------------------------------


def test_the_pass_keeps_losses_and_tells_how_stable_they_are(tmp_path: Path) -> None:
    log: list[str] = []
    base, units = subject(log=log)
    options = {"schemes": "|".join(SCHEMES), "average_bits": "6", "cache": str(tmp_path), "stability": 3}
    pass_ = make_pass(MixedPrecision, options)
    plans = [[node.meta.get("assignment") for node in pass_.run(base.program.copy(), base.ctx).nodes] for _ in range(2)]
    assert plans[0] == plans[1]
    assert sum("stability over 3 resamples" in line for line in log) == 2
    assert f"output: {len(units)} of {len(units)} units were measured before" in log


def test_the_pass_makes_up_data_when_asked() -> None:
    base, _ = subject()
    pass_ = MixedPrecision(schemes="|".join(SCHEMES), average_bits="6", data="synthetic", samples=16)
    done = pass_.run(base.program.copy(), replace(base.ctx, batches=()))
    assert any("assignment" in node.meta for node in done.nodes)
    with pytest.raises(SpecError, match="no data 'dreams'"):
        make_pass(MixedPrecision, {"data": "dreams"})
