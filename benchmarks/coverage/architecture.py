"""One entry of the corpus: how a tiny model with seeded random weights is made, and its example inputs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

Family = Literal["decoder", "encoder", "encoder-decoder", "recurrent", "speech", "vision", "text-image", "diffusion"]
Inputs = dict[str, torch.Tensor]
BATCH = 2
NORM_SAMPLES = 4


@dataclass(frozen=True)
class Architecture:
    """A model to try.

    Args:
        name: short, unique.
        family: what kind of network it is.
        build: makes the module; the caller seeds the generator of torch first.
        inputs: one call by keyword, random, the same shapes each time.
    """

    name: str
    family: Family
    build: Callable[[], torch.nn.Module]
    inputs: Callable[[], Inputs]

    def module(self, seed: int = 0) -> torch.nn.Module:
        """The model in eval mode, its weights drawn from `seed`; batch norms know the statistics of random inputs."""
        torch.manual_seed(seed)
        model = self.build().eval()
        norms = [part for part in model.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.train()
            norm.momentum = None
        if norms:
            with torch.no_grad():
                for sample in self.samples(NORM_SAMPLES, seed):
                    model(**sample)
        return model.eval()

    def samples(self, count: int, seed: int = 1) -> list[Inputs]:
        """Several calls, drawn from `seed`."""
        torch.manual_seed(seed)
        return [self.inputs() for _ in range(count)]


def configured(model: str, config: str, settings: Mapping[str, object]) -> Callable[[], torch.nn.Module]:
    """A maker of the `transformers` model class `model` with the configuration class `config`."""

    def build() -> torch.nn.Module:
        package = importlib.import_module("transformers")
        return getattr(package, model)(getattr(package, config)(**settings))

    return build


def composed(
    model: str, config: str, parts: Mapping[str, tuple[str, Mapping[str, object]]], settings: Mapping[str, object]
) -> Callable[[], torch.nn.Module]:
    """Like `configured`, for a configuration made of others: keyword to class and settings of the part."""

    def build() -> torch.nn.Module:
        package = importlib.import_module("transformers")
        made = {name: getattr(package, kind)(**values) for name, (kind, values) in parts.items()}
        return getattr(package, model)(getattr(package, config)(**made, **settings))

    return build


def diffusing(model: str, settings: Mapping[str, object]) -> Callable[[], torch.nn.Module]:
    """A maker of the `diffusers` model class `model`."""
    return lambda: getattr(importlib.import_module("diffusers"), model)(**settings)


def tokens(length: int = 12, vocabulary: int = 256) -> torch.Tensor:
    """Token numbers, int64 [BATCH, length]; never 0 to 4, which are special for many models."""
    return torch.randint(5, vocabulary, (BATCH, length))


def images(size: int = 32, channels: int = 3) -> torch.Tensor:
    """Noise as images, float32 [BATCH, channels, size, size]."""
    return torch.randn(BATCH, channels, size, size)
