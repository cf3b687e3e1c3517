"""Randomised Hadamard rotation: outliers are spread over all coordinates, whatever the data.

Formula   T = D H / sqrt(n), D random signs, H a Hadamard matrix: folded at every group of the graph that allows it,
          online (`qc.hadamard`) in front of the other quantized layers. Group formats also try H on their own blocks,
          which keeps an outlier in its block
Shapes    T [n, n] per fibre; blocks of the largest power of two where there is no Hadamard matrix of order n
Promise   Exact before quantization; with `guard` and calibration data no layer's own error is larger than before
Needs     nothing; calibration data where errors are to be measured
Source    Ashkboos et al. 2024, "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from qcompiler.analysis.groups import Action, Blocker, Place, Site
from qcompiler.analysis.symmetry import symmetries
from qcompiler.errors import SpecError
from qcompiler.hadamard import block_of, core, hadamard, random_signs
from qcompiler.ir.program import Node, Program, Stage
from qcompiler.passes.transform.cut import cut_in
from qcompiler.passes.transform.factors import Factor, Hadamard, Kronecker
from qcompiler.passes.transform.rotation.driver import Folded, Folding, FoldSite, fold, sampled, seen
from qcompiler.passes.transform.rotation.keys import rotate_keys
from qcompiler.passes.transform.rotation.site import IDENTITY, Candidate, judged
from qcompiler.passes.transform.wanted import Reading, by_source, channels, wanted, weightless
from qcompiler.pipeline import Context, Exact, Promise
from qcompiler.spec import QuantSpec

_REASONS = 2


@dataclass(frozen=True)
class Rotate:
    """Rotates what quantized layers read.

    Args:
        residual: whether groups that several operators write, such as residual streams, are rotated in the weights.
        values: whether groups that one operator writes, such as the values of attention heads, are.
        online: whether other inputs are rotated by nodes that run with the model.
        heads: whether heads whose values were rotated one by one are mixed with each other online.
        keys: whether queries and keys of attentions are rotated online, for caches of few bits; never measured.
        guard: whether an input stays where a rotation does not lower the error of the layers that read it; that is
            measured on calibration data, and nothing is where there is none.
        worth: share of that error that a rotation must take away to be worth its additions online.
        tries: how many random signs are measured against each other at each place.
        block: coordinates that are mixed; 0 for as many as there is a Hadamard matrix for.
        samples: rows of each value on which errors are measured.
        seed: of the random signs.

    Raises:
        SpecError: when there is nothing to try, or no number of rows or coordinates.
    """

    residual: bool = True
    values: bool = True
    online: bool = True
    heads: bool = False
    keys: bool = False
    guard: bool = True
    worth: float = 0.1
    tries: int = 4
    block: int = 0
    samples: int = 256
    seed: int = 0
    name: ClassVar[str] = "rotate"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact(1e-9)

    def __post_init__(self) -> None:
        if self.tries < 1 or self.samples < 1 or self.block < 0 or self.seed < 0:
            raise SpecError("rotate: tries and samples are positive, block and seed are not negative")
        if self.block and not core(self.block):
            raise SpecError(f"rotate: there is no Hadamard matrix of order {self.block}", mend="choose a power of two")

    def foldable(self, site: FoldSite) -> Sequence[Sequence[Factor]]:
        """One rotation per fibre: over all coordinates, and over the blocks of a group format."""
        groups = (size for spec, axis in site.specs for size in self.blocks(site.size, spec, axis)[:-1])
        orders = dict.fromkeys((*groups, self.block))
        return [
            [site.hadamard(fibre, order, trial) for fibre in range(site.fibres)]
            for order in orders
            for trial in range(self.tries)
        ]

    def run(self, program: Program, ctx: Context) -> Program:
        """The rotated program."""
        if weightless(program):
            ctx.log("the model has no weights: nothing is rotated")
            return program
        folding = Folding(self.residual, self.values, self.guard, self.samples, self.block, self.seed)
        folded = fold(program, ctx, self, folding)
        if self.online:
            self.cut(folded.program, ctx, folded)
        if self.keys:
            count = rotate_keys(folded.program, self.name, self.seed)
            ctx.log(f"queries and keys of {count} attentions rotated online")
        return folded.program

    def cut(self, program: Program, ctx: Context, folded: Folded) -> None:
        """Puts rotations in front of the layers whose input was not rotated in the weights."""
        places = by_source([layer for layer in wanted(program) if self.left_over(program, layer, folded)])
        stats = sampled(program, ctx, places, self.samples) if self.guard and ctx.batches else None
        found = symmetries(program)
        count, price = 0, 0.0
        for number, layers in enumerate(places, 1):
            name = f"%{layers[0].source.name}"
            candidates = self.online_candidates(program, layers, folded.layers, number)
            best, error = (candidates[0] if candidates else None), ""
            if candidates and stats is not None:
                verdict = judged(seen(program, layers, stats, self.samples), candidates)
                if verdict.error > (1 - self.worth) * verdict.without:
                    verdict = replace(verdict, best=IDENTITY)
                best, error = verdict.best, f", error {verdict.without:.3g} -> {verdict.error:.3g}"
            ctx.progress(number, len(places))
            if best is None or not best.factor.additions:
                why = f"{_obstacle(program, layers) if best is None else 'no gain'}{error}"
                for layer in layers:
                    ctx.refuse(layer.node, f"what it reads, {name}, is not rotated: {why}", depth=1)
                ctx.log(f"{name} is not rotated: {why}")
                continue
            cut_in(program, layers, best.factor, self.name)
            count, price = count + 1, price + best.factor.additions * (channels(program, layers[0]) or 0)
            why = _reasons(found.blockers(layers[0].node))
            ctx.log(f"{name}: {best.label} online, {best.factor.additions:g} additions per element{error}{why}")
        done = f"{len(folded.groups)} groups rotated in the weights"
        ctx.log(f"{done}, {count} values online for {price:g} additions a token")

    def left_over(self, program: Program, layer: Reading, folded: Folded) -> bool:
        """Whether there is anything to do online for a layer."""
        site = folded.layers.get(layer.node)
        return site is None or (self.heads and _heads(site.place, channels(program, layer)) > 1)

    def online_candidates(
        self, program: Program, layers: Sequence[Reading], folded: Mapping[Node, Site], number: int
    ) -> list[Candidate]:
        """What can be put in front of layers that read one value; nothing where nothing fits."""
        size = channels(program, layers[0])
        if size is None or any(layer.groups != 1 for layer in layers):
            return []
        sites = [folded[layer.node] for layer in layers if layer.node in folded]
        if sites:
            count = _heads(sites[0].place, size) if len(layers) == 1 else 1
            left = hadamard(count).double() / count**0.5 if count > 1 else None
            return [] if left is None else [Candidate(f"{count} heads mixed", Kronecker(left, None))]
        return [
            Candidate(f"Hadamard of {block}", Hadamard(block, random_signs(size, self.seed - (trial << 16) - number)))
            for block in self.blocks(size, layers[0].input_spec, layers[0].axis)
            for trial in range(self.tries)
            if block > 1
        ]

    def blocks(self, size: int, spec: QuantSpec | None, axis: int) -> list[int]:
        """How many coordinates to mix: what was asked or all, and as many as a group format has in a group."""
        whole = self.block if self.block and size % self.block == 0 else block_of(size)
        group = spec.block[axis] if spec is not None and len(spec.block) > axis else -1
        fits = 1 < group < size and size % group == 0 and core(group) > 0
        return [group, whole] if fits and not self.block else [whole]


def _reasons(blockers: Sequence[Blocker]) -> str:
    """Why it could not be folded, in brackets; the first few reasons say enough."""
    told = dict.fromkeys(f"%{item.node}: {item.reason}" for item in blockers if Action.ORTHOGONAL in item.actions)
    return f" [{'; '.join(list(told)[:_REASONS])}]" if told else ""


def _heads(place: Place, size: int | None) -> int:
    """Number of heads that lie side by side on a whole axis and can be mixed; 1 for none."""
    rows = place.index
    whole = size is not None and rows.numel() == size and bool((rows.flatten() == torch.arange(size)).all())
    return len(rows) if whole and core(len(rows)) else 1


def _obstacle(program: Program, layers: Sequence[Reading]) -> str:
    size = channels(program, layers[0])
    if size is None:
        return "its number of channels is free"
    if any(layer.groups != 1 for layer in layers):
        return f"%{layers[0].node.name} reads its channels in groups"
    return f"no Hadamard matrix mixes {size} channels"
