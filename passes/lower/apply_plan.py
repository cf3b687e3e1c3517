"""Makes the plan explicit: quantize and dequantize nodes where the assignments say, scales still unset.

Formula   x becomes dequantize(quantize(x, s, z), s, z) at each assigned argument and result; equal specs of one value
          share one pair; operators that carry integers through use one scale on both sides; elements of a weight that
          are to be kept are cut out before and put back behind
Shapes    scale and zero point: `level.scale_shape(x.shape)`
Promise   Lossy once scales are set; the graph computes nothing before that
Needs     `meta["assignment"]` of `assign` or `use_plan`
Source    Q/DQ placement after ONNX QuantizeLinear; own
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from qcompiler.errors import UnsupportedError, VerifyError
from qcompiler.ir.fill import Fill
from qcompiler.ir.program import Builder, Node, Program, Stage, all_nodes
from qcompiler.ir.types import TensorType
from qcompiler.pipeline import Context, Lossy, Promise
from qcompiler.plan import Assignment
from qcompiler.spec import QuantSpec
from qcompiler.spec.outliers import half, outlier_places, without_outliers
from qcompiler.target import Kernel

UNSET = Fill("unset")


@dataclass(frozen=True)
class ApplyPlan:
    """Inserts the quantize/dequantize pairs that the assignments ask for."""

    name: ClassVar[str] = "apply_plan"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with explicit Q/DQ.

        Raises:
            UnsupportedError: for a static scale per token of an axis whose size is not known.
        """
        program.settle()
        kernels = {kernel.name: kernel for kernel in ctx.target.kernels}
        inserter = _Inserter(program, self.name)
        by_name = {node.name: node for node in program.nodes}
        for node in program.nodes:
            assigned = node.meta.get("assignment")
            if isinstance(assigned, Assignment):
                inserter.place(node, assigned, kernels[assigned.kernel], by_name)
        return program


