"""Scales for normally distributed tokens: from their root mean square, not from their largest value.

Formula   scale = step(format) * sqrt(mean x^2) over each token, `step` the best one for N(0, 1) (`normal_step`); no
          data is looked at, and one large coordinate no longer stretches the grid of all
Shapes    as `qc.choose_qparams`: one scale per block of the spec
Promise   Lossy
Needs     activations with dynamic symmetric scales, mixed by a Hadamard matrix before (`robuq`, `rotate`)
Source    Yang et al. 2025, "RobuQ: Pushing DiTs to W1.58A2 via Robust Activation Quantization"
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.formats import Codebook
from qcompiler.ir import ops
from qcompiler.ir.program import Node, Program, Stage
from qcompiler.passes.transform.rotation.normal_step import normal_step
from qcompiler.pipeline import Context, Lossy, Promise
from qcompiler.spec import QuantSpec

_SMALLEST = 1e-30
_BYTE = 8


@dataclass(frozen=True)
class NormalScales:
    """Replaces run-time scales.

    Args:
        everywhere: whether values count too that no Hadamard matrix was seen to mix, such as those of a network whose
            rotations were all folded into weights.
    """

    everywhere: bool = False
    name: ClassVar[str] = "normal_scales"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with other scales where tokens are mixed."""
        count = 0
        for node in program.nodes:
            spec = self._fitting(program, node)
            if spec is not None:
                _replace(program, node, spec, self.name)
                count += 1
        ctx.log(f"{count} values have scales for normal numbers")
        return program

    def _fitting(self, program: Program, node: Node) -> QuantSpec | None:
        """The spec of run-time scales that this method has something to say about."""
        if program.op(node) != "qc.choose_qparams":
            return None
        source, spec = node.args[0], program.bind(node)["spec"]
        if not isinstance(source, Node) or not isinstance(spec, QuantSpec):
            return None
        mixed = self.everywhere or program.op(source) == "qc.hadamard"
        plain = spec.symmetric and len(spec.levels) == 1 and spec.levels[0].scale == "f32"
        known = spec.bits <= _BYTE and not isinstance(spec.format, Codebook) and set(spec.block) <= {1, -1}
        return spec if mixed and plain and known else None


def _replace(program: Program, node: Node, spec: QuantSpec, step: str) -> None:
    """Computes the scales from the value's own mean square; the quantizers read them."""
    source = node.args[0]
    builder = program.before(node, step)
    squares = builder.call("aten.mul.Tensor", source, source)
    mean = builder.call("aten.mean.dim", squares, [axis for axis, size in enumerate(spec.block) if size == -1], True)
    wanted = builder.call("aten.mul.Tensor", builder.call("aten.sqrt", mean), normal_step(spec.format.grid().values))
    scale = builder.call("aten.clamp", wanted, _SMALLEST, name=f"{node.name}_scale")
    found = next(user for user in node.users if program.op(user) == ops.GETITEM and user.args[1] == 0)
    program.replace(found, scale)
