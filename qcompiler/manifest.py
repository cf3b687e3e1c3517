"""The manifest of an artefact: what made it, how it is called, and what its files must be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath

from qcompiler.errors import InputError, QCompilerError
from qcompiler.ir.cursor import Cursor, Scope
from qcompiler.ir.fill import Fill
from qcompiler.ir.parse_dim import parse_dim
from qcompiler.ir.program import Program, Signature
from qcompiler.ir.states import arguments, results, state_nodes
from qcompiler.ir.structure import from_json
from qcompiler.ir.text import print_dim, print_fill
from qcompiler.ir.types import DTYPE_NAMES, DTYPES_BY_NAME, Symbol, TensorType

FORMAT = 1
MANIFEST_FILE = "manifest.json"
_LIBRARIES = ("qcompiler", "torch", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Face:
    """How an artefact is called.

    Args:
        name: of the program.
        signature: structure of inputs and result.
        dimensions: symbols of the input shapes.
        inputs: name and type of each flat input, without states.
        outputs: names of the flat results, without states.
        states: what goes from call to call: name, type, and what the first call starts from.
    """

    name: str
    signature: Signature
    dimensions: Mapping[str, Symbol]
    inputs: tuple[tuple[str, TensorType], ...]
    outputs: tuple[str, ...]
    states: tuple[tuple[str, TensorType, Fill], ...] = ()

    @staticmethod
    def of(program: Program) -> Face:
        """The face of a program."""
        return Face(
            program.name,
            program.signature,
            dict(program.dimensions.symbols),
            tuple((str(node.target), program.tensor_type(node)) for node in arguments(program)),
            tuple(node.name for node in results(program)),
            tuple(
                (str(node.target), program.tensor_type(node), _fill(print_fill(program.states[str(node.target)])))
                for node in state_nodes(program)
            ),
        )

    def program(self) -> Program:
        """A program with these inputs, without states and operators: enough to flatten and check a call."""
        bare = Program(self.name, signature=self.signature)
        for name, symbol in self.dimensions.items():
            bare.dimensions.add(name, symbol)
        for name, type_ in self.inputs:
            bare.add_input(name, type_)
        return bare

    def to_json(self) -> dict[str, object]:
        """Plain data; `from_json` inverts it."""
        parts = ("args", "kwargs", "result")
        return {
            "name": self.name,
            "signature": {part: getattr(self.signature, part).to_json() for part in parts},
            "dimensions": {
                name: {"hint": symbol.hint, "low": symbol.low, "high": symbol.high}
                for name, symbol in self.dimensions.items()
            },
            "inputs": [_port(name, type_) for name, type_ in self.inputs],
            "outputs": list(self.outputs),
            **({"states": states} if (states := self._states()) else {}),
        }

    def _states(self) -> list[dict[str, object]]:
        return [{**_port(name, type_), "first": print_fill(first)} for name, type_, first in self.states]

    @staticmethod
    def from_json(data: Mapping[str, object]) -> Face:
        """Reads what `to_json` wrote; raises KeyError, TypeError or QCompilerError for anything else."""
        return _read_face(data)


@dataclass(frozen=True)
class FileRecord:
    """What a file must be."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """Everything but the measurements: same inputs, seed and versions give the same bytes.

    Args:
        target: name of the device.
        backend: name of the code that runs the artefact.
        recipe: the resolved recipe as text.
        seed: of every random choice.
        versions: of the libraries that matter.
        face: how the artefact is called.
        files: by path inside the folder; the report is not among them because it holds wall times.
    """

    target: str
    backend: str
    recipe: str
    seed: int
    versions: Mapping[str, str]
    face: Face
    files: Mapping[str, FileRecord]

    def to_json(self) -> dict[str, object]:
        """Plain data; `from_json` inverts it."""
        return {
            "format": FORMAT,
            "target": self.target,
            "backend": self.backend,
            "recipe": self.recipe,
            "seed": self.seed,
            "versions": dict(self.versions),
            "face": self.face.to_json(),
            "files": {name: {"sha256": item.sha256, "size": item.size} for name, item in self.files.items()},
        }

    @staticmethod
    def from_json(data: object) -> Manifest:
        """Reads what `to_json` wrote.

        Raises:
            InputError: when the data is no manifest, or one of a newer qcompiler.
        """
        if isinstance(data, dict) and isinstance(data.get("format"), int) and data["format"] > FORMAT:
            raise InputError(
                f"the artefact has format {data['format']}, this qcompiler reads up to {FORMAT}",
                mend="install a newer qcompiler",
            )
        try:
            return _read(data)
        except (KeyError, TypeError, ValueError, AttributeError, QCompilerError) as error:
            raise InputError(f"the manifest cannot be read: {error}", mend="write the artefact again") from error

    def save(self, folder: Path) -> None:
        """Writes the manifest into a folder."""
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False)
        (folder / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")

    @staticmethod
    def load(folder: Path) -> Manifest:
        """Reads the manifest of a folder.

        Raises:
            InputError: when there is none, or it cannot be read.
        """
        path = folder / MANIFEST_FILE
        if not path.is_file():
            raise InputError(
                "the folder holds no artefact" if folder.is_dir() else "there is no such folder",
                where=str(folder),
                mend="give the folder that compile or save wrote",
            )
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"the manifest cannot be read: {error}", where=str(path)) from error
        try:
            return Manifest.from_json(data)
        except InputError as error:
            raise InputError(error.what, where=str(path), mend=error.mend) from error


def library_versions() -> dict[str, str]:
    """Versions of qcompiler and of the libraries that shape its results; nothing is imported."""
    return {name: _version(name) for name in _LIBRARIES}


def record_files(folder: Path, names: tuple[str, ...]) -> dict[str, FileRecord]:
    """Digest and size of files; paths are relative to the folder, with forward slashes."""
    return {PurePosixPath(name).as_posix(): _record(folder / name) for name in sorted(names)}


def verify_files(folder: Path, files: Mapping[str, FileRecord]) -> None:
    """Checks every file against its record.

    Raises:
        InputError: naming the file that is missing or was changed.
    """
    for name, expected in files.items():
        path = folder / name
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise InputError(f"the manifest names '{name}', which lies outside of the artefact", where=str(folder))
        if not path.is_file():
            raise InputError(f"the artefact lacks '{name}'", where=str(folder), mend="copy the whole folder again")
        if path.stat().st_size != expected.size or _record(path) != expected:
            raise InputError(
                f"'{name}' is not the file that was written with this artefact",
                where=str(folder),
                mend="compile again; files of an artefact must not be edited or mixed",
            )


def _port(name: str, type_: TensorType) -> dict[str, object]:
    return {"name": name, "dtype": DTYPE_NAMES[type_.dtype], "shape": [print_dim(dim) for dim in type_.shape]}


def _fill(text: str) -> Fill:
    return Cursor(text, Scope()).fill()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def _record(path: Path) -> FileRecord:
    with path.open("rb") as file:
        return FileRecord(hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)


def _read_face(data: Mapping[str, object]) -> Face:
    signature, dimensions, inputs = data["signature"], data["dimensions"], data["inputs"]
    outputs = data["outputs"]
    if not (isinstance(signature, dict) and isinstance(dimensions, dict)):
        raise TypeError("no signature or no dimensions")
    if not (isinstance(inputs, list) and isinstance(outputs, list)):
        raise TypeError("no inputs or no outputs")
    symbols = {name: Symbol(item["hint"], item["low"], item["high"]) for name, item in dimensions.items()}
    world = Program()
    for name, symbol in symbols.items():
        world.dimensions.add(name, symbol)

    def named(item: Mapping[str, str]) -> tuple[str, TensorType]:
        shape = tuple(parse_dim(dim, world.dimensions) for dim in item["shape"])
        return str(item["name"]), TensorType(DTYPES_BY_NAME[item["dtype"]], shape)

    types = tuple(map(named, inputs))
    states = data.get("states", [])
    if not isinstance(states, list):
        raise TypeError("states are no list")
    kept = tuple((*named(item), _fill(item["first"])) for item in states)
    structure = Signature(*(from_json(signature[part]) for part in ("args", "kwargs", "result")))
    return Face(str(data["name"]), structure, symbols, types, tuple(outputs), kept)


def _read(data: object) -> Manifest:
    if not isinstance(data, dict) or data["format"] != FORMAT:
        raise TypeError(f"no manifest of format {FORMAT}")
    files = {name: FileRecord(item["sha256"], item["size"]) for name, item in data["files"].items()}
    return Manifest(
        data["target"],
        data["backend"],
        data["recipe"],
        data["seed"],
        data["versions"],
        Face.from_json(data["face"]),
        files,
    )
