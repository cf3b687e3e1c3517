"""Runs one micro-kernel on many cases: a small program reads arguments from a file, calls it, and writes results.

The same program runs on this machine and, for other processors, under an emulator.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from qcompiler.backends.c.isa import LEVELS, WARNINGS, Isa
from qcompiler.backends.c.kernels import MICRO_KERNELS
from qcompiler.backends.c.kernels.row import ROOT
from qcompiler.backends.c.toolchain import find_compiler, find_emulator
from qcompiler.errors import UnsupportedError

INCLUDE = ROOT / "c" / "runtime"
SLACK = 256


@dataclass(frozen=True)
class Offsets:
    """A table of pointers into the array of another field, in bytes."""

    field: str
    offsets: np.ndarray


Value = np.ndarray | int | float | Offsets | None
Case = Mapping[str, Value]
"""Arguments by field, such as `input` or `epilogue.bias`; fields that are absent are zero or NULL; None is a NULL where
other cases have an array. Integers are passed
as they are, so an enum of C is its number."""

_READ = """
static void *take(FILE *file, size_t *size) {{
    int64_t bytes;
    if (fread(&bytes, 8, 1, file) != 1) exit(3);
    if (bytes < 0) return NULL;
    char *data = calloc(1, (size_t)bytes + {slack});
    if (bytes && fread(data, 1, (size_t)bytes, file) != (size_t)bytes) exit(4);
    *size = (size_t)bytes;
    return data;
}}
"""
_MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include "{header}"
{read}
const char *__asan_default_options(void) {{ return "detect_leaks=0"; }}
int main(int count, char **names) {{
    FILE *in = fopen(names[1], "rb"), *result = fopen(names[2], "wb");
    int64_t cases, range[2];
    if (count != 3 || !in || !result || fread(&cases, 8, 1, in) != 1) return 2;
    for (int64_t i = 0; i < cases; ++i) {{
        qc_{name}_args args;
        memset(&args, 0, sizeof args);
        size_t size = 0, out_sizes[{count}];
        if (fread(range, 8, 2, in) != 2) return 5;
{fields}
        qc_{name}_{isa}(&args, (size_t)range[0], (size_t)range[1]);
{writes}
        (void)size;
    }}
    return fclose(result);
}}
"""


def run_kernel(
    name: str,
    isa: Isa,
    cases: Sequence[Case],
    tasks: Sequence[tuple[int, int]],
    out: str = "out",
    sanitize: bool = False,
) -> list[np.ndarray]:
    """Calls the best version of a kernel for a level once per case; cases must have the same fields.

    Args:
        name: of the micro-kernel.
        isa: the level, for which it is compiled; the test is skipped where that cannot run.
        cases: arguments; the array in field `out` gives shape and dtype of the result and what lies there before.
        tasks: range of each case.
        out: field that the kernel writes to.
        sanitize: whether accesses and arithmetic are checked while it runs.
    """
    return [found[out] for found in run_kernel_fields(name, isa, cases, tasks, (out,), sanitize)]


