"""The folder of a model in C: written here, and read back by whoever builds it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qcompiler.backends.c import weights
from qcompiler.backends.c.extent import Free, extent_of, free_names, made, most, text
from qcompiler.backends.c.isa import COMMON_FLAGS, LEVELS, Architecture, Isa
from qcompiler.backends.c.kernels import MICRO_KERNELS
from qcompiler.backends.c.module import ALIGNMENT, C_TYPES, Module, Port, Recorded
from qcompiler.backends.c.names import check_names, comment, parameters
from qcompiler.backends.c.sources import KERNELS, KernelFiles, Source, Table, kernel_files, tables
from qcompiler.backends.c.templates import fill
from qcompiler.errors import InputError
from qcompiler.ir.parse_dim import parse_dim
from qcompiler.ir.types import Dimensions, Symbol

PROJECT_FILE = "project.json"
WEIGHTS_FILE = "weights.bin"
RECORDED = "recorded"
POOL = f"{KERNELS}/qc_pool.c"
EMBEDDED_BYTES = 16 << 20
"""Larger weights are not written as an array too: compilers take minutes for it."""
CALLS = 3
"""How many calls one after the other are recorded of a model with states, or of one whose calls choose sizes."""
_STEP = "write_project"
_OWN = ("init", "run", "free", "reset", "state", "level", "model", "status", "sizes", "weights", "choose_kernels")
"""Behind the name of the model, what its header declares."""
_NAME = r"^[A-Za-z][A-Za-z0-9_]*$"
_GUARDS: dict[Architecture, str] = {
    "portable": "",
    "x86": "defined(__x86_64__)",
    "arm64": "defined(__aarch64__)",
    "arm32": "defined(__arm__)",
}
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in C_TYPES}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SizeRecord(_Strict):
    """A size that every call chooses: see `Free`."""

    name: str = Field(pattern=_NAME)
    most: int
    least: int

    def free(self) -> Free:
        """The value that was recorded."""
        return Free(self.name, self.most, self.least)


class PortRecord(_Strict):
    """An input or a result: see `Port`; `dtype` is the name of one in torch, sizes that a call chooses are text."""

    name: str = Field(pattern=_NAME)
    title: str
    dtype: str = Field(pattern=f"^({'|'.join(_DTYPES)})$")
    shape: tuple[int | str, ...]

    def port(self, sizes: Sequence[SizeRecord] = ()) -> Port:
        """The value that was recorded, of a model whose calls choose `sizes`."""
        dimensions = Dimensions({size.name: Symbol(size.most, size.least, size.most) for size in sizes})
        values = {size.name: made([((size.free(),), 1)]) for size in sizes}
        dims = [parse_dim(dim, dimensions) if isinstance(dim, str) else dim for dim in self.shape]
        return Port(self.name, self.title, _DTYPES[self.dtype], tuple(extent_of(dim, values) for dim in dims))


class SourceRecord(_Strict):
    """A file that is compiled: see `Source`."""

    file: str = Field(pattern=rf"^({KERNELS}/)?[A-Za-z0-9_]+\.c$")
    isa: Isa


class Project(_Strict):
    """What is known of a folder without reading its C.

    Args:
        name: prefix of what the library exports.
        inputs: in order.
        outputs: in order.
        sources: of the library.
        isa: the least that the processor has.
        arena_bytes: that the model must be given.
        weights_bytes: size of the file of weights.
        threads: whether it can share the work among threads.
        run_threads: how many threads whoever runs it on this machine asks for.
        recorded: whether results for the self-test are there.
        states: what goes from call to call.
        sizes: what every call chooses.
    """

    name: str = Field(pattern=_NAME)
    inputs: tuple[PortRecord, ...]
    outputs: tuple[PortRecord, ...]
    sources: tuple[SourceRecord, ...]
    isa: Isa
    arena_bytes: int
    weights_bytes: int
    threads: bool
    run_threads: int = 1
    recorded: bool
    states: tuple[PortRecord, ...] = ()
    sizes: tuple[SizeRecord, ...] = ()

    @property
    def input_ports(self) -> list[Port]:
        """The inputs."""
        return [port.port(self.sizes) for port in self.inputs]

    @property
    def output_ports(self) -> list[Port]:
        """The results."""
        return [port.port(self.sizes) for port in self.outputs]


@dataclass(frozen=True)
class _PortView:
    """A port as the templates write it."""

    parameter: str
    macro: str
    title: str
    type: str
    kind: str
    shape: str
    elements: int
    result: bool
    count: str
    sizes: Sequence[str]
    index: int

    @property
    def pointer(self) -> str:
        return f"{self.type} *" if self.result else f"const {self.type} *"


def write_project(module: Module, folder: Path, recorded: Recorded | None = None) -> list[str]:
    """Writes everything that builds and runs a model; the same model gives the same bytes.

    Args:
        module: the model.
        folder: exists; files of the same names are replaced.
        recorded: inputs and results of the self-test.

    Returns:
        the files, relative to the folder, sorted.

    Raises:
        InputError: for names that C cannot hold, recorded arrays that do not fit, levels or sizes that cannot be.
        UnsupportedError: for a kernel that there is not.
    """
    check_names("model", [module.name])
    check_names("layer", [*(f"{module.name}_{word}" for word in _OWN), *(layer.name for layer in module.layers)])
    for level in module.dispatched:
        if LEVELS[level].architecture != LEVELS[module.isa].architecture:
            raise InputError(f"{module.isa.value} and {level.value} are not of one processor", step=_STEP)
    if module.arena_bytes % ALIGNMENT:
        raise InputError(f"{module.arena_bytes} bytes of arena are no multiple of {ALIGNMENT}", step=_STEP)
    kernels = kernel_files(module)
    stored = weights.weights_file(module.weights)
    texts = {f"{KERNELS}/{name}": text for name, text in kernels.texts.items()}
    texts |= _texts(module, kernels, stored, recorded)
    data = {WEIGHTS_FILE: stored} | _recorded_files(module, recorded)
    data |= {name: text.encode("ascii") for name, text in texts.items()}
    for name, content in data.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return sorted(data)


def read_project(folder: Path) -> Project:
    """What `write_project` recorded of a folder.

    Raises:
        InputError: when it is not one.
    """
    path = folder / PROJECT_FILE
    try:
        return Project.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError("this is no folder of generated C", where=str(folder)) from error
    except ValidationError as error:
        raise InputError(f"{PROJECT_FILE} does not say what it must: {error}", where=str(folder)) from error


def _texts(module: Module, kernels: KernelFiles, stored: bytes, recorded: Recorded | None) -> dict[str, str]:
    """All files but kernels and arrays, by name."""
    values = _values(module, kernels, stored, recorded)
    written = ("model.h", "model.c", "dispatch.c", "selftest.c", "CMakeLists.txt", "README.md")
    texts = {name: fill(f"{name}.j2", **values) for name in written}
    texts[f"{KERNELS}/qc_dispatch.h"] = fill("qc_dispatch.h.j2", **values)
    known = recorded is not None
    texts[PROJECT_FILE] = _project(module, kernels, stored, known).model_dump_json(indent=1) + "\n"
    if values["embeddable"]:
        texts["weights.c"] = weights.weights_array(stored, module.name)
    return texts


def _project(module: Module, kernels: KernelFiles, stored: bytes, recorded: bool) -> Project:
    return Project(
        name=module.name,
        inputs=tuple(_port_record(port) for port in module.inputs),
        outputs=tuple(_port_record(port) for port in module.outputs),
        sources=tuple(SourceRecord(file=source.file, isa=source.isa) for source in _sources(module, kernels)),
        isa=module.isa,
        arena_bytes=module.arena_bytes + weights.SLACK,
        weights_bytes=len(stored),
        threads=module.threads,
        run_threads=module.run_threads,
        recorded=recorded,
        states=tuple(_port_record(state.port) for state in module.states),
        sizes=tuple(SizeRecord(name=size.name, most=size.most, least=size.least) for size in module.sizes),
    )


def _port_record(port: Port) -> PortRecord:
    dtype = str(port.dtype).removeprefix("torch.")
    shape = tuple(text(size, "python") if free_names(size) else size for size in port.shape)
    return PortRecord(name=port.name, title=comment(port.title), dtype=dtype, shape=shape)


def _sources(module: Module, kernels: KernelFiles) -> tuple[Source, ...]:
    return (Source("model.c", module.isa), Source("dispatch.c", Isa.PORTABLE), *kernels.sources)


def _values(module: Module, kernels: KernelFiles, stored: bytes, recorded: Recorded | None) -> Mapping[str, object]:
    """What the templates may use."""
    content = weights.padded(module.weights)
    levels = tables(module)
    ports = _views(module)
    sources = _sources(module, kernels)
    return {
        "name": module.name,
        "prefix": module.name.upper(),
        "inputs": ports[: len(module.inputs)],
        "outputs": ports[len(module.inputs) :],
        "ports": ports,
        "states": _state_views(module),
        "calls": CALLS if module.states or module.sizes else 1,
        "sizes": [{"name": size.name, "least": size.least, "most": size.most} for size in module.sizes],
        "nonnegative": [str(size) for size in module.nonnegative],
        "recorded_sizes": recorded.sizes if recorded else [[size.most for size in module.sizes]] * CALLS,
        "layers": module.layers,
        "headers": module.headers,
        "threads": module.threads,
        "recorded": recorded is not None,
        "alignment": ALIGNMENT,
        "arena_bytes": module.arena_bytes,
        "slack": weights.SLACK,
        "weights_bytes": len(stored),
        "content_bytes": len(content),
        "header_bytes": weights.HEADER_BYTES,
        "magic": weights.MAGIC.decode(),
        "version": weights.VERSION,
        "mark": hex(weights.MARK),
        "sums": [hex(value) for value in weights.sums(content)],
        "embeddable": len(stored) <= EMBEDDED_BYTES,
        "level": module.isa.value,
        "better": ", ".join(level.value for level in module.dispatched),
        "guard": _guard(module),
        "kernels": [MICRO_KERNELS[name] for name in module.kernels],
        "tables": [_table_view(table) for table in levels],
        "copies": _copies(module, levels),
        "checked": any(LEVELS[table.isa].check for table in levels),
        "common": COMMON_FLAGS,
        "base": ";".join(LEVELS[module.isa].flags),
        "kernel_sources": [_source_view(source) for source in kernels.sources if source.file != POOL],
        "sources": [_source_view(source) for source in sources],
        "pool": POOL,
        "folder": KERNELS,
    }


def _views(module: Module) -> list[_PortView]:
    both = [*module.inputs, *module.outputs]
    unknown = [port for port in both if port.dtype not in C_TYPES]
    if unknown:
        raise InputError(f"{comment(unknown[0].title)} is {unknown[0].dtype}, which C has not", step=_STEP)
    names = parameters(port.name for port in both)
    # Parameters may differ in case only, macros must not.
    alike = len({name.upper() for name in names}) < len(names)
    return [
        _PortView(
            parameter=name,
            macro=f"{'OUT' if index >= len(module.inputs) else 'IN'}_{index if alike else name.upper()}",
            title=comment(port.title),
            type=C_TYPES[port.dtype],
            kind=_kind(port.dtype),
            shape=str(list(port.shape)),
            elements=most(count := math.prod(port.shape)),
            count=str(count),
            sizes=[size.name for size in module.sizes if size.name in free_names(count)],
            index=index,
            result=index >= len(module.inputs),
        )
        for index, (name, port) in enumerate(zip(names, both, strict=True))
    ]


def _state_views(module: Module) -> list[Mapping[str, object]]:
    names = [state.port.name.upper() for state in module.states]
    alike = len(set(names)) < len(names)
    return [
        {
            "macro": f"STATE_{index if alike else name}",
            "title": comment(state.port.title),
            "type": C_TYPES[state.port.dtype],
            "shape": str(list(state.port.shape)),
            "elements": math.prod(state.port.shape),
            "place": state.place,
            "bytes": state.size,
            "first": state.first,
        }
        for index, (name, state) in enumerate(zip(names, module.states, strict=True))
    ]


def _kind(dtype: torch.dtype) -> str:
    if dtype.is_floating_point:
        return "FLOATING"
    return "SIGNED" if dtype.is_signed else "UNSIGNED"


def _guard(module: Module) -> str:
    return _GUARDS[LEVELS[module.isa].architecture]


def _table_view(table: Table) -> Mapping[str, object]:
    functions = list(table.functions.values())
    return {"level": table.isa.value, "check": LEVELS[table.isa].check, "functions": functions}


def _copies(module: Module, levels: Sequence[Table]) -> list[Mapping[str, str]]:
    """Functions that no header of the runtime declares."""
    return [
        {"kernel": name, "function": function}
        for table in levels
        for name, function in table.functions.items()
        if function != f"qc_{name}_{MICRO_KERNELS[name].versions(table.isa)[0].value}"
    ]


def _source_view(source: Source) -> Mapping[str, str]:
    flags = LEVELS[source.isa].flags
    return {"file": source.file, "flags": ";".join(flags), "flags_text": "".join(f"{flag} " for flag in flags)}


def _recorded_files(module: Module, recorded: Recorded | None) -> dict[str, bytes]:
    if recorded is None:
        return {}
    files: dict[str, bytes] = {}
    calls = (CALLS,) if module.states or module.sizes else ()
    for kind, ports, arrays in (
        ("input", module.inputs, recorded.inputs),
        ("output", module.outputs, recorded.outputs),
    ):
        if len(ports) != len(arrays):
            raise InputError(f"{len(arrays)} recorded {kind}s for {len(ports)}", step=_STEP)
        for index, (port, array) in enumerate(zip(ports, arrays, strict=True)):
            wanted = torch.empty(0, dtype=port.dtype).numpy().dtype
            shape = (most(math.prod(port.shape)),) if module.sizes else port.shape
            if array.dtype != wanted or array.shape != (*calls, *shape):
                raise InputError(
                    f"the recorded {kind} {comment(port.title)} is {array.dtype} {list(array.shape)}, "
                    f"not {wanted} {[*calls, *shape]}",
                    step=_STEP,
                )
            files[f"{RECORDED}/{kind}_{index}.bin"] = np.ascontiguousarray(array).tobytes()
    return files
