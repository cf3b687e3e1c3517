"""The run folder: what every pass of a compilation left, for later commands to read without the model's own code.

It holds, beside the numbered texts and certificates that the runner writes:

- `run.json`: what ran, on what sample; per step its text, time, edits, refusals and the digest of its statistics;
- `NN-name.json`: what the text of that step does not say: where its weights lie, the order of its nodes, the
  assignments that they carry, and the values whose basis the step changed;
- `NN-name.safetensors`: the weights that the step brought in, by the digest of what they hold, each stored once in the
  whole folder; codes lie packed at their own width.

Without weights (`--dump-weights digests`) everything can be read and nothing can be computed. Nothing is a pickle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from qcompiler.certificate import claims_between
from qcompiler.errors import InputError, ParseError
from qcompiler.formats.pack import pack, unpack
from qcompiler.ir.fill import Fill, digest_of, is_absent
from qcompiler.ir.parse import parse_program
from qcompiler.ir.pattern import Refusal
from qcompiler.ir.program import Node, Program
from qcompiler.ir.region import nested_param_nodes, nested_params
from qcompiler.ir.text import INLINE_VALUES
from qcompiler.ir.types import TensorType
from qcompiler.manifest import library_versions
from qcompiler.pipeline import DumpWeights, Step
from qcompiler.spec import QuantSpec
from qcompiler.stats import Batch
from qcompiler.unsaid import restore, unsaid
from qcompiler.weights import decoded, encoded, system_error

FORMAT = 1
RUN_FILE = "run.json"
_ZEROS = ".negative_zeros"
MOST_BYTES = 2 << 30
"""Weights and calibration data beyond this are only kept on demand."""


@dataclass(frozen=True)
class RunHead:
    """What ran.

    Args:
        name: of the program.
        target: name of the device.
        recipe: resolved YAML text.
        passes: texts of all passes, also of those that did not come to run.
        seed: of every random choice.
        real: whether the sample is the user's data and not made up.
    """

    name: str
    target: str
    recipe: str
    passes: tuple[str, ...]
    seed: int = 0
    real: bool = False


@dataclass(frozen=True)
class RunStep:
    """One finished step; step 0 is the program as it was read.

    Args:
        step: what the runner noted.
        file: name of its files without the ending.
        stage: of the program after it.
        tensors: digests of the weights that it brought in.
        moved: values that hold something else after it on purpose, such as in another basis.
    """

    step: Step
    file: str
    stage: str
    tensors: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the pass."""
        return self.step.text.partition("{")[0]


