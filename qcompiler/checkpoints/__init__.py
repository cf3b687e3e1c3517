"""Checkpoints of other projects: reading their quantized weights, and writing compiled ones for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from qcompiler.checkpoints import compressed_tensors_writer, gguf_writer
from qcompiler.checkpoints.awq import Awq
from qcompiler.checkpoints.compressed_tensors import CompressedTensors
from qcompiler.checkpoints.gguf import gguf_weights
from qcompiler.checkpoints.gptq import Gptq
from qcompiler.checkpoints.order import Order
from qcompiler.checkpoints.settings import Settings, read_settings
from qcompiler.frontends.weight_files import Decoder, WeightFiles, open_weights


@dataclass(frozen=True)
class Checkpoint:
    """One format of quantized checkpoints.

    Args:
        name: as `quant_method` of a configuration says it.
        decoder: what reads its weights, from a configuration; None for files that need none.
        write: writes one and returns what it does not say, one line each; None when it is only read.
    """

    name: str
    decoder: Callable[[Settings], Decoder] | None = None
    write: Callable[[Order], tuple[str, ...]] | None = None


CHECKPOINTS: tuple[Checkpoint, ...] = (
    Checkpoint("compressed-tensors", CompressedTensors.of, compressed_tensors_writer.write),
    Checkpoint("gptq", Gptq.of),
    Checkpoint("awq", Awq.of),
    Checkpoint("gguf", None, gguf_writer.write),
)


def open_checkpoint(source: str | Path) -> WeightFiles:
    """The tensors of a checkpoint, with what decodes those that are stored quantized; no weight is loaded.

    Args:
        source: a `.gguf` file, a `.safetensors` file, an index of several, or a folder with one of the latter. The
            quantization configuration is that of the `config.json` (or `quantize_config.json`) beside them.

    Raises:
        InputError: when a file is missing or damaged, or the way it is quantized is not known.
    """
    if Path(source).suffix == ".gguf":
        return gguf_weights(Path(source))
    files = open_weights(source)
    settings = read_settings(Path(source))
    if settings is None:
        return files
    decoders = {known.name: known.decoder for known in CHECKPOINTS if known.decoder is not None}
    method = settings.word("quant_method", "compressed-tensors", tuple(decoders))
    return replace(files, decoder=decoders[method](settings))


__all__ = ["CHECKPOINTS", "Checkpoint", "open_checkpoint"]
