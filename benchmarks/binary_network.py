"""A network that spots words with layers of signs, its training, and what is left of a layer when it runs on bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.spoken_words import BANDS, WORDS

CHANNELS, KERNEL, BLOCKS = 128, 9, 4


class Sign(torch.autograd.Function):
    """1 where a number is not negative, else -1; the gradient passes where it lies between -1 and 1."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.where(x < 0, -torch.ones_like(x), torch.ones_like(x))

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        return gradients[0] * (x.abs() <= 1)


def sign(x: Tensor) -> Tensor:
    """The straight-through sign."""
    found = Sign.apply(x)
    assert isinstance(found, Tensor)
    return found


class BinaryConv(nn.Module):
    """A convolution of signs along time, around which everything is 1, and a batch normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CHANNELS, CHANNELS, KERNEL) * 0.1)
        self.norm = nn.BatchNorm1d(CHANNELS)

    def forward(self, signs: Tensor) -> Tensor:
        """[B, CHANNELS, T] of 1 and -1 -> the same shape."""
        padded = functional.pad(signs, (KERNEL // 2, KERNEL // 2), value=1.0)
        return self.norm(functional.conv1d(padded, sign(self.weight)))


class Block(nn.Module):
    """x + second(sign(first(sign(x - threshold))))."""

    def __init__(self) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.zeros(CHANNELS))
        self.first, self.second = BinaryConv(), BinaryConv()

    def forward(self, x: Tensor) -> Tensor:
        """[B, CHANNELS, T] -> the same shape."""
        return x + self.second(sign(self.first(sign(x - self.threshold[:, None]))))


class Network(nn.Module):
    """A layer of floats, blocks of signs, the mean over time and a layer of floats."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(BANDS, CHANNELS, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm1d(CHANNELS)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.head = nn.Linear(CHANNELS, len(WORDS))

    def forward(self, x: Tensor) -> Tensor:
        """[B, BANDS, T] -> scores [B, words]."""
        x = self.norm(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(-1))


def train(x: Tensor, labels: Tensor, epochs: int, seed: int = 0) -> Network:
    """Adam with a rate that falls to zero, shifted in time as augmentation."""
    torch.manual_seed(seed)
    model, batch = Network(), 64
    steps = epochs * (len(x) // batch)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(x))[: len(x) // batch * batch].split(batch):
            moved = x[chosen].roll(int(torch.randint(-4, 5, ())), 2)
            optimizer.zero_grad()
            functional.cross_entropy(model(moved), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@dataclass(frozen=True)
class Layer:
    """A layer of signs as it runs: `sum * factor + bias`, product and sum rounded apart.

    Args:
        bits: of weights, [outputs, 1, KERNEL * inputs], 1 where the weight is -1, position by position.
        factor: of the batch normalization, float32 [outputs].
        bias: likewise.
    """

    bits: np.ndarray
    factor: np.ndarray
    bias: np.ndarray


def folded(conv: BinaryConv) -> Layer:
    """What is left of a layer."""
    norm = conv.norm
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        factor = norm.weight / (norm.running_var + norm.eps).sqrt()
        bias = norm.bias - norm.running_mean * factor
        bits = (conv.weight < 0).permute(0, 2, 1).reshape(CHANNELS, 1, -1)
    return Layer(bits.numpy().astype(np.uint8), factor.numpy(), bias.numpy())
