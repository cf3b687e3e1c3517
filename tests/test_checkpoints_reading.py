"""GPTQ and AWQ checkpoints, packed here as their projects' loops do, become codes and scales bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import qcompiler
from qcompiler.checkpoints import open_checkpoint
from qcompiler.checkpoints.layouts import LAYOUTS, pack_words, unpack_words
from qcompiler.errors import InputError, QCompilerError, UnsupportedError
from qcompiler.frontends.weight_files import Coded
from qcompiler.ir.parse import parse_program
from qcompiler.spec import Number, QuantSpec, dequantize
from tests.checkpoint_tools import Two, two, write

X = torch.linspace(-1, 1, 4 * 64).reshape(4, 64)


def reals(coded: Coded) -> Tensor:
    scale = coded.scales[0] if len(coded.scales) == 1 else coded.scales
    weight = dequantize(coded.codes, scale, coded.zero_point, coded.spec)
    return weight if coded.columns is None else weight[:, torch.argsort(coded.columns)]


def word(value: int) -> int:
    """The int32 of the same bits."""
    return value - (1 << 32) if value >= 1 << 31 else value


def packed_rows(codes: list[int], bits: int) -> list[int]:
    """One column of GPTQ words: the codes as one long number, cut into 32 bits."""
    stream = sum(code << (bits * place) for place, code in enumerate(codes))
    return [word((stream >> (32 * at)) & 0xFFFFFFFF) for at in range(len(codes) * bits // 32)]


class Stored:
    """A random weight and how GPTQ or AWQ stores it."""

    def __init__(self, bits: int, group: int, rows: int = 48, columns: int = 64, seed: int = 0) -> None:
        make = torch.Generator().manual_seed(seed)
        self.bits, self.group = bits, group
        size = columns if group == -1 else group
        self.codes = torch.randint(0, 1 << bits, (rows, columns), generator=make)
        self.zero = torch.randint(0, 1 << bits, (rows, columns // size), generator=make)
        self.scale = (torch.rand(rows, columns // size, generator=make) + 0.1).half()
        self.index = torch.arange(columns) // size
        self.shuffled = self.index[torch.randperm(columns, generator=make)]

    def weight(self, index: Tensor | None = None) -> Tensor:
        at = self.index if index is None else index
        return (self.codes - self.zero[:, at]).float() * self.scale[:, at].float()

    def gptq(self, version: int, index: Tensor | None = None) -> dict[str, Tensor]:
        zero = (self.zero - int(version == 1)) & ((1 << self.bits) - 1)
        words = [packed_rows(row.tolist(), self.bits) for row in self.codes]
        zeros = [packed_rows(row.tolist(), self.bits) for row in zero.T]
        tensors = {
            "first.qweight": torch.tensor(words, dtype=torch.int32).T,
            "first.qzeros": torch.tensor(zeros, dtype=torch.int32),
            "first.scales": self.scale.T,
        }
        return tensors if index is None else tensors | {"first.g_idx": index.int()}

    def awq(self) -> dict[str, Tensor]:
        return {
            "first.qweight": self._awq_words(self.codes.T),
            "first.qzeros": self._awq_words(self.zero.T),
            "first.scales": self.scale.T,
        }

    def _awq_words(self, table: Tensor) -> Tensor:
        order = [0, 2, 4, 6, 1, 3, 5, 7]
        rows = [
            [word(sum(row[at + order[i]] << (4 * i) for i in range(8))) for at in range(0, len(row), 8)]
            for row in table.tolist()
        ]
        return torch.tensor(rows, dtype=torch.int32)


def rest(model: Two) -> dict[str, Tensor]:
    """What is not quantized."""
    assert model.first.bias is not None
    return {"first.bias": model.first.bias.detach(), "second.weight": model.second.weight.detach()}


def expected(model: Two, weight: Tensor) -> Tensor:
    with torch.no_grad():
        return model.second(torch.relu(nn.functional.linear(X, weight, model.first.bias)))


def gptq_settings(bits: int = 4, group: int = 16, form: str = "gptq") -> dict[str, object]:
    return {"quant_method": "gptq", "bits": bits, "group_size": group, "checkpoint_format": form}


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 16, "zero_point": True, "version": "gemm"}


@given(st.integers(1, 8), st.integers(1, 70), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_words_hold_the_canonical_stream(bits: int, count: int, seed: int) -> None:
    codes = torch.randint(0, 1 << bits, (3, count), generator=torch.Generator().manual_seed(seed))
    words = pack_words(codes, bits)
    stream = sum(int(code) << (bits * place) for place, code in enumerate(codes[1]))
    assert [int(value) & 0xFFFFFFFF for value in words[1]] == [
        (stream >> (32 * at)) & 0xFFFFFFFF for at in range(words.shape[1])
    ]
    assert torch.equal(unpack_words(words, bits, count), codes.int())


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_layout_is_undone(layout: object) -> None:
    from qcompiler.checkpoints.layouts import Layout

    assert isinstance(layout, Layout)
    codes = torch.arange(3 * 64).reshape(3, 64)
    assert torch.equal(layout.undo(layout.apply(codes)), codes)
    assert layout.apply(codes)[0, : len(layout.order)].tolist() == list(layout.order)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", [16, -1])
def test_gptq_weights_are_read_bit_for_bit(tmp_path: Path, version: int, bits: int, group: int) -> None:
    stored = Stored(bits, group, rows=32)
    folder = write(tmp_path, stored.gptq(version), gptq_settings(bits, group, "gptq" if version == 1 else "gptq_v2"))
    coded = open_checkpoint(folder).decode(["first.weight"], torch.empty(32, 64))
    assert coded is not None
    assert coded.spec.bits == bits
    assert torch.equal(coded.codes, stored.codes.float())
    assert coded.zero_point is not None
    assert torch.equal(coded.zero_point, stored.zero.float())
    assert torch.equal(coded.scales[0], stored.scale.float())
    assert torch.equal(reals(coded), stored.weight())


def test_zero_points_in_the_middle_are_symmetric_numbers(tmp_path: Path) -> None:
    stored = Stored(4, 16)
    stored.zero[:] = 8
    folder = write(tmp_path, stored.gptq(1), gptq_settings())
    coded = open_checkpoint(folder).decode(["first.weight"], torch.empty(48, 64))
    assert coded is not None
    assert str(coded.spec) == "int4 sym block=(1,16) scale=f16"
    assert torch.equal(reals(coded), stored.weight())


def test_columns_of_scattered_groups_are_sorted_and_the_input_with_them(tmp_path: Path) -> None:
    model, stored = two(), Stored(4, 16)
    folder = write(tmp_path, stored.gptq(1, stored.shuffled) | rest(model), gptq_settings())
    program = qcompiler.trace(model, (X,), weights=folder)
    result = program.run(X)
    assert isinstance(result, Tensor)
    torch.testing.assert_close(result, expected(model, stored.weight(stored.shuffled)), rtol=1e-5, atol=1e-5)
    linear = next(node for node in program.nodes if node.name == "linear")
    read = linear.args[1]
    assert isinstance(read, torch.fx.Node)
    assert program.op(read) == "qc.dequantize"


def test_awq_weights_are_read_bit_for_bit(tmp_path: Path) -> None:
    stored = Stored(4, 16)
    folder = write(tmp_path, stored.awq(), AWQ)
    coded = open_checkpoint(folder).decode(["first.weight"], torch.empty(48, 64))
    assert coded is not None
    assert torch.equal(coded.codes, stored.codes.float())
    assert torch.equal(reals(coded), stored.weight())


@pytest.mark.parametrize("kind", ["gptq", "awq"])
def test_a_quantized_checkpoint_compiles_without_solving(tmp_path: Path, kind: str) -> None:
    model, stored = two(), Stored(4, 16)
    tensors = stored.gptq(1) if kind == "gptq" else stored.awq()
    folder = write(tmp_path / "stored", tensors | rest(model), gptq_settings() if kind == "gptq" else AWQ)
    artifact = qcompiler.compile(model, inputs=(X,), weights=folder, strict=True)
    assert artifact.manifest.recipe.startswith("name: stored")
    layer = next(layer for layer in artifact.report.layers if layer.name == "linear")
    assert (layer.requested, layer.realised) == ("weight uint4", "MatMulNBits accuracy_level=0")
    assert torch.equal(artifact.program.params["first.weight"], stored.codes.float())  # pyright: ignore[reportArgumentType]
    result = artifact(X)
    assert isinstance(result, Tensor)
    torch.testing.assert_close(result, expected(model, stored.weight()), rtol=1e-5, atol=1e-5)


def test_a_program_with_stored_codes_prints_and_parses(tmp_path: Path) -> None:
    model, stored = two(), Stored(4, 16)
    folder = write(tmp_path, stored.gptq(1) | rest(model), gptq_settings())
    program = qcompiler.trace(model, (X,), weights=folder)
    program.verify()
    again = parse_program(str(program), {name: v for name, v in program.params.items() if isinstance(v, Tensor)})
    assert str(again) == str(program)


def test_a_recipe_for_activations_keeps_stored_weights(tmp_path: Path) -> None:
    model = two()
    codes = torch.randint(-127, 128, (48, 64), generator=torch.Generator().manual_seed(0)).to(torch.int8)
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    groups = {"group_0": {"weights": weights, "targets": ["Linear"]}}
    settings_ = {"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": groups}
    tensors = {"first.weight": codes, "first.weight_scale": torch.full((48, 1), 0.01)}
    folder = write(tmp_path, tensors | rest(model), settings_)
    artifact = qcompiler.compile(model, inputs=(X,), weights=folder, recipe="w8a8_dynamic")
    layer = artifact.report.layers[0]
    assert layer.requested == "weight int8 x input uint8"
    assert torch.equal(artifact.program.params["first.weight"], codes.float())  # pyright: ignore[reportArgumentType]


def test_blocks_of_scale_zero_are_zeros(tmp_path: Path) -> None:
    stored = Stored(4, 16)
    stored.scale[0, 0] = 0
    folder = write(tmp_path, stored.gptq(1), gptq_settings())
    coded = open_checkpoint(folder).decode(["first.weight"], torch.empty(48, 64))
    assert coded is not None
    assert torch.equal(reals(coded), stored.weight())
    assert bool((coded.scales[0] > 0).all())


def without(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("change", "config", "words"),
    [
        (lambda t: without(t, "first.qzeros"), {}, ["'first.qzeros'", "not in the files"]),
        (lambda t: t | {"first.scales": t["first.scales"][:2]}, {}, ["'first.scales'", "2 groups for 64 columns"]),
        (lambda t: t | {"first.qweight": t["first.qweight"][:5]}, {}, ["'first.qweight'", "5 words"]),
        (lambda t: t | {"first.scales": t["first.scales"] * float("nan")}, {}, ["first.scales", "NaN"]),
        (lambda t: t | {"first.scales": -t["first.scales"]}, {}, ["'first.scales'", "negative"]),
        (lambda t: t | {"first.g_idx": torch.zeros(64, dtype=torch.int32)}, {}, ["'first.g_idx'", "16 columns"]),
        (lambda t: t, {"quant_method": "bitsandbytes"}, ["quant_method 'bitsandbytes'", "gptq"]),
        (lambda t: t, {"bits": 5}, ["bits 5", "2, 3, 4, 8"]),
        (lambda t: t, {"bits": "four"}, ["bits 'four'"]),
        (lambda t: t, {"checkpoint_format": "marlin"}, ["'marlin'"]),
    ],
)
def test_a_bad_checkpoint_is_named(tmp_path: Path, change, config: dict[str, object], words: list[str]) -> None:
    model = two()
    folder = write(tmp_path, change(Stored(4, 16).gptq(1)) | rest(model), gptq_settings() | config)
    with pytest.raises(InputError) as caught:
        qcompiler.trace(model, (X,), weights=folder)
    assert all(text in str(caught.value) for text in words), str(caught.value)
    assert str(folder) in str(caught.value)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    other = two(columns=64, rows=40)
    folder = write(tmp_path, Stored(4, 16).gptq(1) | rest(other), gptq_settings())
    with pytest.raises(InputError, match=r"'first\.qweight'"):
        qcompiler.trace(other, (X,), weights=folder)


def test_codes_are_only_dequantized_before_the_quantized_stage(tmp_path: Path) -> None:
    model = two()
    folder = write(tmp_path, Stored(4, 16).gptq(1) | rest(model), gptq_settings())
    text = str(qcompiler.trace(model, (X,), weights=folder))
    broken = text.replace("qc.dequantize %first_weight,", "qc.quantize %second_weight,")
    assert broken != text
    with pytest.raises(QCompilerError):
        parse_program(broken).verify()


@pytest.mark.parametrize(
    "text",
    [
        "int8 sym channel scale=f32",
        "uint4 asym group=16 scale=f16",
        "fp8e4m3 sym tensor scale=bf16",
        "fp4e2m1 sym group=16 scale=e4m3 outer=f32",
    ],
)
def test_a_request_is_found_in_its_spec(text: str) -> None:
    number = Number.parse(text)
    assert Number.of(number.spec(2, 0, 1), 0, 1) == number


def test_tiles_are_no_request() -> None:
    assert Number.of(QuantSpec.parse("int8 sym block=(16,16) scale=f32"), 0, 1) is None


def test_sorted_columns_have_no_place_in_an_export(tmp_path: Path) -> None:
    model, stored = two(), Stored(4, 16)
    folder = write(tmp_path / "in", stored.gptq(1, stored.shuffled) | rest(model), gptq_settings())
    artifact = qcompiler.compile(model, inputs=(X,), weights=folder)
    with pytest.raises(UnsupportedError, match=r"aten.index_select.*made by order_columns"):
        qcompiler.export(artifact, tmp_path / "out")
