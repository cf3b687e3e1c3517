"""The dump command: any step, any part, any format, any column."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from qcompiler.cli.app import run
from qcompiler.cli.steps import select_steps
from qcompiler.compiler import parse
from qcompiler.errors import InputError
from qcompiler.job import prepare
from qcompiler.view.dot import dot
from qcompiler.view.facts import facts
from qcompiler.view.select import Selection, selected
from tests.cli_tools import TEXT, make_folder, make_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module, its data, an ONNX file and a program."""
    return make_folder(tmp_path_factory.mktemp("cli"))


@pytest.fixture(scope="module")
def made(folder: Path) -> tuple[Path, Path]:
    """The compiled module and the folder of its run."""
    return make_run(folder)


@pytest.fixture(scope="module")
def artefact(made: tuple[Path, Path]) -> Path:
    return made[0]


@pytest.fixture(scope="module")
def kept(made: tuple[Path, Path]) -> Path:
    return made[1]


def dumped(capsys: pytest.CaptureFixture[str], *line: object) -> str:
    assert run(["dump", *map(str, line)]) == 0
    return capsys.readouterr().out


def test_dump_all_prints_every_step_and_each_parses(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dump", f"{folder}/net.onnx", "--recipe", "w8a16", "--after", "all"]) == 0
    texts = [part for part in capsys.readouterr().out.split("\n\n") if part.strip()]
    assert len(texts) == len(prepare(folder / "net.onnx", recipe="w8a16").passes) + 1
    assert parse(texts[0]).stage == "traced"
    assert parse(texts[-1]).stage == "quantized"


def test_dump_is_canonical_by_default(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dump", f"{folder}/net.py:build", "--inputs", f"{folder}/one.npz"]) == 0
    text = capsys.readouterr().out
    assert parse(text).stage == "canonical"
    assert "batch_norm" not in text


def test_dump_runs_passes_on_a_program(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    passes = "assign{scheme=w8a16, keep=nothing_there*|linear},apply_plan"
    assert run(["dump", f"{folder}/tiny.qir", "--passes", passes]) == 1
    assert run(["dump", f"{folder}/tiny.qir", "--passes", "assign{scheme=w8a16},apply_plan"]) == 0
    assert "qc.quantize %w" in capsys.readouterr().out


def test_dump_prints_a_program_as_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dump", f"{folder}/tiny.qir"]) == 0
    assert capsys.readouterr().out.strip().endswith(TEXT.strip())


def test_dump_prints_the_program_of_an_artefact(artefact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dump", str(artefact)]) == 0
    assert "stage=lowered" in capsys.readouterr().out


def test_dump_json_holds_the_texts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dump", f"{folder}/net.onnx", "--after", "1", "--json"]) == 0
    (step,) = json.loads(capsys.readouterr().out)
    assert step["number"] == 1
    assert parse(step["program"]).stage == "traced"


def test_steps_are_chosen_by_name_number_or_all() -> None:
    passes = ["assign", "apply_plan", "nearest", "nearest"]
    assert select_steps("nearest", passes) == {3, 4}
    assert select_steps("0", passes) == {0}
    assert select_steps("all", passes) == {0, 1, 2, 3, 4}
    for wrong in ("5", "-1", "nearly"):
        with pytest.raises(Exception, match="the steps are 0"):
            select_steps(wrong, passes)


# -- run folders, parts, columns and formats ------------------------------------------------------------------------


def test_dump_reads_any_step_of_a_run(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(dumped(capsys, kept, "--after", "0")).stage == "traced"
    assert parse(dumped(capsys, kept, "--after", "apply_plan")).stage == "quantized"
    assert "unset()" not in dumped(capsys, kept)


def test_a_run_has_passes_of_its_own(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dump", str(kept), "--recipe", "w8a16"]) == 2
    assert "replay" in capsys.readouterr().err


GRAPH = """program @g stage=canonical {
  input %x : f32[2,4]
  param %w : f32[4,4] = normal(seed=1)
  %a = aten.linear %x, %w, none : f32[2,4]  ; from block.0.fc
  %b = aten.relu %a : f32[2,4]  ; from block.0
  %c, %d = aten.split_with_sizes %b, [2, 2], -1 : (f32[2,2], f32[2,2])  ; from block.1
  %e = aten.neg %c : f32[2,2]  ; from block.1
  %f = aten.exp %d : f32[2,2]  ; from block.10
  return %e, %f
}
"""


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        (Selection(around="b", depth=0), {"b"}),
        (Selection(around="b", depth=1), {"a", "b", "c__all", "w"}),
        (Selection(around="%e", depth=1), {"e", "c__all"}),
        (Selection(first="c"), {"e", "c__all"}),
        (Selection(last="a"), {"x", "a", "w"}),
        (Selection(first="b", last="f"), {"b", "c__all", "f"}),
        (Selection(module="block.1"), {"c__all", "e"}),
        (Selection(module="block.0.fc|block.10"), {"a", "w", "f"}),
        (Selection(module="block"), {"a", "w", "b", "c__all", "e", "f"}),
        (Selection(op="linear|ne*"), {"a", "w", "e"}),
        (Selection(op="aten.exp", module="block.0"), set()),
    ],
)
def test_parts_of_a_program(selection: Selection, names: set[str]) -> None:
    program = parse(GRAPH)
    if names:
        found = selected(program, selection)
        assert found is not None
        assert {name for name in found if name != "d" and name != "c"} == names
    else:
        with pytest.raises(InputError, match="no node"):
            selected(program, selection)


def test_everything_is_selected_when_nothing_is_asked() -> None:
    assert selected(parse(GRAPH), Selection()) is None
    with pytest.raises(InputError, match="no node '%nowhere'"):
        selected(parse(GRAPH), Selection(around="nowhere"))


def test_dump_prints_only_the_selection(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = dumped(capsys, kept, "--op", "linear")
    lines = [line.split(" = ")[0].strip() for line in text.splitlines() if line.startswith("  %")]
    assert lines == ["%linear"]
    assert "param %_4_bias" in text
    assert "input " not in text


def test_columns_are_comments_so_that_the_text_still_parses(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = dumped(capsys, kept, "--with", "specs,statistics,errors,costs,provenance")
    plain = dumped(capsys, kept)
    assert str(parse(text)) == str(parse(plain))
    assert "# specs: kernel linear" in text
    assert "# errors: sqnr_db" in text
    assert "products 1024" in text


def test_statistics_and_errors_are_those_of_the_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "g.qir").write_text(GRAPH)
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 4), np.float32))
    line = [tmp_path / "g.qir", "--inputs", tmp_path / "x.npz", "--with", "statistics,errors", "--json"]
    (step,) = json.loads(dumped(capsys, *line))
    nodes = {node["name"]: node for node in step["nodes"]}
    assert nodes["e"]["errors"] == {"sqnr_db": 300.0}
    assert set(nodes["b"]["statistics"]) == {"min", "max", "mean", "deviation"}


def test_symmetries_are_a_column_of_canonical_programs(
    tmp_path: Path, kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "g.qir").write_text(GRAPH.replace("aten.relu %a : f32[2,4]", "aten.linear %a, %w, none : f32[2,4]"))
    assert "# symmetries: " in dumped(capsys, tmp_path / "g.qir", "--with", "symmetries")
    assert run(["dump", str(kept), "--with", "symmetries"]) == 1
    assert "canonical" in capsys.readouterr().err


def test_an_unknown_column_is_refused(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dump", str(kept), "--with", "beauty"]) == 2
    assert "no column 'beauty'" in capsys.readouterr().err


def test_json_has_operands_and_attributes() -> None:
    nodes = {node.name: node for node in facts(parse(GRAPH))}
    assert [(edge.source, edge.output, edge.argument) for edge in nodes["f"].edges] == [("c__all", 1, "self")]
    assert [edge.argument for edge in nodes["a"].edges] == ["input", "weight"]
    assert nodes["c__all"].types == ("f32[2,2]", "f32[2,2]")
    assert nodes["c__all"].attributes["split_sizes"] == "[2, 2]"
    assert nodes["w"].attributes["value"] == "normal(seed=1)"
    json.dumps([node.to_json() for node in nodes.values()])


def test_dot_has_a_box_per_operator_in_frames_per_module() -> None:
    text = dot('the "graph"', facts(parse(GRAPH)))
    assert text.count(" -> ") == 5
    assert 'subgraph "cluster_block.0.fc" {' in text
    assert text.count("{") == text.count("}")
    assert '"w"' not in text
    assert '"w" -> "a"' in dot("g", facts(parse(GRAPH)), weights=True)


def test_model_explorer_edges_lead_to_nodes_that_are_there(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(dumped(capsys, kept, "--after", "all", "--format", "model-explorer"))
    assert found["label"] == "run"
    assert len(found["graphs"]) == len(list(kept.glob("*.qir")))
    for graph in found["graphs"]:
        ids = {node["id"] for node in graph["nodes"]}
        sources = {edge["sourceNodeId"] for node in graph["nodes"] for edge in node["incomingEdges"]}
        assert sources <= ids
        assert all(isinstance(item["value"], str) for node in graph["nodes"] for item in node["attrs"])


def test_the_page_is_that_of_an_artefact(made: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert dumped(capsys, made[0], "--format", "html").strip() == (made[0] / "report.html").read_text().strip()


def test_around_takes_the_first_operator_of_a_module() -> None:
    text = """program @p stage=canonical {
  input %x : f32[2]
  %a = aten.sin %x : f32[2]
  %b = aten.relu %a : f32[2]  ; from net.block.act
  %c = aten.sin %b : f32[2]  ; from net.block.out
  return %c
}
"""
    program = parse(text)
    assert selected(program, Selection(around="net.block.act", depth=0)) == {"b"}
    assert selected(program, Selection(around="net.block", depth=0)) == {"b"}
    with pytest.raises(InputError, match=r"no node '%net\.other'"):
        selected(program, Selection(around="net.other", depth=0))
