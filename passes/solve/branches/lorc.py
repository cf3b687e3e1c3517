"""LoRC: a low-rank branch beside the codes answers the error that quantization has left.

Formula   E = W - W^, W^ what the solver made of W; y = W^ Q(x) + B A x with B A the product of rank r closest to E, or,
          `weighted`, of least |(E - B A) x| over the calibration data. `inputs`: E = W - W^ C M^-1 with M = sum x x^T
          and C = sum Q(x) x^T, so that the branch, which reads x itself, also answers the rounding of the inputs. At
          rank 1 it is one number per token times one vector of features
Shapes    W [out, in, *kernel]: B [out, r], A [r, in, *kernel], in half precision or in 8 bits with a scale per row
Promise   Lossy; with calibration data no layer gets a branch that does not lower its squared output error
Needs     solved weights; calibration data unless `weighted` and `inputs` are off
Source    Yao et al. 2023, "ZeroQuant-V2: Exploring Post-training Quantization in LLMs from Comprehensive Study to Low
          Rank Compensation"; rank 1: Feng et al. 2025, "Q-VDiT: Towards Accurate Quantization and Distillation of
          Video-Generation Diffusion Transformers" (its start, nothing is trained)
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from qcompiler.branch import join
from qcompiler.errors import InputError, SpecError
from qcompiler.ir import ops
from qcompiler.ir.interp import compute
from qcompiler.ir.program import Node, Program, Stage
from qcompiler.low_rank import low_rank
from qcompiler.passes.solve.expression import Codes, Dense, Expression, Scaled
from qcompiler.passes.solve.layers import Geometry, Inputs, geometry_of
from qcompiler.pipeline import Context, Lossy, Promise
from qcompiler.plan import Assignment
from qcompiler.qparams import is_set, qparams_of
from qcompiler.spec import QuantSpec, choose_qparams, quantize
from qcompiler.walk import Walk

_BYTES = QuantSpec.parse("int8 sym block=(1,-1) scale=f32")
_WHOLE = QuantSpec.parse("int8 sym block=(-1,-1) scale=f32")


@dataclass(frozen=True)
class Lorc:
    """Puts low-rank branches beside solved weights.

    Args:
        rank: of the branches.
        weighted: whether errors count by the inputs that meet them.
        inputs: whether the branch answers the rounding of the inputs too.
        bits: of the factors: 16 or 8.
    """

    rank: int = 8
    weighted: bool = True
    inputs: bool = False
    bits: int = 16
    name: ClassVar[str] = "lorc"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    def __post_init__(self) -> None:
        if self.rank < 1 or self.bits not in (8, 16):
            raise SpecError(f"a branch of rank {self.rank} in {self.bits} bits", mend="rank 8 in 16 or 8 bits is usual")

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with branches beside its quantized layers.

        Raises:
            InputError: when weights are not solved yet, or data is needed and there is none.
        """
        sites = branch_sites(program, ctx)
        coded = coded_results(program)
        frames = [open_branch(program, site, coded, self.rank, self.name) for site in sites]
        wanted = self.weighted or self.inputs or bool(ctx.batches)
        walk = Walk(program, ctx.batches, ("quantized",)) if wanted and sites else None
        known: dict[tuple[Node, Node, Geometry], Moments] = {}
        found: list[tuple[Expression, Expression] | None] = []
        for frame in frames:
            factors = self.solve(frame.site, None if walk is None else frame.moments(walk, known))
            if walk is not None and factors is not None:
                frame.settle(walk, *factors)
            found.append(factors)
            ctx.progress(len(found), len(sites))
        for frame, factors in zip(frames, found, strict=True):
            frame.close(program, factors, self.name)
        program.erase_dead()
        count = sum(factors is not None for factors in found)
        ctx.log(f"{count} of {len(sites)} layers with a branch of rank {self.rank}")
        return program

    def solve(self, site: BranchSite, seen: Moments | None) -> tuple[Expression, Expression] | None:
        """The factors of one branch; None where they do not lower the output error."""
        error = site.weight - site.solved
        if seen is not None and self.inputs:
            error = seen.answered(site)
        pair = low_rank(error, self.rank, seen.second if seen is not None and self.weighted else None)
        left, right = (self._stored(part.float()) for part in pair)
        if seen is not None and seen.change(site, left.value() @ right.value()) >= 0:
            return None
        return left, right

    def _stored(self, factor: Tensor) -> Expression:
        if self.bits == 16:
            return Dense(factor.half())
        scale = choose_qparams(factor, _BYTES)[0]
        whole = Codes(_WHOLE, quantize(factor, scale, None, _BYTES), torch.ones(1, 1))
        # With the scale outside no runtime takes codes and product for one operator with rounded inputs.
        return Scaled(whole, Dense(cast(Tensor, scale)))


