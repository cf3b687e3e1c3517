"""What peers start from: the float ONNX file that torch writes of one architecture, with samples and wanted results.

The exporter may crash or hang: run it in a process of its own.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.coverage.architecture import Inputs
from benchmarks.coverage.corpus import find
from benchmarks.coverage.measure import CALIBRATION, HELD_OUT, Row, results

OPSET = 18


def export(name: str, place: str) -> Row:
    """Writes `model.onnx`, `samples.npz` and `wanted.npz` of the architecture `name` into a folder.

    All shapes are those of the example, the easiest case for an exporter. Opset 18 is what all peers can read.
    """
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    architecture, folder = find(name), Path(place)
    module = architecture.module()
    samples = architecture.samples(CALIBRATION + HELD_OUT)
    write_arrays(folder / "samples.npz", samples)
    wanted = [results(module, sample) for sample in samples[CALIBRATION:]]
    write_arrays(folder / "wanted.npz", [{str(i): value for i, value in enumerate(values)} for values in wanted])
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(
            module,
            (),
            folder / "model.onnx",
            kwargs=samples[0],
            input_names=list(samples[0]),
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
            external_data=False,
        )
    return {}


def write_arrays(path: Path, samples: Sequence[Inputs]) -> None:
    """Writes calls as one file with keys `number/name`."""
    arrays = {f"{i}/{key}": value.numpy() for i, sample in enumerate(samples) for key, value in sample.items()}
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
