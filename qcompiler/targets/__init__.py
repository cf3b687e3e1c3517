"""Devices: one data file each. A file lists the kernel rows of a device and the settings of its backend."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from qcompiler.accept import Accept
from qcompiler.cost import Roofline
from qcompiler.errors import SpecError
from qcompiler.pass_text import name_and_options
from qcompiler.target import Backend, Kernel, Need, Slot, Target

_FOLDER = Path(__file__).parent


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SlotRow(_Strict):
    """One argument or the result of a kernel row; see `Slot`."""

    accepts: tuple[str, ...] = ()
    need: Need = "must"
    weight: bool = False
    channel_axis: int = 0
    reduce_axis: int = 1

    def slot(self) -> Slot:
        """The row with its numbers read; raises SpecError."""
        accepts = tuple(Accept.parse(text) for text in self.accepts)
        return Slot(accepts, self.need, self.weight, self.channel_axis, self.reduce_axis)


class KernelRow(_Strict):
    """One kernel; see `Kernel`."""

    name: str
    ops: tuple[str, ...]
    slots: dict[str, SlotRow]
    result: SlotRow = SlotRow(need="float")
    absorbs: tuple[str, ...] = ()
    joins: bool = False
    carries: bool = False
    realised: tuple[str, ...] = ()
    guards: tuple[str, ...] = ()
    note: str = ""
    one_group: bool = False

    def kernel(self) -> Kernel:
        """The row with its numbers read; raises SpecError."""
        return Kernel(
            self.name,
            self.ops,
            {name: slot.slot() for name, slot in self.slots.items()},
            self.result.slot(),
            self.absorbs,
            self.joins,
            self.carries,
            self.realised,
            self.guards,
            " ".join(self.note.split()),
            self.one_group,
        )


class TargetFile(_Strict):
    """A whole device file.

    Args:
        name: of the target.
        backend: the code that lowers and emits for it.
        description: one line for people.
        numbers: lists of numbers that several rows share; YAML anchors point into them, nothing else reads them.
        settings: of the backend.
        kernels: rows in order of preference; those of the file that it is `like`, when it lists none.
        adds: rows in front of those of the file that it is `like`.
        device: peaks, for kernels that nobody measured.
        companions: other targets for which the same quantized program is written too, into folders of their own.
        like: another device that comes with the package, whose settings hold where this file says nothing.
    """

    name: str
    backend: str
    description: str = ""
    numbers: dict[str, list[str]] = {}
    settings: dict[str, str | int | float | bool | list[str] | list[int]] = {}
    kernels: tuple[KernelRow, ...] = ()
    adds: tuple[KernelRow, ...] = ()
    device: Roofline | None = None
    companions: tuple[str, ...] = ()
    like: str = ""


def target_names() -> tuple[str, ...]:
    """The devices that come with the package."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def load_target(name: str | Path, backends: Mapping[str, Backend]) -> Target:
    """Reads a device.

    Args:
        name: of a device that comes with the package, or a path to a data file of one's own; settings in braces take
            the place of the file's: `onnxruntime{weight_only=fast, opset=17}`.
        backends: the code behind each target family, by name.

    Raises:
        SpecError: for an unknown name, and for a file that cannot be read or names what does not exist.
    """
    plain, settings = name_and_options(name) if isinstance(name, str) else (name, {})
    path = _path(plain)
    file = _read(path)
    if file.backend not in backends:
        raise SpecError(
            f"target {file.name} needs backend '{file.backend}'",
            where=str(path),
            mend=f"backends: {', '.join(sorted(backends))}",
        )
    backend = backends[file.backend]
    _check(file, backend, path)
    kernels = tuple(_kernel(row, path) for row in file.kernels)
    told = f"{{{', '.join(f'{key}={value}' for key, value in settings.items())}}}" if settings else ""
    changed = {key: _setting(key, value, plain) for key, value in settings.items()}
    return Target(
        file.name + told, backend, kernels, file.description, {**file.settings, **changed}, file.device, file.companions
    )


def _setting(key: str, text: str, target: str | Path) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError(
            f"the value of setting {key} cannot be read: {text}",
            where=f"target {target}",
            mend="write lists in brackets, and other values with commas in a data file of a target",
        ) from error


def _read(path: Path) -> TargetFile:
    """The file, completed by the one that it is like, which is like no other itself."""
    file = _validated(path)
    if not file.like:
        return file
    other = _validated(_path(file.like))
    if other.like:
        raise SpecError(f"{file.like} is itself like {other.like}", where=str(path), mend=f"write like: {other.like}")
    return file.model_copy(
        update={
            "settings": {**other.settings, **file.settings},
            "kernels": file.kernels or (*file.adds, *other.kernels),
            "device": file.device or other.device,
        }
    )


def _validated(path: Path) -> TargetFile:
    try:
        return TargetFile.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        mend = f"targets: {', '.join(target_names())}, or the path of a .yaml file"
        raise SpecError(f"cannot read the target file: {error}", where=str(path), mend=mend) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise SpecError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", where=str(path)) from error


def _kernel(row: KernelRow, path: Path) -> Kernel:
    try:
        return row.kernel()
    except SpecError as error:
        raise SpecError(error.what, where=f"kernel '{row.name}' of {path}", mend=error.mend) from error


def _path(name: str | Path) -> Path:
    if isinstance(name, Path) or str(name).endswith((".yaml", ".yml")):
        return Path(name)
    if name not in target_names():
        raise SpecError(f"there is no target '{name}'", mend=f"targets: {', '.join(target_names())}, or a .yaml file")
    return _FOLDER / f"{name}.yaml"


def _check(file: TargetFile, backend: Backend, path: Path) -> None:
    seen: set[str] = set()
    for row in file.kernels:
        if row.name in seen:
            raise SpecError(f"two kernel rows are called '{row.name}'", where=str(path))
        seen.add(row.name)
        unknown = [guard for guard in row.guards if guard not in backend.guards]
        if unknown:
            raise SpecError(
                f"kernel '{row.name}' names the guard '{unknown[0]}'",
                where=str(path),
                mend=f"guards: {', '.join(sorted(backend.guards))}",
            )
