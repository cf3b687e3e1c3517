"""Scales of groups beside codes of activations: kernels, and the layers that are made of them."""

from __future__ import annotations

import itertools
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import qcompiler
from qcompiler.artifact import Artifact
from qcompiler.backends.cuda.arch import ARCHITECTURES
from qcompiler.backends.cuda.groups import packed_group_scales, packed_group_zeros
from qcompiler.backends.cuda.integer_packing import deinterleave
from qcompiler.backends.cuda.kernels import KERNELS
from qcompiler.backends.cuda.kernels.low_bit import choose_w4a4, choose_wna8
from qcompiler.backends.cuda.product import Matrix, packed
from qcompiler.backends.cuda.reading import reading_of
from qcompiler.backends.reference.grouped import roundings
from qcompiler.errors import VerifyError
from qcompiler.ir.pattern import Refusal
from qcompiler.job import backends
from qcompiler.spec import Number, QuantSpec, Scheme, parse_scheme
from qcompiler.targets import load_target
from tests.cuda_harness import aligned, run_sanitized, traffic_of
from tests.cuda_models import activations, compiled
from tests.cuda_products import Parts
from tests.test_cuda_backend import decibels, layers
from tests.test_cuda_low_bit import PAST_ROUNDINGS, case, group_sums, launch, names

INPUTS, OUTPUTS = 200, 40
TARGET = "orin{device=emulation, build=later, compute=float32}"
TOKENS = "int8 sym token scale=f32 dynamic"
NUMBERS = {
    "w4a8g128 asymmetric": ("uint4 asym group=128 scale=f16", "uint8 asym token scale=f32 dynamic"),
    "w2a8g32 asymmetric": ("uint2 asym group=32 scale=f16", TOKENS),
    "w4a4g64": ("int4 sym group=64 scale=f16", "int4 sym token scale=f32 dynamic"),
    "int8 blocks": ("int4 sym group=32 scale=f16", "int8 sym group=32 scale=f32 dynamic"),
    "int4 blocks": ("int4 sym group=64 scale=f16", "int4 sym group=64 scale=f32 dynamic"),
}
RAGGED = given(
    rows=st.integers(1, 30),
    columns=st.integers(1, 50),
    depth=st.integers(1, 500),
    group=st.sampled_from([32, 64, 128]),
    seed=st.integers(0, 99),
)
BLOCKS = [
    (kernel, name)
    for kernel in ("gemm_wna8", "gemm_w4a4", "gemv_wna8", "gemv_w4a4")
    for name in names(kernel, "blocks")
]
ZEROS = [
    (kernel, name)
    for kernel in ("gemm_wna8", "gemv_wna8")
    for name in [*names(kernel, "zeros"), *names(kernel, "moved")]
    if "_128x" not in name
]


def recipe(weight: str, activation: str, folder: Path, more: str = "") -> Path:
    path = folder / "grouped.yaml"
    numbers = f"weight: {weight}, activation: {activation}"
    passes = f"  - assign: {{{numbers}}}\n{more}  - apply_plan\n  - calibrate\n  - nearest\n"
    path.write_text(f"name: grouped\npasses:\n{passes}")
    return path


@cache
def layer(name: str, folder: Path) -> tuple[Artifact, torch.Tensor]:
    """A linear layer, whose groups do not divide its inputs, and inputs."""
    torch.manual_seed(1)
    model, x = torch.nn.Linear(INPUTS, OUTPUTS), torch.randn(12, INPUTS)
    written = recipe(*NUMBERS[name], folder)
    return qcompiler.compile(model.eval(), TARGET, calibration=[(x,)], recipe=written, keep_float=False), x


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("grouped")


@pytest.mark.parametrize("name", NUMBERS)
def test_many_rows_equal_their_meaning(name: str, folder: Path) -> None:
    artifact, x = layer(name, folder)
    (kind,) = {found.meaning for found in layers(artifact)}
    assert "in groups of" in kind
    assert decibels(artifact(x), artifact.simulate(x)) == math.inf


