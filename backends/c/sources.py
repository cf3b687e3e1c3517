"""Which files of C a model needs, and for which processor each of them is compiled."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from qcompiler.backends.c.isa import LEVELS, Isa
from qcompiler.backends.c.kernels import MICRO_KERNELS
from qcompiler.backends.c.kernels.row import ROOT
from qcompiler.backends.c.module import Module
from qcompiler.errors import InputError, UnsupportedError

RUNTIME = ROOT / "c" / "runtime"
KERNELS = "kernels"
"""The folder of kernels and headers within that of a model."""
_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"/]+)"', re.MULTILINE)
_COPY = """/* The portable version once more, for a level that has no faster one. */
#define {portable} {function}
#include "{portable}.c"
"""


@dataclass(frozen=True)
class Source:
    """A file that is compiled.

    Args:
        file: relative to the folder of the model.
        isa: level whose flags it is compiled with.
    """

    file: str
    isa: Isa


@dataclass(frozen=True)
class Table:
    """The kernels that are taken on a level.

    Args:
        isa: the level.
        functions: C function by kernel.
    """

    isa: Isa
    functions: Mapping[str, str]


@dataclass(frozen=True)
class KernelFiles:
    """What the folder `KERNELS` holds.

    Args:
        sources: what is compiled.
        texts: content by file name.
    """

    sources: tuple[Source, ...]
    texts: Mapping[str, str]


def tables(module: Module) -> tuple[Table, ...]:
    """The kernels of every level that the model may run on, best first, the least one last.

    Raises:
        UnsupportedError: for a kernel that there is not.
    """
    missing = [name for name in module.kernels if name not in MICRO_KERNELS]
    if missing:
        raise UnsupportedError(f"there is no micro-kernel {missing[0]!r}", step="write_project")
    return tuple(
        Table(level, {name: _function(module, name, level) for name in module.kernels})
        for level in (*module.dispatched, module.isa)
    )


def kernel_files(module: Module) -> KernelFiles:
    """All kernels that some level takes, with every header that they include.

    Raises:
        InputError: when a file includes one that is not part of the runtime.
    """
    texts: dict[str, str] = {}
    sources: dict[str, Isa] = {}
    for table in tables(module):
        for name, function in table.functions.items():
            path = MICRO_KERNELS[name].source(table.isa)
            texts.setdefault(path.name, path.read_text())
            file = f"{function}.c"
            if file != path.name:
                texts[file] = _COPY.format(portable=path.stem, function=function)
            sources[file] = _flags(module, name, table.isa)
    if module.threads:
        texts["qc_pool.c"] = (RUNTIME / "qc_pool.c").read_text()
        sources["qc_pool.c"] = module.isa
    roots = ["qc_context.h", *module.headers, *(MICRO_KERNELS[name].header for name in module.kernels)]
    roots += ["qc_cpu.h"] if any(LEVELS[table.isa].check for table in tables(module)) else []
    texts |= _headers(roots, texts)
    ordered = tuple(Source(f"{KERNELS}/{file}", sources[file]) for file in sorted(sources))
    return KernelFiles(ordered, dict(sorted(texts.items())))


def _version(name: str, level: Isa) -> Isa:
    return MICRO_KERNELS[name].versions(level)[0]


def _function(module: Module, name: str, level: Isa) -> str:
    function = f"qc_{name}_{_version(name, level).value}"
    again = _version(name, level) is Isa.PORTABLE and level is not module.isa
    return f"{function}_{level.value}" if again else function


def _flags(module: Module, name: str, level: Isa) -> Isa:
    version = _version(name, level)
    return level if version is Isa.PORTABLE else version


def _headers(roots: Iterable[str], texts: Mapping[str, str]) -> dict[str, str]:
    """The named headers and those that they and the sources include, wherever these lie."""
    found: dict[str, str] = {}
    waiting = [*roots, *(name for text in texts.values() for name in _INCLUDE.findall(text))]
    while waiting:
        name = waiting.pop()
        if name in found or name in texts:
            continue
        found[name] = _header(name).read_text()
        waiting += _INCLUDE.findall(found[name])
    return found


def _header(name: str) -> Path:
    for folder in (RUNTIME, ROOT / "x86", ROOT / "arm"):
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"a source includes {name!r}, which is no file of the runtime", step="write_project")