@dataclass(frozen=True, eq=False)
class BranchSite:
    """A layer that can get a branch.

    Args:
        node: the operator.
        geometry: how its weight is a matrix.
        weight: float64 [rows, columns], before it was quantized.
        solved: the same of what the solver made of it.
    """

    node: Node
    geometry: Geometry
    weight: Tensor
    solved: Tensor


@dataclass(frozen=True, eq=False)
class Moments:
    """What a layer reads: x, and q(x) if it is quantized.

    Args:
        second: `2/N sum x x^T`, float64 [columns, columns].
        cross: `2/N sum q(x) x^T`.
        rows: N.
    """

    second: Tensor
    cross: Tensor
    rows: int

    def answered(self, site: BranchSite) -> Tensor:
        """The matrix that would answer all errors, `W - W^ + W^ (M - C) M^-1`; few rows make the ridge of M strong."""
        share = len(self.second) / max(self.rows, 1)
        damping = share * self.second.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
        eye = torch.eye(len(self.second), dtype=torch.float64)
        lost = site.solved @ (self.second - self.cross)
        return site.weight - site.solved + torch.linalg.solve(self.second + damping * eye, lost.T).T

    def change(self, site: BranchSite, product: Tensor) -> float:
        """By how much a branch changes the mean squared output error, twice."""
        product = product.double()
        reached = site.weight @ self.second - site.solved @ self.cross
        return float((product * (product @ self.second - 2 * reached)).sum())


def branch_sites(program: Program, ctx: Context) -> list[BranchSite]:
    """Layers whose weights were solved and whose results are not quantized at the kernel's own output.

    Raises:
        InputError: when there is no float program to compare with, or a weight is not solved yet.
    """
    if ctx.reference is None:
        raise InputError("the float weights are not known any more", mend="run the whole recipe, from the model on")
    known = {node.name: node for node in ctx.reference.nodes}
    found = []
    for node in program.nodes:
        old = known.get(node.name)
        geometry = geometry_of(program, node)
        if old is None or geometry is None or geometry.groups > 1 or geometry.transposed or _ends_in_codes(node):
            continue
        bound, before = program.bind(node), ctx.reference.constant(ctx.reference.bind(old)["weight"])
        weight = cast(Node, bound["weight"])
        if before is None or weight.op == "get_attr":
            continue
        solved = constant_value(program, weight)
        if solved is not None and solved.shape == before.shape:
            pair = (geometry.matrix(value).double() for value in (before, solved))
            found.append(BranchSite(node, geometry, *pair))
    return found


def constant_value(program: Program, node: Node) -> Tensor | None:
    """The value of a node that depends on no input; None for all others.

    Raises:
        InputError: when scales of a weight are not set yet.
    """
    if node.op == "placeholder":
        return None
    if node.target in (ops.quantize, ops.dequantize) and not _known(program, node):
        raise InputError(f"the weight behind %{node.name} is not solved yet", mend="put a weight solver before this")
    sources = {source: constant_value(program, source) for source in node.all_input_nodes}
    if any(value is None for value in sources.values()):
        return None
    return cast(Tensor, compute(program, node, sources))


def coded_results(program: Program) -> frozenset[str]:
    """Names of the nodes whose values leave their kernels as codes."""
    assigned = [node.meta.get("assignment") for node in program.nodes]
    return frozenset(item.result_at for item in assigned if isinstance(item, Assignment) and item.result is not None)


