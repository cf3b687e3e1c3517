"""The why command: what passes left alone, and what would make them act."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from qcompiler.cli.app import run
from qcompiler.compiler import parse
from qcompiler.ir.program import Program
from qcompiler.job import backends
from qcompiler.pass_text import parse_passes
from qcompiler.passes.recipes import catalogue
from qcompiler.pipeline import Context, Options, Step, run_passes
from qcompiler.reasons import site_answers, sites
from qcompiler.targets import load_target
from tests.cli_tools import make_folder, make_run

NORM = """program @p stage=traced {
  input %x : f32[2,4,3]
  param %mean : f32[4] = zeros()
  param %spread : f32[4] = ones()
  %norm = aten.batch_norm %x, none, none, %mean, %spread, false, 0.1, 1e-05, false : f32[2,4,3]  ; from block.norm
  %relu = aten.relu %norm : f32[2,4,3]
  return %relu
}
"""
LAYERS = """program @p stage=canonical {
  input %x : f32[2,8]
  param %w : f32[8,8] = normal(seed=1)
  param %v : f32[8,8] = normal(seed=2)
  %first = aten.linear %x, %w, none : f32[2,8]  ; from block.0.fc
  %sin = aten.sin %first : f32[2,8]  ; from block.0
  %second = aten.linear %sin, %v, none : f32[2,8]  ; from block.1.fc
  return %second
}
"""


def ran(text: str, passes: str, target: str = "onnxruntime") -> tuple[Program, Program, Step]:
    """The program before the last pass, the one after it, and what was noted."""
    programs: list[Program] = [parse(text)]

    def show(step: Step, program: Program) -> None:
        programs.append(program)

    made: Sequence = parse_passes(passes, catalogue())
    options = Options(check="off", show=show)
    _, steps = run_passes(programs[0], made, Context(load_target(target, backends())), options=options)
    return programs[-2], programs[-1], steps[-1]


def test_a_norm_that_cannot_be_folded_says_why() -> None:
    _, _, step = ran(NORM, "fold_batch_norm")
    (refusal,) = step.refusals
    assert refusal.node == "norm"
    assert "in front of it stands %x, no operator" in refusal.reason
    assert "behind it, %relu, aten.relu, cannot take it" in refusal.reason
    assert refusal.mend


def test_an_addend_that_is_no_bias_says_why() -> None:
    text = LAYERS.replace("stage=canonical", "stage=traced").replace("%x, %w, none", "%x, %w, %b")
    text = text.replace("  param %v", "  param %b : f32[8] = ones()\n  param %v").replace(
        "aten.sin %first", "aten.add.Tensor %first, %b"
    )
    _, _, step = ran(text, "fuse_linear_bias")
    assert [(refusal.node, refusal.reason) for refusal in step.refusals] == [("sin", "%first has a bias already")]


def test_a_root_that_is_no_norm_says_why() -> None:
    text = """program @p stage=traced {
  input %x : f32[2,8]
  %sq = aten.pow.Tensor_Scalar %x, 2 : f32[2,8]
  %mean = aten.mean.dim %sq, [-1], true : f32[2,1]
  %eps = aten.add.Tensor %mean, 1e-05 : f32[2,1]
  %root = aten.rsqrt %eps : f32[2,1]
  return %root
}
"""
    _, _, step = ran(text, "normalize,name_norms")
    assert [refusal.node for refusal in step.refusals] == ["root"]


def test_operators_without_a_kernel_are_told_and_layers_first() -> None:
    before, after, step = ran(LAYERS, "assign{scheme=w8a8, keep=first}")
    assert {refusal.node for refusal in step.refusals} == {"first", "sin"}
    answers = site_answers(before, after, step, "%sin", load_target("onnxruntime", backends()))
    (answer,) = answers
    assert answer.refused
    assert answer.reason == "onnxruntime has no low-bit kernel for aten.sin"
    assert "targets" in answer.mend


def test_a_layer_that_no_kernel_takes_shows_what_they_take() -> None:
    before, after, step = ran(LAYERS, "assign{scheme=w8a8, keep=first}")
    (answer,) = site_answers(before, after, step, "block.0.fc", load_target("onnxruntime", backends()))
    assert answer.reason == "kept in float by the recipe"
    assert any(line.startswith("linear takes input uint8 asym tensor") for line in answer.details)


def test_what_was_not_refused_says_what_became_of_it() -> None:
    before, after, step = ran(LAYERS, "assign{scheme=w8a8}")
    (answer,) = site_answers(before, after, step, "second", load_target("onnxruntime", backends()))
    assert not answer.refused
    assert answer.reason == "it got kernel linear"
    before, after, step = ran(LAYERS, "assign{scheme=w8a8},apply_plan")
    (answer,) = site_answers(before, after, step, "second", load_target("onnxruntime", backends()))
    assert answer.reason == "the pass edited it"
    assert answer.details[0].startswith("aten.linear %sin, %v")
    assert answer.details[1].startswith("-> aten.linear %sin_dq, %v_dq")


def test_a_transform_shows_what_blocks_a_change_of_basis() -> None:
    before, after, step = ran(LAYERS, "assign{scheme=w8a8_dynamic},rotate", "simulation")
    answers = site_answers(before, after, step, "second", load_target("simulation", backends()))
    assert any("%sin" in line for answer in answers for line in answer.details)


def test_a_silent_pass_names_the_nearest_refusals() -> None:
    before, after, step = ran(NORM, "fold_batch_norm")
    (answer,) = site_answers(before, after, step, "norm", load_target("onnxruntime", backends()))
    assert answer.refused
    text = NORM.replace("return %relu", "%neg = aten.neg %relu : f32[2,4,3]\n  return %neg")
    before, after, step = ran(text, "fold_batch_norm")
    (answer,) = site_answers(before, after, step, "neg", load_target("onnxruntime", backends()))
    assert answer.details[0].startswith("%norm: ")


def test_sites_are_nodes_modules_or_patterns() -> None:
    program = parse(LAYERS)
    assert [node.name for node in sites(program, "%first")] == ["first"]
    assert [node.name for node in sites(program, "block.*.fc")] == ["first", "second"]
    assert [node.name for node in sites(program, "block.0")] == ["first", "sin"]
    with pytest.raises(Exception, match="is called 'nowhere'"):
        sites(program, "nowhere")


# -- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An artefact and its run, in which one layer stays in float."""
    home = make_folder(tmp_path_factory.mktemp("why"))
    (home / "recipe.yaml").write_text("name: mine\npasses: ['assign{keep=4}', apply_plan, calibrate, nearest]\n")
    return make_run(home, "--recipe", f"{home}/recipe.yaml")


