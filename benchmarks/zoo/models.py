"""The two digit classifiers of the zoo; both map `x: float32 [N, 1, 8, 8]` in [0, 1] to logits `[N, 10]`.

`digits_cnn()` and `digits_vit()` return them in eval mode with the weights that lie beside this file. It
imports nothing from this repository, so it can also be loaded by its path alone.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

FOLDER = Path(__file__).resolve().parent
CNN_WEIGHTS = FOLDER / "digits_cnn.safetensors"
VIT_WEIGHTS = FOLDER / "digits_vit.safetensors"


class ConvNorm(nn.Sequential):
    """Convolution without bias, then batch norm; keeps height and width."""

    def __init__(self, inputs: int, outputs: int, kernel: int, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
        )


class ResidualBlock(nn.Module):
    """`relu(x + norm(conv(relu(norm(conv(x))))))` on `[N, C, H, W]` (He et al. 2016, arXiv:1512.03385)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvNorm(channels, channels, 3)
        self.second = ConvNorm(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


class SeparableConv(nn.Module):
    """Depthwise 3x3, then pointwise 1x1, each with norm and ReLU (Howard et al. 2017, arXiv:1704.04861)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.depthwise = ConvNorm(inputs, inputs, 3, groups=inputs)
        self.pointwise = ConvNorm(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.pointwise(F.relu(self.depthwise(x))))


class DigitsCNN(nn.Module):
    """A residual CNN with a depthwise-separable step and a max pool between its two resolutions."""

    def __init__(self, narrow: int = 32, wide: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.stem = ConvNorm(1, narrow, 3)
        self.fine = ResidualBlock(narrow)
        self.pool = nn.MaxPool2d(2)
        self.widen = SeparableConv(narrow, wide)
        self.coarse = ResidualBlock(wide)
        self.head = nn.Linear(wide, classes)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(F.relu(self.stem(x)))
        coarse = self.coarse(self.widen(self.pool(fine)))
        return self.head(coarse.mean(dim=(2, 3)))


class Attention(nn.Module):
    """Multi-head self-attention on `[N, tokens, width]`, with query, key and value in one linear layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        split = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Pre-norm block: attention, then a GELU MLP, each added to the stream `[N, tokens, width]`."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class DigitsViT(nn.Module):
    """A vision transformer with 2x2 patches and a class token (Dosovitskiy et al. 2021, arXiv:2010.11929)."""

    def __init__(self, width: int = 64, depth: int = 3, heads: int = 4, hidden: int = 192, classes: int = 10) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, kernel_size=2, stride=2)
        self.class_token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 17, width))
        self.blocks = nn.Sequential(*[TransformerBlock(width, heads, hidden) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.class_token, std=0.02)
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        class_token = self.class_token.expand(x.shape[0], -1, -1)
        tokens = torch.cat([class_token, patches], dim=1) + self.positions
        return self.head(self.norm(self.blocks(tokens))[:, 0])


def digits_cnn() -> DigitsCNN:
    """The trained residual CNN in eval mode."""
    model = DigitsCNN()
    model.load_state_dict(load_file(CNN_WEIGHTS))
    return model.eval()


def digits_vit() -> DigitsViT:
    """The trained vision transformer in eval mode."""
    model = DigitsViT()
    model.load_state_dict(load_file(VIT_WEIGHTS))
    return model.eval()
