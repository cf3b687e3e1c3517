"""States: what a model writes to its buffers goes from call to call, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import qcompiler
from qcompiler.artifact import Artifact
from qcompiler.data import Inputs, calibration_batches, example_from, first_call
from qcompiler.errors import InputError, ParseError, UnsupportedError
from qcompiler.ir.interp import evaluate
from qcompiler.ir.pairing import paired
from qcompiler.ir.program import Program
from qcompiler.ir.states import first_values
from qcompiler.ir.verify import problems
from qcompiler.passes.recipes import Recipe
from qcompiler.weights import read_program, write_program
from tests.cached_models import LENGTH, Decoder, Write, sentence, steps, whole

PLAIN = Recipe.of("plain", ["apply_plan"])
COUNTER = """
program @counter stage=canonical {
  input %x : f32[2]
  state %seen "seen.total" : f32[2] = zeros()
  state %calls : i64[1] = values(5)
  %add = aten.add.Tensor %seen, %x : f32[2]
  %after = aten.add.Tensor %calls, 1 : i64[1]
  update %seen = %add
  update %calls = %after
  return %add
}
"""


class Sums(nn.Module):
    """Adds up what it is called with, from a start that is not zero."""

    total: Tensor

    def __init__(self, size: int = 12) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(size, size)
        self.register_buffer("total", torch.linspace(-1, 1, size))

    def forward(self, x: Tensor) -> Tensor:
        self.total += x.sum(0)
        return self.linear(x + self.total)


def counter() -> Program:
    return qcompiler.parse(COUNTER)


def sums(target: str = "onnxruntime") -> Artifact:
    return qcompiler.compile(Sums().eval(), target, inputs=(torch.ones(2, 12),), recipe=PLAIN)


def continued(program: Program, calls: list[tuple[Tensor, ...]]) -> list[Tensor]:
    """The first result of calls that follow each other."""
    values, found = first_values(program), []
    for call in calls:
        result, *values = evaluate(program, [*call, *values])
        found.append(result)
    return found


@pytest.mark.parametrize("write", ["index_copy", "index_put"])
def test_calls_of_one_token_are_one_call_of_all(write: Write) -> None:
    tokens = sentence()
    program = qcompiler.trace(Decoder(write, 1).eval(), steps(tokens)[0], dynamic="none")
    found = torch.cat(continued(program, list(steps(tokens))), 1)
    torch.testing.assert_close(found, whole(tokens, 1), rtol=1e-5, atol=1e-5)


def test_an_exported_program_has_states_too() -> None:
    exported = torch.export.export(Sums().eval(), (torch.ones(2, 12),))
    assert list(qcompiler.trace(exported).states) == ["total"]


def test_a_tensor_that_is_no_buffer_is_refused() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.total = torch.zeros(12)

        def forward(self, x: Tensor) -> Tensor:
            return self.total.add_(x) * 2

    with pytest.raises(UnsupportedError, match=r"_model\.total is mutated") as caught:
        qcompiler.trace(Hidden(), (torch.ones(12),))
    assert "buffer" in caught.value.mend


def test_the_model_keeps_its_own_buffers() -> None:
    model = Sums().eval()
    before = model.total.clone()
    qcompiler.trace(model, (torch.ones(2, 12),)).run(torch.ones(2, 12))
    assert torch.equal(model.total, before)


def test_every_run_of_a_program_is_a_first_call() -> None:
    program = counter()
    assert torch.equal(program.run(torch.ones(2)), program.run(torch.ones(2)))  # pyright: ignore[reportArgumentType]


def test_prints_and_parses() -> None:
    program = counter()
    assert str(program).split() == COUNTER.split()
    assert str(qcompiler.parse(str(program))) == str(program)


def test_an_update_per_state_is_wanted() -> None:
    with pytest.raises(ParseError, match="states calls have no update"):
        qcompiler.parse(COUNTER.replace("  update %calls = %after\n", ""))


def test_an_update_of_another_type_is_a_fault() -> None:
    program = counter()
    program.set_outputs([*program.outputs[:-1], program.outputs[0]])
    assert [text for _, text in problems(program)] == ["%add is not of the type of state %calls"]


def test_a_copy_has_states_of_its_own() -> None:
    program = counter()
    program.copy().states.clear()
    assert list(program.states) == ["seen.total", "calls"]


def test_first_values_are_written_and_read(tmp_path: Path) -> None:
    program = qcompiler.trace(Sums().eval(), (torch.ones(2, 12),))
    write_program(program, tmp_path)
    (value,) = first_values(read_program(tmp_path))
    assert torch.equal(value, torch.linspace(-1, 1, 12))


@pytest.mark.parametrize("target", ["onnxruntime", "simulation"])
def test_an_artefact_goes_on_until_it_is_reset(target: str) -> None:
    artifact, x = sums(target), torch.rand(2, 12)
    model = Sums().eval()
    with torch.no_grad():
        wanted = [model(x) for _ in range(3)]
    for _ in range(2):
        found = [artifact(x) for _ in range(3)]
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        artifact.reset()


def test_the_simulation_has_states_of_its_own() -> None:
    artifact, x = sums(), torch.rand(2, 12)
    called = [artifact(x), artifact(x)]
    torch.testing.assert_close([artifact.simulate(x), artifact.simulate(x)], called, rtol=1e-5, atol=1e-5)


def test_artefacts_share_no_states(tmp_path: Path) -> None:
    artifact, x = sums(), torch.rand(2, 12)
    first = artifact(x)
    saved = artifact.save(tmp_path / "saved")
    assert torch.equal(saved(x), first)  # pyright: ignore[reportArgumentType]
    assert torch.equal(qcompiler.load(tmp_path / "saved")(x), first)  # pyright: ignore[reportArgumentType]


class Keeps(nn.Module):
    """Gives what it was called with before, and the sum of all."""

    last: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(3))
        self.register_buffer("total", torch.zeros(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        before = self.last.clone()
        self.last.copy_(x)
        self.total += x
        return before, self.total


def test_what_a_caller_writes_to_its_tensors_changes_no_state() -> None:
    made = qcompiler.compile(Keeps().eval(), inputs=(torch.ones(3),), recipe=PLAIN)
    for call in (made, made.simulate):
        x = torch.ones(3)
        _, total = call(x)  # pyright: ignore[reportGeneralTypeIssues]
        x.fill_(5)
        total.zero_()
        assert [value.tolist() for value in call(x)] == [[1, 1, 1], [6, 6, 6]]  # pyright: ignore[reportGeneralTypeIssues]


def test_a_model_without_states_has_nothing_to_reset() -> None:
    artifact = qcompiler.compile(nn.Linear(4, 4).eval(), inputs=(torch.ones(2, 4),), recipe=PLAIN)
    with pytest.raises(InputError, match="nothing to reset"):
        artifact.reset()


def test_onnx_has_them_as_past_and_present() -> None:
    graph = onnx.load(str(sums().onnx)).graph
    assert [value.name for value in graph.input] == ["x", "past.total"]
    assert [value.name for value in graph.output] == ["output_0", "present.total"]


def test_calibration_samples_follow_each_other_until_none() -> None:
    batches = calibration_batches(
        counter(), [Inputs(torch.ones(2)), Inputs(torch.ones(2)), None, Inputs(torch.ones(2))]
    )
    assert [int(batch[2]) for batch in batches] == [5, 6, 5]
    assert [batch[1].tolist() for batch in batches] == [[0, 0], [1, 1], [0, 0]]


def test_ranges_are_found_on_full_caches() -> None:
    texts = [steps(sentence(seed=seed)) for seed in range(4)]
    calls = [call for text in texts for call in (None, *text)]
    made = qcompiler.compile(
        Decoder(layers=1).eval(), inputs=texts[0][0], calibration=calls, recipe="w8a8", dynamic="none"
    )
    assert made.report.sqnr_db is not None
    assert made.report.sqnr_db > 25
    found = torch.cat([made(*call) for call in texts[0]], 1)  # pyright: ignore[reportArgumentType, reportCallIssue]
    wanted = whole(sentence(seed=0), layers=1)
    assert found.shape == (1, LENGTH, wanted.shape[-1])
    assert float((found - wanted).norm() / wanted.norm()) < 0.03


class Passes(nn.Module):
    """Takes and gives its cache itself."""

    def forward(self, past: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        total = past["total"] + x
        return {"mean": total.mean(0), "present.total": total}


def test_inputs_become_states_by_name() -> None:
    made = qcompiler.compile(
        Passes(),
        inputs=({"total": torch.zeros(2, 4)}, torch.ones(2, 4)),
        recipe=PLAIN,
        dynamic="none",
        states={"past.total": "present.total"},
    )
    found = [made(x=torch.ones(2, 4))["mean"].tolist() for _ in range(2)]  # pyright: ignore[reportIndexIssue]
    assert found == [[1, 1, 1, 1], [2, 2, 2, 2]]


def test_an_onnx_model_keeps_what_it_is_told_to(tmp_path: Path) -> None:
    total = onnx.helper.make_node("Add", ["past", "x"], ["present"])
    twice = onnx.helper.make_node("Add", ["present", "present"], ["y"])
    names = ("past", "x", "y", "present")
    ports = {name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [3]) for name in names}
    graph = onnx.helper.make_graph([total, twice], "sums", [ports["past"], ports["x"]], [ports["present"], ports["y"]])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)]), tmp_path / "m.onnx")
    made = qcompiler.compile(tmp_path / "m.onnx", recipe=PLAIN, states={"past": "present"})
    assert [made(torch.ones(3))["y"].tolist() for _ in range(2)] == [[2, 2, 2], [4, 4, 4]]  # pyright: ignore[reportIndexIssue]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ({"passed": "1"}, "the input 'passed' is not there"),
        ({"x": "7"}, "the result '7' is not there"),
        ({"x": "1", "y": "1"}, "the result '1' is named twice"),
        ({"x": "0"}, "%total is not of the type of state %x"),
    ],
)
def test_pairs_that_do_not_fit_are_named(pairs: dict[str, str], message: str) -> None:
    program = qcompiler.parse("""