def test_a_run_tells_what_a_pass_refused(made: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["why", str(made[1]), "assign", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    kept = next(answer for answer in found if answer["node"] == "linear")
    assert kept["reason"] == "kept in float by the recipe"
    assert kept["op"] == "aten.linear"
    assert run(["why", str(made[1]), "assign", "4"]) == 0
    text = capsys.readouterr().out
    assert "%linear aten.linear of module 4" in text
    assert "mend: " in text
    assert run(["why", str(made[1]), "fuse_permutes", "4"]) == 0
    assert capsys.readouterr().out.count("  fuse_permutes: ") == 2
    assert run(["why", str(made[1]), "nearest"]) == 0
    assert "refused nothing" in capsys.readouterr().out


def test_an_artefact_tells_what_its_plan_refused(made: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["why", str(made[0]), "assign"]) == 0
    assert "kept in float by the recipe" in capsys.readouterr().out
    assert run(["why", str(made[0]), "nearest"]) == 1
    assert "run folder" in capsys.readouterr().err


def test_a_pass_or_site_that_is_not_there_is_said_so(
    made: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["why", str(made[1]), "dance"]) == 2
    assert run(["why", str(made[1]), "assign", "nowhere"]) == 1
    assert "provenance" in capsys.readouterr().err


ABSORBED = """program @p stage=canonical {
  input %x : f32[2,3,6,6]
  param %w : f32[4,3,3,3] = normal(seed=1)
  %conv = aten.conv2d %x, %w, none : f32[2,4,4,4]  ; from block.conv
  %relu = aten.relu %conv : f32[2,4,4,4]  ; from block.act
  %sin = aten.sin %relu : f32[2,4,4,4]
  return %sin
}
"""


def test_what_a_kernel_absorbs_is_not_refused() -> None:
    before, after, step = ran(ABSORBED, "assign{scheme=w8a8}")
    assert [refusal.node for refusal in step.refusals] == ["sin"]
    (answer,) = site_answers(before, after, step, "relu", load_target("onnxruntime", backends()))
    assert not answer.refused
    assert answer.reason == "the kernel of %conv computes it too"
