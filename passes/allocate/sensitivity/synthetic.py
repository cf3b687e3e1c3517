"""Made-up calibration data, for programs that come without.

Formula   images: normal noise whose power falls with the square of the frequency, as that of photographs does, of mean
          0 and deviation 1 in each channel; other real inputs N(0, 1); integers that choose rows of a table: any of
          them, all alike likely; other integers and truth values as `data.sample_inputs`
Shapes    flat inputs at the hints of their sizes, `samples` along the first free axis
Promise   deterministic for a seed
Needs     inputs in the usual scaling, of mean 0 and deviation 1; ranges of activations are those of noise
Source    Field 1987, "Relations between the statistics of natural images"; the idea of data-free allocation after Cai
          et al. 2020, "ZeroQ", whose matching of batch norms needs statistics that canonical programs have folded away
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qcompiler.data import sample_inputs
from qcompiler.ir.program import Node, Program
from qcompiler.stats import Batch

_IMAGE = 4
_FEW = 2


def synthetic_batches(program: Program, samples: int, seed: int = 0) -> list[Batch]:
    """Batches with at least as many samples as asked for.

    Args:
        program: any stage before lowered.
        samples: how many.
        seed: of the noise.
    """
    found: list[Batch] = []
    count = 0
    while count < samples:
        made = sample_inputs(program, seed + len(found))
        generator = torch.Generator().manual_seed(seed + len(found))
        batch = [_like(program, node, value, generator) for node, value in zip(program.inputs, made, strict=True)]
        count += max((len(value) for value in batch if value.dim()), default=samples)
        found.append(batch)
    return found


def _like(program: Program, node: Node, value: Tensor, generator: torch.Generator) -> Tensor:
    if value.is_floating_point():
        image = value.dim() == _IMAGE and min(value.shape[-_FEW:]) > _FEW
        return natural_noise(value.shape, generator).to(value.dtype) if image else value
    tables = [user for user in node.users if program.op(user) == "aten.embedding"]
    if value.dtype == torch.bool or not tables:
        return value
    rows = min(int(program.shape(user.all_input_nodes[0])[0]) for user in tables)
    return torch.randint(rows, value.shape, generator=generator).to(value.dtype)


def natural_noise(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Noise with the spectrum of photographs: float32 [..., height, width], mean 0 and deviation 1 over each image."""
    height, width = shape[-2:]
    down, across = torch.fft.fftfreq(height), torch.fft.rfftfreq(width)
    frequency = (down[:, None].square() + across.square()).sqrt()
    frequency[0, 0] = torch.inf
    spectrum = torch.fft.rfft2(torch.randn(tuple(shape), generator=generator)) / frequency
    image = torch.fft.irfft2(spectrum, s=(height, width))
    return image / image.std((-2, -1), correction=0, keepdim=True).clamp(min=1e-30)
