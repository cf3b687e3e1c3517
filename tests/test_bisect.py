"""Bisection: the guilty step in few evaluations, the place in it, programs between two."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.bisecting import Guilty, Steps, bisect, metric_judge
from qcompiler.cli.app import run
from qcompiler.compiler import parse
from qcompiler.errors import InputError, SpecError
from qcompiler.hybrid import region_text, seam, without_unset
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Program, Stage
from qcompiler.job import backends
from qcompiler.pipeline import Context, Lossy, Options, Pass, Promise, Step, run_passes
from qcompiler.target import Target
from qcompiler.targets import load_target

LENGTH = 40
SAMPLE = [torch.linspace(-2, 3, 12).reshape(3, 4)]


def target() -> Target:
    return load_target("simulation", backends())


def chain(length: int = LENGTH) -> Program:
    lines = ["program @chain stage=canonical {", "  input %x : f32[3,4]"]
    value = "x"
    for index in range(length):
        lines.append(f"  %v{index} = aten.mul.Tensor %{value}, 1.5 : f32[3,4]  ; from block.{index}")
        value = f"v{index}"
    return parse("\n".join([*lines, f"  return %{value}", "}"]) + "\n")


@dataclass(frozen=True)
class Spread:
    """Multiplies in two halves at some places, wrongly at others."""

    places: tuple[int, ...]
    wrong: tuple[int, ...] = ()
    name: ClassVar[str] = "spread"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Lossy()

    def run(self, program: Program, ctx: Context) -> Program:
        for place in self.places:
            node = program.node(f"v{place}")
            half = program.before(node, self.name).call("aten.mul.Tensor", node.args[0], 0.5, name=f"half{place}")
            program.set_args(node, (half, 4.0 if place in self.wrong else 3.0))
        return program


def states(program: Program, passes: Sequence[Pass]) -> Steps:
    programs = [program]

    def show(step: Step, after: Program) -> None:
        programs.append(after)

    run_passes(program, passes, Context(target()), options=Options(check="off", show=show))
    return Steps(range(len(programs)), lambda number: programs[number])


@pytest.mark.parametrize("guilty", [0, 1, 6, 19, 20, 31, 38, 39])
def test_a_harmful_pass_among_forty_is_found_in_seven_evaluations(guilty: int) -> None:
    passes = [Spread((index,), (index,) if index == guilty else ()) for index in range(LENGTH)]
    steps = states(chain(), passes)
    found = bisect(steps, metric_judge("sqnr>30", steps.program(0), SAMPLE, {}))
    assert isinstance(found, Guilty)
    assert found.number == guilty + 1
    assert len(found.trials) <= 7
    assert found.site is not None
    assert found.site.value == f"v{guilty}"
    assert found.site.module == f"block.{guilty}"
    assert found.site_trials == ()


@pytest.mark.parametrize("guilty", [0, 13, 39])
def test_the_place_inside_a_pass_is_found_by_halving(guilty: int) -> None:
    steps = states(chain(), [Spread(tuple(range(LENGTH)), (guilty,))])
    found = bisect(steps, metric_judge("max_error<1e-3", steps.program(0), SAMPLE, {}))
    assert isinstance(found, Guilty)
    assert found.sites == LENGTH
    assert found.site is not None
    assert found.site.value == f"v{guilty}"
    assert len(found.site_trials) <= 6
    text = region_text(found.seam.after, found.site.after)
    assert text.splitlines()[-2].startswith(f"%half{guilty} = aten.mul.Tensor")
    assert "4.0" in text


def test_nothing_is_guilty_when_the_end_is_good() -> None:
    steps = states(chain(4), [Spread((index,)) for index in range(4)])
    found = bisect(steps, metric_judge("cosine>0.999", steps.program(0), SAMPLE, {}))
    assert not isinstance(found, Guilty)
    assert [trial.verdict.good for trial in found] == [True]


def test_a_start_that_fails_already_is_said_so() -> None:
    steps = states(chain(2), [Spread((0,)), Spread((1,))])
    judge = metric_judge("sqnr>1000", steps.program(0), SAMPLE, {})
    with pytest.raises(InputError, match="before any pass"):
        bisect(steps, judge, trusted_start=False)


@pytest.mark.parametrize("text", ["sqnr", "sqnr=30", "beauty>3", "sqnr>many", "sqnr>1-2"])
def test_a_metric_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="no check"):
        metric_judge(text, chain(1), SAMPLE, {})


@settings(deadline=None, max_examples=30)
@given(taken=st.sets(st.integers(0, 7)), places=st.sets(st.integers(0, 7), min_size=1))
def test_a_hybrid_takes_just_the_chosen_edits(taken: set[int], places: set[int]) -> None:
    before = chain(8)
    after = Spread(tuple(places), tuple(places)).run(before.copy(), Context(target()))
    found = seam(before, after)
    assert {site.value for site in found.sites} == {f"v{place}" for place in places}
    (value,) = evaluate(found.hybrid([f"v{place}" for place in taken & places]), SAMPLE)
    wanted = SAMPLE[0] * 1.5**8 * (2 / 1.5) ** len(taken & places)
    torch.testing.assert_close(value, wanted)


def test_weights_that_a_pass_changed_are_edits_of_their_readers() -> None:
    text = """program @p stage=canonical {
  input %x : f32[2,4]
  param %w : f32[4,4] = normal(seed=1)
  %a = aten.linear %x, %w, none : f32[2,4]
  %b = aten.relu %a : f32[2,4]
  return %b
}
"""
    before, after = parse(text), parse(text.replace("seed=1", "seed=2"))
    found = seam(before, after)
    assert [site.value for site in found.sites] == ["a"]
    (old,) = evaluate(found.hybrid([]), [torch.ones(2, 4)])
    (new,) = evaluate(found.hybrid(["a"]), [torch.ones(2, 4)])
    assert torch.equal(old, evaluate(before, [torch.ones(2, 4)])[0])
    assert torch.equal(new, evaluate(after, [torch.ones(2, 4)])[0])


def test_values_that_moved_on_purpose_are_no_cuts() -> None:
    before = chain(3)
    after = parse(str(before).replace("%x, 1.5", "%x, 3.0").replace("%v0, 1.5", "%v0, 0.75"))
    assert [site.value for site in seam(before, after).sites] == ["v0", "v1"]
    (site,) = seam(before, after, moved=["v0"]).sites
    assert (site.value, site.before, site.after) == ("v1", ("v0", "v1"), ("v0", "v1"))
    assert torch.equal(evaluate(seam(before, after).hybrid([]), SAMPLE)[0], evaluate(before, SAMPLE)[0])


def test_grids_that_are_not_found_yet_let_everything_through() -> None:
    program = parse(
        """spec @q = int8 sym block=(-1,-1) scale=f32
