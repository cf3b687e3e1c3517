"""Projections that are cut up afterwards become one projection per part.

Formula   part_i = rearrange(linear(x, w, b)[..., r_i]) = rearrange(linear(x, w[r_i], b[r_i])), r_i the rows of part i
Shapes    x [..., K], w [N, K], b [N]; a part is reached through reshape, permute, squeeze and a select, slice or split
          along the N features; it is rebuilt as linear, reshape [..., features], permute
Promise   Exact: each output feature is the same sum
Needs     nothing; every reader takes a run of features, no two parts share one
Source    own; what it undoes is the fused projection of queries, keys and values
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from qcompiler.ir.pattern import Refusal
from qcompiler.ir.program import Node, Program, Stage
from qcompiler.passes.canonical.feature_view import View, permutation, step
from qcompiler.passes.canonical.sizes import Size, Sizes
from qcompiler.pipeline import Context, Exact, Promise

SPLIT = "aten.split_with_sizes"


@dataclass(frozen=True)
class Part:
    """A value that holds some features of a projection, rearranged."""

    node: Node
    view: View


@dataclass(frozen=True)
class SplitProjection:
    """Cuts fused projections; `ctx.log` hears why others that are cut up were refused."""

    name: ClassVar[str] = "split_projection"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact()

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with one linear layer per part."""
        sizes = Sizes(program, self.name)
        for node in program.nodes:
            if program.op(node) != "aten.linear":
                continue
            parts = parts_of(program, node)
            refusal = parts if isinstance(parts, Refusal) else self.rewrite(program, node, parts, sizes)
            if refusal is not None:
                ctx.refuse(node, refusal.reason, depth=1)
                ctx.log(f"%{node.name} is not cut: {refusal.reason}")
        program.erase_dead()
        return program

    def rewrite(self, program: Program, linear: Node, parts: list[Part], sizes: Sizes) -> Refusal | None:
        """Puts the parts of one projection in place, or says why not."""
        if not parts:
            return None
        leading = leading_sizes(program, linear, sizes)
        if leading is None:
            return Refusal("a leading axis has no size that the inputs tell", linear.name)
        builder = program.before(linear, self.name)
        x, weight, bias = (program.bind(linear)[name] for name in ("input", "weight", "bias"))
        for number, part in enumerate(parts):
            features = part.view.features
            rows = [
                builder.param(f"{param.target}.{number}", picked(program.param(param), features.reshape(-1)))
                if isinstance(param, Node)
                else None
                for param in (weight, bias)
            ]
            made = projection = builder.call("aten.linear", x, *rows, name=f"{linear.name}_part_{number}")
            if features.dim() != 1:
                made = builder.call("aten.reshape", made, [*leading, *features.shape], name="reshape")
            order = permutation(part.view)
            if order != sorted(order):
                made = builder.call("aten.permute", made, order, name="permute")
            program.replace(part.node, made)
            if made is not projection:
                program.rename(made, part.node.name)
        return None


def parts_of(program: Program, linear: Node) -> list[Part] | Refusal:
    """The parts into which a projection is cut, in the order of their features; none when nobody cuts it."""
    width, leading = program.shape(linear)[-1], program.tensor_type(linear).rank - 1
    if not isinstance(width, int):
        return []
    parts: list[Part] = []
    reason = ""
    pending = [(linear, View((*range(leading), None), torch.arange(width)))]
    while pending:
        node, view = pending.pop()
        for user in readers(program, node):
            following = step(program, view, user)
            if following is None:
                reason = f"%{user.name} reads all of it"
            elif following.features.numel() == view.features.numel():
                pending.append((user, following))
            else:
                parts.append(settled(program, Part(user, following)))
    if not parts:
        return []
    reason = reason or _obstacle(program, linear, parts)
    if reason:
        return Refusal(reason, linear.name)
    return sorted(parts, key=lambda part: part.view.features.reshape(-1).tolist())


def _obstacle(program: Program, linear: Node, parts: list[Part]) -> str:
    """What keeps a projection with these parts whole; empty when nothing does."""
    bound = program.bind(linear)
    given = [bound[name] for name in ("weight", "bias") if bound[name] is not None]
    if not all(isinstance(value, Node) and value.op == "get_attr" for value in given):
        return "its weight or bias is not a parameter"
    if any(not _is_run(part.view.features) for part in parts):
        return "a part picks scattered features, as rotary embeddings do: many narrow layers would cost more than one"
    rows = torch.cat([part.view.features.reshape(-1) for part in parts])
    return "its parts overlap" if rows.unique().numel() != rows.numel() else ""


def _is_run(features: torch.Tensor) -> bool:
    ordered = features.reshape(-1).sort().values
    return int(ordered[-1] - ordered[0]) == ordered.numel() - 1


def leading_sizes(program: Program, linear: Node, sizes: Sizes) -> list[Size] | None:
    """Sizes of all axes but the last: -1 for the only unknown one; None where the inputs do not tell them."""
    dims = program.shape(linear)[:-1]
    if sum(not isinstance(dim, int) for dim in dims) == 1:
        return [dim if isinstance(dim, int) else -1 for dim in dims]
    found = [sizes.size(dim, linear) for dim in dims]
    return None if None in found else [size for size in found if size is not None]


def settled(program: Program, part: Part) -> Part:
    """A part followed through the rearrangements behind it, as far as it has one reader."""
    users = list(readers(program, part.node))
    following = step(program, part.view, users[0]) if len(users) == 1 else None
    if following is None or following.features.numel() != part.view.features.numel():
        return part
    return settled(program, Part(users[0], following))


def readers(program: Program, node: Node) -> Iterator[Node]:
    """Who reads a value; of a split, who reads its results."""
    for user in node.users:
        if program.op(user) == SPLIT:
            yield from user.users
        else:
            yield user


def picked(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Rows of a weight or bias; neighbours are not copied."""
    first, count = int(rows[0]), rows.numel()
    if torch.equal(rows, torch.arange(first, first + count)):
        return values[first : first + count]
    return values[rows]
