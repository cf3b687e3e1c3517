"""Indexing in the symmetry analysis: rows of a table are written like an embedding, known elements are followed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qcompiler.analysis.symmetry import symmetries
from tests.symmetry_tools import canonical_of, check_all


class Rows(nn.Module):
    """Rows of a table, taken by index, on a stream that is normalized."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(10, 16))
        self.norm = nn.RMSNorm(16)
        self.head = nn.Linear(16, 5)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.table[ids]))


class Picked(nn.Module):
    """A value that is flattened and put together again by a table of places."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 6), nn.Linear(6, 5)
        self.register_buffer("places", torch.arange(12).view(2, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).flatten()[self.places])


class Prefixed(nn.Module):
    """A table of no rows in front of a value, as caches of no entries are."""

    none: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 6), nn.Linear(6, 4)
        self.register_buffer("none", torch.zeros(1, 0, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.cat([self.none.expand(x.shape[0], -1, -1), self.first(x)], 1))


def test_rows_of_a_table_are_written() -> None:
    ids = torch.randint(10, (2, 4), generator=torch.Generator().manual_seed(0))
    program = canonical_of(Rows().eval(), ids)
    assert any(program.op(node) == "aten.index.Tensor" for node in program.nodes)
    assert max(check_all(program, [ids]).values()) < 1e-11
    (stream,) = symmetries(program).orthogonal
    assert [site.argument for site in stream.writers] == ["self"]


def test_elements_taken_by_a_parameter_are_followed() -> None:
    x = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    program = canonical_of(Picked().eval(), x)
    assert max(check_all(program, [x]).values()) < 1e-11
    (group,) = symmetries(program).orthogonal
    assert group.size == 6


def test_a_constant_of_no_elements_holds_nothing_back() -> None:
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    program = canonical_of(Prefixed().eval(), x)
    assert max(check_all(program, [x]).values()) < 1e-11
    (group,) = symmetries(program).orthogonal
    assert group.size == 6