@pytest.mark.parametrize("name", NUMBERS)
def test_few_rows_add_groups_up_in_another_order(name: str, folder: Path) -> None:
    artifact, x = layer(name, folder)
    assert decibels(artifact(x[:2]), artifact.simulate(x[:2])) > 135


def test_short_name_of_groups_is_all_a_recipe_needs() -> None:
    torch.manual_seed(1)
    model, x = torch.nn.Linear(160, 24).eval(), torch.randn(10, 160)
    artifact = qcompiler.compile(model, TARGET, calibration=[(x,)], recipe="w4a8g128")
    (found,) = layers(artifact)
    assert found.meaning == "linear uint8 asym static x int4 in groups of 128 [24, 160]"
    assert found.kernels == ("quantize_rows", "gemv_wna8", "gemm_wna8")
    assert decibels(artifact(x), artifact.simulate(x)) == math.inf


def test_zero_points_on_both_sides_are_exact(folder: Path) -> None:
    """Sums of groups are what they are, whatever is taken from them: integers."""
    artifact, x = layer("w4a8g128 asymmetric", folder)
    moved = x + 40
    assert decibels(artifact(moved), artifact.simulate(moved)) == math.inf


def test_low_rank_branch_beside_blocks(tmp_path: Path) -> None:
    branch = "  - svdquant: {rank: 16, iterations: 0, smooth: false}\n"
    artifact, x = compiled(recipe(*NUMBERS["int4 blocks"], tmp_path, branch)), activations()
    products = [found for found in layers(artifact) if found.meaning.startswith("linear")]
    assert all("+ rank 16" in found.meaning and found.inputs[-1].width == 16 for found in products[:3])
    # The factors of the branch meet in half precision.
    assert decibels(artifact(x), artifact.simulate(x)) > 50


def test_codes_in_blocks_are_found_once(tmp_path: Path) -> None:
    artifact = compiled(recipe(*NUMBERS["int4 blocks"], tmp_path))
    codes = next(found for found in layers(artifact) if found.meaning.startswith("codes"))
    assert codes.kernels == ("quantize_blocks",)
    assert [port.width for port in codes.outputs] == [32, 1]
    readers = [found for found in layers(artifact) if found.inputs[0].element == "uint8"]
    assert [found.module for found in readers] == ["query", "key", "value"]


def test_kernels_say_in_which_format_they_read_scales() -> None:
    target = load_target("orin", backends())
    program = qcompiler.trace(torch.nn.Linear(64, 8), torch.randn(2, 64))
    (node,) = [node for node in program.nodes if program.op(node) == "aten.linear"]
    choice = target.choose(program, node, parse_scheme("w4a8g64"))
    assert not isinstance(choice, Refusal)
    assert choice.kernel.name == "linear_grouped"
    assert choice.numbers["weight"] == Number.parse("int4 sym group=64 scale=f16")


def test_groups_of_both_sides_are_of_one_size() -> None:
    target = load_target("orin", backends())
    program = qcompiler.trace(torch.nn.Linear(256, 8), torch.randn(2, 256))
    (node,) = [node for node in program.nodes if program.op(node) == "aten.linear"]
    weight, activation = (
        Number.parse("int4 sym group=128 scale=f16"),
        Number.parse("int8 sym group=64 scale=f32 dynamic"),
    )
    refused = target.choose(program, node, Scheme(weight, activation, "mixed"))
    assert "its groups are of 64 and 128" in str(refused)


def test_scales_that_half_precision_does_not_hold_are_refused() -> None:
    with pytest.raises(VerifyError, match="half precision"):
        packed_group_scales(torch.tensor([[1.0, 1 + 2.0**-12]]))


