"""What can be said of CUDA kernels without running them: they build, fit, and are made of the right instructions."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from qcompiler.backends.cuda.arch import ARCHITECTURES, Architecture, architecture
from qcompiler.backends.cuda.arguments import fields_of, grid_of, pack
from qcompiler.backends.cuda.kernels import KERNELS
from qcompiler.backends.cuda.kernels.row import Axis, CudaKernel, Instance
from qcompiler.backends.cuda.kernels.tiles import PRODUCT
from qcompiler.backends.cuda.roofline import Work, estimate, promised_blocks, resident_blocks
from qcompiler.backends.cuda.sass import Listing, disassemble
from qcompiler.backends.cuda.toolchain import Compiled, Usage, compile_cubin, find_tool
from qcompiler.cost import Roofline
from qcompiler.errors import SpecError, UnsupportedError, VerifyError

ORIN, HOPPER = ARCHITECTURES[87], ARCHITECTURES[90]
BRANCH = ("HMMA.16816.F32",)
"""Of the low-rank branch beside codes."""


def built(name: str, target: Architecture) -> Compiled:
    try:
        find_tool("nvcc")
    except UnsupportedError as error:
        pytest.skip(error.what)
    return _built(name, target)


@cache
def _built(name: str, target: Architecture) -> Compiled:
    kernel = KERNELS[name]
    return compile_cubin([(kernel, instance) for instance in sample(kernel, target)], target)


def sample(kernel: CudaKernel, target: Architecture) -> list[Instance]:
    """The first and the last instance; benchmarks.kernels_cuda_static builds them all."""
    instances = kernel.on(target)
    return list(dict.fromkeys([*instances[:1], *instances[-1:]]))


def listing(name: str, instance_name: str, target: Architecture) -> Listing:
    """What the compiler made of one instance."""
    kernel = KERNELS[name]
    instance = {one.name: one for one in kernel.instances}[instance_name]
    try:
        find_tool("nvcc")
        find_tool("nvdisasm")
    except UnsupportedError as error:
        pytest.skip(error.what)
    return disassemble(compile_cubin([(kernel, instance)], target).cubin)[instance_name]


@pytest.mark.parametrize("target", [ORIN, HOPPER], ids=lambda target: target.name)
@pytest.mark.parametrize("name", KERNELS)
def test_builds_without_warnings_and_fits(name: str, target: Architecture) -> None:
    if not KERNELS[name].on(target):
        pytest.skip(f"{name} is not made for {target.name}")
    compiled = built(name, target)
    for instance in sample(KERNELS[name], target):
        usage = compiled.usage[instance.name]
        assert usage.spilled == usage.stack == 0, instance.name
        assert resident_blocks(instance, usage, target) >= promised_blocks(instance, target), instance.name


@pytest.mark.parametrize("name", KERNELS)
def test_arguments_can_be_read_from_the_header(name: str) -> None:
    kernel = KERNELS[name]
    assert fields_of(kernel)
    sizes = {field for field, kind in fields_of(kernel) if kind != "*"}
    for instance in kernel.instances:
        assert {field for axis in instance.grid for field in axis.fields} <= sizes


@pytest.mark.parametrize("target", [ORIN, HOPPER], ids=lambda target: target.name)
def test_integer_products_copy_and_load_sixteen_bytes_at_once(target: Architecture) -> None:
    found = listing("gemm_i8", "qc_gemm_i8_128x128x64", target)
    loop = found.main_loop()
    assert loop["IMMA"] >= 32
    assert loop["LDSM"] * 2 <= loop["IMMA"]
    assert any(opcode.startswith("LDGSTS.E.BYPASS") and opcode.endswith(".128") for opcode in found.opcodes)
    assert not found.uses_local_memory


@pytest.mark.parametrize(
    ("name", "instance", "target", "products"),
    [
        ("gemm_w4a4", "qc_gemm_w4a4_s4_128x128x128", ORIN, {"IMMA.16864.S4.S4", *BRANCH}),
        ("gemm_w4a4", "qc_gemm_w4a4_s8_128x128x128", HOPPER, {"IMMA.16832.S8.S8", *BRANCH}),
        ("gemm_b1", "qc_gemm_b1_xor_128x128x128", ORIN, {"BMMA.168256.XOR.POPC"}),
        ("gemm_b1", "qc_gemm_b1_and_128x128x128", HOPPER, {"BMMA.168256.AND.POPC"}),
        ("gemm_f8", "qc_gemm_f8_128x128x128", ARCHITECTURES[89], {"QMMA.16832.F32.E4M3.E4M3"}),
        ("gemm_w4", "qc_gemm_w4_f16_64x128", ORIN, {"HMMA.16816.F32"}),
    ],
)
def test_products_are_instructions_of_the_architecture(
    name: str, instance: str, target: Architecture, products: set[str]
) -> None:
    found = listing(name, instance, target)
    assert {opcode for opcode in found.opcodes if "MMA" in opcode} == products
    assert not found.uses_local_memory


@pytest.mark.parametrize(("name", "emulated"), [("gemm_w4a4", "_s4_"), ("gemm_b1", "_xor_")])
def test_products_that_would_be_emulated_are_not_made(name: str, emulated: str) -> None:
    made = [instance.name for instance in KERNELS[name].on(HOPPER)]
    assert made
    assert not [instance for instance in made if emulated in instance]


def test_unknown_argument_is_refused() -> None:
    with pytest.raises(VerifyError, match="has no argument colums"):
        pack(KERNELS["gemm_i8"], {"colums": 1})


def test_number_beyond_its_field_is_refused() -> None:
    with pytest.raises(VerifyError, match="rows of 2147483648"):
        pack(KERNELS["gemm_i8"], {"rows": 2**31})


def test_grid_covers_ragged_sizes() -> None:
    assert grid_of(KERNELS["gemm_i8"], "qc_gemm_i8_128x128x64", {"rows": 129, "columns": 128, "splits": 1}) == (2, 1, 1)


def test_devices_take_products_of_as_many_rows_as_an_integer_counts() -> None:
    tiled = [
        (kernel, instance)
        for kernel in KERNELS.values()
        for instance in kernel.instances
        if kernel.takes == PRODUCT and Axis(("splits",)) in instance.grid
    ]
    assert {"gemm_i8", "conv_i8", "wgmma_i8"} <= {kernel.name for kernel, _ in tiled}
    for kernel, instance in tiled:
        grid = grid_of(kernel, instance.name, {"rows": 2**31 - 1, "columns": 1 << 20, "splits": 16})
        assert max(grid[1:]) < 1 << 16, instance.name


def test_axis_is_the_same_in_c() -> None:
    axis = Axis(("rows", "splits"), 64)
    assert axis.blocks({"rows": 100, "splits": 3}) == 5
    assert axis.expression("args") == "((args.rows * args.splits + 63) / 64)"


def test_unknown_capability_names_the_known() -> None:
    with pytest.raises(SpecError, match="capability 61"):
        architecture(61)


def kernel_of(threads: int, shared: int) -> Instance:
    return Instance("qc_x", "x", threads, (Axis(), Axis(), Axis()), shared)


@pytest.mark.parametrize(
    ("threads", "shared", "registers", "resident"),
    [(256, 0, 32, 6), (256, 0, 128, 2), (256, 65536, 32, 2), (1024, 0, 64, 1), (32, 0, 16, 16)],
)
def test_resident_blocks_are_limited_by_the_scarcest(threads: int, shared: int, registers: int, resident: int) -> None:
    assert resident_blocks(kernel_of(threads, shared), Usage(registers, 0, 0), ORIN) == resident


def test_no_more_blocks_are_promised_than_there_is_memory_for() -> None:
    wanted = replace(kernel_of(256, 65536), blocks=3)
    assert promised_blocks(wanted, ORIN) == 2
    assert promised_blocks(replace(wanted, shared=0), ORIN) == 3


def test_estimate_says_what_a_launch_waits_for() -> None:
    device = Roofline(operations={8: 1e12, 16: 5e11}, bandwidth=1e11, overhead=1e-6)
    instance, usage = kernel_of(256, 0), Usage(128, 0, 0)

    streaming = estimate(instance, usage, ORIN, Work(32, 10**8, 10**6, 8), device, 16)
    assert streaming.bound == "memory"
    assert streaming.seconds == pytest.approx(1e-3 + 1e-6)

    half_empty = estimate(instance, usage, ORIN, Work(33, 10**3, 10**9, 8), device, 16)
    assert half_empty.bound == "products"
    assert half_empty.seconds == pytest.approx(1e-3 * 48 / 33 + 1e-6)
    assert half_empty.waves == pytest.approx(33 / 32)

    assert estimate(instance, usage, ORIN, Work(1, 10, 10, 8), device, 16).bound == "launch"


def test_header_with_an_unreadable_field_is_refused(tmp_path) -> None:
    (tmp_path / "qc_x.cuh").write_text("struct qc_x_args {\n    double scale;\n};\n")
    with pytest.raises(VerifyError, match="a field of qc_x_args"):
        fields_of(CudaKernel("x", str(tmp_path / "qc_x.cuh"), ()))
