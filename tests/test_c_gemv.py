"""Products of few rows by tables of sums: the numbers of the kernels that multiply, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.c.backend import runner
from qcompiler.backends.c.building import Build
from qcompiler.backends.c.emission import write_module
from qcompiler.backends.c.gemv_packing import PANEL, codes_of_places, places
from qcompiler.backends.c.host import HostRunner
from qcompiler.backends.c.isa import LEVELS, Isa
from qcompiler.backends.c.kernels import MICRO_KERNELS
from qcompiler.backends.c.low_bit_packing import by_block
from qcompiler.backends.c.project import write_project
from qcompiler.backends.c.settings import Settings
from qcompiler.backends.c.toolchain import is_native
from qcompiler.backends.reference import MEANINGS
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Program, Stage
from qcompiler.ir.types import TensorType
from qcompiler.spec import Number, choose_qparams, quantize
from tests.c_harness import Case, run_kernel
from tests.c_programs import QUICK
from tests.test_c_binary_model import skip_without
from tests.test_c_low_bit import WNA8, Product, Shape, integer_case, integer_meaning, make_product

KERNEL = MICRO_KERNELS["gemv_wna8"]
PLANES = {1: 2, 2: 2, 3: 3, 4: 4}
"""Bits that kernels of codes take for as many planes; one plane is signs, with codes 0 and 2."""


def sign_product(shape: Shape, seed: int) -> Product:
    made = make_product(shape, seed)
    return replace(made, codes=made.codes & 2, zero=np.ones_like(made.zero))


def table_case(product: Product, planes: int) -> Case:
    step = 2 if planes == 1 else 1
    given = integer_case(product, WNA8.layout(Isa.PORTABLE))
    left_out = ("weight", "scale", "zero", "common_zero", "bits", "block_columns", "block_depth")
    zero = by_block(product.zero, PANEL)
    return {
        **{name: value for name, value in given.items() if name not in left_out},
        "weight": places(product.codes // step, planes, product.shape.block),
        "scale": by_block(product.scale, PANEL),
        "zero": zero if product.shape.zeros else None,
        "common_zero": int(product.zero.flat[0]),
        "planes": planes,
        "step": step,
    }


@st.composite
def products(draw: st.DrawFn) -> tuple[Product, int]:
    planes = draw(st.sampled_from(list(PLANES)))
    depth = draw(st.integers(1, 200))
    block = draw(st.sampled_from([16, 32, 64, 128, depth]))
    flags = draw(st.booleans()), draw(st.booleans())
    shape = Shape(draw(st.integers(1, 3)), draw(st.integers(1, 90)), depth, block, PLANES[planes], *flags)  # pyright: ignore[reportArgumentType]
    make = sign_product if planes == 1 else make_product
    return make(shape, draw(st.integers(0, 99))), planes


@given(found=products())
@settings(deadline=None, max_examples=15)
def test_portable_sums_equal_numpy(found: tuple[Product, int]) -> None:
    product, planes = found
    columns = product.shape.columns
    (result,) = run_kernel("gemv_wna8", Isa.PORTABLE, [table_case(product, planes)], [(0, -(-columns // PANEL))])
    np.testing.assert_allclose(result[:, :columns], integer_meaning(product), rtol=1e-5, atol=1e-5)
    assert np.all(result[:, columns:] == 7)


@pytest.mark.parametrize("isa", list(KERNEL.variants), ids=lambda isa: isa.value)
@given(found=products())
@settings(deadline=None, max_examples=15)
def test_equals_the_kernel_that_multiplies(isa: Isa, found: tuple[Product, int]) -> None:
    product, planes = found
    columns, layout = product.shape.columns, WNA8.layout(Isa.PORTABLE)
    case = {**integer_case(product, layout), "common_zero": int(product.zero.flat[0])}
    (wanted,) = run_kernel("gemm_wna8", Isa.PORTABLE, [case], [(0, -(-columns // layout.columns))])
    (result,) = run_kernel("gemv_wna8", isa, [table_case(product, planes)], [(0, -(-columns // PANEL))])
    np.testing.assert_array_equal(result, wanted)


@pytest.mark.parametrize("isa", list(KERNEL.variants), ids=lambda isa: isa.value)
def test_more_inputs_than_there_are_tables_at_a_time(isa: Isa) -> None:
    made = [make_product(Shape(2, 70, depth, block, 2, True, True), 1) for depth, block in ((4200, 2048), (5000, 96))]
    extreme = [replace(each, input=np.where(each.input > 0, 127, -127).astype(np.int8)) for each in made]
    for product, result in zip(
        extreme, run_kernel("gemv_wna8", isa, [table_case(each, 2) for each in extreme], [(0, 3)] * 2), strict=True
    ):
        np.testing.assert_allclose(result[:, :70], integer_meaning(product), rtol=1e-4, atol=1e-3)


def test_tasks_are_panels() -> None:
    case = table_case(make_product(Shape(2, 90, 40, 16, 2, True, True), 1), 2)
    part, whole = run_kernel("gemv_wna8", Isa.PORTABLE, [case, case], [(1, 2), (0, 3)])
    np.testing.assert_array_equal(part[:, PANEL : 2 * PANEL], whole[:, PANEL : 2 * PANEL])
    assert np.all(part[:, :PANEL] == 7)
    assert np.all(part[:, 2 * PANEL :] == 7)


def test_touches_nothing_else() -> None:
    made = [make_product(Shape(2, 67, 90, block, 3, True, False), 0) for block in (32, 90)]
    for result in run_kernel(
        "gemv_wna8", Isa.AVX2, [table_case(each, 3) for each in made], [(0, 3)] * 2, sanitize=True
    ):
        assert np.all(result[:, 67] == 7)


@given(found=products())
@settings(deadline=None, max_examples=40)
def test_places_have_an_inverse(found: tuple[Product, int]) -> None:
    product, planes = found
    codes = product.codes // (2 if planes == 1 else 1)
    packed = places(codes, planes, product.shape.block)
    np.testing.assert_array_equal(codes_of_places(packed, planes, product.shape.block, codes.shape), codes)


NUMBERS = ("binary sym group=32 scale=f32", "ternary sym group=64 scale=f32", "uint2 asym group=32 scale=f32")
ROWS = (3, 4)


def layers(numbers: tuple[str, ...]) -> tuple[Program, list[torch.Tensor]]:
    """Linear layers of every number for some rows each, activations in blocks of 8 bits."""
    program, inputs, outputs = Program(stage=Stage.LOWERED), [], []
    generator = torch.Generator().manual_seed(0)
    for index, (text, rows) in enumerate((text, rows) for text in numbers for rows in ROWS):
        spec = Number.parse(text).spec(2, 0, 1)
        weight = torch.randn(40, 130, generator=generator)
        scale, zero = choose_qparams(weight, spec)
        assert isinstance(scale, torch.Tensor)
        x = program.add_input(f"x{index}", TensorType(torch.float32, (rows, 130)))
        inputs.append(torch.randn(rows, 130, generator=generator))
        b = program.append()
        kept = TensorType(torch.float32, (40, 130), spec)
        codes = b.param(f"codes{index}", quantize(weight, scale, zero, spec), kept)
        parts = [codes, b.param(f"scale{index}", scale), None if zero is None else b.param(f"zero{index}", zero)]
        bias = b.param(f"bias{index}", torch.randn(40, generator=generator))
        said = {"op": "aten.linear", "spec": spec, "block": spec.block[1]}
        type_ = TensorType(torch.float32, (rows, 40))
        outputs.append(b.call("qc.kernel", "linear_weight_only", x, parts, bias, kwargs=said, type_=type_))
    program.set_outputs(outputs)
    return program, inputs


@pytest.mark.parametrize(
    ("isa", "tables"), [(Isa.AVX2, 1), (Isa.NEON, 3), (Isa.DOTPROD, 1)], ids=["avx2", "neon", "dotprod"]
)
def test_models_take_tables_where_these_are_faster(isa: Isa, tables: int, tmp_path: Path) -> None:
    skip_without(isa)
    program, inputs = layers(NUMBERS)
    module = write_module(program, Settings(isa=isa))
    assert sum("qc_gemv_wna8_args" in layer.text for layer in module.layers) == tables
    write_project(module, tmp_path)
    native = is_native(LEVELS[isa].architecture)
    run = HostRunner(tmp_path, library=Build(flags=QUICK).run(tmp_path)) if native else runner(tmp_path)
    found = run(inputs)
    for one, other in zip(found, evaluate(program, inputs, kernels=MEANINGS), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
