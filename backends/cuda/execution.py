"""Runs the layers of a library: an operator of torch that starts a layer's kernels, where its tensors lie.

`torch.ops.qcompiler.cuda_layer(inputs, weights, folder, digest, layer)` has an implementation for devices, one for this
processor, which is the emulation, and one that only says shapes, so that torch.compile sees through it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from qcompiler.backends.cuda.arguments import Value
from qcompiler.backends.cuda.driver import Driver, Emulated, load_cubin
from qcompiler.backends.cuda.layer import (
    Argument,
    Counters,
    Input,
    Launch,
    Layer,
    Output,
    Rows,
    Scratch,
    Variant,
    Weight,
    compatible,
)
from qcompiler.backends.cuda.library import PLAN_FILE, Library, instances_of, read_library
from qcompiler.backends.cuda.runtime_compiler import compile_here
from qcompiler.errors import UnsupportedError, VerifyError

COUNTERS = "counters"
"""The last of a layer's weights for the operator: zeros, as many as any layer of the library counts with."""
_LIBRARY = torch.library.Library("qcompiler", "FRAGMENT")
_LIBRARY.define("cuda_layer(Tensor[] inputs, Tensor[] weights, str folder, str digest, str layer) -> Tensor[]")


@dataclass(frozen=True)
class Opened:
    """A library of kernels that is being run.

    Args:
        folder: it lies there.
        library: its plan.
        layers: by name.
        loaded: drivers by device, -1 the emulation's.
    """

    folder: Path
    library: Library
    layers: Mapping[str, Layer]
    loaded: dict[int, tuple[Driver, int]] = field(default_factory=dict)

    def driver(self, device: torch.device) -> tuple[Driver, int]:
        """What runs kernels on a device, and for which architecture of the library.

        Raises:
            UnsupportedError: when the library has no code for the device, and none can be made here.
        """
        index = -1 if device.type == "cpu" else device.index or 0
        if index not in self.loaded:
            self.loaded[index] = self._load(index)
        return self.loaded[index]

    def _load(self, index: int) -> tuple[Driver, int]:
        if index < 0:
            return Emulated(), self.library.capabilities[0]
        major, minor = torch.cuda.get_device_capability(index)
        capability = compatible(self.library.capabilities, 10 * major + minor)
        if capability is None:
            made_for = ", ".join(f"sm_{one}" for one in self.library.capabilities)
            raise UnsupportedError(
                f"the kernels are made for {made_for}, the device is sm_{major}{minor}",
                mend=f"compile for it: architectures=[{major}{minor}]",
            )
        code = self.library.code[capability]
        cubin = (self.folder / code.cubin).read_bytes() if code.cubin else compile_here(self.folder, code, capability)
        return load_cubin(cubin, instances_of(self.library.chosen(capability)), index), capability


def digest_of(folder: Path) -> str:
    """What tells a library from another one that lay in the same place."""
    return hashlib.sha256((folder / PLAN_FILE).read_bytes()).hexdigest()[:16]


@cache
def opened(folder: str, digest: str) -> Opened:
    """A library of kernels, by its folder and `digest_of` it.

    Raises:
        InputError: when the folder holds none.
    """
    library = read_library(Path(folder))
    return Opened(Path(folder), library, {layer.name: layer for layer in library.layers})


def run_layer(
    layer: Layer, driver: Driver, capability: int, inputs: Sequence[Tensor], weights: Sequence[Tensor]
) -> list[Tensor]:
    """Starts the kernels of a layer.

    Args:
        layer: the layer.
        driver: what runs it.
        capability: of the library's architecture.
        inputs: [..., width] each, as its ports say, or of the shape that they give a row.
        weights: in its order, counters behind them; all on the device.

    Returns:
        results, likewise.

    Raises:
        VerifyError: for inputs that are not as the ports say, and where kernels cannot be started.
    """
    _check(layer, inputs)
    taken = [value.contiguous() for value in inputs]
    lead = inputs[0].shape[: -len(layer.inputs[0].dims)]
    results = [torch.empty(*lead, *port.dims, dtype=port.dtype, device=inputs[0].device) for port in layer.outputs]
    rows = lead.numel()
    if rows == 0:
        return results
    variant = layer.variant(capability, rows)
    parts = _workspace(variant, rows, inputs[0].device)
    places = _Places(layer, taken, results, weights, parts)
    for launch in variant.launches:
        kernel, instance = launch.rows()
        driver.launch(kernel, instance, places.values(launch, rows))
    return results


@dataclass(frozen=True)
class _Places:
    """Where everything lies."""

    layer: Layer
    inputs: Sequence[Tensor]
    results: Sequence[Tensor]
    weights: Sequence[Tensor]
    parts: Sequence[Tensor]

    def values(self, launch: Launch, rows: int) -> dict[str, Value]:
        """Addresses and numbers of a launch."""
        return {name: self._value(value, rows) for name, value in launch.arguments.items()}

    def _value(self, value: Argument, rows: int) -> Value:
        match value:
            case Rows():
                return value.rows * rows
            case Input():
                return self.inputs[value.input].data_ptr()
            case Output():
                return self.results[value.output].data_ptr()
            case Weight():
                return self.weights[list(self.layer.weights).index(value.weight)].data_ptr()
            case Scratch():
                return self.parts[value.scratch].data_ptr()
            case Counters():
                return self.weights[-1].data_ptr()
            case _:
                return value


def _workspace(variant: Variant, rows: int, device: torch.device) -> list[Tensor]:
    """The parts of the workspace, in one piece of memory."""
    sizes = [part.bytes(rows) for part in variant.workspace]
    whole = torch.empty(sum(sizes), dtype=torch.uint8, device=device)
    return list(whole.split(sizes)) if sizes else []


def _check(layer: Layer, inputs: Sequence[Tensor]) -> None:
    for value, port in zip(inputs, layer.inputs, strict=True):
        if value.dtype != port.dtype or value.shape[-len(port.dims) :] != port.dims:
            row = ", ".join(map(str, port.dims))
            raise VerifyError(
                f"layer {layer.name} takes {port.dtype} [..., {row}], not {value.dtype} {list(value.shape)}"
            )


def _run(inputs: list[Tensor], weights: list[Tensor], folder: str, digest: str, layer: str) -> list[Tensor]:
    library = opened(folder, digest)
    driver, capability = library.driver(inputs[0].device)
    return run_layer(library.layers[layer], driver, capability, inputs, weights)


def _shapes(inputs: list[Tensor], weights: list[Tensor], folder: str, digest: str, layer: str) -> list[Tensor]:
    called = opened(folder, digest).layers[layer]
    lead = inputs[0].shape[: -len(called.inputs[0].dims)]
    return [inputs[0].new_empty((*lead, *port.dims), dtype=port.dtype) for port in called.outputs]


_LIBRARY.impl("cuda_layer", _run, "CUDA")
_LIBRARY.impl("cuda_layer", _run, "CPU")
torch.library.register_fake("qcompiler::cuda_layer", _shapes, lib=_LIBRARY)
