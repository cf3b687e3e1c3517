"""Products of generated C with weights that are codes of vectors: close to numpy, the same bits on every level."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.c.backend import runner
from qcompiler.backends.c.codebook_packing import COLUMNS, block_scales, code_bits, codes_of_vectors, vector_codes
from qcompiler.backends.c.codebooks import take_codebooks
from qcompiler.backends.c.emission import write_module
from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.project import write_project
from qcompiler.backends.c.settings import Settings
from qcompiler.backends.reference.codebook import CODEBOOK_MEANINGS
from qcompiler.backends.reference.semantics import CODEBOOK_SEMANTICS
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Builder, Node, Program, Stage
from qcompiler.ir.types import TensorType
from qcompiler.spec import Number
from tests.c_floats import FASTER
from tests.c_harness import Case, run_kernel
from tests.test_c_binary_model import skip_without


@dataclass(frozen=True)
class Weight:
    """Random codes of vectors."""

    tables: np.ndarray
    codes: np.ndarray
    scale: np.ndarray
    depth: int
    block: int

    def reals(self) -> np.ndarray:
        """float64 [N, depth]."""
        length = self.tables.shape[2]
        parts = [table[codes].reshape(len(codes), -1) for table, codes in zip(self.tables, self.codes, strict=True)]
        whole = np.sum(np.stack(parts).astype(np.float64), 0)
        return (whole * np.repeat(self.scale, self.block * length, 1)[:, : whole.shape[1]])[:, : self.depth]


@st.composite
def weights(draw: st.DrawFn) -> Weight:
    random = np.random.default_rng(draw(st.integers(0, 99)))
    columns, depth = draw(st.integers(1, 150)), draw(st.integers(1, 90))
    length, entries, tables = (
        draw(st.integers(1, 16)),
        draw(st.sampled_from([1, 5, 16, 100, 256, 300])),
        draw(st.integers(1, 3)),
    )
    vectors = -(-depth // length)
    block = draw(st.integers(1, vectors))
    return Weight(
        random.standard_normal((tables, entries, length)).astype(np.float32),
        random.integers(0, entries, (tables, columns, vectors)),
        random.uniform(0.5, 2, (columns, -(-vectors // block))).astype(np.float32),
        depth,
        block,
    )


def case_of(weight: Weight, rows: int, biased: bool = True) -> Case:
    random = np.random.default_rng(rows)
    tables, columns, _ = weight.codes.shape
    entries = -(-weight.tables.shape[1] // 16) * 16
    padded = np.pad(weight.tables, [(0, 0), (0, entries - weight.tables.shape[1]), (0, 0)])
    bits = code_bits(entries)
    return {
        "input": random.standard_normal((rows, weight.depth)).astype(np.float32),
        "input_stride": weight.depth,
        "codes": vector_codes(weight.codes, bits),
        "code_bits": bits,
        "table": padded,
        "turned": np.ascontiguousarray(padded.transpose(0, 2, 1)),
        "tables": tables,
        "entries": entries,
        "length": weight.tables.shape[2],
        "scale": block_scales(weight.scale),
        "bias": random.standard_normal(columns).astype(np.float32) if biased else None,
        "rows": rows,
        "columns": columns,
        "depth": weight.depth,
        "block": weight.block,
        "out": np.full((rows, columns + 1), 7, np.float32),
        "out_stride": columns + 1,
    }


def run(isa: Isa, case: Case) -> np.ndarray:
    columns = int(case["columns"])  # pyright: ignore[reportArgumentType]
    (found,) = run_kernel("gemm_codebook", isa, [case], [(0, -(-columns // COLUMNS))])
    assert np.all(found[:, columns] == 7), "wrote behind the last column"
    return found[:, :columns]


@given(weight=weights(), rows=st.sampled_from([1, 3, 5, 16, 21]), biased=st.booleans())
@settings(deadline=None, max_examples=20)
def test_sums_equal_numpy(weight: Weight, rows: int, biased: bool) -> None:
    case = case_of(weight, rows, biased)
    input, bias = np.asarray(case["input"]), case["bias"]
    wanted = input.astype(np.float64) @ weight.reals().T + (0 if bias is None else np.asarray(bias))
    np.testing.assert_allclose(run(Isa.PORTABLE, case), wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("isa", FASTER, ids=lambda isa: isa.value)
@given(weight=weights(), rows=st.sampled_from([1, 3, 5, 16, 21]))
@settings(deadline=None, max_examples=12)
def test_every_level_gives_the_same_bits(isa: Isa, weight: Weight, rows: int) -> None:
    case = case_of(weight, rows)
    np.testing.assert_array_equal(run(isa, case), run(Isa.PORTABLE, case))


@given(weight=weights())
@settings(deadline=None, max_examples=12)
def test_a_row_gives_the_same_bits_alone_and_among_others(weight: Weight) -> None:
    many = case_of(weight, 17)
    alone = {**many, "input": np.asarray(many["input"])[:1], "rows": 1, "out": np.asarray(many["out"])[:1]}
    np.testing.assert_array_equal(run(Isa.AVX2, alone), run(Isa.AVX2, many)[:1])


def test_tasks_are_groups_of_columns() -> None:
    random = np.random.default_rng(0)
    codes = random.integers(0, 16, (1, 150, 5))
    weight = Weight(random.standard_normal((1, 16, 4)).astype(np.float32), codes, np.ones((150, 1), np.float32), 20, 5)
    case = case_of(weight, 2)
    part, whole = run_kernel("gemm_codebook", Isa.PORTABLE, [case, case], [(1, 2), (0, 3)])
    np.testing.assert_array_equal(part[:, 64:128], whole[:, 64:128])
    assert np.all(part[:, :64] == 7)
    assert np.all(part[:, 128:] == 7)


def test_touches_nothing_else() -> None:
    random = np.random.default_rng(0)
    codes = random.integers(0, 16, (2, 70, 23))
    weight = Weight(random.standard_normal((2, 16, 4)).astype(np.float32), codes, np.ones((70, 3), np.float32), 90, 8)
    cases = [case_of(weight, rows) for rows in (3, 21)]
    for found in run_kernel("gemm_codebook", Isa.AVX2, cases, [(0, 2)] * 2, sanitize=True):
        assert np.all(found[:, 70] == 7)


@given(weight=weights())
@settings(deadline=None, max_examples=30)
def test_codes_have_an_inverse(weight: Weight) -> None:
    bits = code_bits(weight.tables.shape[1])
    packed = vector_codes(weight.codes, bits)
    np.testing.assert_array_equal(codes_of_vectors(packed, bits, weight.codes.shape[1]), weight.codes)


def test_too_many_entries_are_refused() -> None:
    with pytest.raises(ValueError, match="65537"):
        code_bits(65537)


def additive(b: Builder, name: str, shape: tuple[int, int], length: int) -> Node:
    """A sum of two look-ups with a factor for every row, cut where vectors do not fill the last."""
    rows, columns = shape
    generator = torch.Generator().manual_seed(len(name))
    width = -(-columns // length) * length
    parts: list[Node] = []
    for entries in (16, 200):
        indices = torch.randint(0, entries, (rows * width // length,), generator=generator)
        table = b.param(f"{name}.table", torch.randn(entries, length, generator=generator).half())
        wide = b.call("aten._to_copy", table, kwargs={"dtype": torch.float32})
        found = b.call("aten.embedding", wide, b.param(f"{name}.indices", indices))
        parts.append(b.call("aten.reshape", found, [rows, width]))
    total = b.call("aten.add.Tensor", *parts)
    kept = b.call("aten.index_select", total, 1, b.param(f"{name}.order", torch.arange(columns)))
    return b.call("aten.mul.Tensor", kept, b.param(f"{name}.factor", torch.rand(rows, 1, generator=generator)))


def grouped(b: Builder, name: str, shape: tuple[int, int]) -> Node:
    """Single numbers, from tables of groups of rows."""
    generator = torch.Generator().manual_seed(1)
    tables = b.param(f"{name}.tables", torch.randn(3, 16, generator=generator))
    picked = b.call("aten.index_select", tables, 0, b.param(f"{name}.group", torch.arange(shape[0]) % 3))
    codes = b.param(f"{name}.codes", torch.randint(0, 16, shape, generator=generator))
    return b.call("aten.gather", picked, 1, codes)


def of_spec(b: Builder, name: str, shape: tuple[int, int]) -> Node:
    """Codes of a codebook with scales of groups."""
    generator = torch.Generator().manual_seed(2)
    spec = Number.parse("codebook4d2 sym group=16 scale=f32").spec(2, 0, 1)
    rows, columns = shape
    sizes = (rows, -(-columns // 2))
    codes = torch.randint(0, 16, sizes, generator=generator).float()
    scale = torch.rand(rows, -(-columns // 16), generator=generator)
    table = torch.randn(1, 1, 16, 2, generator=generator)
    held = b.param(f"{name}.codes", codes, TensorType(torch.float32, sizes, spec))
    return b.call("qc.dequantize", held, b.param(f"{name}.scale", scale), None, spec, b.param(f"{name}.table", table))


def model() -> tuple[Program, list[torch.Tensor]]:
    """Layers of all kinds, one of them of many rows, one biased."""
    program, inputs, outputs = Program(stage=Stage.LOWERED), [], []
    makers = (
        lambda b: additive(b, "eight", (70, 50), 8),
        lambda b: additive(b, "three", (9, 50), 3),
        lambda b: grouped(b, "scalar", (20, 50)),
        lambda b: of_spec(b, "spec", (33, 50)),
    )
    for index, make in enumerate(makers):
        rows = (17, 1, 3, 5)[index]
        x = program.add_input(f"x{index}", TensorType(torch.float32, (rows, 50)))
        inputs.append(torch.randn(rows, 50, generator=torch.Generator().manual_seed(index)))
        b = program.append()
        weight = make(b)
        bias = b.param("bias", torch.randn(int(program.shape(weight)[0]))) if index == 0 else None
        outputs.append(b.call("aten.linear", x, weight, bias))
    program.set_outputs(outputs)
    return program, inputs


def test_weights_of_tables_are_taken_by_the_kernel() -> None:
    program, inputs = model()
    wanted = evaluate(program, inputs, widen=True)
    take_codebooks(program)
    assert [program.op(node) for node in program.nodes] == ["qc.kernel"] * 4
    for one, other in zip(evaluate(program, inputs, kernels=CODEBOOK_MEANINGS), wanted, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("isa", [Isa.AVX2, Isa.NEON], ids=lambda isa: isa.value)
def test_models_equal_their_meaning(isa: Isa, tmp_path: Path) -> None:
    skip_without(isa)
    program, inputs = model()
    take_codebooks(program)
    write_project(write_module(program, Settings(isa=isa)), tmp_path)
    found = runner(tmp_path)(inputs)
    for one, other in zip(found, evaluate(program, inputs, kernels=CODEBOOK_MEANINGS), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


def test_columns_in_another_order_stay_as_they_are() -> None:
    program = Program(stage=Stage.LOWERED)
    x = program.add_input("x", TensorType(torch.float32, (2, 6)))
    b = program.append()
    table, indices = b.param("table", torch.randn(4, 2)), b.param("indices", torch.tensor([0, 1, 2, 3, 1, 0]))
    weight = b.call("aten.reshape", b.call("aten.embedding", table, indices), [2, 6])
    turned = b.call("aten.index_select", weight, 1, b.param("order", torch.tensor([1, 0, 2, 3, 4, 5])))
    program.set_outputs([b.call("aten.linear", x, turned)])
    take_codebooks(program)
    assert "qc.kernel" not in [program.op(node) for node in program.nodes]


def test_halves_that_are_cast_become_floats() -> None:
    program = Program(stage=Stage.LOWERED)
    b = program.append()
    wide = b.call("aten._to_copy", b.param("half", torch.ones(3).half()), kwargs={"dtype": torch.float32})
    program.set_outputs([wide])
    take_codebooks(program)
    (found,) = program.outputs
    assert found.op == "get_attr"
    assert torch.equal(program.param(found), torch.ones(3))


def test_every_kernel_of_codebooks_says_how_it_rounds() -> None:
    assert set(CODEBOOK_SEMANTICS) == set(CODEBOOK_MEANINGS)
