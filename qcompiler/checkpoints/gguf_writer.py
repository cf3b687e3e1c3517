"""Writing a compiled program as a GGUF file."""

from __future__ import annotations

from torch import Tensor

from qcompiler.checkpoints.contents import refuse
from qcompiler.checkpoints.gguf import FLOAT_TYPES, Blocks, blocks_of, write_gguf
from qcompiler.checkpoints.order import Order

_FILE = "model.gguf"
_MOST_AXES = 4
_ACTIVATIONS = "how activations are quantized: a GGUF file speaks of weights alone"
_ORDER = (
    "tensors have the names and the order of the source model: runtimes that read GGUF may want other names, and "
    "rows of rotary projections in another order"
)


def write(order: Order) -> tuple[str, ...]:
    """Writes `model.gguf`; returns what the file does not say.

    Raises:
        UnsupportedError: naming every tensor for which there is no type that keeps its values.
        OSError: when the file cannot be written.
    """
    contents = order.contents
    tensors: dict[str, Blocks | Tensor] = {}
    problems: list[str] = []
    lost = list(contents.lost)
    for name, layer in contents.layers.items():
        found = blocks_of(layer)
        if isinstance(found, str):
            problems.append(f"'{name}': {found}")
        else:
            tensors[order.names.get(name, name)] = found
        if layer.activation is not None and _ACTIVATIONS not in lost:
            lost.append(_ACTIVATIONS)
    for name, tensor in contents.plain.items():
        if tensor.dtype in FLOAT_TYPES.values() and tensor.dim() <= _MOST_AXES:
            tensors[order.names.get(name, name)] = tensor
        else:
            lost.append(f"'{name}' of {tensor.dtype} {list(tensor.shape)}, which has no type here")
    unknown = sorted(set(order.names) - set(contents.layers) - set(contents.plain))
    problems += [f"'{name}' is renamed, and the program has no such tensor" for name in unknown]
    renamed = [order.names.get(name, name) for name in (*contents.layers, *contents.plain)]
    problems += sorted(f"'{name}' would name several tensors" for name in set(renamed) if renamed.count(name) > 1)
    refuse(problems, "GGUF has no type for these weights")
    if not order.names:
        lost.append(_ORDER)
    kind = str(order.config.get("model_type", "unknown"))
    metadata: dict[str, str | int] = {
        "general.architecture": kind,
        "general.name": order.title,
        "general.quantization_version": 2,
        "general.alignment": 32,
    }
    write_gguf(order.folder / _FILE, tensors, metadata)
    return tuple(lost)
