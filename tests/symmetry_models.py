"""Small models, one per way in which architectures move, mix and tie their channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Rms(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


def rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of pairs half a head apart."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class Decoder(nn.Module):
    """Grouped heads, rotary halves, a norm on queries and keys, a packed gate; ids to scores."""

    def __init__(self, norm_heads: bool = False, after: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.norm, self.mlp_norm, self.last = Rms(16), Rms(16), Rms(16)
        self.packed = nn.Linear(16, 16 + 2 * 8, bias=False)
        self.out = nn.Linear(16, 16, bias=False)
        self.gate = nn.Linear(16, 2 * 24, bias=False)
        self.down = nn.Linear(24, 16, bias=False)
        self.head = nn.Linear(16, 20, bias=False)
        self.query_norm = Rms(4) if norm_heads else nn.Identity()
        self.after = Rms(16) if after else nn.Identity()
        angle = torch.outer(torch.arange(8.0), 0.3 ** torch.arange(2.0)).repeat(1, 2)
        self.cos = nn.Parameter(angle.cos(), requires_grad=False)
        self.sin = nn.Parameter(angle.sin(), requires_grad=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        batch, time = ids.shape
        q, k, v = self.packed(self.norm(x)).split([16, 8, 8], -1)
        q, k, v = (part.view(batch, time, -1, 4).transpose(1, 2) for part in (q, k, v))
        q, k = (rotate_halves(self.query_norm(part), self.cos[:time], self.sin[:time]) for part in (q, k))
        k, v = (part.repeat_interleave(2, 1) for part in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.after(self.out(y.transpose(1, 2).reshape(batch, time, 16)))
        gate, up = self.gate(self.mlp_norm(x)).chunk(2, -1)
        x = x + self.after(self.down(F.silu(gate) * up))
        return self.head(self.last(x))


class LayerScaled(nn.Module):
    """A vision block with gains on both branches; patches to scores."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 2, stride=2)
        self.positions = nn.Parameter(torch.zeros(1, 16, 12))
        self.norm, self.mlp_norm, self.last = nn.LayerNorm(12), nn.LayerNorm(12), nn.LayerNorm(12)
        self.qkv, self.out = nn.Linear(12, 36), nn.Linear(12, 12)
        self.up, self.down, self.head = nn.Linear(12, 20), nn.Linear(20, 12), nn.Linear(12, 5)
        self.gain, self.mlp_gain = nn.Parameter(torch.ones(12)), nn.Parameter(torch.ones(12))

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2) + self.positions
        q, k, v = self.qkv(self.norm(x)).reshape(-1, 16, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-1, -2) * 0.5).softmax(-1)
        x = x + self.gain * self.out((weights @ v).transpose(1, 2).flatten(2))
        x = x + self.mlp_gain * self.down(F.gelu(self.up(self.mlp_norm(x))))
        return self.head(self.last(x).mean(1))


class Modulated(nn.Module):
    """A diffusion block: condition vectors scale, shift and gate; tokens to tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.condition = nn.Linear(6, 8), nn.Linear(5, 24)
        self.norm = nn.LayerNorm(8, elementwise_affine=False)
        self.up, self.down, self.last = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x = self.into(x)
        shift, scale, gate = self.condition(F.silu(condition)).unsqueeze(1).chunk(3, -1)
        y = self.norm(x) * (1 + scale) + shift
        x = x + gate * self.down(F.gelu(self.up(y), approximate="tanh"))
        return self.last(x)


class Windows(nn.Module):
    """Windows, a shift, and merging of four patches; tokens on a grid to scores."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Conv2d(3, 8, 1)
        self.norm, self.merge_norm, self.last = nn.LayerNorm(8), nn.LayerNorm(32), nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.merge, self.up, self.down = nn.Linear(32, 16, bias=False), nn.Linear(16, 24), nn.Linear(24, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, image: Tensor) -> Tensor:
        x = self.into(image).permute(0, 2, 3, 1)
        y = torch.roll(self.norm(x), (-1, -1), (1, 2))
        y = y.view(-1, 2, 2, 2, 2, 8).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 8)
        q, k, v = self.qkv(y).view(-1, 4, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, 4, 8)
        y = self.out(y).view(-1, 2, 2, 2, 2, 8).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 4, 8)
        x = x + torch.roll(y, (1, 1), (1, 2))
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        x = self.merge(self.merge_norm(x))
        x = x + self.down(F.gelu(self.up(x)))
        return self.head(self.last(x).mean((1, 2)))