program @pairs stage=traced {
  input %x : f32[2,3]
  input %y : f32[2,3]
  %total = aten.sum.dim_IntList %x, [0] : f32[3]
  %add = aten.add.Tensor %x, %y : f32[2,3]
  return %total, %add
}""")
    with pytest.raises(InputError, match=message):
        paired(program, pairs)


class Result(NamedTuple):
    y: Tensor
    total: Tensor


def test_a_class_that_wants_all_its_fields_becomes_a_dict() -> None:
    class Model(nn.Module):
        def forward(self, past: Tensor, x: Tensor) -> Result:
            return Result(past * 2, past + x)

    inputs = (torch.zeros(2), torch.ones(2))
    made = qcompiler.compile(Model(), inputs=inputs, recipe=PLAIN, dynamic="none", states={"past": "total"})
    assert [made(torch.ones(2))["y"].tolist() for _ in range(2)] == [[0, 0], [2, 2]]  # pyright: ignore[reportIndexIssue]


def test_a_result_without_a_name_is_called_by_its_number() -> None:
    program = qcompiler.trace(Sum(), (torch.zeros(2), torch.ones(2)), dynamic="none")
    assert list(paired(program, {"past": 1}).states) == ["past"]


class Sum(nn.Module):
    """Adds what it is given to what it was given before."""

    def forward(self, past: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * 2, past + x


def test_a_sample_that_holds_states_is_no_pair_with_labels() -> None:
    program = paired(qcompiler.trace(Sum(), (torch.zeros(2), torch.ones(2)), dynamic="none"), {"past": "1"})
    with pytest.raises(InputError, match="args must be a tuple of 1"):
        calibration_batches(program, [(torch.zeros(2), torch.ones(2))])
    (batch,) = calibration_batches(program, [(torch.ones(2), torch.tensor([1, 0]))])
    assert batch[0].tolist() == [1, 1]


def test_samples_may_begin_with_none() -> None:
    calls = [None, (torch.ones(2, 12),)]
    assert first_call(example_from(calls, Sums())[0]) == calls[1]
    with pytest.raises(InputError, match="is empty"):
        calibration_batches(counter(), [None])


def test_a_checkpoint_says_what_the_first_call_starts_from(tmp_path: Path) -> None:
    model = Sums().eval().to("meta")
    stored = {"linear.weight": torch.ones(12, 12), "linear.bias": torch.ones(12)}
    save_file(stored, tmp_path / "without.safetensors")
    with pytest.raises(InputError, match="the state 'total' has no value to start from"):
        qcompiler.trace(model, (torch.ones(2, 12),), weights=tmp_path / "without.safetensors")
    save_file({**stored, "total": torch.full((12,), 3.0)}, tmp_path / "with.safetensors")
    program = qcompiler.trace(model, (torch.ones(2, 12),), weights=tmp_path / "with.safetensors")
    assert first_values(program)[0].tolist() == [3] * 12