class Recorder:
    """Writes a run folder, step by step, so that a run that fails leaves what it did until then."""

    def __init__(self, folder: Path, head: RunHead, weights: DumpWeights, sample: Batch) -> None:
        self.folder, self.head, self.weights = folder, head, weights
        self.steps: list[RunStep] = []
        self.written: set[str] = set()
        self.known: dict[int, tuple[torch.Tensor, str]] = {}
        self.last: Program | None = None
        self.sample = sample
        self.inputs: dict[str, list[list[str]]] = {"sample": [], "batches": []}

    def start(self, program: Program, batches: Sequence[Batch], log: Callable[[str], None]) -> None:
        """Writes the program as read and the data; a folder that holds an earlier run is taken over."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if is_run(self.folder):
            for ending in ("qir", "json", "safetensors"):
                for old in self.folder.glob(f"[0-9][0-9]-*.{ending}"):
                    old.unlink()
        if self.weights == "auto":
            size = sum(_bytes(value) for value in nested_params(program).values())
            self.weights = "all" if size <= MOST_BYTES else "digests"
            if self.weights == "digests":
                log(f"{self.folder} keeps no weights, which take {size / 1e9:.1f} GB; --dump-weights all keeps them")
        tensors: dict[str, torch.Tensor] = {}
        self.inputs["sample"] = [[_data_key(value, tensors) for value in self.sample]]
        left = MOST_BYTES
        for batch in batches:
            left -= sum(value.nbytes for value in batch)
            if left < 0 or self.weights == "digests":
                self.inputs["batches"] = []
                break
            self.inputs["batches"].append([_data_key(value, tensors) for value in batch])
        self._save("data", tensors)
        step = Step(0, "start", 0, 0.0, 0)
        self.add(step, program, str(program.stage))

    def add(self, step: Step, program: Program, name: str = "") -> None:
        """Writes one finished step."""
        file = f"{step.number:02d}-{name or step.text.partition('{')[0]}"
        new: dict[str, torch.Tensor] = {}
        extra = {"params": self._params(program, new), **unsaid(program)}
        moved = tuple(claims_between(self.last, program)) if self.last is not None else ()
        self.last = program
        self._save(file, new)
        (self.folder / f"{file}.json").write_text(json.dumps(extra), encoding="utf-8")
        self.steps.append(RunStep(step, file, str(program.stage), tuple(new), moved))
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False)
        (self.folder / RUN_FILE).write_text(text + "\n", encoding="utf-8")

    def to_json(self) -> dict[str, object]:
        """What `run.json` holds."""
        return {
            "format": FORMAT,
            **asdict(self.head),
            "weights": self.weights,
            "versions": library_versions(),
            **self.inputs,
            "steps": [asdict(step) for step in self.steps],
        }

    def _params(self, program: Program, new: dict[str, torch.Tensor]) -> dict[str, tuple[str, int]]:
        """Digest of every weight that the text does not spell out, by name; `new` gets those not written yet.

        A number beside the digest tells weights that are one tensor from those that only hold the same.
        """
        keys: dict[str, tuple[str, int]] = {}
        numbers: dict[int, int] = {}
        known: dict[int, tuple[torch.Tensor, str]] = {}
        for name, owner, node in nested_param_nodes(program):
            kept, type_ = owner.params[str(node.target)], owner.tensor_type(node)
            if isinstance(kept, Fill) and kept.packed is not None:
                kept = owner.param(node)
            if isinstance(kept, Fill) or is_absent(kept) or _spelled_out(kept, type_):
                continue
            seen = self.known.get(id(kept))
            key = seen[1] if seen is not None and type_.spec is None else _key(kept, type_)
            known[id(kept)] = (kept, key)
            keys[name] = key, numbers.setdefault(id(kept), len(numbers))
            if self.weights == "all" and key not in self.written:
                self.written.add(key)
                new.update(_stored(key, kept.detach(), type_.spec, name))
        self.known = known
        return keys

    def _save(self, file: str, tensors: Mapping[str, torch.Tensor]) -> None:
        if not tensors:
            return
        path = self.folder / f"{file}.safetensors"
        try:
            save_file(dict(tensors), path)
        except SafetensorError as error:
            raise system_error(error, path) from error


@dataclass(frozen=True)
class Run:
    """A run folder, opened.

    Args:
        folder: where it lies.
        head: what ran.
        steps: by number.
        weights: whether the weights are there.
        data: digests of the sample and of the calibration batches.
    """

    folder: Path
    head: RunHead
    steps: tuple[RunStep, ...]
    weights: DumpWeights
    data: Mapping[str, list[list[str]]] = field(default_factory=dict)

    @cached_property
    def places(self) -> Mapping[str, str]:
        """File of each stored tensor."""
        return {key: step.file for step in self.steps for key in step.tensors}

    def step(self, number: int) -> RunStep:
        """A step.

        Raises:
            InputError: when the run did not come so far.
        """
        if not 0 <= number < len(self.steps):
            raise InputError(f"the run has no step {number}, only 0 to {len(self.steps) - 1}", where=str(self.folder))
        return self.steps[number]

    def text(self, number: int) -> str:
        """The text of the program after a step.

        Raises:
            InputError: when it cannot be read.
        """
        path = self.folder / f"{self.step(number).file}.qir"
        try:
            return path.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"the run lacks a file: {error.strerror}", where=str(path)) from error

    def program(self, number: int) -> Program:
        """The program after a step, as the runner held it, with its weights where the folder keeps them.

        Raises:
            InputError: when a file is missing, unreadable, or not the one that was written.
        """
        step = self.step(number)
        path = self.folder / f"{step.file}.json"
        try:
            program = parse_program(self.text(number))
            extra = json.loads(path.read_text(encoding="utf-8"))
            restore(program, extra)
            self._fill(program, extra["params"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError, ParseError) as error:
            what = error.what if isinstance(error, ParseError) else str(error)
            raise InputError(f"step {number} of the run cannot be read: {what}", where=str(self.folder)) from error
        return program

    def reference(self, number: int) -> Program | None:
        """What the runner would hand as `Context.reference` to the pass behind a step."""
        before = [step.step.number for step in self.steps[: number + 1] if step.stage == "canonical"]
        return self.program(before[-1]) if before and before[-1] != number else None

    def sample(self) -> Batch:
        """The small batch on which errors are measured."""
        return self._batches("sample")[0]

    def batches(self) -> list[Batch]:
        """The calibration data, empty where the folder does not keep them."""
        return self._batches("batches")

    def _batches(self, which: str) -> list[Batch]:
        keys = self.data[which]
        if not any(keys):
            return [[] for _ in keys]
        with safe_open(self.folder / "data.safetensors", framework="pt") as file:
            return [[file.get_tensor(key) for key in batch] for batch in keys]

    def _fill(self, program: Program, keys: Mapping[str, tuple[str, int]]) -> None:
        """Puts the stored weights in their places."""
        if self.weights != "all":
            return
        wanted: dict[str, list[tuple[str, Program, Node]]] = {}
        for name, owner, node in nested_param_nodes(program):
            if name in keys:
                wanted.setdefault(self.places[keys[name][0]], []).append((name, owner, node))
        loaded: dict[tuple[str, int], torch.Tensor] = {}
        for file, items in wanted.items():
            with safe_open(self.folder / f"{file}.safetensors", framework="pt") as opened:
                written = set(opened.keys())
                for name, owner, node in items:
                    key, number = keys[name]
                    if (key, number) not in loaded:
                        value = decoded(opened.get_tensor(key), owner.tensor_type(node))
                        if key + _ZEROS in written:
                            _negate_zeros(value, opened.get_tensor(key + _ZEROS))
                        loaded[key, number] = value
                    owner.params[str(node.target)] = loaded[key, number]


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run."""
    return (folder / RUN_FILE).is_file()