program @p stage=quantized {
  input %x : f32[3,4]
  param %s : f32[1,1] = unset()
  param %t : f32[1,1] = values(0.5)
  %q = qc.quantize %x, %s, none : @q[3,4]
  %d = qc.dequantize %q, %s, none : f32[3,4]
  %r = qc.quantize %d, %t, none : @q[3,4]
  %e = qc.dequantize %r, %t, none : f32[3,4]
  return %e
}
"""
    )
    (value,) = evaluate(without_unset(program), SAMPLE)
    assert torch.equal(value, (SAMPLE[0] / 0.5).round() * 0.5)


# -- the command ----------------------------------------------------------------------------------------------------

QIR = """program @net stage=traced {
  input %x : f32[4,8]
  param %w : f32[8,8] = normal(seed=1)
  param %v : f32[6,8] = normal(seed=2)
  %linear = aten.linear %x, %w, none : f32[4,8]  ; from first
  %relu = aten.relu %linear : f32[4,8]
  %linear_1 = aten.linear %relu, %v, none : f32[4,6]  ; from second
  return %linear_1
}
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("bisect")
    (home / "net.qir").write_text(QIR)
    line = ["compile", f"{home}/net.qir", "--recipe", "w8a16", "--target", "simulation", "--progress", "none"]
    for weights in ("all", "digests"):
        assert run([*line, "--dump-dir", f"{home}/{weights}", "--dump-weights", weights]) == 0
    return home


def test_the_command_names_step_and_place(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bisect", f"{recorded}/all", "--metric", "sqnr>100", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["step"]["pass"].startswith("nearest")
    assert found["site"]["module"] == "first"
    assert "qc.dequantize" in found["site"]["after"]
    assert all({"what", "good", "value"} == set(trial) for trial in found["trials"])
    assert run(["bisect", f"{recorded}/all", "--metric", "sqnr>100"]) == 0
    text = capsys.readouterr().out
    assert "breaks the check" in text
    assert "\n+ " in text


def test_the_command_takes_a_script(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["import torch", "def check(model):", "    return bool((model(torch.zeros(4, 8)) == 0).all())"]
    (recorded / "script.py").write_text("\n".join(lines))
    assert run(["bisect", f"{recorded}/all", "--check", f"{recorded}/script.py"]) == 0
    assert "nothing breaks the check" in capsys.readouterr().out


def test_a_run_without_weights_cannot_be_bisected(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bisect", f"{recorded}/digests", "--metric", "sqnr>100"]) == 1
    assert "--dump-weights all" in capsys.readouterr().err


def test_the_command_wants_one_check(recorded: Path) -> None:
    assert run(["bisect", f"{recorded}/all"]) == 2
