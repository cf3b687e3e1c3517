"""From a compiled model to a checkpoint that other projects load.

The file is not called `export.py`, because importing a submodule of that name would replace the function
`qcompiler.export` by a module.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from qcompiler.artifact import Artifact, building
from qcompiler.checkpoints import CHECKPOINTS
from qcompiler.checkpoints.contents import contents_of
from qcompiler.checkpoints.order import Order
from qcompiler.checkpoints.settings import read_json
from qcompiler.checkpoints.source import Source
from qcompiler.errors import InputError
from qcompiler.ir.program import Program
from qcompiler.passes.canonical import PASSES

_FAITHFUL = frozenset({"", "apply_plan", "lower", "cluster_attention", *(pass_.name for pass_ in PASSES)})


@dataclass(frozen=True)
class Export:
    """A checkpoint that was written.

    Args:
        folder: where it lies.
        files: names of its files.
        layers: how many weights in it are quantized.
        lost: what it does not say of the compiled model, one line each.
    """

    folder: Path
    files: tuple[str, ...]
    layers: int
    lost: tuple[str, ...]


def export(
    model: Artifact | Program,
    folder: str | Path,
    format: str = "compressed-tensors",
    *,
    source: str | Path | torch.nn.Module | None = None,
    names: str | Path | Mapping[str, str] | None = None,
) -> Export:
    """Writes a checkpoint that other projects load; codes, scales and zero points are those of the compiled model.

    Args:
        model: an artefact, or a program with all scales found, of a torch model.
        folder: must not exist.
        format: `compressed-tensors` or `gguf`.
        source: the model that will load the checkpoint: a module, or the folder of its own checkpoint, whose
            `config.json` and tokenizer go along. With it every name and shape is checked; without it the names of the
            compiled program are trusted.
        names: tensor names of the checkpoint by names of the source model, or a JSON file of them; those of the source
            model stay when None.

    Returns:
        what was written, and what it does not say.

    Raises:
        InputError: for an unknown format, a bad path, or a program without codes.
        UnsupportedError: naming everything that the format or the source model cannot hold.
    """
    writers = {known.name: known.write for known in CHECKPOINTS if known.write is not None}
    if format not in writers:
        raise InputError(f"there is no format '{format}' to export", mend=f"choose one of {', '.join(writers)}")
    program = model.program if isinstance(model, Artifact) else model
    contents = contents_of(program, _FAITHFUL)
    known = None if source is None else Source.of(source)
    if known is not None:
        contents = known.fitted(contents)
    renamed = names if isinstance(names, Mapping) else _read_names(names)
    target = Path(folder)
    with building(target) as work:
        order = Order(contents, work, program.name, known.config if known else {}, renamed)
        lost = writers[format](order)
        for path in known.files if known else ():
            shutil.copyfile(path, work / path.name)
        files = tuple(sorted(path.name for path in work.iterdir()))
    return Export(target, files, len(contents.layers), lost)


def _read_names(path: str | Path | None) -> dict[str, str]:
    return {} if path is None else {name: str(other) for name, other in read_json(Path(path)).items()}