def open_run(folder: str | Path) -> Run:
    """A run from its folder; nothing is unpickled.

    Raises:
        InputError: when the folder is none, or of a newer qcompiler.
    """
    path = Path(folder) / RUN_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] > FORMAT:
            raise InputError(f"the run has format {data['format']}, this qcompiler reads up to {FORMAT}")
        words = {name: data[name] for name in ("name", "target", "recipe", "seed", "real")}
        head = RunHead(**words, passes=tuple(data["passes"]))
        steps = tuple(_read_step(item) for item in data["steps"])
        return Run(Path(folder), head, steps, data["weights"], {key: data[key] for key in ("sample", "batches")})
    except (OSError, ValueError, KeyError, TypeError) as error:
        mend = "give the folder that `compile --dump-dir` wrote"
        raise InputError(f"this is no run folder: {error}", where=str(path), mend=mend) from error


def _read_step(data: Mapping[str, object]) -> RunStep:
    noted = data["step"]
    if not isinstance(noted, dict):
        raise TypeError("a step is not an object")
    step = Step(**{**noted, "refusals": tuple(Refusal(**item) for item in noted["refusals"])})
    lists = {name: tuple(data[name]) for name in ("tensors", "moved")}  # pyright: ignore[reportArgumentType]
    return RunStep(step, str(data["file"]), str(data["stage"]), **lists)


def _spelled_out(value: torch.Tensor, type_: TensorType) -> bool:
    """Whether the text says all of a weight."""
    return value.numel() <= INLINE_VALUES and not value.is_complex() and value.dtype == type_.dtype


def _key(value: torch.Tensor, type_: TensorType) -> str:
    digest = digest_of(value)
    return digest if type_.spec is None else f"{digest}-{hashlib.sha256(str(type_.spec).encode()).hexdigest()[:8]}"


def _stored(key: str, value: torch.Tensor, spec: QuantSpec | None, name: str) -> dict[str, torch.Tensor]:
    """What is written of a weight; packed codes know no negative zeros, which a digest does."""
    codes, _ = encoded(value, spec, name)
    found = {key: codes.contiguous().clone()}
    if spec is not None and bool((negative := value.signbit() & (value == 0)).any()):
        found[key + _ZEROS] = pack(negative.flatten().to(torch.uint8), 1)
    return found


def _negate_zeros(value: torch.Tensor, packed: torch.Tensor) -> None:
    value.flatten()[unpack(packed, 1, value.numel()).bool()] *= -1


def _data_key(value: torch.Tensor, tensors: dict[str, torch.Tensor]) -> str:
    key = digest_of(value)
    tensors.setdefault(key, value.detach().contiguous().clone())
    return key


def _bytes(value: torch.Tensor | Fill) -> int:
    return 0 if isinstance(value, Fill) or is_absent(value) else value.nbytes
