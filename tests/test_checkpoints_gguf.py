"""GGUF files: written, read by the gguf package, and read back bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import qcompiler
from qcompiler.checkpoints.contents import Layer
from qcompiler.checkpoints.gguf import BLOCK_TYPES, Blocks, blocks_of, open_gguf, write_gguf
from qcompiler.errors import InputError, UnsupportedError
from qcompiler.frontends.weight_files import Coded
from qcompiler.passes.allocate import Assign
from qcompiler.spec import QuantSpec, dequantize
from tests.checkpoint_tools import quantized_two, two, weight_of

F16 = "scale=f16"


def layer(text: str, rows: int = 6, columns: int = 64, zero: float | None = None, seed: int = 0) -> Layer:
    """A random weight on the grid of a spec; scales are float16 numbers."""
    spec = QuantSpec.parse(text)
    make = torch.Generator().manual_seed(seed)
    low, high = int(spec.format.lowest), int(spec.format.highest)
    codes = torch.randint(low, high + 1, (rows, columns), generator=make).float()
    counts = [int(size) for size in spec.levels[0].scale_shape((rows, columns))]
    scale = (torch.rand(counts, generator=make) * 0.1 + 0.01).half().float()
    return Layer(codes, (scale,), None if zero is None else torch.full(counts, zero), spec)


def reals(coded: Coded | Tensor) -> Tensor:
    assert isinstance(coded, Coded)
    return dequantize(coded.codes, coded.scales[0], coded.zero_point, coded.spec)


CASES = {
    "Q4_0": layer(f"int4 sym block=(1,32) {F16}"),
    "Q4_0 of three bits": layer(f"int3 sym block=(1,32) {F16}"),
    "Q4_0 of large groups": layer(f"int4 sym block=(1,64) {F16}"),
    "Q4_0 unsigned": layer(f"uint4 asym block=(1,32) {F16}", zero=8.0),
    "Q4_1": layer(f"uint4 asym block=(1,32) {F16}", zero=0.0),
    "Q4_1 in powers of two": layer(f"uint4 asym block=(1,32) {F16}", zero=4.0),
    "Q5_0": layer(f"int5 sym block=(1,32) {F16}"),
    "Q5_1": layer(f"uint5 asym block=(1,32) {F16}", zero=2.0),
    "Q8_0": layer(f"int8 sym block=(1,32) {F16}"),
    "Q8_0 of rows": layer(f"int8 sym block=(1,-1) {F16}"),
    "Q8_0 of the tensor": layer(f"int8 sym block=(-1,-1) {F16}"),
}


def written(folder: Path, given: Layer) -> tuple[Path, Blocks]:
    blocks = blocks_of(given)
    assert isinstance(blocks, Blocks), blocks
    write_gguf(folder / "one.gguf", {"w": blocks}, {"general.architecture": "test"})
    return folder / "one.gguf", blocks


@pytest.mark.parametrize("case", CASES)
def test_the_package_reads_our_weights(tmp_path: Path, case: str) -> None:
    gguf = pytest.importorskip("gguf")
    quants = pytest.importorskip("gguf.quants")
    path, _ = written(tmp_path, CASES[case])
    (tensor,) = gguf.GGUFReader(path).tensors
    assert tensor.tensor_type.name == case.split()[0]
    assert list(tensor.shape) == [64, 6]
    found = quants.dequantize(tensor.data, tensor.tensor_type)
    exact = CASES[case].reals()
    if tensor.tensor_type.name.endswith("_1"):
        torch.testing.assert_close(torch.from_numpy(found.copy()), exact, rtol=2e-7, atol=1e-8)
    else:
        assert torch.equal(torch.from_numpy(found.copy()), exact)


@pytest.mark.parametrize("case", CASES)
def test_values_survive_the_round_trip(tmp_path: Path, case: str) -> None:
    path, blocks = written(tmp_path, CASES[case])
    coded = open_gguf(path).read("w")
    assert torch.equal(reals(coded), CASES[case].reals())
    again = Blocks.of(blocks.type, blocks.data(), (6, 64))
    assert torch.equal(again.codes, blocks.codes)
    assert torch.equal(again.scale, blocks.scale)


@pytest.mark.parametrize("type_", BLOCK_TYPES, ids=lambda type_: type_.name)
def test_what_the_package_quantizes_is_read(tmp_path: Path, type_: object) -> None:
    gguf = pytest.importorskip("gguf")
    quants = pytest.importorskip("gguf.quants")
    name = getattr(type_, "name", "")
    values = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    data = quants.quantize(values, gguf.GGMLQuantizationType[name])
    writer = gguf.GGUFWriter(tmp_path / "theirs.gguf", "test")
    writer.add_tensor("w", data, raw_dtype=gguf.GGMLQuantizationType[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if name.endswith("_1"):
        with pytest.raises(InputError, match=r"'w' has minima"):
            open_gguf(tmp_path / "theirs.gguf").read("w")
        return
    file = open_gguf(tmp_path / "theirs.gguf")
    wanted = quants.dequantize(data, gguf.GGMLQuantizationType[name])
    assert file.metadata["general.architecture"] == "test"
    assert torch.equal(reals(file.read("w")), torch.from_numpy(wanted))


def test_floats_are_kept(tmp_path: Path) -> None:
    tensors: dict[str, Blocks | Tensor] = {
        "a": torch.randn(3, 5),
        "b": torch.randn(7).half(),
        "c": torch.randn(2, 2).bfloat16(),
    }
    write_gguf(tmp_path / "f.gguf", tensors, {"general.architecture": "test", "general.alignment": 32})
    file = open_gguf(tmp_path / "f.gguf")
    assert file.metadata == {"general.architecture": "test", "general.alignment": 32}
    for name, tensor in tensors.items():
        found = file.read(name)
        assert isinstance(found, Tensor)
        assert isinstance(tensor, Tensor)
        assert torch.equal(found, tensor)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (layer("int4 sym block=(1,16) scale=f16"), "whole blocks of 32"),
        (layer("int4 sym block=(1,32) scale=f16", columns=48), "whole blocks of 32"),
        (layer("fp8e4m3 sym block=(1,32) scale=f16"), "only integers"),
        (layer("uint4 asym block=(1,32) scale=f16", zero=7.0), "float16 cannot hold"),
    ],
)
def test_what_has_no_type_says_why(given: Layer, why: str) -> None:
    found = blocks_of(given)
    assert isinstance(found, str)
    assert why in found


def test_scales_that_are_no_half_precision_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"'first\.weight'.*ask for scale=f16"):
        qcompiler.export(quantized_two(Assign("w8a16")), tmp_path / "out", "gguf")


def test_a_program_is_exported_under_given_names(tmp_path: Path) -> None:
    program = quantized_two(Assign("w4a16", weight="int4 sym group=32 scale=f16", keep="second"))
    (tmp_path / "names.json").write_text(json.dumps({"first.weight": "blk.0.up.weight"}))
    written = qcompiler.export(program, tmp_path / "out", "gguf", source=two(), names=tmp_path / "names.json")
    assert written.files == ("model.gguf",)
    file = open_gguf(tmp_path / "out" / "model.gguf")
    assert sorted(file.places) == ["blk.0.up.weight", "first.bias", "second.weight"]
    coded = file.read("blk.0.up.weight")
    assert isinstance(coded, Coded)
    assert torch.equal(coded.codes, program.params["first.weight"])  # pyright: ignore[reportArgumentType]
    assert torch.equal(reals(coded), weight_of(program, "first.weight"))


def test_a_file_is_bound_to_its_model(tmp_path: Path) -> None:
    model, x = two(), torch.ones(4, 64)
    program = quantized_two(Assign("w4a16", weight="int4 sym group=32 scale=f16", keep="second"))
    qcompiler.export(program, tmp_path / "out", "gguf", source=model)
    again = qcompiler.trace(model, (x,), weights=tmp_path / "out" / "model.gguf")
    assert torch.equal(weight_of(again, "first.weight"), weight_of(program, "first.weight"))
    result, expected = again.run(x), program.run(x)
    assert isinstance(result, Tensor)
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(result, expected)
    with pytest.raises(InputError, match=r"'first\.weight'.*shape \[48, 64\], the model wants \[40, 64\]"):
        qcompiler.trace(two(rows=40), (x,), weights=tmp_path / "out" / "model.gguf")


def test_unknown_and_doubled_names_are_refused(tmp_path: Path) -> None:
    program = quantized_two(Assign("w4a16", weight="int4 sym group=32 scale=f16", keep="second"))
    names = {"third": "x", "first.weight": "one", "first.bias": "one"}
    with pytest.raises(UnsupportedError) as caught:
        qcompiler.export(program, tmp_path / "out", "gguf", names=names)
    assert "'third' is renamed" in str(caught.value)
    assert "'one' would name several" in str(caught.value)


@pytest.mark.parametrize("size", [3, 20, 60, 200])
def test_a_cut_file_is_named(tmp_path: Path, size: int) -> None:
    path, _ = written(tmp_path, CASES["Q8_0"])
    (tmp_path / "cut.gguf").write_bytes(path.read_bytes()[:size])
    with pytest.raises(InputError, match=r"cut\.gguf"):
        open_gguf(tmp_path / "cut.gguf").read("w")


def test_unknown_types_and_broken_scales_are_named(tmp_path: Path) -> None:
    path, blocks = written(tmp_path, CASES["Q8_0"])
    data = bytearray(path.read_bytes())
    at = data.index(b"w") + 1 + 4 + 16
    data[at] = 12
    (tmp_path / "k.gguf").write_bytes(data)
    with pytest.raises(InputError, match="tensor 'w' is of type 12"):
        open_gguf(tmp_path / "k.gguf").read("w")
    blocks.scale[0, 0] = float("nan")
    write_gguf(tmp_path / "n.gguf", {"w": blocks}, {})
    with pytest.raises(InputError, match="tensor 'w' holds NaN"):
        open_gguf(tmp_path / "n.gguf").read("w")