def run_kernel_fields(
    name: str,
    isa: Isa,
    cases: Sequence[Case],
    tasks: Sequence[tuple[int, int]],
    outs: tuple[str, ...],
    sanitize: bool = False,
) -> list[dict[str, np.ndarray]]:
    """`run_kernel` for a kernel that writes several fields; results by field."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            command = _command(name, isa, cases, tasks, Path(folder), outs, sanitize)
        except UnsupportedError as error:
            pytest.skip(error.what)
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr or f"exit status {done.returncode}"
        data = Path(command[-1]).read_bytes()
    results: list[dict[str, np.ndarray]] = []
    at = 0
    for case in cases:
        found: dict[str, np.ndarray] = {}
        for out in outs:
            like = case[out]
            assert isinstance(like, np.ndarray)
            found[out] = np.frombuffer(data, like.dtype, like.size, at).reshape(like.shape)
            at += like.nbytes
        results.append(found)
    return results


def kernel_command(
    name: str, isa: Isa, cases: Sequence[Case], tasks: Sequence[tuple[int, int]], folder: Path, out: str = "out"
) -> list[str]:
    """The command that does what `run_kernel` does; its last word is the file that it writes results to.

    Raises:
        UnsupportedError: when this machine cannot build it or run it.
    """
    return _command(name, isa, cases, tasks, folder, (out,), sanitize=False)


def _command(
    name: str,
    isa: Isa,
    cases: Sequence[Case],
    tasks: Sequence[tuple[int, int]],
    folder: Path,
    outs: tuple[str, ...],
    sanitize: bool,
) -> list[str]:
    keys = tuple((key, _kind(value)) for key, value in cases[0].items())
    program = _program(name, isa, keys, outs, sanitize)
    with (folder / "in").open("wb") as file:
        file.write(np.int64(len(cases)).tobytes())
        for case, span in zip(cases, tasks, strict=True):
            file.write(np.array(span, dtype=np.int64).tobytes())
            for value in case.values():
                _write(file, value)
    return [*find_emulator(LEVELS[isa].architecture), str(program), str(folder / "in"), str(folder / "out")]


def _kind(value: Value) -> str:
    if isinstance(value, Offsets):
        return f"offsets {value.field}"
    return "array" if value is None or isinstance(value, np.ndarray) else "int" if isinstance(value, int) else "float"


def _write(file: object, value: Value) -> None:
    write = file.write  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(value, Offsets):
        value = value.offsets.astype(np.int64)
    if value is None:
        write(np.int64(-1).tobytes())
    elif isinstance(value, np.ndarray):
        write(np.int64(value.nbytes).tobytes())
        write(np.ascontiguousarray(value).tobytes())
    else:
        write(np.int64(value).tobytes() if isinstance(value, int) else np.float64(value).tobytes())


def _field(key: str, kind: str, outs: tuple[str, ...]) -> str:
    if kind == "array":
        size = f"out_sizes[{outs.index(key)}]" if key in outs else "size"
        return f"args.{key} = take(in, &{size});"
    if kind.startswith("offsets"):
        base = kind.split()[1]
        return (
            f"{{ int64_t *offsets = take(in, &size); const void **table = calloc(size / 8 + 1, sizeof *table); "
            f"for (size_t j = 0; j < size / 8; ++j) table[j] = (const char *)args.{base} + offsets[j]; "
            f"args.{key} = (void *)table; }}"
        )
    type_ = "int64_t" if kind == "int" else "double"
    return f"{{ {type_} value; if (fread(&value, 8, 1, in) != 1) return 6; args.{key} = value; }}"


@cache
def _program(name: str, isa: Isa, keys: tuple[tuple[str, str], ...], outs: tuple[str, ...], sanitize: bool) -> Path:
    row = MICRO_KERNELS[name]
    version = row.versions(isa)[0]
    compiler = find_compiler(LEVELS[isa].architecture)
    find_emulator(LEVELS[isa].architecture)
    if not runs_here(isa) and not _emulated(isa):
        raise UnsupportedError(f"this processor has no {isa.value}")
    folder = Path(tempfile.mkdtemp(prefix="qc_kernel_"))
    fields = "\n".join(f"        {_field(key, kind, outs)}" for key, kind in keys)
    writes = "\n".join(f"        fwrite(args.{out}, 1, out_sizes[{i}], result);" for i, out in enumerate(outs))
    text = _MAIN.format(
        header=row.header,
        read=_READ.format(slack=SLACK),
        name=name,
        isa=version.value,
        fields=fields,
        count=len(outs),
        writes=writes,
    )
    (folder / "main.c").write_text(text)
    include = (f"-I{INCLUDE}",)
    checks = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all") if sanitize else ()
    compiler.compile(folder / "main.c", folder / "main.o", isa, (*include, *checks))
    compiler.compile(row.source(isa), folder / "kernel.o", isa, (*include, *checks, *_emulated(isa), *WARNINGS))
    compiler.link([folder / "main.o", folder / "kernel.o"], folder / "program", checks or ("-static",))
    return folder / "program"


@cache
def runs_here(isa: Isa) -> bool:
    """Whether this processor, or the emulator of another one, executes a level."""
    if LEVELS[isa].architecture != "x86":
        return True
    flags = Path("/proc/cpuinfo").read_text().split()
    wanted = {Isa.AVX2: "avx2", Isa.AVX512: "avx512_vnni", Isa.AMX: "amx_int8"}
    return wanted[isa] in flags


def need(isa: Isa) -> None:
    """Skips a test of a level that cannot be built or run here."""
    try:
        find_compiler(LEVELS[isa].architecture)
        find_emulator(LEVELS[isa].architecture)
    except UnsupportedError as error:
        pytest.skip(error.what)
    if not runs_here(isa):
        pytest.skip(f"this processor has no {isa.value}")


def _emulated(isa: Isa) -> tuple[str, ...]:
    """What a kernel is compiled with to run on this processor nevertheless: AMX without its tiles is AVX-512."""
    if isa is not Isa.AMX or runs_here(isa) or not runs_here(Isa.AVX512):
        return ()
    return ("-include", str(Path(__file__).parent / "c_amx_shim.h"))
