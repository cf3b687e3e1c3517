"""The PyTorch front-end: what a module takes and returns comes back as it was, and sizes stay free where they may."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, fields
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import qcompiler
from qcompiler import Inputs
from qcompiler.errors import InputError, UnsupportedError
from qcompiler.ir.interp import flatten_inputs
from qcompiler.ir.program import Program
from qcompiler.ir.structure import describe
from tests.torch_models import noise, sqnr_db


class Pair(NamedTuple):
    low: Tensor
    high: Tensor


@dataclass
class Answer:
    logits: Tensor
    hidden: Tensor
    loss: Tensor | None = None


@dataclass
class Mapped(OrderedDict[str, Tensor]):
    """A dataclass that is a mapping of what is not None, as model hubs return them."""

    logits: Tensor | None = None
    extra: Tensor | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) is not None:
                self[field.name] = getattr(self, field.name)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)


class Nested(Layer):
    def forward(self, x: Tensor, *, shift: Tensor | None = None, scale: float = 1.0) -> dict[str, object]:
        y = self.linear(x) * scale
        if shift is not None:
            y = y - shift
        return {"plain": y, "many": [y + 1, (y + 2, None)], "pair": Pair(y, -y), "answer": Answer(y, 2 * y)}


class Mapping(Layer):
    def forward(self, x: Tensor) -> Mapped:
        return Mapped(logits=self.linear(x))


class Difference(Layer):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.linear(a) - b


class Packed(Layer):
    def forward(self, batch: dict[str, Tensor], rest: tuple[Tensor, Tensor]) -> tuple[Tensor, None]:
        return self.linear(batch["x"]) - batch["shift"] * rest[0] + rest[1], None


class Keywords(Layer):
    def forward(self, *, rows: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.linear(rows)
        return y if mask is None else y * mask.unsqueeze(-1)


class CountsRows(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).reshape(len(x), -1)


class Positions(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(noise(5, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x + self.positions)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.table(ids))


class Buffers(Layer):
    kept: Tensor
    unsaved: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", noise(4))
        self.register_buffer("unsaved", noise(4, seed=1), persistent=False)
        self.plain = torch.full((4,), 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x + self.kept * self.unsaved) * self.plain


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class WritesInput(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(F.relu(x, inplace=True)) + x


class Grows(Layer):
    rows: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(1, 4))

    def forward(self, x: Tensor) -> Tensor:
        self.rows = torch.cat([self.rows, x])
        return self.linear(self.rows)


class Branches(Layer):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return self.linear(x)
        return -x


class Loops(Layer):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(int(x.max().item())):
            x = self.linear(x)
        return x


class Eager(Layer):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("no such luck")


def same(model: nn.Module, program: Program, *args: object, **kwargs: object) -> None:
    """The program gives what the model gives, in the same containers."""
    with torch.no_grad():
        wanted = model(*args, **kwargs)
    wanted_structure, wanted_leaves, _ = describe(wanted)
    structure, leaves, _ = describe(program.run(*args, **kwargs))
    assert structure == wanted_structure
    torch.testing.assert_close(leaves, wanted_leaves)


def dims(program: Program) -> list[tuple[object, ...]]:
    return [tuple(dim if isinstance(dim, int) else "free" for dim in program.shape(node)) for node in program.inputs]


# -- inputs and results ------------------------------------------------------------------------------------------------


def test_positional_and_keyword_inputs_together() -> None:
    model = Nested()
    program = qcompiler.trace(model, Inputs(noise(3, 4), shift=noise(3, 4, seed=1)))
    assert program.input_names == ["x", "shift"]
    same(model, program, noise(2, 4, seed=2), shift=noise(2, 4, seed=3))


def test_every_input_may_be_given_by_name_whatever_the_trace_was() -> None:
    program = qcompiler.trace(Nested(), Inputs(noise(3, 4), shift=noise(3, 4, seed=1)))
    x, shift = noise(2, 4, seed=2), noise(2, 4, seed=3)
    flat = flatten_inputs(program, (), {"shift": shift, "x": x})
    assert all(map(torch.equal, flat, (x, shift)))


def test_an_optional_input_that_was_none_stays_none() -> None:
    model = Nested()
    program = qcompiler.trace(model, Inputs(noise(3, 4), shift=None))
    assert program.input_names == ["x"]
    same(model, program, noise(2, 4, seed=2))
    with pytest.raises(InputError, match="shift was None when the model was traced and is Tensor now"):
        program.run(noise(2, 4), shift=noise(2, 4))


def test_a_plain_number_is_part_of_the_trace() -> None:
    model = Nested()
    program = qcompiler.trace(model, Inputs(noise(3, 4), scale=3.0))
    same(model, program, noise(2, 4), scale=3.0)
    with pytest.raises(InputError, match=r"scale was 3\.0 when the model was traced and is 2\.0 now"):
        program.run(noise(2, 4), scale=2.0)


def test_a_dict_of_keyword_inputs() -> None:
    model = Keywords()
    program = qcompiler.trace(model, {"rows": noise(2, 3, 4), "mask": torch.ones(2, 3)})
    assert program.input_names == ["rows", "mask"]
    same(model, program, rows=noise(4, 7, 4), mask=noise(4, 7, seed=1))


def test_containers_of_inputs() -> None:
    model = Packed()
    example = ({"x": noise(2, 4), "shift": noise(2, 4)}, (noise(2, 4), noise(2, 4)))
    program = qcompiler.trace(model, example)
    assert program.input_names == ["batch.x", "batch.shift", "rest.0", "rest.1"]
    batch = {"shift": noise(3, 4, seed=1), "x": noise(3, 4, seed=2)}
    same(model, program, batch, (noise(3, 4, seed=3), noise(3, 4, seed=4)))


def test_a_mapping_class_comes_back_as_itself() -> None:
    model = Mapping()
    result = qcompiler.trace(model, (noise(3, 4),)).run(noise(2, 4))
    assert isinstance(result, Mapped)
    assert result.extra is None
    assert result.logits is result["logits"]
    torch.testing.assert_close(result.logits, model(noise(2, 4)).logits.detach())


@pytest.mark.parametrize("rows", [1, 3])
def test_one_tensor_passed_for_two_inputs_stays_two_inputs(rows: int) -> None:
    model, x = Difference(), noise(rows, 4)
    same(model, qcompiler.trace(model, (x, x)), noise(2, 4, seed=1), noise(2, 4, seed=2))


def test_numpy_and_named_calls_work() -> None:
    model = Difference()
    program = qcompiler.trace(model, (noise(2, 4).numpy(), noise(2, 4).numpy()))
    a, b = noise(3, 4, seed=1), noise(3, 4, seed=2)
    wanted = program.run(a, b)
    for result in (program.run(a.numpy(), b.numpy()), program.run(b=b, a=a), program.run(a, b=b)):
        torch.testing.assert_close(result, wanted)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (Inputs(noise(2, 4)), "args must be a tuple of 2 values, got tuple of 1"),
        (Inputs(noise(2, 4), noise(2, 4), noise(2, 4)), "got tuple of 3"),
        (Inputs(noise(2, 4), wrong=noise(2, 4)), "unknown wrong"),
        (Inputs(noise(2, 5), noise(2, 4)), r"input 'a' must be f32\[s0,4\], got torch.float32 \[2, 5\]"),
        (Inputs(noise(2, 4), noise(3, 4)), r"input 'b' must be f32\[s0,4\], got torch.float32 \[3, 4\]"),
        (Inputs(noise(2, 4).double(), noise(2, 4)), "got torch.float64"),
        (Inputs("text", noise(2, 4)), "input 'a' is a str"),
    ],
)
def test_a_call_that_does_not_fit_is_explained(call: Inputs, message: str) -> None:
    program = qcompiler.trace(Difference(), (noise(2, 4), noise(2, 4)))
    with pytest.raises(InputError, match=message) as caught:
        program.run(*call.args, **call.kwargs)
    assert caught.value.mend


# -- sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_the_batch_stays_free_whatever_the_example_has(rows: int) -> None:
    model = Difference()
    program = qcompiler.trace(model, (noise(rows, 4), noise(rows, 4, seed=1)))
    assert dims(program) == [("free", 4), ("free", 4)]
    for size in (1, 3):
        same(model, program, noise(size, 4), noise(size, 4, seed=1))


def test_a_batch_that_the_model_counts_stays_free() -> None:
    model = CountsRows()
    program = qcompiler.trace(model, (noise(1, 2, 4),))
    assert dims(program)[0][0] == "free"
    same(model, program, noise(3, 2, 4))


def test_a_size_that_a_weight_fixes_is_fixed() -> None:
    program = qcompiler.trace(Positions(), (noise(1, 5, 4),))
    assert dims(program) == [("free", 5, 4)]
    with pytest.raises(InputError, match=r"must be f32\[s0,5,4\]"):
        program.run(noise(1, 6, 4))


def test_a_trace_that_ties_a_size_is_not_finished() -> None:
    calls: list[torch.Size] = []

    class Halved(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.shape[1] // 2 == 4 else x

    class Counted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(x.shape)
            return x + 1

    program = qcompiler.trace(nn.Sequential(Halved(), Counted()), torch.ones(3, 8))
    assert len(calls) == 1
    assert dims(program) == [("free", 8)]


@settings(deadline=None, max_examples=20)
@given(batch=st.integers(1, 6), height=st.integers(4, 12), width=st.integers(4, 12))
def test_images_of_any_size_run(batch: int, height: int, width: int) -> None:
    image = noise(batch, 2, height, width)
    torch.testing.assert_close(POOLING_PROGRAM.run(image), POOLING(image).detach())


POOLING = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
POOLING_PROGRAM = qcompiler.trace(POOLING, (noise(1, 2, 8, 8),))


def test_all_sizes_can_be_fixed() -> None:
    assert dims(qcompiler.trace(Difference(), (noise(1, 4), noise(1, 4)), dynamic="none")) == [(1, 4), (1, 4)]


# -- weights, names, modes ---------------------------------------------------------------------------------------------


def test_a_tied_weight_is_one_parameter() -> None:
    model = Tied()
    program = qcompiler.trace(model, (torch.zeros(1, 3, dtype=torch.long),))
    assert len(program.params) == 1
    (value,) = program.params.values()
    assert isinstance(value, Tensor)
    assert value.data_ptr() == model.table.weight.data_ptr()
    same(model, program, torch.tensor([[1, 2], [3, 9]]))


def test_buffers_and_plain_tensors_are_parameters() -> None:
    model = Buffers()
    program = qcompiler.trace(model, (noise(2, 4),))
    assert {"kept", "unsaved", "linear.weight", "linear.bias"} <= set(program.params)
    same(model, program, noise(3, 4))


def test_nodes_know_their_module() -> None:
    program = qcompiler.trace(Blocks(), (noise(2, 4),))
    modules = [program.origin(node).module for node in program.nodes if program.op(node) == "aten.linear"]
    assert modules == ["blocks.0.0", "blocks.1.0"]
    assert "blocks.1.0.weight" in program.params


def test_each_module_gets_its_own_mode_back() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4))
    model.train()
    model[2].eval()
    program = qcompiler.trace(model, (noise(2, 4),))
    assert [module.training for module in model.modules()] == [True, True, True, False]
    same(model.eval(), program, noise(3, 4))


def test_modes_come_back_after_a_failure_too() -> None:
    model = Branches()
    with pytest.raises(UnsupportedError):
        qcompiler.trace(model, (noise(2, 4),))
    assert model.training


def test_a_model_that_writes_to_its_input_is_a_function() -> None:
    model = WritesInput()
    program = qcompiler.trace(model, (noise(2, 4),))
    x = noise(3, 4)
    before = x.clone()
    result = program.run(x)
    torch.testing.assert_close(x, before)
    torch.testing.assert_close(result, model(x.clone()).detach())


def test_the_text_of_a_traced_program_parses_back() -> None:
    for model, inputs in ((Nested(), Inputs(noise(3, 4), shift=noise(3, 4))), (Tied(), (torch.tensor([[1, 2]]),))):
        text = str(qcompiler.trace(model, inputs))
        again = qcompiler.parse(text)
        again.verify()
        assert str(again) == text


# -- exported programs -------------------------------------------------------------------------------------------------


def test_an_exported_program_keeps_names_structure_and_sizes() -> None:
    model = Packed().eval()
    batch, rest = {"x": noise(2, 4), "shift": noise(2, 4)}, (noise(2, 4), noise(2, 4))
    free = {0: torch.export.Dim("rows")}
    exported = torch.export.export(
        model, (batch, rest), dynamic_shapes=({"x": free, "shift": free}, (free, free)), strict=False
    )
    program = qcompiler.trace(exported)
    assert dims(program) == [("free", 4)] * 4
    batch = {"x": noise(3, 4, seed=1), "shift": noise(3, 4, seed=2)}
    same(model, program, batch, (noise(3, 4, seed=3), noise(3, 4, seed=4)))


def test_constants_of_an_exported_program_are_part_of_the_call() -> None:
    model = Keywords().eval()
    program = qcompiler.trace(torch.export.export(model, (), {"rows": noise(2, 3, 4), "mask": None}))
    assert program.input_names == ["rows"]
    same(model, program, rows=noise(2, 3, 4, seed=1))


def test_an_export_that_merged_two_inputs_is_refused() -> None:
    x = noise(2, 4)
    exported = torch.export.export(Difference().eval(), (x, x))
    with pytest.raises(InputError, match="one tensor for two inputs"):
        qcompiler.trace(exported)


# -- what cannot be traced ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "line"), [(Branches(), "if x.sum() > 0:"), (Loops(), "x.max().item()")])
def test_control_flow_on_data_names_the_line(model: nn.Module, line: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnsupportedError, match="decides by the values of its tensors") as caught:
        qcompiler.trace(model, (noise(2, 4),))
    assert line in caught.value.where
    assert "test_torch_trace.py:" in caught.value.where
    assert "torch.where" in caught.value.mend
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_a_buffer_that_outgrows_itself_is_named() -> None:
    with pytest.raises(UnsupportedError, match="another type in the place of 'rows' while it runs"):
        qcompiler.trace(Grows(), (noise(2, 4),))


@pytest.mark.parametrize(
    ("model", "example", "message"),
    [
        (Eager(), noise(2, 4), "no such luck"),
        (nn.Linear(4, 4), noise(2, 5), "cannot be multiplied"),
        (nn.Linear(4, 4), noise(2, 4).double(), "dtype"),
    ],
)
def test_a_model_that_fails_on_its_example_says_so(model: nn.Module, example: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=f"the model failed on the example inputs: .*{message}"):
        qcompiler.trace(model, (example,))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"y": noise(2, 4)}, "missing a required argument: 'x'"),
        ((noise(2, 4), noise(2, 4)), "too many positional"),
        ((3,), "the example inputs hold no tensor"),
        ((object(),), "a value of type object cannot be an input"),
        (None, "needs example inputs"),
    ],
)
def test_examples_that_do_not_fit_the_signature(inputs: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        qcompiler.trace(Nested(), inputs)
    assert caught.value.mend


def test_a_model_without_results_is_refused() -> None:
    class Silent(Layer):
        def forward(self, x: Tensor) -> None:
            self.linear(x)

    with pytest.raises(UnsupportedError, match="returned nothing"):
        qcompiler.trace(Silent(), (noise(2, 4),))


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(InputError, match="a int is not a model"):
        qcompiler.trace(3)


def test_dynamic_is_checked() -> None:
    with pytest.raises(InputError, match="choose one of auto, none"):
        qcompiler.trace(Difference(), (noise(2, 4), noise(2, 4)), dynamic="maybe")  # pyright: ignore[reportArgumentType]


# -- models of a hub ---------------------------------------------------------------------------------------------------

Case = tuple[nn.Module, dict[str, Tensor], dict[str, Tensor]]


def _ids(rows: int, tokens: int) -> dict[str, Tensor]:
    ids = torch.randint(0, 64, (rows, tokens), generator=torch.Generator().manual_seed(rows))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _decoder(hub: ModuleType) -> Case:
    config = hub.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        use_cache=False,
    )
    plain = {name: {"input_ids": _ids(*size)["input_ids"]} for name, size in (("a", (1, 6)), ("b", (3, 9)))}
    return hub.LlamaForCausalLM(config), plain["a"], plain["b"]


def _encoder(hub: ModuleType) -> Case:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = hub.BertConfig(vocab_size=64, max_position_embeddings=16, **sizes)
    return hub.BertModel(config), _ids(1, 6), _ids(3, 9)


def _classifier(hub: ModuleType) -> Case:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = hub.ViTConfig(image_size=16, patch_size=8, **sizes)
    images = [{"pixel_values": noise(rows, 3, 16, 16)} for rows in (1, 3)]
    return hub.ViTForImageClassification(config), images[0], images[1]


@pytest.mark.parametrize("make", [_decoder, _encoder, _classifier])
def test_a_hub_model_traces_runs_and_compiles(make: Callable[[ModuleType], Case]) -> None:
    hub = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model, example, other = make(hub)
    program = qcompiler.trace(model.eval(), example)
    assert all(sizes[0] == "free" for sizes in dims(program))
    same(model, program, **other)
    artifact = qcompiler.compile(program, calibration=[example, other], recipe="w8a8")
    with torch.no_grad():
        wanted = model(**other)
    got = artifact(**other)
    assert type(got) is type(wanted)
    assert sqnr_db(wanted[0], got[0]) > 25  # pyright: ignore[reportIndexIssue]