def unquantized(node: Node, coded: Collection[str]) -> Node:
    """What was quantized and dequantized to make a value; the value itself where nothing was, or where the kernel gives
    nothing but codes.
    """
    codes = node.args[0] if node.target is ops.dequantize else None
    if not isinstance(codes, Node) or codes.target is not ops.quantize:
        return node
    source = codes.all_input_nodes[0]
    return node if source.name in coded else source


@dataclass(frozen=True, eq=False)
class Frame:
    """A branch whose factors are not known yet: zeros stand for them.

    Args:
        site: the layer.
        source: what the branch reads: the layer's input before it is quantized, where that exists.
        left: parameter [out, rank].
        right: parameter [rank, columns].
        joined: the sum that everybody reads.
    """

    site: BranchSite
    source: Node
    left: Node
    right: Node
    joined: Node

    def moments(self, walk: Walk, known: dict[tuple[Node, Node, Geometry], Moments]) -> Moments:
        """What the layer reads when all branches before it are settled; layers that read alike share it."""
        walk.to(self.site.node)
        read, geometry = cast(Node, walk.program.bind(self.site.node)["input"]), self.site.geometry
        key = (self.source, read, geometry)
        if key not in known:
            real, rounded = walk.values(self.source, "quantized"), walk.values(read, "quantized")
            inputs = Inputs(lambda stream: real, geometry)
            both = Inputs(lambda stream: rounded if stream == "float" else real, geometry)
            cross = both.cross_moment[0].double()
            known.clear()
            known[key] = Moments(inputs.second_moment[0].double(), cross, inputs.count)
        return known[key]

    def settle(self, walk: Walk, left: Expression, right: Expression) -> None:
        """Lets what follows on the walk read the branch."""
        walk.settle(self.left, left.value())
        walk.settle(self.right, right.value())

    def close(self, program: Program, factors: tuple[Expression, Expression] | None, step: str) -> None:
        """Puts the factors in place of the zeros; without any the branch goes."""
        if factors is None:
            program.replace(self.joined, self.site.node)
            return
        name = f"{self.site.node.name}.branch"
        for zeros, factor, side in ((self.left, factors[0], "left"), (self.right, factors[1], "right")):
            program.replace(zeros, factor.build(program.before(next(iter(zeros.users)), step), f"{name}.{side}"))


def open_branch(program: Program, site: BranchSite, coded: Collection[str], rank: int, step: str) -> Frame:
    """Puts a branch of zeros beside a layer: everybody reads the sum."""
    node, bound, builder = site.node, program.bind(site.node), program.after(site.node, step)
    source = unquantized(cast(Node, bound["input"]), coded)
    rows, columns = site.weight.shape
    rank, kernel, dtype = min(rank, rows, columns), list(site.geometry.kernel), program.tensor_type(node).dtype
    left, right = (builder.param(f"{node.name}.zeros", torch.zeros(size)) for size in ((rows, rank), (rank, columns)))
    window = [bound[name] for name in ("stride", "padding", "dilation")] if kernel else []

    def weight(factor: Node, shape: list[int]) -> Node:
        shaped = builder.call("aten.reshape", factor, shape) if kernel else factor
        return shaped if dtype == torch.float32 else builder.call("aten._to_copy", shaped, kwargs={"dtype": dtype})

    narrow = weight(right, [rank, -1, *kernel])
    inner = builder.call(node.target, source, narrow, None, *window, name=f"{node.name}_narrow")
    branch = weight(left, [rows, rank, *[1] * len(kernel)])
    branch = builder.call(node.target, inner, branch, None, name=f"{node.name}_branch")
    return Frame(site, source, left, right, join(program, node, branch, step))


def _ends_in_codes(node: Node) -> bool:
    """Whether the kernel asks for a quantized result, which a sum behind it would take away."""
    assigned = node.meta.get("assignment")
    return isinstance(assigned, Assignment) and assigned.result is not None


def _known(program: Program, node: Node) -> bool:
    qparams = qparams_of(program, node)
    return all(source.op == "get_attr" for source in qparams.nodes) and is_set(program, qparams)
