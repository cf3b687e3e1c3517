"""compressed-tensors checkpoints: written, read by the library itself bit for bit, and read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import qcompiler
from qcompiler.checkpoints import open_checkpoint
from qcompiler.checkpoints.contents import contents_of
from qcompiler.cli.app import run
from qcompiler.errors import InputError, UnsupportedError
from qcompiler.ir.program import Program
from qcompiler.job import prepare, run_job
from qcompiler.passes.allocate import Assign
from qcompiler.passes.recipes import Recipe
from tests.checkpoint_tools import quantized, quantized_two, two, weight_of, write

X = torch.linspace(-1, 1, 4 * 64).reshape(4, 64)
CASES: dict[str, tuple[Assign, str]] = {
    "int4 groups": (Assign("w4a16g16_sym"), "pack-quantized"),
    "int4 zero points": (Assign("w4a16g16"), "pack-quantized"),
    "int4 channels": (Assign("w4a16"), "pack-quantized"),
    "int3 groups": (Assign("w3a16g16"), "pack-quantized"),
    "int8 groups": (Assign("w8a16g16"), "pack-quantized"),
    "int8 tensor": (Assign("w8a16", weight="int8 sym tensor scale=f32"), "pack-quantized"),
    "int4 half scales": (Assign("w4a16g16", weight="int4 sym group=16 scale=f16"), "pack-quantized"),
    "w8a8 per token": (Assign("w8a8_token"), "int-quantized"),
    "w8a8 zero points": (Assign("w8a8_token", weight="uint8 asym channel scale=f32"), "int-quantized"),
    "w4a8": (Assign("w4a8g16_token"), "pack-quantized"),
    "fp8": (Assign("w8a16", weight="fp8e4m3 sym channel scale=f32"), "float-quantized"),
    "fp8 per token": (
        Assign("w8a8", weight="fp8e4m3 sym tensor scale=f32", activation="fp8e4m3 sym token scale=f32 dynamic"),
        "float-quantized",
    ),
}


def exported(folder: Path, assign: Assign) -> tuple[Program, Path]:
    program = quantized_two(assign)
    qcompiler.export(program, folder, source=two())
    return program, folder


def settings_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "config.json").read_text())["quantization_config"]


def parts_of(folder: Path, module: str) -> dict[str, Tensor]:
    """The tensors of one module by their names inside it."""
    stored = load_file(folder / "model.safetensors")
    return {name.removeprefix(f"{module}."): tensor for name, tensor in stored.items() if name.startswith(f"{module}.")}


def decompressed(folder: Path, module: str) -> Tensor:
    """The weight as the library computes it."""
    compressors = pytest.importorskip("compressed_tensors.compressors")
    quantization = pytest.importorskip("compressed_tensors.quantization")
    config = quantization.QuantizationConfig.model_validate(settings_of(folder))
    scheme = next(group for group in config.config_groups.values() if module in group.targets)
    compressor = compressors.BaseCompressor.get_value_from_registry(scheme.format)
    return compressor.decompress(parts_of(folder, module), scheme)["weight"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("module", ["first", "second"])
def test_the_library_computes_our_weights(tmp_path: Path, case: str, module: str) -> None:
    assign, form = CASES[case]
    program, folder = exported(tmp_path / "out", assign)
    assert settings_of(folder)["format"] == form
    weight, found = weight_of(program, f"{module}.weight"), decompressed(folder, module)
    assert torch.equal(found, weight.to(found.dtype))
    assert found.dtype == (torch.float16 if "half" in case else torch.float32)


@pytest.mark.parametrize("case", CASES)
def test_the_library_packs_codes_as_we_do(tmp_path: Path, case: str) -> None:
    compressors = pytest.importorskip("compressed_tensors.compressors")
    quantization = pytest.importorskip("compressed_tensors.quantization")
    assign, _ = CASES[case]
    program, folder = exported(tmp_path / "out", assign)
    config = quantization.QuantizationConfig.model_validate(settings_of(folder))
    scheme = next(iter(config.config_groups.values()))
    ours = parts_of(folder, "first")
    compressor = compressors.BaseCompressor.get_value_from_registry(scheme.format)
    plain = {"weight": weight_of(program, "first.weight"), "weight_scale": ours["weight_scale"].float()}
    decoded = compressor.decompress(ours, scheme)
    zero = decoded.get("weight_zero_point")
    again = compressor.compress(plain | ({} if zero is None else {"weight_zero_point": zero}), scheme)
    assert {name: list(tensor.shape) for name, tensor in again.items()} == {
        name: list(tensor.shape) for name, tensor in ours.items() if name != "bias"
    }
    assert all(torch.equal(tensor.float(), ours[name].float()) for name, tensor in again.items())


@pytest.mark.parametrize("case", CASES)
def test_codes_and_scales_survive_the_round_trip(tmp_path: Path, case: str) -> None:
    program, folder = exported(tmp_path / "out", CASES[case][0])
    coded = open_checkpoint(folder).decode(["first.weight"], torch.empty(48, 64))
    node = next(node for node in program.param_nodes if node.target == "first.weight")
    assert coded is not None
    assert coded.spec == program.tensor_type(node).spec
    assert torch.equal(coded.codes, program.param(node))
    assert torch.equal(coded.scales[0], program.params["first.weight.scale"])  # pyright: ignore[reportArgumentType]
    if coded.zero_point is not None:
        assert torch.equal(coded.zero_point, program.params["first.weight.zero_point"])  # pyright: ignore[reportArgumentType]


def test_nvfp4_keeps_codes_and_inner_scales_and_names_the_reciprocal(tmp_path: Path) -> None:
    model = two()
    program = quantized_two(Assign("nvfp4", activation="float"))
    written = qcompiler.export(program, tmp_path / "out", source=model)
    parts, weight = parts_of(tmp_path / "out", "first"), weight_of(program, "first.weight")
    assert (parts["weight_packed"].shape, parts["weight_packed"].dtype) == ((48, 32), torch.uint8)
    assert (parts["weight_scale"].shape, parts["weight_scale"].dtype) == ((48, 4), torch.float8_e4m3fn)
    assert (parts["weight_global_scale"].shape, parts["weight_global_scale"].dtype) == ((1,), torch.float32)
    assert all("reciprocal" in line for line in written.lost)
    coded = open_checkpoint(tmp_path / "out").decode(["first.weight"], torch.empty(48, 64))
    assert coded is not None
    assert torch.equal(coded.codes, program.params["first.weight"])  # pyright: ignore[reportArgumentType]
    assert torch.equal(coded.scales[0], program.params["first.weight.scale"])  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(coded.scales[1], program.params["first.weight.scale.1"], rtol=2e-7, atol=0)  # pyright: ignore[reportArgumentType]
    library = decompressed(tmp_path / "out", "first")
    torch.testing.assert_close(library.float(), weight, rtol=2.0**-7, atol=0)


def corrected(option: str) -> Program:
    steps = ["assign{scheme=w8a8}", "apply_plan", "calibrate", "weight_ranges", f"bias_correction{option}", "nearest"]
    return run_job(prepare(two(), calibration=[(X,)], recipe=Recipe.of("test", steps)))[1]


def test_a_bias_that_the_loading_model_has_no_place_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"(?s)'second.bias'.*bias_correction\{add=false\}"):
        qcompiler.export(corrected(""), tmp_path / "out", source=two())


def test_biases_that_were_there_are_corrected_in_the_checkpoint(tmp_path: Path) -> None:
    model = two()
    qcompiler.export(corrected("{add=false}"), tmp_path / "out", source=model)
    assert not torch.equal(parts_of(tmp_path / "out", "first")["bias"], model.first.bias)


def test_an_artefact_is_exported_with_its_static_activations(tmp_path: Path) -> None:
    model = two()
    recipe = Recipe.of("plain", ["assign{scheme=w8a8}", "apply_plan", "calibrate", "nearest"])
    artifact = qcompiler.compile(model, inputs=(X,), calibration=[(X,)], recipe=recipe)
    written = qcompiler.export(artifact, tmp_path / "out", source=model)
    parts = parts_of(tmp_path / "out", "first")
    assert parts["weight"].dtype == torch.int8
    assert parts["input_scale"].shape == parts["input_zero_point"].shape == (1,)
    zero = artifact.program.node("x_zero_point")
    assert int(parts["input_zero_point"]) == int(artifact.program.param(zero)) - 128
    assert any("biases" in line for line in written.lost)
    torch.testing.assert_close(parts["bias"], model.first.bias.detach(), rtol=1e-3, atol=1e-3)
    group = settings_of(tmp_path / "out")["config_groups"]["group_0"]  # pyright: ignore[reportArgumentType, reportCallIssue, reportIndexIssue]
    assert group["input_activations"] == {
        "num_bits": 8,
        "type": "int",
        "symmetric": False,
        "dynamic": False,
        "strategy": "tensor",
        "group_size": None,
    }


def test_layers_kept_in_float_are_ignored_by_name(tmp_path: Path) -> None:
    _, folder = exported(tmp_path / "out", Assign("w4a16g16", keep="second"))
    settings = settings_of(folder)
    assert settings["ignore"] == ["second"]
    assert torch.equal(parts_of(folder, "second")["weight"], two().second.weight.detach())


def test_a_wrapper_of_the_model_is_seen_through(tmp_path: Path) -> None:
    class Wrapper(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) * 2

    model = two()
    qcompiler.export(quantized(Wrapper(model), X, Assign("w4a16g16")), tmp_path / "out", source=model)
    assert set(parts_of(tmp_path / "out", "second")) == {
        "weight_packed",
        "weight_scale",
        "weight_shape",
        "weight_zero_point",
    }


def test_a_quantized_embedding_is_named(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Embedding(16, 32), nn.Linear(32, 8))
    program = quantized(model, torch.arange(6).reshape(2, 3), Assign("w4a16g16"))
    written = qcompiler.export(program, tmp_path / "out", source=model)
    assert written.layers == 2
    assert [line for line in written.lost if "'0.weight' is the table of an embedding" in line]


def test_everything_that_cannot_be_said_is_in_one_error(tmp_path: Path) -> None:
    program = quantized_two(Assign("w4a16", weight="nf4 sym group=16 scale=f32"))
    with pytest.raises(UnsupportedError, match="cannot say") as caught:
        qcompiler.export(program, tmp_path / "out")
    assert "'first.weight'" in str(caught.value)
    assert "'second.weight'" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_ragged_groups_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"'second.weight'.*whole groups"):
        qcompiler.export(quantized_two(Assign("w4a16g32")), tmp_path / "out")


def test_an_operator_that_a_pass_added_is_refused() -> None:
    program = quantized_two(Assign("w4a16g16"))
    relu = next(node for node in program.nodes if node.name == "relu")
    doubled = program.after(relu, "smooth").call("aten.mul.Tensor", relu, 2.0, name="doubled")
    for user in [user for user in relu.users if user is not doubled]:
        program.redirect(user, relu, doubled)
    with pytest.raises(UnsupportedError, match=r"operator %doubled \(aten.mul.Tensor\), made by smooth"):
        contents_of(program, {"", "apply_plan"})


def test_a_model_with_other_weights_is_refused(tmp_path: Path) -> None:
    program = quantized_two(Assign("w4a16g16"))
    other = nn.ModuleDict({"first": nn.Linear(64, 40), "third": nn.Linear(4, 4)})
    with pytest.raises(UnsupportedError) as caught:
        qcompiler.export(program, tmp_path / "out", source=other)
    text = str(caught.value)
    assert "'first.weight' of shape [48, 64], which the model has as [40, 64]" in text
    assert "'second.weight' of shape [32, 48], which the model has not at all" in text
    assert "'third.weight', which the compiled program lacks" in text


def test_a_float_program_and_a_used_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no codes to export"):
        qcompiler.export(qcompiler.trace(two(), (X,)), tmp_path / "out")
    with pytest.raises(InputError, match="no format 'onnx'"):
        qcompiler.export(quantized_two(Assign("w4a16g16")), tmp_path / "out", "onnx")
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="exists"):
        exported(tmp_path / "out", Assign("w4a16g16"))


def test_the_command_exports_an_artefact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = two()
    qcompiler.compile(model, inputs=(X,), recipe="w4a16g16", output=tmp_path / "artefact")
    source = write(tmp_path / "source", {name: value.detach() for name, value in model.state_dict().items()}, None)
    (source / "config.json").write_text(json.dumps({"model_type": "two", "width": 64}))
    (source / "tokenizer.json").write_text("{}")
    target = tmp_path / "out"
    command = ["export", str(tmp_path / "artefact"), "--source", str(source), "-o", str(target), "--json"]
    assert run(command) == 0
    assert json.loads(capsys.readouterr().out)["layers"] == 2
    assert sorted(path.name for path in target.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    config = json.loads((target / "config.json").read_text())
    assert (config["model_type"], config["quantization_config"]["quant_method"]) == ("two", "compressed-tensors")


WEIGHTS = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 16}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t | {"first.weight_packed": t["first.weight_packed"][:, :7]}, "'first.weight_packed'"),
        (lambda t: t | {"first.weight_shape": torch.tensor([48, 60])}, "'first.weight_shape'"),
        (lambda t: t | {"first.weight_scale": t["first.weight_scale"][:, :3]}, "'first.weight_scale'"),
        (lambda t: {name: value for name, value in t.items() if name != "first.weight_scale"}, "'first.weight_scale'"),
    ],
)
def test_packed_sizes_that_do_not_fit_are_named(tmp_path: Path, change, words: str) -> None:
    _, folder = exported(tmp_path / "good", Assign("w4a16g16_sym"))
    tensors = load_file(folder / "model.safetensors")
    bad = write(tmp_path / "bad", change(tensors), settings_of(folder))
    with pytest.raises(InputError, match=words) as caught:
        open_checkpoint(bad).decode(["first.weight"], torch.empty(48, 64))
    assert str(bad) in str(caught.value)


def test_several_groups_without_names_are_ambiguous(tmp_path: Path) -> None:
    _, folder = exported(tmp_path / "good", Assign("w4a16g16_sym"))
    groups = {
        "a": {"weights": WEIGHTS, "targets": ["Linear"]},
        "b": {"weights": WEIGHTS | {"num_bits": 8}, "targets": ["Embedding"]},
    }
    bad = write(
        tmp_path / "bad", load_file(folder / "model.safetensors"), settings_of(folder) | {"config_groups": groups}
    )
    with pytest.raises(InputError, match="several groups"):
        open_checkpoint(bad).decode(["first.weight"], torch.empty(48, 64))


def test_a_small_language_model_loads_and_runs(tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        use_cache=False,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    model.save_pretrained(tmp_path / "source")

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, ids: Tensor) -> Tensor:
            return self.inner(input_ids=ids).logits

    ids = torch.arange(10).reshape(2, 5)
    program = quantized(Logits(), ids, Assign("w4a16g16_sym", keep="*embed_tokens*"))
    written = qcompiler.export(program, tmp_path / "out", source=tmp_path / "source")
    assert written.layers == 8
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    with torch.no_grad():
        logits = loaded(ids).logits
    expected = program.run(ids)
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)
    weight = loaded.model.layers[0].mlp.down_proj.weight.detach()
    assert torch.equal(weight, weight_of(program, "inner.model.layers.0.mlp.down_proj.weight"))
