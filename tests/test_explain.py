"""What cannot be traced is refused with the line at fault, the reason and the usual mend; what can be is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import qcompiler
from qcompiler.errors import UnsupportedError
from qcompiler.ir.interp import evaluate
from tests.torch_models import noise

X = noise(4, 8)


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x * 2
        return x - 1


class Asserts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        assert x.max() < 100, "too large"
        return x * 2


class ReadsASize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        count = int(x.abs().sum().item()) % 4 + 1
        return x.new_zeros(count, 8) + x[:1]


class ListsSizes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        sizes = x[0, :2].abs().int().tolist()
        return x.split(sizes, 1)[0]


class UsesNumpy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        there = np.tanh(x.numpy())
        return torch.from_numpy(there) + x


class GrowsAList(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        parts: list[Tensor] = []
        while len(parts) < x.abs().max():
            parts.append(x)
        return torch.cat(parts)


class KeysByValue(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        cache = {float(x[0, 0]): x}
        return cache[float(x[0, 0])] * 2


class PicksElements(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[x > 0]


class TakesAnotherWay(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None and not torch.compiler.is_exporting():
            mask = torch.ones_like(x)
        return x * mask[:, :1]  # pyright: ignore[reportOptionalSubscript]


@torch.library.custom_op("planted::opaque", mutates_args=())
def opaque(x: Tensor) -> Tensor:
    """An operator that says nothing about its result."""
    return x * 2


class CallsACustomOperator(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return opaque(x) + 1


REFUSED: tuple[tuple[nn.Module, str, str, str], ...] = (
    (Branches(), "if x.sum() > 0", "which way to go", "torch.where"),
    (Asserts(), "assert x.max()", "asserts something", "leave the assertion out"),
    (ReadsASize(), "count = int(", "Python number", "keep it a tensor"),
    (ListsSizes(), "sizes = x[0, :2]", "Python number", "keep it a tensor"),
    (UsesNumpy(), "x.numpy()", "leaves torch for numpy", "torch's function"),
    (GrowsAList(), "while len(parts)", "which way to go", "torch.where"),
    (KeysByValue(), "cache = {float", "Python number", "keep it a tensor"),
    (PicksElements(), "return x[x > 0]", "depends on data", "masks"),
    (TakesAnotherWay(), "return x * mask", "another way while it is being traced", "attention mask"),
    (CallsACustomOperator(), "return opaque(x)", "custom operator planted::opaque", "register_fake"),
)


@pytest.mark.parametrize(
    ("model", "line", "reason", "mend"), REFUSED, ids=[type(model).__name__ for model, *_ in REFUSED]
)
def test_what_cannot_be_traced_names_line_reason_and_mend(model: nn.Module, line: str, reason: str, mend: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        qcompiler.trace(model, (X,))
    error = caught.value
    assert __file__ in error.where
    assert line in error.where
    assert reason in error.what
    assert mend in error.mend
    assert error.step == "trace"


class Prints(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        print("y is", y.shape)
        return y


class WritesItsInput(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x.add_(1)
        return x * 2


class KeysByTensor(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        table = {x: x * 2}
        return table[x]


class ScalesByAnItem(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.max().item()


class ChecksASize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch._check(x[x > 0].numel() >= 0)
        return x * 3


class Rectify(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.relu()

    @staticmethod
    def backward(ctx: object, *grad_outputs: Tensor) -> Tensor:
        return grad_outputs[0]


class AppliesAFunction(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Rectify.apply(x) + 1


@pytest.mark.parametrize(
    "model",
    [Prints(), WritesItsInput(), KeysByTensor(), ScalesByAnItem(), ChecksASize(), AppliesAFunction()],
    ids=lambda model: type(model).__name__,
)
def test_what_looks_odd_and_means_something_is_traced(model: nn.Module) -> None:
    given = X.clone()
    program = qcompiler.trace(model, (given,))
    assert torch.equal(given, X)
    assert torch.equal(evaluate(program, [X])[0], model(X.clone()))
