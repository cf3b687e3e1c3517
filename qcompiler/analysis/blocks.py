"""Groups of matrices: which labels one matrix may mix, and where it acts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from qcompiler.analysis import labels as lb
from qcompiler.analysis.groups import Place
from qcompiler.ir.program import Node


@dataclass(frozen=True, eq=False)
class Root:
    """What labels have in common after ties.

    Args:
        of: int64 [2 * labels]: the smallest code that a code is tied to, its parity taken off.
        parity: bool [2 * labels]: whether it is tied to the dual of that.
        torn: bool [2 * labels], by root: tied to its own dual.
    """

    of: torch.Tensor
    parity: torch.Tensor
    torn: torch.Tensor


def roots(count: int, ties: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Root:
    """Connected labels; a tie of two codes also ties their duals."""
    first = torch.cat([torch.empty(0, dtype=torch.int64), *(pair[0] for pair in ties)])
    second = torch.cat([torch.empty(0, dtype=torch.int64), *(pair[1] for pair in ties)])
    opposed = ((first ^ second) & 1).bool()
    # Ties between equals come first, by label; those between opposites are few.
    label = lb.components(count, first[~opposed] >> 1, second[~opposed] >> 1)
    left, right = label[first[opposed] >> 1], label[second[opposed] >> 1]
    ends = torch.cat([left, right]).unique()
    left, right = 2 * torch.searchsorted(ends, left), 2 * torch.searchsorted(ends, right) + 1
    root = lb.components(2 * len(ends), torch.cat([left, left ^ 1]), torch.cat([right, right ^ 1]))
    dual = root.view(-1, 2).flip(1).reshape(-1)
    smaller = torch.minimum(root, dual)
    of, parity = 2 * torch.arange(count), torch.zeros(count, dtype=torch.bool)
    of[ends], parity[ends] = 2 * ends[smaller[::2] >> 1], (root > smaller)[::2]
    torn = torch.zeros(2 * count, dtype=torch.bool)
    torn[2 * ends[smaller[root == dual] >> 1]] = True
    parities = torch.stack([parity[label], ~parity[label]], 1).reshape(-1)
    return Root(of[label].repeat_interleave(2), parities, torn)


@dataclass(frozen=True, eq=False)
class Occurrence:
    """Where some labels lie: in the axis of a constant, or in a value.

    Args:
        key: number of the site or value.
        codes: int64 [width].
    """

    key: int
    codes: torch.Tensor


@dataclass(frozen=True, eq=False)
class Spot:
    """One occurrence of a class.

    Args:
        key: of the occurrence.
        dual: parity of its labels there.
        index: int64 [copies, size].
    """

    key: int
    dual: bool
    index: torch.Tensor


def mixed(seed: int, count: int) -> torch.Tensor:
    """Numbers int64 [count] that look random, from which sums tell sets apart."""
    return torch.randint(-(2**62), 2**62, (count,), generator=torch.Generator().manual_seed(seed))


def classes(signature: torch.Tensor, used: torch.Tensor) -> torch.Tensor:
    """Class number of each root by its signature, -1 where it is not used; in order of the first root."""
    found = torch.full(signature.shape, -1)
    chosen = used.nonzero().reshape(-1)
    if chosen.numel():
        _, numbers = torch.unique(signature[chosen], return_inverse=True)
        first = torch.full((int(numbers.max()) + 1,), signature.shape[0]).scatter_reduce_(0, numbers, chosen, "amin")
        found[chosen] = first.argsort().argsort()[numbers]
    return found


def spots(
    kind: torch.Tensor, root: Root, occurrences: Sequence[Occurrence], cluster: torch.Tensor | None = None
) -> dict[int, list[Spot]]:
    """Where each class occurs.

    Args:
        kind: int64 [2 * labels]: class of each root, -1 for none.
        root: of the codes.
        cluster: int64 [2 * labels]: roots of one cluster have the same rank in their classes; roots alone where None.
        occurrences: in order; the first one of a class orders its members.

    Returns:
        spots by class, in order of occurrence; classes whose members occur unevenly are absent.
    """
    if not occurrences:
        return {}
    codes = torch.cat([item.codes for item in occurrences])
    lengths = torch.tensor([item.codes.numel() for item in occurrences])
    starts = lengths.cumsum(0) - lengths
    key = torch.repeat_interleave(torch.arange(len(occurrences)), lengths)
    number = kind[root.of[codes]]
    kept = (number >= 0).nonzero().reshape(-1)
    if not kept.numel():
        return {}
    codes, key, number = codes[kept], key[kept], number[kept]
    member, parity = root.of[codes], root.parity[codes]
    order = _first_seen(member if cluster is None else cluster[member])
    held = torch.bincount(key, minlength=len(occurrences))
    uneven = _uneven(key, number, parity, order, len(occurrences)) | (held != lengths)
    found: dict[int, list[Spot]] = {}
    first = (held.cumsum(0) - held).clamp_(max=kept.numel() - 1)
    heads = zip(number[first].tolist(), parity[first].tolist(), lengths.tolist(), uneven.tolist(), strict=True)
    whole: dict[int, torch.Tensor] = {}
    for item, (head, dual, length, mixed_up) in zip(occurrences, heads, strict=True):
        if length and not mixed_up:
            index = whole.setdefault(length, torch.arange(length)[None])
            found.setdefault(head, []).append(Spot(item.key, dual, index))
    chosen = uneven[key].nonzero().reshape(-1)
    if chosen.numel():
        position = kept[chosen] - starts[key[chosen]]
        parts = (key[chosen], number[chosen], parity[chosen].long(), order[chosen])
        _sorted_out(*parts, position, occurrences, found)
    return {name: sorted(items, key=lambda spot: (spot.key, spot.dual)) for name, items in found.items()}


def _uneven(
    key: torch.Tensor, number: torch.Tensor, parity: torch.Tensor, order: torch.Tensor, count: int
) -> torch.Tensor:
    """Occurrences that hold several classes, or one not exactly in order."""
    step = (number[1:] != number[:-1]) | (parity[1:] != parity[:-1]) | (order[1:] <= order[:-1])
    found = torch.zeros(count, dtype=torch.bool)
    found[key[1:][step & (key[1:] == key[:-1])]] = True
    return found


def _sorted_out(
    key: torch.Tensor,
    number: torch.Tensor,
    parity: torch.Tensor,
    order: torch.Tensor,
    position: torch.Tensor,
    occurrences: Sequence[Occurrence],
    found: dict[int, list[Spot]],
) -> None:
    """Adds the spots of meetings in any order."""
    # By class, occurrence and parity, then by rank; meetings are in order of position already.
    heading = (number * len(occurrences) + key) * 2 + parity
    ranking = torch.argsort(heading * (int(order.max()) + 1) + order, stable=True)
    heading = heading[ranking]
    cuts = (heading[1:] != heading[:-1]).nonzero().reshape(-1) + 1
    bounds = [0, *cuts.tolist(), heading.numel()]
    members, places = order[ranking], position[ranking]
    first = ranking[torch.tensor(bounds[:-1])]
    heads = zip(number[first].tolist(), key[first].tolist(), parity[first].tolist(), strict=True)
    repeated = torch.nn.functional.pad((members[1:] == members[:-1]) & (heading[1:] == heading[:-1]), (1, 0)).cumsum(0)
    counts = torch.nn.functional.pad(repeated, (1, 0))[torch.tensor(bounds)].diff().tolist()
    for (head, occurrence, dual), start, stop, copies in zip(heads, bounds[:-1], bounds[1:], counts, strict=True):
        index = _arranged(members[start:stop], places[start:stop]) if copies else places[start:stop][None]
        found.setdefault(head, []).append(Spot(occurrences[occurrence].key, bool(dual), index))


def _first_seen(member: torch.Tensor) -> torch.Tensor:
    """For each meeting, where its label was met first."""
    first = torch.full((int(member.max()) + 1,), member.numel())
    first.scatter_reduce_(0, member, torch.arange(member.numel()), "amin")
    return first[member]


def _arranged(member: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Index [copies, size] of sorted meetings; [0, size] where members occur unevenly often."""
    size = int((member[1:] != member[:-1]).sum()) + 1
    if member.numel() % size or bool((member.view(size, -1) != member.view(size, -1)[:, :1]).any()):
        return torch.empty(0, size, dtype=torch.int64)
    return place.view(size, -1).t().contiguous()


@dataclass(frozen=True, eq=False)
class Shape:
    """Where the labels of a value lie.

    Args:
        node: whose value it is.
        axis: along which classes are looked for.
        across: other axis along which labels change, or None.
        width: size of `axis`; 0 where labels change along more axes, so that no place tells where classes lie.
    """

    node: Node
    axis: int
    across: int | None
    width: int

    @property
    def key(self) -> tuple[int, int | None, int]:
        """Shapes with the same key have the same places."""
        return self.axis, self.across, self.width

    def place(self, index: torch.Tensor, fibre: torch.Tensor) -> Place | None:
        """The place of positions in the labels, which are [across, axis]; None where a row is not whole."""
        if not self.width:
            return None
        if self.across is None:
            return Place(self.axis, index, fibre)
        rows = torch.div(index[:, :1], self.width, rounding_mode="floor")
        position = index - rows * self.width
        if bool(((position < 0) | (position >= self.width)).any()):
            return None
        return Place(self.axis, position, fibre, along=(self.across, rows[:, 0]))