@pytest.mark.parametrize("weight", ["uint4 asym", "uint4 sym", "int3 sym"])
def test_what_fills_rows_of_codes_up_counts_nothing(weight: str) -> None:
    """Image layers leave any codes there."""
    random = np.random.default_rng(3)
    spec = QuantSpec.parse(f"{weight} block=(1,32) scale=f16")
    codes, zero = random.integers(0, 4, (6, 52)), random.integers(0, 8, (6, 2)) * (not spec.symmetric)
    matrix = Matrix(torch.tensor(codes).float(), torch.ones(6, 2), torch.tensor(zero).float(), spec)
    single = QuantSpec.parse("uint8 asym block=(-1,-1) scale=f32")
    reading = reading_of(single, 52, "float32", torch.tensor(1.0), torch.tensor(5.0))
    found = {name: value.numpy() for name, value in packed(matrix, reading, None).items()}

    x, w = random.integers(-128, 128, (4, 64)), deinterleave(found["codes"], 4, 64).astype(int)
    zeros = found["group_zero"].astype(int) if "group_zero" in found else np.zeros((2, 6), int)
    last = x[:, 32:] @ w[:, 32:].T - x[:, 32:].sum(1)[:, None] * zeros[1]
    total = last - found["input_zero"] * found["group_sum"].view(np.int16)[1]
    np.testing.assert_array_equal(total, (x[:, 32:52] + 128 - 5) @ (codes[:, 32:] - zero[:, 1:]).T)


