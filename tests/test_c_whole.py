"""Softmax, norms, products, sums and tables in whole numbers: exact roundings, near the ideal, the same codes on every
level of generated C.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import qcompiler
from qcompiler.artifact import Artifact
from qcompiler.backends.c.isa import Isa
from qcompiler.backends.reference.arithmetic import Codes, Grid
from qcompiler.backends.reference.fixed import Factor, add, requantize
from qcompiler.backends.reference.product import matmul
from qcompiler.backends.reference.whole import (
    NORM_BITS,
    WHOLE_MEANINGS,
    Channels,
    Exponentials,
    bit_length,
    layer_norm,
    lookup,
    rms_norm,
    softmax,
    whole_root,
)
from qcompiler.errors import SpecError
from tests.c_harness import Case, run_kernel
from tests.c_int8 import act_dtype

LEVELS = (Isa.PORTABLE, Isa.AVX2, Isa.AVX512, Isa.NEON, Isa.NEON32)
every_level = pytest.mark.parametrize("isa", LEVELS, ids=lambda isa: isa.value)
few = settings(deadline=None, max_examples=3)
SEEDS = st.integers(0, 9999)
WIDE = Grid(torch.ones(()), torch.zeros(()), -(2.0**40), 2.0**40)


def draw(isa: Isa, seed: int, *shape: int) -> np.ndarray:
    """Codes as stored; often all equal, or of few values."""
    info, random = np.iinfo(act_dtype(isa)), np.random.default_rng(seed)
    spread = int(random.choice([0, 3, 40, 255]))
    least = int(random.integers(info.min, info.max + 1 - spread))
    return random.integers(least, least + spread + 1, shape).astype(act_dtype(isa))


def parts(codes: np.ndarray, scale: float, zero: float) -> list[torch.Tensor | None]:
    return [torch.from_numpy(codes.astype(np.float32)), torch.tensor(scale), torch.tensor(float(zero))]


def limits(isa: Isa, zero: int) -> dict[str, int]:
    info = np.iinfo(act_dtype(isa))
    return {"zero_point": zero, "low": info.min + 2, "high": info.max - 3}


def named(result: float, fields: dict[str, int]) -> dict[str, object]:
    grid = [torch.tensor(result), torch.tensor(float(fields["zero_point"]))]
    return {"op": "", "result": grid, "low": float(fields["low"]), "high": float(fields["high"])}


def stored(meaning: object, isa: Isa) -> np.ndarray:
    assert isinstance(meaning, torch.Tensor)
    return meaning.numpy().astype(act_dtype(isa))


# -- arithmetic -------------------------------------------------------------------------------------------------------


@given(total=st.integers(-(2**31), 2**31 - 1), factor=st.floats(2.0**-45, 2.0**20, width=32))
@settings(deadline=None, max_examples=50)
def test_requantization_rounds_the_exact_product_once(total: int, factor: float) -> None:
    found = Factor.of(torch.tensor(factor)).times(torch.tensor(float(total), dtype=torch.float64))
    assert int(found) == round(Fraction(total) * Fraction(factor))


def test_halves_go_to_even_codes() -> None:
    totals = torch.tensor([1.0, 3.0, 5.0, -1.0, -3.0], dtype=torch.float64)
    assert requantize(totals, torch.tensor(0.5), WIDE).tolist() == [0, 2, 2, 0, -2]


def test_factors_out_of_all_proportion_saturate_or_vanish() -> None:
    totals, grid = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64), Grid(torch.ones(()), torch.zeros(()), -128, 127)
    assert requantize(totals, torch.tensor(2.0**100), grid).tolist() == [-128, 0, 127]
    assert requantize(totals * 2**30, torch.tensor(2.0**-100), grid).tolist() == [0, 0, 0]


@given(seed=SEEDS, left=st.floats(1e-3, 1e3), right=st.floats(1e-3, 1e3))
@settings(deadline=None, max_examples=25)
def test_sums_are_within_one_code_of_the_ideal(seed: int, left: float, right: float) -> None:
    a, b = (parts(draw(Isa.AVX2, seed + i, 64), scale, 100) for i, scale in enumerate((left, right)))
    operands = Codes.of(a), Codes.of(b)
    result = torch.tensor((left + right) * 1.1)
    found = add(*operands, Grid(result, torch.tensor(100.0), 0, 255))
    ideal = (operands[0].reals() + operands[1].reals()) / result + 100
    assert (found - ideal.clamp(0, 255)).abs().max() <= 0.501


@given(x=st.integers(1, 2**62 - 1))
@settings(deadline=None, max_examples=50)
def test_roots_and_lengths_are_whole(x: int) -> None:
    number = torch.tensor([x])
    root = int(whole_root(number))
    assert root * root <= x < (root + 1) ** 2
    assert int(bit_length(number)) == x.bit_length()


# -- near the ideal ---------------------------------------------------------------------------------------------------


@given(seed=SEEDS, width=st.integers(1, 600), scale=st.floats(1e-3, 0.5))
@settings(deadline=None, max_examples=25)
def test_softmax_is_within_one_code_of_the_ideal(seed: int, width: int, scale: float) -> None:
    x = parts(draw(Isa.AVX2, seed, 5, width), scale, 17)
    found = softmax(x, -1, op="", result=[torch.tensor(1 / 256), torch.tensor(0.0)], low=0, high=255)
    ideal = (Codes.of(x).reals().double().softmax(-1) * 256).clamp(0, 255)
    assert (found - ideal).abs().max() <= 0.501


@pytest.mark.parametrize("centred", [True, False])
@given(seed=SEEDS, width=st.integers(1, 600), scale=st.floats(1e-3, 10))
@settings(deadline=None, max_examples=25)
def test_norms_are_within_one_code_of_the_ideal(centred: bool, seed: int, width: int, scale: float) -> None:
    x, random = parts(draw(Isa.AVX2, seed, 5, width), scale, 90), torch.Generator().manual_seed(seed)
    weight, bias = (torch.randn(width, generator=random) for _ in range(2))
    options = {"op": "", "result": [torch.tensor(0.03), torch.tensor(128.0)], "low": 0, "high": 255}
    reals = Codes.of(x).reals().double()
    if centred:
        found = layer_norm(x, [width], weight, bias, 1e-5, **options)  # pyright: ignore[reportArgumentType]
        ideal = torch.nn.functional.layer_norm(reals, [width], weight.double(), bias.double(), 1e-5)
    else:
        found = rms_norm(x, [width], weight, 1e-5, **options)  # pyright: ignore[reportArgumentType]
        ideal = torch.nn.functional.rms_norm(reals, [width], weight.double(), 1e-5)
    assert (found - (ideal / 0.03 + 128).clamp(0, 255)).abs().max() <= 0.501


# -- kernels ----------------------------------------------------------------------------------------------------------


def softmax_case(isa: Isa, seed: int, width: int) -> tuple[Case, np.ndarray]:
    x, fields = draw(isa, seed, 3, width), limits(isa, np.iinfo(act_dtype(isa)).min + 5)
    scale, result = 0.01 + seed % 7 * 0.05, 1 / (100 + seed % 200)
    known = Exponentials.of(torch.tensor(scale), torch.tensor(result))
    case: Case = {
        "input": x,
        "input_stride": width,
        "width": width,
        "table": known.table.numpy().astype(np.uint32),
        "mantissa": known.mantissa,
        "shift": known.shift,
        **fields,
        "out": np.zeros_like(x),
        "out_stride": width,
    }
    return case, stored(softmax(parts(x, scale, 0), -1, **named(result, fields)), isa)  # pyright: ignore[reportArgumentType]


def norm_case(isa: Isa, seed: int, width: int) -> tuple[Case, np.ndarray]:
    info, random = np.iinfo(act_dtype(isa)), torch.Generator().manual_seed(seed)
    x, zero, fields = draw(isa, seed, 3, width), info.min + 100, limits(isa, info.min + 128)
    weight, bias = (torch.randn(width, generator=random) * 10.0 ** (seed % 9 - 4) for _ in range(2))
    scale, result, eps, centred = 10.0 ** (seed % 5 - 3), 0.05 * 10.0 ** (seed % 9 - 4), 1e-5, seed % 2
    if not centred:
        bias = torch.zeros(width)
    channels = Channels.of(torch.tensor(scale), torch.tensor(result), weight, bias, eps)
    case: Case = {
        "input": x,
        "input_stride": width,
        "width": width,
        "centred": centred,
        "input_zero": zero,
        "epsilon": channels.epsilon,
        "weight": channels.weight.numpy().astype(np.int32),
        "bias": channels.bias.numpy().astype(np.int32),
        "shift": channels.shift + NORM_BITS,
        **fields,
        "out": np.zeros_like(x),
        "out_stride": width,
    }
    given_ = parts(x, scale, zero)
    if centred:
        return case, stored(layer_norm(given_, [width], weight, bias, eps, **named(result, fields)), isa)  # pyright: ignore[reportArgumentType]
    return case, stored(rms_norm(given_, [width], weight, eps, **named(result, fields)), isa)  # pyright: ignore[reportArgumentType]


def matmul_case(isa: Isa, seed: int, width: int) -> tuple[Case, np.ndarray]:
    random = np.random.default_rng(seed)
    rows, columns, turned = *(int(each) for each in random.integers(1, 90, 2)), bool(seed % 2)
    left, right = draw(isa, seed, rows, width), draw(isa, seed + 1, *((columns, width) if turned else (width, columns)))
    least = np.iinfo(act_dtype(isa)).min
    fields, zeros, scales, result = limits(isa, least + 99), (least + 120, least + 7), (0.02, 0.3), 3.0
    factor = Factor.of(torch.tensor(scales[0]) * torch.tensor(scales[1]) / torch.tensor(result))
    case: Case = {
        "left": left,
        "left_stride": width,
        "right": right,
        "depth_stride": 1 if turned else columns,
        "column_stride": width if turned else 1,
        "depth": width,
        "columns": columns,
        "left_zero": zeros[0],
        "right_zero": zeros[1],
        "fixed.mantissa": factor.mantissa.reshape(1).numpy().astype(np.int32),
        "fixed.shift": factor.shift.reshape(1).numpy().astype(np.uint8),
        **{f"fixed.{name}": number for name, number in fields.items()},
        "out": np.zeros((rows, columns), act_dtype(isa)),
        "out_stride": columns,
    }
    operands = parts(left, scales[0], zeros[0]), parts(right.T if turned else right, scales[1], zeros[1])
    return case, stored(matmul(*operands, **named(result, fields), fixed=True), isa)  # pyright: ignore[reportArgumentType]


def lookup_case(isa: Isa, seed: int, count: int) -> tuple[Case, np.ndarray]:
    random, info = np.random.default_rng(seed), np.iinfo(act_dtype(isa))
    x, table = (random.integers(info.min, info.max + 1, size, act_dtype(isa)) for size in (count * 5, 256))
    found = lookup(
        parts(x, 1, 0), torch.from_numpy(table), op="", result=[], low=info.min, high=info.max, least=info.min
    )
    return {"input": x, "count": x.size, "table": table, "out": np.zeros_like(x)}, stored(found, isa)


CASES = {"softmax_i8": softmax_case, "norm_i8": norm_case, "matmul_i8": matmul_case, "lookup": lookup_case}


def tasks(name: str, case: Case) -> tuple[int, int]:
    out = case["out"]
    assert isinstance(out, np.ndarray)
    return 0, -(-out.size // 1024) if name == "lookup" else out.shape[0]


@every_level
@pytest.mark.parametrize("name", CASES)
@given(widths=st.lists(st.integers(1, 300), min_size=8, max_size=8), seed=SEEDS)
@few
def test_every_code_is_that_of_the_meaning(isa: Isa, name: str, widths: list[int], seed: int) -> None:
    cases = [CASES[name](isa, seed + i, width) for i, width in enumerate(widths)]
    found = run_kernel(name, isa, [case for case, _ in cases], [tasks(name, case) for case, _ in cases])
    for result, (_, wanted) in zip(found, cases, strict=True):
        np.testing.assert_array_equal(result, wanted)


@pytest.mark.parametrize("name", CASES)
def test_sanitizers_find_nothing(name: str) -> None:
    isa = Isa.AVX512 if name == "lookup" else Isa.PORTABLE
    cases = [CASES[name](isa, seed, width) for seed, width in enumerate((1, 7, 300))]
    found = run_kernel(name, isa, [case for case, _ in cases], [tasks(name, case) for case, _ in cases], sanitize=True)
    for result, (_, wanted) in zip(found, cases, strict=True):
        np.testing.assert_array_equal(result, wanted)


def test_a_part_of_the_tasks_writes_its_codes_only() -> None:
    case, wanted = lookup_case(Isa.PORTABLE, 3, 600)
    (found,) = run_kernel("lookup", Isa.PORTABLE, [case], [(1, 2)])
    np.testing.assert_array_equal(found[1024:2048], wanted[1024:2048])
    assert not found[:1024].any()
    assert not found[2048:].any()


# -- models -----------------------------------------------------------------------------------------------------------


class Tokens(torch.nn.Module):
    """Images in patches through attention, norms, a gate and pools."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = torch.nn.Conv2d(3, 16, 4, 4), torch.nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.norm, self.rms = torch.nn.LayerNorm(16), torch.nn.RMSNorm(16)
        self.query, self.key, self.value, self.out = (torch.nn.Linear(16, 16) for _ in range(4))
        self.gate, self.up, self.down = torch.nn.Linear(16, 24), torch.nn.Linear(16, 24), torch.nn.Linear(24, 16)
        self.head = torch.nn.Linear(16, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.hardswish(self.depthwise(torch.relu(self.stem(image))))
        x = torch.nn.functional.avg_pool2d(x, 2).flatten(2).transpose(1, 2)
        y = self.norm(x)
        heads = [layer(y).unflatten(-1, (2, 8)).transpose(1, 2) for layer in (self.query, self.key, self.value)]
        x = x + self.out(torch.nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
        y = self.rms(x)
        x = x + self.down(torch.nn.functional.gelu(self.gate(y)) * self.up(y))
        return self.head(x.mean(1))


def images() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@cache
def compiled() -> Artifact:
    torch.manual_seed(2)
    return qcompiler.compile(Tokens().eval(), "cortex-m0", calibration=[images()], recipe="w8a8")


def test_a_model_without_floats_gives_the_codes_of_its_simulation() -> None:
    found, foretold = compiled()(images()), compiled().simulate(images())
    assert isinstance(found, torch.Tensor)
    assert isinstance(foretold, torch.Tensor)
    assert torch.equal(found, foretold)
    assert (compiled().report.sqnr_db or 0) > 30


def test_floats_are_at_its_ends_only() -> None:
    folder = compiled().folder
    assert folder is not None
    text = (folder / "c" / "model.c").read_text()
    layers = re.findall(r"^static void (\w+)\(const qc_context.*?\n(.*?)^}", text, re.MULTILINE | re.DOTALL)
    assert len(layers) > 20
    assert [name for name, body in layers if "float" in body] == ["conv2d", "head_linear_7_dq", "result_0"]


def test_integers_are_requantized_in_portable_c_only() -> None:
    with pytest.raises(SpecError, match="portable"):
        qcompiler.compile(Tokens(), "cortex-m0{isa=avx2}", calibration=[images()], recipe="w8a8")


class Chain(torch.nn.Module):
    """Arithmetic on one code between two layers, which reads it twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.last(torch.sin(x * 1.5) * torch.exp(-x) + 0.25)


def test_arithmetic_between_two_grids_is_a_table() -> None:
    torch.manual_seed(0)
    artifact = qcompiler.compile(Chain().eval(), "host", calibration=[images()], recipe="w8a8")
    kernels = [node.args[0] for node in artifact.program.nodes if artifact.program.op(node) == "qc.kernel"]
    assert kernels == ["conv", "lookup", "conv"]
    found, foretold = artifact(images()), artifact.simulate(images())
    assert isinstance(found, torch.Tensor)
    assert isinstance(foretold, torch.Tensor)
    assert torch.equal(found, foretold)


def test_every_meaning_has_its_semantics() -> None:
    from qcompiler.backends.reference.semantics import WHOLE_SEMANTICS

    assert set(WHOLE_SEMANTICS) == set(WHOLE_MEANINGS)
