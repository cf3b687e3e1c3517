"""What the assembler makes of products of codes: matrix instructions of the right kind, and little beside them."""

from __future__ import annotations

from functools import cache

import pytest

from qcompiler.backends.cuda.arch import ARCHITECTURES
from qcompiler.backends.cuda.kernels import KERNELS
from qcompiler.backends.cuda.sass import Listing, disassemble
from qcompiler.backends.cuda.toolchain import compile_cubin
from qcompiler.errors import UnsupportedError
from tests.cuda_harness import instance_of


@cache
def listing(kernel: str, name: str, capability: int) -> Listing:
    try:
        chosen = (KERNELS[kernel], instance_of(kernel, name))
        return dict(disassemble(compile_cubin([chosen], ARCHITECTURES[capability]).cubin))[name]
    except UnsupportedError as error:
        pytest.skip(error.what)


# Of two loops with as many products the shorter one is meant: with nibbles it is that of the low-rank branch.
@pytest.mark.parametrize(
    ("kernel", "name", "capability", "instruction", "loop", "products", "others"),
    [
        ("gemm_i8", "qc_gemm_i8_128x256x128", 90, "IMMA.16832.S8.S8", "IMMA", 128, 130),
        ("gemm_i8", "qc_gemm_i8_128x256x64", 87, "IMMA.16832.S8.S8", "IMMA", 64, 85),
        ("gemm_wna8", "qc_gemm_w4a8_128x256x128", 90, "IMMA.16832.S8.S8", "IMMA", 128, 210),
        ("gemm_w4a4", "qc_gemm_w4a4_s4_128x128x128", 87, "IMMA.16864.S4.S4", "HMMA", 64, 95),
        ("gemm_b1", "qc_gemm_b1_xor_128x128x128", 87, "BMMA.168256.XOR.POPC", "BMMA", 64, 100),
        ("gemm_b1", "qc_gemm_b1_and_128x128x128", 90, "BMMA.168256.AND.POPC", "BMMA", 80, 100),
        ("gemm_f8", "qc_gemm_f8_128x128x128", 89, "QMMA.16832.F32.E4M3.E4M3", "QMMA", 64, 150),
    ],
)
def test_loops_are_made_of_matrix_instructions(
    kernel: str, name: str, capability: int, instruction: str, loop: str, products: int, others: int
) -> None:
    found = listing(kernel, name, capability)
    assert found.count(instruction) >= products
    assert found.main_loop()[loop] == products
    assert sum(found.main_loop().values()) - products <= others
    assert any(opcode.startswith("LDGSTS.E.BYPASS") and opcode.endswith(".128") for opcode in found.opcodes)
    assert not found.uses_local_memory


@pytest.mark.parametrize(
    ("kernel", "name", "others"),
    [("gemv_i8", "qc_gemv_i8_1", 200), ("gemv_wna8", "qc_gemv_w4a8_1", 400), ("gemv_w4a4", "qc_gemv_w4a4_1", 400)],
)
def test_weights_of_few_rows_are_loaded_sixteen_bytes_at_once(kernel: str, name: str, others: int) -> None:
    found = listing(kernel, name, 90)
    loop = found.main_loop()
    assert loop["IDP"] >= 16
    assert sum(loop.values()) <= others
    assert found.count("LDG.E.EF.128") >= 8