def block_case(name: str, rows: int, columns: int, depth: int, group: int, seed: int) -> dict:
    """A product whose inputs have scales of groups too."""
    args = case(name, rows, columns, depth, seed, Parts(bias=True), group)
    for part in ("input_scale", "weight_scale"):
        del args[part]
    scales = np.random.default_rng(seed).uniform(0.01, 0.1, (rows, -(-depth // group)))
    return args | {"input_group_scale": scales.astype(np.float32)}


def meant(args: dict) -> tuple[np.ndarray, np.ndarray]:
    """Results in the order of groups, and sums of magnitudes of groups."""
    x, w, group = args["x"].astype(np.float64), args["w"].astype(np.float64), args["group"]
    total, size = np.zeros((2, len(x), len(w)))
    for index, start in enumerate(range(0, x.shape[1], group)):
        part = slice(start, start + group)
        scale = args["group_scale"][index, : len(w)].astype(np.float32)
        step = (args["input_group_scale"][:, index, None] * scale).astype(np.float64)
        # Sums of a product of 20 bits and a float32 are exact in float64 but for its last bits.
        total = (total + (x[:, part] @ w[:, part].T) * step).astype(np.float32).astype(np.float64)
        size = size + (np.abs(x[:, part]) @ np.abs(w[:, part]).T) * step
    return total.astype(np.float32) + args["bias"], size + np.abs(args["bias"])


@pytest.mark.parametrize(("kernel", "name"), BLOCKS)
@RAGGED
@settings(deadline=None, max_examples=2)
def test_blocks_equal_their_meaning(
    kernel: str, name: str, rows: int, columns: int, depth: int, group: int, seed: int
) -> None:
    group = max(group, 64) if "w4a4" in name or "gemv_w2" in name else group
    args = block_case(name, rows, columns, depth, group, seed)
    expected, size = meant(args)
    found = launch(kernel, name, args)
    if kernel.startswith("gemm"):
        np.testing.assert_array_equal(found, expected)
    else:
        assert (np.abs(found - expected.astype(np.float64)) <= (depth / 16 + 8) * PAST_ROUNDINGS * size).all()


def zero_case(name: str, rows: int, columns: int, depth: int, group: int, seed: int) -> dict:
    """A product with zero points on both sides, or one of all inputs."""
    rng = np.random.default_rng(seed)
    args = case(name, rows, columns, depth, seed, Parts(), group)
    del args["weight_scale"]
    both = "zeros" in name
    zeros = rng.integers(-2, 2, (columns, -(-depth // group))) if both else np.zeros((columns, -(-depth // group)), int)
    found = packed_group_zeros(args["w"], torch.from_numpy(zeros), 0, group)
    args |= {key: aligned(value.numpy()) for key, value in found.items()}
    moved = rng.integers(-128, 128, rows if both else 1, dtype=np.int32)
    return args | {"zeros": zeros, "input_zero": moved, "input_zeros": int(both)}


@pytest.mark.parametrize(("kernel", "name"), ZEROS)
@RAGGED
@settings(deadline=None, max_examples=2)
def test_zero_points_are_taken_from_sums_of_groups(
    kernel: str, name: str, rows: int, columns: int, depth: int, group: int, seed: int
) -> None:
    group = max(group, 64) if "gemv_w2" in name else group
    args = zero_case(name, rows, columns, depth, group, seed)
    x, w = args["x"].astype(np.float64), args["w"] - np.repeat(args["zeros"], group, axis=1)[:, :depth]
    apart = args | {"x": x - args["input_zero"][:, None], "w": w}
    total, size = group_sums(apart)
    found = launch(kernel, name, {key: value for key, value in args.items() if key != "zeros"})
    if kernel.startswith("gemm"):
        np.testing.assert_array_equal(found, total * args["input_scale"][:, None])
    else:
        # Chunks of a group are scaled apart, before what the zero points of inputs take from all of them.
        bound = (depth / 16 + 8) * PAST_ROUNDINGS * (size + 256 * group_sums(apart | {"x": 0 * x + 1})[1])
        scaled = total.astype(np.float64) * args["input_scale"][:, None]
        assert (np.abs(found - scaled) <= bound * args["input_scale"][:, None]).all()


@pytest.mark.parametrize(("kernel", "name"), [one for one in BLOCKS if "_64x64" in one[1]])
def test_blocks_have_no_bank_conflicts(kernel: str, name: str) -> None:
    args = block_case(name, 128, 128, 1024, 64, 1)
    traffic = traffic_of(kernel, name, {key: value for key, value in args.items() if key not in ("x", "w")})
    assert traffic.shared_wavefronts == traffic.shared_ideal


def test_blocks_that_share_a_tile_stay_within_the_stated_roundings() -> None:
    args = block_case("qc_gemm_w4a8_blocks_64x64x128", 20, 30, 2000, 64, 3)
    expected, size = meant(args)
    shared = {"splits": 2, "workspace": np.zeros(2 * 64 * 64, np.int32), "counters": np.zeros(1, np.int32)}
    found = launch("gemm_wna8", "qc_gemm_w4a8_blocks_64x64x128", args | shared, ("counters",))
    bound = roundings(2000, 64) * PAST_ROUNDINGS * size
    assert (np.abs(found - expected.astype(np.float64)) <= bound).all()
    assert (found != expected).any()


def test_nothing_is_touched_outside() -> None:
    name = "qc_gemv_w4a8_zeros_1"
    given_args = {
        key: value for key, value in zero_case(name, 3, 13, 200, 64, 3).items() if key not in ("x", "w", "zeros")
    }
    expected = launch("gemv_wna8", name, given_args).copy()
    np.testing.assert_array_equal(run_sanitized("gemv_wna8", name, given_args, ("out",))["out"], expected)


@pytest.mark.parametrize("capability", ARCHITECTURES)
@pytest.mark.parametrize("rows", [1, 16, 4096])
def test_choices_exist_on_their_architecture(capability: int, rows: int) -> None:
    target = ARCHITECTURES[capability]
    choices = [choose_w4a4(rows, 4096, 4096, 64, target, "blocks")]
    ways = itertools.product((2, 4), ("blocks", "zeros", "moved"))
    choices += [choose_wna8(rows, 4096, 4096, bits, 128, target, scales) for bits, scales in ways]
    for choice in choices:
        assert choice.instance in {one.name for one in KERNELS[choice.kernel].on(target)}