class Unet(nn.Module):
    """Group norms, a skip by concatenation, upsampling, a transposed convolution; images to images."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(2, 12)
        self.middle = nn.Conv2d(12, 12, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(12, 6, 2, stride=2)
        self.join, self.last = nn.Conv2d(14, 8, 1), nn.Conv2d(8, 12, 1)
        self.slope = nn.PReLU(8)

    def forward(self, image: Tensor) -> Tensor:
        skip = F.leaky_relu(self.first(image), 0.1)
        x = self.middle(F.silu(self.norm(self.down(skip))))
        x = torch.cat([self.up(x), skip], 1)
        x = self.slope(self.join(F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0, mode="nearest")))
        return F.pixel_shuffle(self.last(x), 2)


class Mobile(nn.Module):
    """Depthwise filters, squeeze and excitation, bounded activations; images to scores."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.expand = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 12, 1)
        self.filters = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.squeeze, self.excite = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.project, self.grouped = nn.Conv2d(12, 6, 1), nn.Conv2d(6, 9, 3, groups=3)
        self.plain, self.head = nn.Conv2d(9, 4, 1), nn.Linear(36, 3)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.first(image))
        y = F.relu(self.filters(F.relu(self.expand(x))))
        weights = torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        x = x + self.project(y * weights)
        x = F.max_pool2d(F.relu6(self.plain(F.relu(self.grouped(x)))), 2)
        return self.head(x.flatten(1))


class Plain(nn.Module):
    """Layers without anything between them, a split, another order, and numbers added."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 10), nn.Linear(10, 8)
        self.left, self.right, self.last = nn.Linear(4, 6), nn.Linear(4, 6, bias=False), nn.Linear(12, 4)
        self.order = nn.Parameter(torch.tensor([2, 0, 1, 3]), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x) + 0.5) * 2 - 1
        left, right = x.split([4, 4], -1)
        y = torch.cat([self.left(left[..., self.order]), self.right(right.flip(-1))], -1)
        return self.last(torch.where(y.sum(-1, keepdim=True) > 0, y, -y))


class Cross(nn.Module):
    """Two streams; one attends to the other, normed after the sum; one norm with readers that cannot take its gain."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(5, 8), nn.Linear(4, 8)
        self.query, self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.norm, self.right_norm = nn.LayerNorm(8), nn.LayerNorm(8)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = self.left(x), self.right_norm(self.right(y))
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in (self.query(x), self.key(y), self.value(y)))
        x = self.norm(x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))
        return self.last(x * (x.mean(-1, keepdim=True) > 0) + y.mean(1, keepdim=True))


class Mixture(nn.Module):
    """A soft mixture of two experts, and a recurrence written out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.router = nn.Embedding(9, 6), nn.Linear(6, 2)
        self.ups, self.downs = (nn.ModuleList(nn.Linear(a, b) for _ in range(2)) for a, b in ((6, 8), (8, 6)))
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 4)
        self.decay, self.into = nn.Linear(6, 5), nn.Linear(6, 5)
        self.out = nn.Linear(5, 6)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        weights = self.router(x).softmax(-1)
        for index, (up, down) in enumerate(zip(self.ups, self.downs, strict=True)):
            x = x + weights[..., index : index + 1] * down(F.relu(up(x)))
        decay, new = torch.sigmoid(self.decay(x)), self.into(x)
        state = new[:, 0]
        for step in range(1, 3):
            state = decay[:, step] * state + new[:, step]
        return self.head(self.norm(self.out(state)))


class Products(nn.Module):
    """Linear attention, squares, quotients, comparisons, reductions over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 10)
        self.out, self.other, self.last = nn.Linear(10, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = F.relu(self.query(x)), F.relu(self.key(x)), self.value(x)
        y = self.out(q @ (k.transpose(1, 2) @ v))
        z = self.other(x)
        y = y / (1 + z.abs()) + torch.maximum(y, z) + y * z
        y = y - y.amax(-1, keepdim=True)
        return self.last(torch.where(y > z, y, z * z))


def seeded(model: nn.Module, seed: int = 1) -> nn.Module:
    """Weights of their own seed; gains around one, shifts around zero, none of them trivial."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if not value.requires_grad:
                continue
            noise = torch.randn(value.shape, generator=generator)
            gain = value.dim() == 1 and not name.endswith("bias")
            value.copy_(1 + noise / 4 if gain else noise / max(1, value[0].numel()) ** 0.5)
    return model.eval()


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def ids(*shape: int) -> Tensor:
    return torch.randint(0, 9, shape, generator=torch.Generator().manual_seed(3))


MODELS: Mapping[str, tuple[Callable[[], nn.Module], Sequence[Tensor]]] = {
    "decoder": (Decoder, [ids(2, 6)]),
    "decoder_head_norm": (lambda: Decoder(norm_heads=True), [ids(2, 6)]),
    "decoder_sandwich": (lambda: Decoder(after=True), [ids(2, 6)]),
    "layer_scaled": (LayerScaled, [noise(2, 3, 8, 8)]),
    "modulated": (Modulated, [noise(2, 4, 6), noise(2, 5)]),
    "windows": (Windows, [noise(2, 3, 4, 4)]),
    "unet": (Unet, [noise(2, 3, 8, 8)]),
    "mobile": (Mobile, [noise(2, 3, 8, 8)]),
    "plain": (Plain, [noise(2, 3, 6)]),
    "cross": (Cross, [noise(2, 3, 5), noise(2, 4, 4)]),
    "mixture": (Mixture, [ids(2, 3)]),
    "products": (Products, [noise(2, 4, 6)]),
}
