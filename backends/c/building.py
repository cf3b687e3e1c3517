"""Builds a folder of generated C with a compiler of this machine; what was built once is found again."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qcompiler.backends.c.isa import COMMON_FLAGS, LEVELS, Architecture, Isa
from qcompiler.backends.c.project import KERNELS, POOL, Project, read_project
from qcompiler.backends.c.sources import Source
from qcompiler.backends.c.toolchain import Compiler, find_compiler
from qcompiler.errors import InputError

BUILD = "build"
Kind = Literal["library", "program"]
_SUFFIXES = (".c", ".h")


@dataclass(frozen=True)
class Build:
    """What is built of a folder.

    Args:
        kind: the shared library, or the program of the self-test.
        architecture: of the processor; None for the one that the model is made for.
        flags: further ones of compiler and linker, such as `-fsanitize=address`.
        threads: whether it can share the work among threads, where the model allows it.
    """

    kind: Kind = "library"
    architecture: Architecture | None = None
    flags: tuple[str, ...] = ()
    threads: bool = True

    def run(self, folder: Path) -> Path:
        """Builds, unless the same was built before; the result lies in the folder `build` of the model.

        Raises:
            InputError: when the folder is no model in C, cannot be written to, is not made for the architecture, or the
                compiler refuses it.
            UnsupportedError: when no compiler for the architecture is found.
        """
        project = read_project(folder)
        compiler = find_compiler(self._architecture(project))
        name = f"lib{project.name}.so" if self.kind == "library" else f"{project.name}_selftest"
        target = folder / BUILD / self._digest(folder, compiler) / name
        if not target.is_file():
            _make_folder(target.parent)
            with tempfile.TemporaryDirectory(dir=target.parent) as place:
                made = self._make(folder, project, compiler, Path(place))
                os.replace(made, target)
        return target

    def _architecture(self, project: Project) -> Architecture:
        own = LEVELS[project.isa].architecture
        if self.architecture is None or self.architecture == own:
            return own
        if own != "portable":
            raise InputError(f"the model is made for {own}, not for {self.architecture}", step="build")
        return self.architecture

    def _digest(self, folder: Path, compiler: Compiler) -> str:
        digest = hashlib.sha256(repr((self, compiler, compiler.version(), COMMON_FLAGS, LEVELS)).encode())
        for path in sorted([*folder.iterdir(), *(folder / KERNELS).iterdir()]):
            if path.suffix in _SUFFIXES and path.name != "weights.c":
                digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
        return digest.hexdigest()[:16]

    def _make(self, folder: Path, project: Project, compiler: Compiler, place: Path) -> Path:
        threads = self.threads and project.threads
        sources = [Source(item.file, item.isa) for item in project.sources if threads or item.file != POOL]
        sources += [Source("selftest.c", Isa.PORTABLE)] if self.kind == "program" else []
        objects = [place / f"{Path(source.file).stem}.o" for source in sources]
        flags = [f"-I{folder}", f"-I{folder / KERNELS}", "-fvisibility=hidden", *self.flags]
        flags += ["-fPIC"] if self.kind == "library" else []
        flags += ["-DQC_THREADS", "-pthread"] if threads else []
        compile_all(compiler, [folder / source.file for source in sources], objects, [s.isa for s in sources], flags)
        result = place / "result"
        compiler.link(objects, result, [*self._link_flags(project), *self.flags, *(["-pthread"] if threads else [])])
        return result

    def _link_flags(self, project: Project) -> list[str]:
        if self.kind == "library":
            return ["-shared"]
        # Emulators find no libraries of another architecture.
        return ["-static"] if self._architecture(project) in ("arm64", "arm32") else []


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"nothing can be built here: {error.strerror}", where=str(folder), step="build", mend="copy the folder"
        ) from error


def compile_all(
    compiler: Compiler, sources: Sequence[Path], objects: Sequence[Path], levels: Sequence[Isa], flags: Sequence[str]
) -> None:
    """Compiles files to objects, as many at a time as there are processors.

    Raises:
        InputError: with the first error of a compiler.
    """
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        jobs = [
            pool.submit(compiler.compile, source, made, isa, flags)
            for source, made, isa in zip(sources, objects, levels, strict=True)
        ]
        for job in jobs:
            job.result()
