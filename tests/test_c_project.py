"""The folder of a model in C: written, called, refused, and run for other processors."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qcompiler.backends.c.building import Build
from qcompiler.backends.c.host import HostRunner, build_host
from qcompiler.backends.c.isa import LEVELS, WARNINGS, Isa
from qcompiler.backends.c.kernels import MICRO_KERNELS
from qcompiler.backends.c.module import Layer, Module, Port, Recorded
from qcompiler.backends.c.names import comment
from qcompiler.backends.c.project import read_project, write_project
from qcompiler.backends.c.selftest import run_emulated, run_selftest
from qcompiler.backends.c.toolchain import find_emulator, is_native
from qcompiler.backends.c.weights import SLACK, sums, weights_file
from qcompiler.errors import InputError, UnsupportedError
from tests.c_harness import need, runs_here
from tests.c_models import NASTY, Model, affine, product

ARM = (Isa.NEON, Isa.DOTPROD, Isa.I8MM, Isa.NEON32)
needs_x86 = pytest.mark.skipif(not is_native("x86"), reason="not an x86 machine")


@pytest.fixture(autouse=True)
def _compiler() -> None:
    need(Isa.PORTABLE)


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[HostRunner]:
    loaded = HostRunner(affine().write(tmp_path / "model"))
    yield loaded
    loaded.close()


@pytest.fixture
def wanted() -> Recorded:
    return affine().recorded


# ---- running here


def test_arrays_and_tensors_give_the_same_results(runner: HostRunner, wanted: Recorded) -> None:
    (from_array,) = runner(wanted.inputs)
    (from_tensor,) = runner([torch.from_numpy(wanted.inputs[0])])
    np.testing.assert_array_equal(from_array.numpy(), wanted.outputs[0])
    assert torch.equal(from_array, from_tensor)


def test_results_of_one_call_outlive_the_next(runner: HostRunner, wanted: Recorded) -> None:
    (first,) = runner(wanted.inputs)
    runner([wanted.inputs[0] * 0])
    np.testing.assert_array_equal(first.numpy(), wanted.outputs[0])


def test_an_input_may_lie_anywhere(runner: HostRunner, wanted: Recorded) -> None:
    x = wanted.inputs[0]
    transposed = torch.from_numpy(np.ascontiguousarray(x.T)).T
    crooked = np.frombuffer(b"\0" + x.tobytes(), dtype=np.uint8)[1:].view(np.float32).reshape(x.shape)
    pages = np.zeros(4096, dtype=np.float32)
    last = pages[1024 + (-pages.ctypes.data // 4) % 1024 - x.size :][: x.size].reshape(x.shape)
    last[:] = x
    for value in (transposed, crooked, last):
        np.testing.assert_array_equal(runner([value])[0].numpy(), wanted.outputs[0])


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(6, 5, dtype=torch.float64),
        torch.zeros(5, 6),
        np.zeros((6, 5), dtype=">f4"),
        torch.zeros(6, 5, device="meta"),
    ],
    ids=["dtype", "shape", "byte order", "device"],
)
def test_an_input_that_does_not_fit_is_refused(runner: HostRunner, value: torch.Tensor | np.ndarray) -> None:
    with pytest.raises(InputError, match=r"give torch.float32 \[6, 5\] on cpu"):
        runner([value])


def test_the_number_of_inputs_is_checked(runner: HostRunner) -> None:
    with pytest.raises(InputError, match="takes 1 inputs, not 2"):
        runner([torch.zeros(6, 5)] * 2)


def test_a_closed_model_does_not_run(runner: HostRunner, wanted: Recorded) -> None:
    runner.close()
    runner.close()
    with pytest.raises(InputError, match="closed"):
        runner(wanted.inputs)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_share_the_tasks_of_a_kernel(tmp_path: Path, threads: int) -> None:
    model = product(Isa.PORTABLE)
    runner = HostRunner(model.write(tmp_path / "model"), threads)
    for _ in range(50):
        np.testing.assert_array_equal(runner(model.recorded.inputs)[0].numpy(), model.recorded.outputs[0])
    runner.close()


def test_a_model_without_results_or_numbers_runs(tmp_path: Path) -> None:
    ports = (Port("x", "x", torch.float32, (0, 3)),), (Port("y", "y", torch.int64, (2, 0)),)
    write_project(Module("nothing", *ports, (), (), b"", 0, Isa.PORTABLE), tmp_path)
    (result,) = HostRunner(tmp_path)([torch.zeros(0, 3)])
    assert result.shape == (2, 0)


# ---- levels


@needs_x86
def test_the_processor_chooses(tmp_path: Path) -> None:
    need(Isa.AVX2)
    portable = dataclasses.replace(MICRO_KERNELS["gemm_i8"], variants={Isa.PORTABLE: "c/runtime/qc_gemm_i8_portable.c"})
    model = product(Isa.AVX2, (Isa.AMX, Isa.AVX512))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MICRO_KERNELS, "gemm_i8", portable)
        folder = model.write(tmp_path / "model")
    runner = HostRunner(folder)
    levels = {source.file: source.isa for source in read_project(folder).sources}
    assert levels["kernels/qc_gemm_i8_portable.c"] == Isa.AVX2
    assert levels["kernels/qc_gemm_i8_portable_avx512.c"] == Isa.AVX512
    assert runner.level == next(isa for isa in (Isa.AMX, Isa.AVX512, Isa.AVX2) if runs_here(isa)).value
    np.testing.assert_array_equal(runner(model.recorded.inputs)[0].numpy(), model.recorded.outputs[0])


def test_levels_of_different_processors_do_not_mix(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="portable and avx2 are not of one processor"):
        write_project(dataclasses.replace(affine().module, dispatched=(Isa.AVX2,)), tmp_path)


@pytest.mark.parametrize("isa", ARM, ids=lambda isa: isa.value)
def test_other_processors_give_the_same_bits(tmp_path: Path, isa: Isa) -> None:
    need(isa)
    model = product(isa)
    folder = model.write(tmp_path / "model")
    program = Build("program", flags=(*WARNINGS, "-pedantic")).run(folder)
    done = subprocess.run([*find_emulator(LEVELS[isa].architecture), program, "check", folder, "2"], check=False)
    assert done.returncode == 0


def test_results_come_back_from_other_processors(tmp_path: Path) -> None:
    need(Isa.NEON)
    model = affine(Isa.NEON, threads=False)
    (result,) = run_emulated(model.write(tmp_path / "model"), None, model.recorded.inputs)
    np.testing.assert_array_equal(result.numpy(), model.recorded.outputs[0])


def test_a_portable_model_runs_on_any_processor(tmp_path: Path) -> None:
    need(Isa.NEON32)
    folder = affine().write(tmp_path / "model")
    assert run_selftest(folder, Isa.NEON32, threads=2).equal
    assert run_selftest(folder).equal


def test_a_model_for_one_processor_is_not_built_for_another(tmp_path: Path) -> None:
    need(Isa.NEON32)
    with pytest.raises(InputError, match="made for arm64, not for arm32"):
        run_selftest(affine(Isa.NEON).write(tmp_path / "model"), Isa.NEON32)


# ---- the self-test


def test_the_self_test_tells_what_differs(tmp_path: Path) -> None:
    model = affine()
    outputs = [model.recorded.outputs[0].copy()]
    outputs[0][1, 2] += 0.5
    folder = Model(model.module, Recorded(model.recorded.inputs, outputs)).write(tmp_path / "model")
    found = run_selftest(folder)
    assert not found.equal
    assert found.text.startswith("y: 1 of 30 differ, first at 7, largest difference 0.5")


def test_the_self_test_takes_times(tmp_path: Path) -> None:
    folder = affine().write(tmp_path / "model")
    program = Build("program").run(folder)
    done = subprocess.run([str(program), "time", str(folder), "5"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"portable: fastest [\d.]+ us, median [\d.]+ us of 5 calls\n", done.stdout)


def test_nothing_recorded_is_said(tmp_path: Path) -> None:
    write_project(affine().module, tmp_path)
    with pytest.raises(InputError, match="nothing was recorded"):
        run_selftest(tmp_path)


def test_recorded_arrays_must_fit(tmp_path: Path) -> None:
    model = affine()
    with pytest.raises(InputError, match=r"recorded output y is float64 \[6, 5\], not float32 \[6, 5\]"):
        write_project(model.module, tmp_path, Recorded(model.recorded.inputs, [np.zeros((6, 5))]))


# ---- names


@given(st.text(alphabet=st.sampled_from(list("ab*/?\\\n\r\t\"'`$;<>é\u2028\U0001f600")), max_size=40))
@example("???/\n")
@example("**//**/")
@settings(deadline=None, max_examples=50)
def test_no_text_leaves_its_comment(text: str) -> None:
    shown = comment(text)
    assert shown.isascii()
    assert shown.isprintable()
    assert not re.search(r'\*/|/\*|\?\?|[\\"`$;<>]', shown)


def test_names_of_the_model_never_reach_c(tmp_path: Path) -> None:
    model = affine(title=NASTY)
    runner = HostRunner(model.write(tmp_path / "model"))
    np.testing.assert_array_equal(runner(model.recorded.inputs)[0].numpy(), model.recorded.outputs[0])
    assert run_selftest(tmp_path / "model").equal


def test_ports_may_be_called_like_words_of_c(tmp_path: Path) -> None:
    module = affine().module
    inputs = tuple(dataclasses.replace(port, name="model") for port in module.inputs)
    outputs = tuple(dataclasses.replace(port, name="class") for port in module.outputs)
    write_project(dataclasses.replace(module, inputs=inputs, outputs=outputs), tmp_path)
    build_host(tmp_path)
    assert "const float *model_,\n    float *class_);" in (tmp_path / "model.h").read_text()


@pytest.mark.parametrize("name", ["int", "9x", "qc_pool", "a b", "a;b", "", "é", "x\n", "expf", "memcpy"])
def test_what_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    module = affine().module
    with pytest.raises(InputError, match="cannot be a name in C"):
        write_project(dataclasses.replace(module, name=name), tmp_path)
    with pytest.raises(InputError, match="cannot be a name in C"):
        write_project(dataclasses.replace(module, layers=(Layer(name, ""),)), tmp_path)


@pytest.mark.parametrize("name", ["layer_plus", "affine_run"])
def test_names_are_given_once(tmp_path: Path, name: str) -> None:
    module = affine().module
    with pytest.raises(InputError, match="is there twice"):
        write_project(dataclasses.replace(module, layers=(*module.layers, Layer(name, ""))), tmp_path)


def test_an_unknown_kernel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="no micro-kernel 'gone'"):
        write_project(dataclasses.replace(affine().module, kernels=("gone",)), tmp_path)


# ---- weights


@given(st.binary(max_size=400))
@settings(deadline=None, max_examples=50)
def test_the_sums_are_those_of_a_loop(content: bytes) -> None:
    content += bytes(-len(content) % 8)
    first = second = 0
    for word in np.frombuffer(content, dtype="<u8"):
        first = (first + int(word)) % 2**64
        second = (second + first) % 2**64
    assert sums(content) == (first, second)


def test_room_to_read_lies_behind_the_weights() -> None:
    file = weights_file(b"abc")
    assert len(file) == 64 + 64 + SLACK
    assert file[64:67] == b"abc"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[:100] + bytes([data[100] ^ 4]) + data[101:], "damaged"),
        (lambda data: b"?" + data[1:], "no file of weights"),
        (lambda data: data[:12] + data[15:11:-1] + data[16:], "no file of weights"),
        (lambda data: data[:-1], "bytes, not"),
        (lambda _: weights_file(affine(seed=5).module.weights), "of another model"),
    ],
    ids=["bit", "magic", "byte order", "cut off", "other"],
)
def test_weights_are_checked(tmp_path: Path, change: Callable[[bytes], bytes], said: str) -> None:
    folder = affine().write(tmp_path / "model")
    file = folder / "weights.bin"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(InputError, match=said):
        HostRunner(folder)
