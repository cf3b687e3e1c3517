"""Weights that stay in their files: models on the meta device, bound to safetensors, read when somebody asks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import qcompiler
from qcompiler.cli.app import run
from qcompiler.errors import InputError
from qcompiler.ir.fill import Fill
from qcompiler.ir.parse import parse_program
from qcompiler.ir.program import Program
from qcompiler.ir.types import TensorType
from qcompiler.job import backends
from qcompiler.passes.canonical import CANONICAL
from qcompiler.pipeline import Check, Context, Options, run_passes
from qcompiler.targets import load_target
from qcompiler.weights import read_program, write_program


class Net(nn.Module):
    """An embedding tied to the head, a transposed weight, a buffer that no file holds."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 8)
        self.inner = nn.Linear(8, 8)
        self.mixed = nn.Parameter(torch.randn(8, 8))
        self.head = nn.Linear(8, 12, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("steps", torch.arange(8.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inner(self.embed(x)) + self.steps
        hidden = hidden + torch.ones(8, device=self.inner.weight.device)
        return self.head(hidden @ self.mixed)


IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])


@pytest.fixture(scope="module")
def real() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def file(tmp_path: Path, real: Net) -> Path:
    return save(tmp_path / "model.safetensors", stored_of(real))


def stored_of(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint holds: tied weights once."""
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def save(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file(tensors, path)
    return path


def save_shards(folder: Path, tensors: dict[str, Tensor]) -> Path:
    """A checkpoint in two parts with an index, as Hugging Face writes it."""
    names = list(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for part, keys in parts.items():
        save_file({key: tensors[key] for key in keys}, folder / part)
    weight_map = {key: part for part, keys in parts.items() for key in keys}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def hollow() -> Net:
    with qcompiler.without_weights():
        return Net()


def canonical(program: Program, check: Check = "off") -> Program:
    context = Context(load_target("onnxruntime", backends()))
    return run_passes(program, CANONICAL, context, options=Options(check=check))[0]


def ran(program: Program, *inputs: Tensor) -> Tensor:
    result = program.run(*inputs)
    assert isinstance(result, Tensor)
    return result


def fills(program: Program) -> dict[str, Fill]:
    return {name: value for name, value in program.params.items() if isinstance(value, Fill)}


def test_a_model_without_weights_keeps_its_buffers_and_ties() -> None:
    model = hollow()
    assert all(parameter.is_meta for parameter in model.parameters())
    assert torch.equal(dict(model.named_buffers())["steps"], torch.arange(8.0))
    assert model.head.weight is model.embed.weight
    assert not nn.Linear(2, 2).weight.is_meta


def test_weights_come_from_the_file(file: Path, real: Net) -> None:
    program = qcompiler.trace(hollow(), IDS, weights=file)
    assert torch.equal(ran(program, IDS), real(IDS))
    assert "meta" not in str(program)


def test_canonical_passes_read_no_weight(file: Path, real: Net) -> None:
    program = qcompiler.trace(hollow(), IDS, weights=file)
    away = file.rename(file.with_name("away"))
    result = canonical(program)
    assert {"embed.weight", "inner.weight", "mixed"} <= {
        fill.stored.key for fill in fills(result).values() if fill.stored
    }
    away.rename(file)
    torch.testing.assert_close(ran(result, IDS), real(IDS))


def test_the_exactness_of_passes_is_checked_from_the_file(file: Path) -> None:
    assert canonical(qcompiler.trace(hollow(), IDS, weights=file), check="each").stage == "canonical"


def test_a_look_at_a_weight_is_a_strided_view_of_the_file(tmp_path: Path) -> None:
    weight = torch.randn(6, 4)

    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(6, 4))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight[2:5].t()

    path = save(tmp_path / "w.safetensors", {"weight": weight.bfloat16()})
    program = canonical(qcompiler.trace(Turned(), torch.ones(2, 4), weights=path))
    (fill,) = fills(program).values()
    assert fill.stored is not None
    assert fill.stored.offset == 8
    x = torch.randn(3, 4)
    torch.testing.assert_close(ran(program, x), x @ weight.bfloat16().float()[2:5].t())
    assert str(parse_program(str(program))) == str(program)


def test_half_precision_in_the_file_is_stated_and_converted(tmp_path: Path, real: Net) -> None:
    path = save(tmp_path / "half.safetensors", {name: t.bfloat16() for name, t in stored_of(real).items()})
    program = qcompiler.trace(hollow(), IDS, weights=path)
    assert ': f32[8,8] = file("' in str(program)
    assert '"inner.weight", bf16[8,8])' in str(program)
    node = next(node for node in program.param_nodes if node.target == "inner.weight")
    assert torch.equal(program.param(node), real.inner.weight.bfloat16().float())


def test_text_prints_and_parses_without_the_file(file: Path, real: Net) -> None:
    program = qcompiler.trace(hollow(), IDS, weights=file)
    away = file.rename(file.with_name("away"))
    again = parse_program(str(program))
    assert str(again) == str(program)
    away.rename(file)
    assert torch.equal(ran(again, IDS), real(IDS))


def test_a_sharded_checkpoint_is_one(tmp_path: Path, real: Net) -> None:
    folder = save_shards(tmp_path, stored_of(real))
    assert torch.equal(ran(qcompiler.trace(hollow(), IDS, weights=folder), IDS), real(IDS))


def test_weights_replace_those_of_a_real_model(file: Path, real: Net) -> None:
    torch.manual_seed(1)
    assert torch.equal(ran(qcompiler.trace(Net(), IDS, weights=file), IDS), real(IDS))


def test_an_exported_program_takes_weights_too(file: Path, real: Net) -> None:
    exported = torch.export.export(Net().eval(), (IDS,))
    assert torch.equal(ran(qcompiler.trace(exported, weights=file), IDS), real(IDS))


def test_a_mapped_weight_is_not_copied(file: Path) -> None:
    program = qcompiler.trace(hollow(), IDS, weights=file)
    node = next(node for node in program.param_nodes if node.target == "inner.weight")
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(file) in line]
    value = program.param(node)
    held = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(file) in line]
    assert not mapped
    assert len(held) == 1
    low, high = (int(end, 16) for end in held[0].split()[0].split("-"))
    assert low <= value.data_ptr() < high


def test_a_compilation_reads_the_file_as_it_needs_it(file: Path, real: Net, tmp_path: Path) -> None:
    artifact = qcompiler.compile(hollow(), inputs=IDS, weights=file, recipe="w8a8_dynamic", output=tmp_path / "out")
    file.unlink()
    usual = qcompiler.compile(real, inputs=IDS, recipe="w8a8_dynamic")
    assert torch.equal(torch.as_tensor(artifact(IDS)), torch.as_tensor(usual(IDS)))
    assert not fills(qcompiler.load(tmp_path / "out").program) or "file(" not in str(artifact.program)


def test_a_saved_program_holds_the_weights_itself(file: Path, real: Net, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    write_program(qcompiler.trace(hollow(), IDS, weights=file), folder)
    file.unlink()
    assert torch.equal(ran(read_program(folder), IDS), real(IDS))


# -- no weights at all ------------------------------------------------------------------------------------------------


def test_a_model_on_the_meta_device_traces_and_is_given_back() -> None:
    with torch.device("meta"):
        model = Net()
    before = dict(model.named_parameters(remove_duplicate=False))
    program = canonical(qcompiler.trace(model, IDS), check="each")
    assert all(value.kind == "absent" for value in fills(program).values())
    assert "absent()" in str(program)
    assert str(parse_program(str(program))) == str(program)
    assert all(value is before[name] for name, value in model.named_parameters(remove_duplicate=False))


def test_a_program_without_weights_says_so_when_it_is_run() -> None:
    with pytest.raises(InputError, match="has no value") as caught:
        qcompiler.trace(hollow(), IDS).run(IDS)
    assert "weights=" in caught.value.mend


def test_a_model_without_weights_that_fails_on_its_example_says_so() -> None:
    with pytest.raises(InputError, match="failed on the example"):
        qcompiler.trace(hollow(), torch.zeros(2, 3, 4))


def test_a_buffer_that_nobody_knows_is_named(file: Path) -> None:
    with torch.device("meta"):
        model = Net()
    with pytest.raises(InputError, match="'steps'"):
        qcompiler.trace(model, IDS, weights=file)


# -- files that do not fit --------------------------------------------------------------------------------------------


def _without(real: Net, folder: Path) -> Path:
    tensors = stored_of(real)
    del tensors["inner.bias"]
    return save(folder / "x.safetensors", tensors)


def _prefixed(real: Net, folder: Path) -> Path:
    return save(folder / "x.safetensors", {f"model.{name}": value for name, value in stored_of(real).items()})


def _misspelt(real: Net, folder: Path) -> Path:
    return save(folder / "x.safetensors", {name.replace("mixed", "mixes"): t for name, t in stored_of(real).items()})


def _other_shape(real: Net, folder: Path) -> Path:
    return save(folder / "x.safetensors", {**stored_of(real), "mixed": torch.zeros(8, 9)})


def _integers(real: Net, folder: Path) -> Path:
    return save(folder / "x.safetensors", {**stored_of(real), "mixed": torch.zeros(8, 8, dtype=torch.int8)})


def _cut_off(real: Net, folder: Path) -> Path:
    path = save(folder / "x.safetensors", stored_of(real))
    path.write_bytes(path.read_bytes()[:-100])
    return path


def _no_shard(real: Net, folder: Path) -> Path:
    (save_shards(folder, stored_of(real)) / "b.safetensors").unlink()
    return folder


def _wrong_index(real: Net, folder: Path) -> Path:
    index = save_shards(folder, stored_of(real)) / "model.safetensors.index.json"
    listed = json.loads(index.read_text())
    listed["weight_map"]["inner.extra"] = "a.safetensors"
    index.write_text(json.dumps(listed))
    return index


def _no_index(real: Net, folder: Path) -> Path:
    (save_shards(folder, stored_of(real)) / "model.safetensors.index.json").unlink()
    return folder


def _bad_index(real: Net, folder: Path) -> Path:
    index = save_shards(folder, stored_of(real)) / "model.safetensors.index.json"
    index.write_text("[]")
    return folder


def _nothing(real: Net, folder: Path) -> Path:
    return folder / "none.safetensors"


@pytest.mark.parametrize(
    ("make", "what", "mend"),
    [
        (_without, "'inner.bias'", "'inner.weight'"),
        (_prefixed, "not in the files: 'mixed'", "'model.mixed': trace the module whose part 'model'"),
        (_misspelt, "'mixed'", "'mixes'"),
        (_other_shape, r"'mixed' has shape \[8, 9\]", "configuration"),
        (_integers, "'mixed' is stored as I8", "not quantized"),
        (_cut_off, "cannot be read", "complete"),
        (_no_shard, "'b.safetensors', which model.safetensors.index.json names", "download"),
        (_wrong_index, "'inner.extra' is not in a.safetensors", "download"),
        (_no_index, "several checkpoints: a.safetensors, b.safetensors", "name the file"),
        (_bad_index, "not an index", "weight_map"),
        (_nothing, "no file", "name a"),
    ],
)
def test_weights_that_do_not_fit_are_explained(
    make: Callable[[Net, Path], Path], what: str, mend: str, real: Net, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=what) as caught:
        qcompiler.trace(hollow(), IDS, weights=make(real, tmp_path))
    assert mend in caught.value.mend
    assert str(tmp_path) in str(caught.value)


def test_a_file_that_changed_after_the_trace_is_noticed(file: Path, real: Net) -> None:
    program = qcompiler.trace(hollow(), IDS, weights=file)
    save(file, {**stored_of(real), "mixed": torch.zeros(8, 9)})
    with pytest.raises(InputError, match=r"and was torch\.float32"):
        program.run(IDS)
    file.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        program.run(IDS)


def test_a_weight_that_is_not_finite_is_named_when_it_is_read(tmp_path: Path, real: Net) -> None:
    tensors = stored_of(real)
    tensors["mixed"][3, 4] = float("nan")
    program = qcompiler.trace(hollow(), IDS, weights=save(tmp_path / "x.safetensors", tensors))
    with pytest.raises(InputError, match="'mixed' holds NaN"):
        program.run(IDS)


def test_weights_are_for_torch_models(file: Path) -> None:
    with pytest.raises(InputError, match="torch models"):
        qcompiler.trace(Program(), weights=file)


def test_a_view_outside_its_tensor_is_refused(file: Path) -> None:
    program = qcompiler.trace(hollow(), IDS, weights=file)
    text = str(program).replace('"mixed", f32[8,8])', '"mixed", f32[8,8], [8, 1], 60)')
    with pytest.raises(InputError, match="reaches outside"):
        parse_program(text).run(IDS)


# -- the command line, and models with weights of their own --------------------------------------------------------


def test_the_command_line_takes_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\n\n\ndef make():\n    with torch.device('meta'):\n        return torch.nn.Linear(4, 3)\n"
    )
    np.savez(tmp_path / "x.npz", input=np.zeros((2, 4), np.float32))
    path = save(tmp_path / "l.safetensors", {"weight": torch.ones(3, 4), "bias": torch.ones(3)})
    command = ["dump", f"{tmp_path / 'net.py'}:make", "--inputs", str(tmp_path / "x.npz"), "--weights", str(path)]
    assert run([*command, "--passes", "fold_constants"]) == 0
    assert "l.safetensors" in capsys.readouterr().out


def test_weights_in_memory_are_shared_through_trace_and_canonical_passes() -> None:
    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.mixed = nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Parameter(torch.randn(8, 8))
            self.one = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.one(self.norm(self.conv(x)) @ self.mixed).relu()

    model = Three().eval()
    program = canonical(qcompiler.trace(model, torch.randn(2, 3, 10, 10)), check="stretch")
    own = {parameter.untyped_storage().data_ptr(): parameter.shape for parameter in model.parameters()}
    large = [value for value in program.params.values() if isinstance(value, Tensor) and value.numel() > 1]
    assert len(large) == len(own)
    assert {value.untyped_storage().data_ptr() for value in large} == set(own)


def test_external_data_of_an_onnx_file_stays_mapped(tmp_path: Path) -> None:
    weight = onnx.numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    x, y = (onnx.helper.make_tensor_value_info(name, 1, ["n", 64]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    program = canonical(qcompiler.trace(tmp_path / "m.onnx"))
    np.memmap(tmp_path / "m.data", np.float32, "r+")[:] = 3
    assert float(ran(program, torch.ones(1, 64))[0, 0]) == 192


def test_a_fill_in_a_file_has_the_type_of_its_parameter(file: Path, real: Net) -> None:
    program = qcompiler.trace(hollow(), IDS, weights=file)
    fill = program.params["mixed"]
    assert isinstance(fill, Fill)
    value = fill.materialize(TensorType(torch.float64, (8, 8)))
    assert value.dtype == torch.float64
    assert torch.equal(value.float(), real.mixed)
