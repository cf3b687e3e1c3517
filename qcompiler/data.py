"""Inputs as users give them: example inputs and calibration data, brought into a program's flat form."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from qcompiler.errors import InputError
from qcompiler.ir.interp import check_inputs, evaluate, flatten_inputs
from qcompiler.ir.program import Program
from qcompiler.ir.states import arguments, first_values
from qcompiler.stats import Batch


class Inputs:
    """Positional and keyword inputs of one call."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        self.args = args
        self.kwargs = kwargs

    def __repr__(self) -> str:
        parts = [type(arg).__name__ for arg in self.args] + [f"{k}={type(v).__name__}" for k, v in self.kwargs.items()]
        return f"Inputs({', '.join(parts)})"


def as_inputs(value: object) -> Inputs:
    """Reads example inputs: a tuple or list of positional ones, a dict of keyword ones, `Inputs`, or one tensor."""
    if isinstance(value, Inputs):
        return value
    if isinstance(value, tuple | list):
        return Inputs(*value)
    if isinstance(value, Mapping):
        return Inputs(**{str(key): item for key, item in value.items()})
    return Inputs(value)


LABELS = "labels"
"""The array of a data file that holds true classes, unless an input is called so."""


@dataclass(frozen=True)
class Batches(Sequence[Batch]):
    """Calibration batches in flat form, converted one at a time as they are read.

    Args:
        program: whose inputs they are.
        samples: as users gave them.
        kept: what the states hold before each of them, for a program with states.
    """

    program: Program
    samples: Sequence[object] = field(default_factory=list)
    kept: Sequence[Sequence[torch.Tensor]] = ()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Batch:  # pyright: ignore[reportIncompatibleMethodOverride]
        if index >= len(self.samples):
            raise IndexError(index)
        flat = flat_batch(self.program, self.samples[index], f"calibration sample {index}")
        return [*flat[: len(flat) - len(self.kept[index])], *self.kept[index]] if self.kept else flat

    def labels(self, index: int) -> torch.Tensor | None:
        """The labels that came with a batch: int64 [samples], None where there are none."""
        sample = self.samples[index]
        pair = isinstance(sample, tuple | list) and len(sample) == 2 and _is_labels(sample[0], sample[1])
        return sample[1].long().reshape(-1) if pair else None  # pyright: ignore[reportAttributeAccessIssue, reportIndexIssue]


def calibration_batches(program: Program, calibration: object, limit: int | None = None) -> Batches:
    """Calibration data as flat batches.

    Args:
        program: whose inputs the samples must fit.
        calibration: an iterable (list, generator, DataLoader) of inputs as `as_inputs` reads them, or the path of an
            `.npz` file whose arrays are named like the inputs and whose first axis runs over samples; one more array,
            `labels`, holds the true classes. A loader that yields `(x, label)` pairs may be given for a model with one
            input; `Batches.labels` hands the labels on. Samples of a model with states are calls that follow each
            other, and None among them begins anew.
        limit: most samples to take.

    Raises:
        InputError: when there is no sample, a sample does not fit, or a sample holds NaN or infinity.
    """
    if isinstance(calibration, str | Path):
        samples = list(islice(read_npz(Path(calibration), program), limit))
        if not samples:
            raise _empty(str(calibration))
    else:
        samples = as_samples(calibration, limit)
    if program.states:
        return _following(program, samples)
    for index, sample in enumerate(samples):
        _check_sample(program, sample, f"calibration sample {index}")
    return Batches(program, samples)


def _following(program: Program, samples: Sequence[object]) -> Batches:
    """Samples as calls of which each starts from what the one before left; the states of all are in memory."""
    values, count = first_values(program), len(program.states)
    taken: list[object] = []
    kept: list[Sequence[torch.Tensor]] = []
    for index, sample in enumerate(samples):
        if sample is None:
            values = first_values(program)
            continue
        flat = _check_sample(program, sample, f"calibration sample {index}")
        taken.append(sample)
        kept.append(values)
        with torch.no_grad():
            values = evaluate(program, [*flat[: len(flat) - count], *values])[-count:]
    if not taken:
        raise _empty("")
    return Batches(program, taken, kept)


def as_samples(calibration: object, limit: int | None = None) -> list[object]:
    """The samples of an iterable, read once.

    Raises:
        InputError: when it is no iterable of inputs, or holds none.
    """
    if isinstance(calibration, torch.Tensor | np.ndarray):
        raise InputError(
            "calibration is one array, and must be an iterable of inputs",
            mend="pass a list of batches, such as list(x.split(32))",
        )
    if isinstance(calibration, Mapping | Inputs):
        raise InputError(
            "calibration is the inputs of one call, and must be an iterable of such inputs",
            mend="pass a list of them, [inputs]; a few hundred are better",
        )
    if not isinstance(calibration, Iterable):
        raise InputError(
            f"calibration is a {type(calibration).__name__}, not an iterable of inputs or an .npz path",
            mend="pass a list of inputs, a DataLoader, or the path of an .npz file",
        )
    samples = list(islice(calibration, limit))
    if not samples:
        raise _empty("")
    return samples


def _empty(where: str) -> InputError:
    return InputError(
        "the calibration data is empty", where=where, mend="pass at least one sample; a few hundred are better"
    )


def first_call(sample: object) -> object:
    """What of a calibration sample is inputs: a pair whose second part is a bare vector of labels loses it."""
    if isinstance(sample, tuple | list) and len(sample) == 2 and _is_labels(sample[0], sample[1]):
        return (sample[0],)
    return sample


