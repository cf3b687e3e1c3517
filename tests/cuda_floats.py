"""What kernels make of operators on floats, as meanings for the interpreter: in their own order of sums and roundings.

With these a program means what ships to the last bit, so that codes next to ties do not differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
import torch

from qcompiler.artifact import Artifact
from qcompiler.backends.cuda.emulation import Argument, Emulation, emulate
from qcompiler.backends.cuda.kernels import KERNELS
from qcompiler.backends.cuda.kernels.quantizers import FORMATS, Activation, choose, choose_activation
from qcompiler.backends.cuda.kernels.row import Instance
from qcompiler.backends.reference import MEANINGS
from qcompiler.ir.interp import evaluate
from tests.cuda_harness import aligned, instance_of


def by_kernels(artifact: Artifact, *inputs: torch.Tensor) -> torch.Tensor:
    """The first result of an artefact of float32, by the meanings of its kernels."""
    found = evaluate(artifact.program, list(inputs), kernels={**MEANINGS, **FLOATS})[0]
    assert isinstance(found, torch.Tensor)
    return found


def _rows(kernel: str, instance: Instance, x: torch.Tensor, given: Mapping[str, Argument]) -> torch.Tensor:
    """A kernel's reals for rows of float32."""
    width = x.shape[-1]
    rows = aligned(x.reshape(-1, width).numpy())
    sizes = {"rows": len(rows), "width": width, "stride": width, "out_width": width, "format": FORMATS["real"]}
    out = aligned(np.zeros_like(rows))
    arguments = {"input": rows, "out": out, **sizes, **given}
    _emulation(kernel, instance.name).launch(KERNELS[kernel], instance, arguments)
    return torch.from_numpy(out.copy()).reshape(x.shape)


@cache
def _emulation(kernel: str, instance: str) -> Emulation:
    return emulate([(KERNELS[kernel], instance_of(kernel, instance))])


def _layer_norm(
    input: torch.Tensor,
    shape: Sequence[int],
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    return _norm(input, {"weight": weight, "bias": bias}, eps, 1)


def _rms_norm(
    input: torch.Tensor, shape: Sequence[int], weight: torch.Tensor | None = None, eps: float | None = None
) -> torch.Tensor:
    return _norm(input, {"weight": weight}, torch.finfo(torch.float32).eps if eps is None else eps, 0)


def _norm(x: torch.Tensor, parts: Mapping[str, torch.Tensor | None], eps: float, centred: int) -> torch.Tensor:
    known = {name: aligned(value.detach().numpy()) for name, value in parts.items() if value is not None}
    instance = choose(KERNELS["norm_quantize"], "f32", x.shape[-1])
    return _rows("norm_quantize", instance, x, {**known, "eps": eps, "centred": centred})


def activated(x: torch.Tensor, which: Activation) -> torch.Tensor:
    """An activation of the kernels."""
    return _rows("activate_quantize", choose_activation(which, "f32", x.shape[-1]), x, {})


def _gelu(input: torch.Tensor, approximate: str = "none") -> torch.Tensor:
    return activated(input, "gelu_tanh" if approximate == "tanh" else "gelu")


def _silu(input: torch.Tensor) -> torch.Tensor:
    return activated(input, "silu")


FLOATS: Mapping[str, Callable[..., object]] = {
    "aten.layer_norm": _layer_norm,
    "aten.rms_norm": _rms_norm,
    "aten.gelu": _gelu,
    "aten.silu": _silu,
}
