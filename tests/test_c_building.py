"""The folder of a model in C, built: here, with other compilers, with other tools, for other processors."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from qcompiler.backends.c.building import Build
from qcompiler.backends.c.host import HostRunner, build_host
from qcompiler.backends.c.isa import COMMON_FLAGS, LEVELS, WARNINGS, Isa
from qcompiler.backends.c.module import Layer
from qcompiler.backends.c.project import read_project, write_project
from qcompiler.backends.c.toolchain import find_compiler, find_emulator, is_native
from qcompiler.errors import InputError
from tests.c_harness import need
from tests.c_models import Model, affine, product

PURE = re.compile(
    r"(mem|str)[a-z]+|f?ma[f]?|[a-z]*rint[f]?|sqrt[f]?|__?aeabi_\w+|__stack_chk_\w+|_GLOBAL_OFFSET_TABLE_"
)


def processor_model() -> Model:
    """A model with the kernels that this processor has, chosen when it runs."""
    return product(Isa.AVX2, (Isa.AVX512,)) if is_native("x86") else product(Isa.PORTABLE)


@pytest.fixture(autouse=True)
def _compiler() -> None:
    need(Isa.PORTABLE)


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = (product(Isa.PORTABLE).write(tmp_path / name) for name in ("one", "two"))
    files = sorted(str(path.relative_to(one)) for path in one.rglob("*") if path.is_file())
    assert all((one / file).read_bytes() == (two / file).read_bytes() for file in files)


def test_what_was_built_is_found_again(tmp_path: Path) -> None:
    folder = affine().write(tmp_path / "model")
    first = build_host(folder)
    made = first.stat().st_mtime_ns
    assert build_host(folder) == first
    assert first.stat().st_mtime_ns == made
    (folder / "model.c").write_text((folder / "model.c").read_text() + "\n")
    assert build_host(folder) != first


def test_the_error_of_the_compiler_is_said(tmp_path: Path) -> None:
    module = dataclasses.replace(affine().module, layers=(Layer("broken", "static void broken(void) { missing; }"),))
    write_project(module, tmp_path)
    with pytest.raises(InputError, match="missing"):
        build_host(tmp_path)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder of generated C"):
        build_host(tmp_path)
    (tmp_path / "project.json").write_text('{"name": "../x"}')
    with pytest.raises(InputError, match=r"project\.json does not say"):
        build_host(tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    folder = affine().write(tmp_path / "model")
    (folder / "build").write_text("")
    with pytest.raises(InputError, match="nothing can be built here"):
        build_host(folder)


def compile_alone(folder: Path, command: list[str], flags: list[str]) -> Path:
    """Compiles every file of a model with all warnings as errors."""
    made = folder / "objects"
    made.mkdir(exist_ok=True)
    for source in [*read_project(folder).sources]:
        level = LEVELS[source.isa].flags
        common = [*COMMON_FLAGS, *WARNINGS, "-pedantic", f"-I{folder}", f"-I{folder}/kernels", *level, *flags]
        subprocess.run(
            [*command, *common, "-c", folder / source.file, "-o", made / f"{Path(source.file).stem}.o"], check=True
        )
    return made


def test_no_warnings_of_clang(tmp_path: Path) -> None:
    if not shutil.which("clang"):
        pytest.skip("no clang")
    folder = processor_model().write(tmp_path / "model")
    compile_alone(folder, ["clang"], ["-DQC_THREADS"])
    flags = [*COMMON_FLAGS, *WARNINGS, "-pedantic", "-c", str(folder / "selftest.c"), "-o", str(tmp_path / "o")]
    subprocess.run(["clang", *flags], check=True)


def test_the_header_is_one_of_cpp_too(tmp_path: Path) -> None:
    if not shutil.which("g++"):
        pytest.skip("no g++")
    folder = affine().write(tmp_path / "model")
    (folder / "use.cpp").write_text(
        '#include "model.h"\nint use(affine_model &m, const float *x, float *y) { return affine_run(&m, x, y); }\n'
    )
    command = ["g++", "-std=c++98", *WARNINGS, "-c", str(folder / "use.cpp"), "-o", str(tmp_path / "o")]
    subprocess.run(command, check=True)


MICROCONTROLLER = ["-mthumb", "-march=armv7e-m+fp", "-mfloat-abi=hard", "-ffreestanding"]


@pytest.mark.parametrize("flags", [[], MICROCONTROLLER], ids=["here", "cortex-m"])
def test_without_threads_only_math_and_string_are_needed(tmp_path: Path, flags: list[str]) -> None:
    if not shutil.which("nm"):
        pytest.skip("no nm")
    if flags:
        need(Isa.NEON32)
    compiler = find_compiler("arm32" if flags else "portable")
    folder = product(Isa.PORTABLE, threads=False).write(tmp_path / "model")
    made = compile_alone(folder, list(compiler.command), flags)
    nm = subprocess.run(["nm", *made.iterdir()], capture_output=True, text=True, check=True).stdout
    defined = set(re.findall(r" [TDBRr] (\w+)", nm))
    assert "product_run" in defined
    assert [name for name in re.findall(r" U (\w+)", nm) if name not in defined and not PURE.fullmatch(name)] == []


def test_threads_are_refused_where_there_are_none(tmp_path: Path) -> None:
    folder = affine(threads=False).write(tmp_path / "model")
    with pytest.raises(InputError, match="threads cannot be had"):
        HostRunner(folder, threads=2)


@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_sanitizers_find_nothing(tmp_path: Path, sanitizer: str) -> None:
    model = product(Isa.PORTABLE)
    folder = model.write(tmp_path / "model")
    flags = ("-g", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all")
    try:
        program = Build("program", flags=flags).run(folder)
    except InputError as error:
        pytest.skip(error.what)
    done = subprocess.run([program, "check", folder, "4"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([program, "time", folder, "200", "4"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_the_readme_says_works(tmp_path: Path) -> None:
    if not shutil.which("cc"):
        pytest.skip("no cc")
    folder = affine().write(tmp_path / "model")
    text = (folder / "README.md").read_text()
    commands = [line.strip() for line in re.findall(r"^    .*", text.split("## Call")[0], re.MULTILINE)]
    done = subprocess.run(["sh", "-ec", "\n".join(commands)], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "y: 30 equal\n"), done.stderr
    (folder / "selftest.o").unlink()
    (example,) = re.findall(r"```c\n(.*?)```", text, re.DOTALL)
    (folder / "example.c").write_text(example)
    build = ["sh", "-ec", "cc -Wall -Wextra -Werror -I. example.c *.o -lm -lpthread -o example && ./example"]
    subprocess.run(build, cwd=folder, check=True)


def cmake(folder: Path, place: Path, options: list[str]) -> str:
    """Configures, builds and tests a model; what its test said."""
    if not shutil.which("cmake") or not shutil.which("ninja"):
        pytest.skip("no cmake with ninja")
    done = None
    for command in (
        ["cmake", "-G", "Ninja", "-S", folder, "-B", place, *options],
        ["cmake", "--build", place],
        ["ctest", "--test-dir", place],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout if done else ""


def test_cmake_builds_and_tests_it(tmp_path: Path) -> None:
    folder = processor_model().write(tmp_path / "model")
    warnings = f"-DCMAKE_C_FLAGS={' '.join(WARNINGS)} -pedantic"
    said = cmake(folder, tmp_path / "made", ["-DQC_EMBED_WEIGHTS=ON", "-DBUILD_SHARED_LIBS=ON", warnings])
    assert "100% tests passed" in said


def test_cmake_builds_for_another_processor(tmp_path: Path) -> None:
    need(Isa.DOTPROD)
    folder = affine(Isa.DOTPROD).write(tmp_path / "model")
    compiler, *rest = find_compiler("arm64").command
    if rest:
        pytest.skip("CMake takes one program")
    emulator = find_emulator("arm64")
    (tmp_path / "arm.cmake").write_text(
        f"set(CMAKE_SYSTEM_NAME Linux)\nset(CMAKE_SYSTEM_PROCESSOR aarch64)\nset(CMAKE_C_COMPILER {compiler})\n"
        f"set(CMAKE_CROSSCOMPILING_EMULATOR {' '.join(emulator)})\nset(CMAKE_EXE_LINKER_FLAGS -static)\n"
    )
    said = cmake(folder, tmp_path / "made", [f"-DCMAKE_TOOLCHAIN_FILE={tmp_path / 'arm.cmake'}"])
    assert "100% tests passed" in said
