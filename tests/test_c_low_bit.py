"""Products of generated C with weights of few bits: every level equals portable C bit for bit, which equals numpy."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.kernels import MICRO_KERNELS
from qcompiler.backends.c.kernels.row import Blocked, MicroKernel
from qcompiler.backends.c.low_bit_packing import Bits, by_block, codes_of_words, words
from qcompiler.backends.reference.weights import blocked
from qcompiler.spec import QuantSpec, dequantize
from tests.c_harness import Case, run_kernel

WNA8, WNF32 = MICRO_KERNELS["gemm_wna8"], MICRO_KERNELS["gemm_wnf32"]
ROWS = (1, 2, 3, 4, 5, 7, 8, 11, 12, 13, 15, 17, 25, 32, 35)


@dataclass(frozen=True)
class Shape:
    """Of a product, with the blocks of its weights."""

    rows: int
    columns: int
    depth: int
    block: int
    bits: Bits
    zeros: bool
    biased: bool


@st.composite
def shapes(draw: st.DrawFn, widths: tuple[Bits, ...] = (2, 3, 4, 8)) -> Shape:
    depth = draw(st.integers(1, 200))
    return Shape(
        draw(st.sampled_from(ROWS)),
        draw(st.integers(1, 90)),
        depth,
        draw(st.sampled_from([16, 32, 64, 128, depth])),
        draw(st.sampled_from(widths)),
        draw(st.booleans()),
        draw(st.booleans()),
    )


@dataclass(frozen=True)
class Product:
    """Random operands of a shape."""

    shape: Shape
    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    bias: np.ndarray
    input: np.ndarray
    input_scale: np.ndarray

    @property
    def blocks(self) -> list[slice]:
        step = self.shape.block
        return [slice(at, at + step) for at in range(0, self.shape.depth, step)]


def make_product(shape: Shape, seed: int) -> Product:
    random = np.random.default_rng(seed)
    blocks = -(-shape.depth // shape.block)
    common = 1 << (shape.bits - 1)
    zero = random.integers(0, 1 << shape.bits, (shape.columns, blocks), dtype=np.uint8)
    return Product(
        shape,
        random.integers(0, 1 << shape.bits, (shape.columns, shape.depth), dtype=np.uint8),
        random.uniform(1e-3, 1e-2, (shape.columns, blocks)).astype(np.float32),
        zero if shape.zeros else np.full_like(zero, common),
        random.standard_normal(shape.columns).astype(np.float32),
        random.integers(-127, 128, (shape.rows, shape.depth), dtype=np.int8),
        random.uniform(1e-3, 1e-2, (shape.rows, blocks)).astype(np.float32),
    )


def weight_fields(product: Product, layout: Blocked) -> dict[str, np.ndarray | int | None]:
    shape, zero = product.shape, by_block(product.zero, layout.columns)
    return {
        "weight": words(product.codes, shape.bits, layout, shape.block),
        "scale": by_block(product.scale, layout.columns),
        "zero": zero if shape.zeros else None,
        "common_zero": 1 << (shape.bits - 1),
        "bias": product.bias if shape.biased else None,
        "rows": shape.rows,
        "columns": shape.columns,
        "depth": shape.depth,
        "block": shape.block,
        "bits": shape.bits,
        "block_columns": layout.columns,
        "out": np.full((shape.rows, shape.columns + 1), 7, np.float32),
        "out_stride": shape.columns + 1,
    }


def integer_case(product: Product, layout: Blocked) -> Case:
    sums = np.stack([product.input[:, at].astype(np.int32).sum(1) for at in product.blocks], 1)
    return {
        "input": product.input,
        "input_stride": product.shape.depth,
        "input_scale": product.input_scale,
        "input_sum": sums.astype(np.int32),
        **weight_fields(product, layout),
        "block_depth": layout.depth,
    }


def integer_meaning(product: Product) -> np.ndarray:
    """float64 in place of fused float32 operations."""
    total = product.bias.astype(np.float64) if product.shape.biased else np.zeros(product.shape.columns)
    for g, at in enumerate(product.blocks):
        codes = product.codes[:, at].astype(np.int64) - product.zero[:, g : g + 1]
        sums = product.input[:, at].astype(np.int64) @ codes.T
        total = total + sums * (product.input_scale[:, g : g + 1] * product.scale[:, g])
    return total


def run(name: str, isa: Isa, case: Case, columns: int) -> np.ndarray:
    panels = -(-columns // int(case["block_columns"]))  # pyright: ignore[reportArgumentType]
    (found,) = run_kernel(name, isa, [case], [(0, panels)])
    assert np.all(found[:, columns] == 7), "wrote behind the last column"
    return found[:, :columns]


@given(shape=shapes(), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=15)
def test_portable_integers_equal_numpy(shape: Shape, seed: int) -> None:
    product = make_product(shape, seed)
    found = run("gemm_wna8", Isa.PORTABLE, integer_case(product, WNA8.layout(Isa.PORTABLE)), shape.columns)
    np.testing.assert_allclose(found, integer_meaning(product), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("isa", [isa for isa in WNA8.variants if isa is not Isa.PORTABLE], ids=lambda isa: isa.value)
@given(shape=shapes(), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=15)
def test_integers_equal_portable(isa: Isa, shape: Shape, seed: int) -> None:
    product = make_product(shape, seed)
    wanted = run("gemm_wna8", Isa.PORTABLE, integer_case(product, WNA8.layout(Isa.PORTABLE)), shape.columns)
    found = run("gemm_wna8", isa, integer_case(product, WNA8.layout(isa)), shape.columns)
    np.testing.assert_array_equal(found, wanted)


def float_case(product: Product, layout: Blocked, table: np.ndarray | None = None) -> Case:
    random = np.random.default_rng(product.shape.rows)
    input = random.standard_normal(product.input.shape).astype(np.float32)
    fields = weight_fields(product, layout)
    return {"input": input, "input_stride": product.shape.depth, "table": table, **fields}


def make_table(bits: Bits) -> np.ndarray:
    values = np.random.default_rng(bits).standard_normal(1 << bits).astype(np.float32)
    return np.resize(values, 16)


def float_meaning(product: Product, input: np.ndarray, table: np.ndarray | None = None) -> np.ndarray:
    """float64 in place of fused float32 operations."""
    spread = [np.repeat(a, product.shape.block, 1)[:, : product.shape.depth] for a in (product.scale, product.zero)]
    level = product.codes.astype(np.float32) - spread[1] if table is None else table[product.codes]
    weight = level * spread[0]
    total = input.astype(np.float64) @ weight.T.astype(np.float64)
    return total + product.bias if product.shape.biased else total


DEEP = [Shape(37, 33, 1700, block, bits, bits == 2, True) for bits in (2, 3, 4, 8) for block in (128, 592, 1700)]


@pytest.mark.parametrize("isa", [isa for isa in WNA8.variants if isa is not Isa.PORTABLE], ids=lambda isa: isa.value)
def test_integers_of_more_inputs_than_are_unpacked_at_a_time(isa: Isa) -> None:
    products = [make_product(shape, 3) for shape in DEEP]
    cases = [integer_case(product, WNA8.layout(isa)) for product in products]
    panels = -(-33 // WNA8.layout(isa).columns)
    results = run_kernel("gemm_wna8", isa, cases, [(0, panels)] * len(cases))
    for product, found in zip(products, results, strict=True):
        np.testing.assert_allclose(found[:, :33], integer_meaning(product), rtol=1e-4, atol=1e-4)


@given(shape=shapes(), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=15)
def test_portable_floats_equal_numpy(shape: Shape, seed: int) -> None:
    product = make_product(shape, seed)
    case = float_case(product, WNF32.layout(Isa.PORTABLE))
    found = run("gemm_wnf32", Isa.PORTABLE, case, shape.columns)
    np.testing.assert_allclose(found, float_meaning(product, np.asarray(case["input"])), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("isa", [isa for isa in WNF32.variants if isa is not Isa.PORTABLE], ids=lambda isa: isa.value)
@given(shape=shapes(), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=15)
def test_floats_equal_portable(isa: Isa, shape: Shape, seed: int) -> None:
    product = make_product(shape, seed)
    wanted = run("gemm_wnf32", Isa.PORTABLE, float_case(product, WNF32.layout(Isa.PORTABLE)), shape.columns)
    found = run("gemm_wnf32", isa, float_case(product, WNF32.layout(isa)), shape.columns)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("isa", list(WNF32.variants), ids=lambda isa: isa.value)
@given(shape=shapes((2, 3, 4)), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=15)
def test_codes_are_places_in_a_table(isa: Isa, shape: Shape, seed: int) -> None:
    product, table = make_product(shape, seed), make_table(shape.bits)
    case = float_case(product, WNF32.layout(isa), table)
    found = run("gemm_wnf32", isa, case, shape.columns)
    np.testing.assert_allclose(found, float_meaning(product, np.asarray(case["input"]), table), rtol=1e-4, atol=1e-4)
    if isa is not Isa.PORTABLE:
        portable = float_case(product, WNF32.layout(Isa.PORTABLE), table)
        np.testing.assert_array_equal(found, run("gemm_wnf32", Isa.PORTABLE, portable, shape.columns))


@given(
    shape=shapes(),
    layout=st.sampled_from([Blocked(16, 4), Blocked(8, 4), Blocked(8, 8), Blocked(16, 1)]),
)
@settings(deadline=None, max_examples=40)
def test_words_have_an_inverse(shape: Shape, layout: Blocked) -> None:
    codes = make_product(shape, 0).codes
    packed = words(codes, shape.bits, layout, shape.block)
    found = codes_of_words(packed, shape.bits, layout, shape.block, codes.shape)
    np.testing.assert_array_equal(found, codes)


RAGGED = [Shape(7, 67, 90, block, bits, bits == 3, bits == 2) for bits in (2, 3, 4, 8) for block in (32, 90)]


@pytest.mark.parametrize(
    ("name", "isa", "shapes"),
    [
        ("gemm_wna8", Isa.AVX2, RAGGED),
        ("gemm_wna8", Isa.AMX, [replace(shape, rows=37) for shape in RAGGED]),
        ("gemm_wnf32", Isa.AVX2, RAGGED),
    ],
    ids=["gemm_wna8-avx2", "gemm_wna8-amx", "gemm_wnf32-avx2"],
)
def test_touches_nothing_else(name: str, isa: Isa, shapes: list[Shape]) -> None:
    layout = MICRO_KERNELS[name].layout(isa)
    products = [make_product(shape, 0) for shape in shapes]
    cases = [integer_case(p, layout) if name == "gemm_wna8" else float_case(p, layout) for p in products]
    panels = -(-67 // layout.columns)
    for found in run_kernel(name, isa, cases, [(0, panels)] * len(cases), sanitize=True):
        assert np.all(found[:, 67] == 7)


@pytest.mark.parametrize("row", [WNA8, WNF32], ids=lambda row: row.name)
def test_tasks_are_panels(row: MicroKernel) -> None:
    product = make_product(Shape(3, 70, 40, 16, 4, True, True), 1)
    layout = row.layout(Isa.PORTABLE)
    case = integer_case(product, layout) if row is WNA8 else float_case(product, layout)
    width = layout.columns
    part, whole = run_kernel(row.name, Isa.PORTABLE, [case, case], [(1, 3), (0, -(-70 // width))])
    np.testing.assert_array_equal(part[:, width : 3 * width], whole[:, width : 3 * width])
    assert np.all(part[:, :width] == 7)
    assert np.all(part[:, 3 * width :] == 7)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_integers_mean_what_the_reference_means(bits: Bits) -> None:
    shape = Shape(3, 20, 64, 32, bits, True, False)
    product = make_product(shape, 5)
    activations = np.random.default_rng(6).standard_normal((3, 64)).astype(np.float32)
    spec = QuantSpec.parse(f"uint{bits} asym block=(1,32) scale=f32")
    parts = (product.codes.astype(np.float32), product.scale, product.zero.astype(np.float32))
    codes, scale, zero = (torch.from_numpy(np.asarray(part)) for part in parts)
    weight = dequantize(codes, scale, zero, spec).double()
    wanted = blocked(torch.from_numpy(activations), 32) @ weight.t()
    largest = np.abs(activations.reshape(3, 2, 32)).max(-1)
    quantized = np.round(activations.reshape(3, 2, 32) * (np.float32(127) / largest)[..., None]).reshape(3, 64)
    given = replace(product, input=quantized.astype(np.int8), input_scale=largest / np.float32(127))
    found = run("gemm_wna8", Isa.PORTABLE, integer_case(given, WNA8.layout(Isa.PORTABLE)), 20)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5, atol=1e-6)