@dataclass
class _Inserter:
    program: Program
    step: str
    pairs: dict[tuple[Node, QuantSpec], Node] = field(default_factory=dict)

    def place(self, node: Node, assigned: Assignment, kernel: Kernel, by_name: Mapping[str, Node]) -> None:
        arguments = self.program.bind(node)
        readers: list[Node] = []
        for name, spec in assigned.inputs.items():
            for source in dict.fromkeys(all_nodes(arguments[name])):
                if kernel.slots[name].weight and _holds(source, spec):
                    continue  # the checkpoint stores it so
                if kernel.slots[name].weight:
                    self.weight(node, source, spec)
                else:
                    readers.append(self.argument(node, source, spec))
        if kernel.carries:
            self.share(readers)
        if assigned.result is not None:
            shared = _qparams(readers[0]) if kernel.carries and readers else None
            self.result(by_name[assigned.result_at], assigned.result, shared)

    def weight(self, node: Node, source: Node, spec: QuantSpec) -> None:
        """Pairs a parameter; every operator that reads it with the same spec shares the pair."""
        if (source, spec) not in self.pairs:
            first = min(source.users, key=self.order.__getitem__)
            builder = self.program.before(first, self.step)
            if spec.parts is not None and spec.parts.outliers is not None:
                self.pairs[source, spec] = self.kept(builder, source, spec)
            else:
                self.pairs[source, spec] = self.pair(builder, source, spec, str(source.target), None)
        self.redirect(node, source, self.pairs[source, spec])

    def kept(self, builder: Builder, source: Node, spec: QuantSpec) -> Node:
        """A paired parameter whose outliers are overwritten by themselves in half precision."""
        name, value = str(source.target), self.program.param(source).detach()
        places = torch.tensor(outlier_places(spec, value.shape))
        rest = builder.param(f"{name}.rest", without_outliers(value, spec))
        paired = self.pair(builder, rest, replace(spec, parts=None), name, None)
        reals = builder.param(f"{name}.outliers", half(value.flatten()[places]))
        reals = builder.call("aten._to_copy", reals, kwargs={"dtype": value.dtype})
        flat = builder.call("aten.reshape", paired, [-1])
        filled = builder.call("aten.scatter.src", flat, 0, builder.param(f"{name}.places", places), reals)
        return builder.call("aten.reshape", filled, list(value.shape))

    def argument(self, node: Node, source: Node, spec: QuantSpec) -> Node:
        """The dequantized value that `node` now reads at this argument."""
        if _holds(source, spec):
            return source
        if (source, spec) not in self.pairs:
            builder = self.program.after(source, self.step)
            self.pairs[source, spec] = self.pair(builder, source, spec, source.name, None)
        reader = self.pairs[source, spec]
        self.redirect(node, source, reader)
        return reader

    def result(self, value: Node, spec: QuantSpec, shared: tuple[Node, Node | None] | None) -> None:
        """Pairs a result; everybody reads the dequantized value from now on."""
        known = self.pairs.get((value, spec))
        users = [user for user in value.users if known is None or user is not known.args[0]]
        if known is None:
            known = self.pair(self.program.after(value, self.step), value, spec, value.name, shared)
            self.pairs[value, spec] = known
        for user in users:
            if user.op == "output":
                self.program.set_outputs([known if out is value else out for out in self.program.outputs])
            elif user is not known.args[0]:
                self.redirect(user, value, known)

    def pair(
        self,
        builder: Builder,
        source: Node,
        spec: QuantSpec,
        label: str,
        shared: tuple[Node, Node | None] | None,
    ) -> Node:
        if spec.dynamic:
            chosen = builder.call("qc.choose_qparams", source, kwargs={"spec": spec}, name=f"{source.name}_qparams")
            *scales, zero_point = builder.items(chosen)
            scale = scales[0] if len(scales) == 1 else scales
            zero_point = None if spec.symmetric else zero_point
        elif shared is not None:
            scale, zero_point = shared
        else:
            scale, zero_point = self.qparams(builder, source, spec, label)
        kwargs = {"spec": spec}
        codes = builder.call("qc.quantize", source, scale, zero_point, kwargs=kwargs, name=f"{source.name}_q")
        return builder.call("qc.dequantize", codes, scale, zero_point, kwargs=kwargs, name=f"{source.name}_dq")

    def qparams(self, builder: Builder, source: Node, spec: QuantSpec, label: str) -> tuple[object, Node | None]:
        scales: list[Node] = []
        for index, shape in enumerate(spec.scale_shapes(self.program.shape(source))):
            if not all(isinstance(dim, int) for dim in shape):
                raise UnsupportedError(
                    f"a static scale for each of {shape} blocks cannot be stored: the size is free",
                    where=f"%{source.name}",
                    mend="ask for per-tensor or dynamic scales, or fix the size when tracing",
                )
            suffix = f".{index}" if index else ""
            scales.append(builder.param(f"{label}.scale{suffix}", UNSET, TensorType(torch.float32, tuple(shape))))
        zero_shape = self.program.shape(scales[0])
        zero_point = None
        if not spec.symmetric:
            zero_point = builder.param(f"{label}.zero_point", UNSET, TensorType(torch.float32, zero_shape))
        return (scales[0] if len(scales) == 1 else scales), zero_point

    def share(self, readers: list[Node]) -> None:
        """Gives all values the scale and zero point of the one computed first, which stand before all others."""
        if len(readers) < 2:
            return
        order = self.order
        scale, zero_point = min(map(_qparams, readers), key=lambda known: order[known[0]])
        for reader in readers:
            other_scale, other_zero = _qparams(reader)
            for old, new in ((other_scale, scale), (other_zero, zero_point)):
                if old is not None and new is not None and old is not new:
                    self.program.replace(old, new)

    def redirect(self, user: Node, old: Node, new: Node) -> None:
        self.program.redirect(user, old, new)

    @property
    def order(self) -> dict[Node, int]:
        return {node: index for index, node in enumerate(self.program.graph.nodes)}


def _holds(source: Node, spec: QuantSpec) -> bool:
    """Whether a value was just dequantized from the same spec."""
    codes = source.args[0] if source.args else None
    if source.op != "call_function" or not isinstance(codes, Node) or "type" not in codes.meta:
        return False
    type_ = codes.meta["type"]
    return isinstance(type_, TensorType) and type_.spec == spec


def _qparams(reader: Node) -> tuple[Node, Node | None]:
    scale, zero_point = reader.args[1], reader.args[2]
    if not isinstance(scale, Node) or not (zero_point is None or isinstance(zero_point, Node)):
        raise VerifyError("a carried value must have one level of scales", where=f"%{reader.name}")
    return scale, zero_point