def _is_labels(inputs: object, labels: object) -> bool:
    tensors = isinstance(inputs, torch.Tensor) and isinstance(labels, torch.Tensor)
    return tensors and inputs.is_floating_point() and not labels.is_floating_point() and labels.dim() <= 1  # pyright: ignore[reportAttributeAccessIssue]


def flat_batch(program: Program, sample: object, where: str) -> Batch:
    """One sample as the program's flat inputs.

    Raises:
        InputError: when it does not fit, or holds NaN or infinity.
    """
    inputs = as_inputs(sample)
    pair = len(arguments(program)) == 1 and len(inputs.args) == 2 and not inputs.kwargs
    if pair and (not program.states or _is_labels(*inputs.args)):
        inputs = Inputs(inputs.args[0])
    try:
        flat = flatten_inputs(program, inputs.args, inputs.kwargs)
        check_inputs(program, flat)
    except InputError as error:
        raise InputError(error.what, where=where, mend=error.mend) from error
    return flat


def _check_sample(program: Program, sample: object, where: str) -> Batch:
    flat = flat_batch(program, sample, where)
    for name, tensor in zip(program.input_names, flat, strict=True):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"input '{name}' holds NaN or infinity", where=where, mend="remove or repair the sample")
    return flat


def read_npz(path: Path, program: Program, batch: int = 32) -> Iterator[object]:
    """Samples of an `.npz` file, in batches where the program's first dimension is free and one by one where it is not.

    Inputs by name; pairs with the labels where there is one input and the file has an array `labels` besides.

    Raises:
        InputError: when the file cannot be read or its arrays are not named like the inputs.
    """
    arrays = load_npz(path)
    names = [str(node.target) for node in arguments(program)]
    missing = [name for name in names if name not in arrays]
    if missing:
        raise InputError(
            f"the calibration file has no array named {', '.join(missing)}",
            where=f"{path} holds {', '.join(arrays) or 'nothing'}",
            mend=f"save it with numpy.savez(path, {', '.join(f'{name}=...' for name in names)})",
        )
    labelled = len(names) == 1 and LABELS in arrays and LABELS not in names
    read = [*names, LABELS] if labelled else list(names)
    counts = {len(arrays[name]) for name in read}
    if len(counts) > 1:
        raise InputError("the arrays of the calibration file hold different numbers of samples", where=str(path))
    total = counts.pop() if counts else 0
    fixed = _first_dimension(program)
    if fixed and 0 < total < fixed:
        raise InputError(
            f"the model wants {fixed} samples at once and the calibration file holds {total}", where=str(path)
        )
    step = fixed or batch
    for start in range(0, total - total % fixed if fixed else total, step):
        parts = {name: torch.from_numpy(np.asarray(arrays[name][start : start + step])) for name in read}
        yield tuple(parts.values()) if labelled else Inputs(**parts)


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """Arrays of an `.npz` file, never unpickled.

    Raises:
        InputError: when it is missing, no `.npz`, or needs pickle.
    """
    if path.is_file() and not zipfile.is_zipfile(path):
        raise InputError("the data file is no .npz file", where=str(path), mend="write it with numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            f"cannot read the data file: {error}", where=str(path), mend="write it with numpy.savez"
        ) from error
    for name, array in arrays.items():
        if not array.ndim:
            raise InputError(
                f"array '{name}' is one number; its first axis must run over samples",
                where=str(path),
                mend="stack the samples along a new first axis",
            )
    return arrays


def _first_dimension(program: Program) -> int | None:
    for node in arguments(program):
        dim = program.shape(node)[0] if program.shape(node) else None
        if isinstance(dim, int):
            return dim
    return None


def sample_inputs(program: Program, seed: int = 0) -> list[torch.Tensor]:
    """Made-up inputs of the program's types at the hints of its symbols; for checks of exactness only."""
    generator = torch.Generator().manual_seed(seed)
    sample = []
    for node in program.inputs:
        type_ = program.tensor_type(node)
        shape = [program.dimensions.hint(dim) for dim in type_.shape]
        if type_.dtype.is_floating_point:
            sample.append(torch.randn(shape, generator=generator).to(type_.dtype))
        elif type_.dtype == torch.bool:
            sample.append(_sample_mask(shape, generator))
        else:
            sample.append(torch.randint(0, 2, shape, generator=generator).to(type_.dtype))
    return sample


def _sample_mask(shape: list[int], generator: torch.Generator) -> torch.Tensor:
    """Truth values of which every row holds both kinds, so that no mask hides everything, whichever way it is read."""
    mask = torch.randint(0, 2, shape, generator=generator).bool()
    if mask.dim() and mask.shape[-1] > 1:
        mask[..., 0], mask[..., -1] = True, False
    return mask


def example_from(calibration: object, module: torch.nn.Module) -> tuple[object, object]:
    """Example inputs of a module from the calibration data, and the data with nothing lost."""
    if isinstance(calibration, str | Path):
        arrays = load_npz(Path(calibration))
        if LABELS not in signature(module.forward).parameters:
            arrays.pop(LABELS, None)
        return {name: torch.from_numpy(array[:2]) for name, array in arrays.items()}, calibration
    samples = as_samples(calibration)
    return first_call(next((sample for sample in samples if sample is not None), None)), samples
