"""Opens activations to scales: what SiLU and its kin refuse can then be folded into the layer before them.

Formula   silu(z) = z * sigmoid(c * z) with c = 1; a scale 1 / s of z and s of c leave the sigmoid alone and divide the
          result by s. The same holds for hardswish
Shapes    c one number per channel of z
Promise   Exact(1e-9)
Needs     a quantized value that no scale reaches because such an activation lies before it, straight or in a product
Source    Xu et al. 2025, "MambaQuant: Quantizing the Mamba Family with Variance Aligned Rotation Methods" (S-SiLU)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from qcompiler.analysis.symmetry import symmetries
from qcompiler.ir.program import Node, Program, Stage
from qcompiler.passes.transform.constants import add_param
from qcompiler.passes.transform.wanted import wanted
from qcompiler.pipeline import Context, Exact, Promise

_GATES = {"aten.silu": "aten.sigmoid", "aten.hardswish": "aten.hardsigmoid"}
_PRODUCT = "aten.mul.Tensor"


@dataclass(frozen=True)
class OpenGates:
    """Writes activations as products, for a smoothing method to act on; one more product per element at run time."""

    name: ClassVar[str] = "open_gates"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact(1e-9)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with activations written out where that lets a scale through."""
        reached = {port.node for group in symmetries(program).scales if group.writers for port in group.ports}
        found: dict[Node, int] = {}
        for layer in wanted(program):
            if layer.source not in reached:
                found.update(_gates(program, layer.source, layer.axis))
        for gate, axis in found.items():
            _open(program, gate, axis, self.name)
        ctx.log(f"{len(found)} activations opened to scales")
        return program


def _gates(program: Program, value: Node, axis: int) -> Iterator[tuple[Node, int]]:
    """The activation behind a value, straight or as a factor of a product, with its channel axis."""
    found = _behind(program, value, axis)
    if found and program.op(found[0]) == _PRODUCT:
        shape = program.shape(found[0])
        factors = [f for f in found[0].args if isinstance(f, Node) and f.op != "get_attr" and program.shape(f) == shape]
        reached = [_behind(program, factor, found[1]) for factor in factors]
        found = next((pair for pair in reached if pair and program.op(pair[0]) in _GATES), None)
    if found and program.op(found[0]) in _GATES and isinstance(program.shape(found[0])[found[1]], int):
        yield found


def _behind(program: Program, value: Node, axis: int) -> tuple[Node, int] | None:
    """The operator that computed a value, rearrangements of other axes aside, and the axis there."""
    while program.op(value) in ("aten.permute", "aten.slice.Tensor"):
        bound = program.bind(value)
        source = value.args[0]
        if not isinstance(source, Node):
            return None
        if program.op(value) == "aten.permute":
            axis = list(bound["dims"])[axis]  # pyright: ignore[reportArgumentType]
        elif bound["dim"] == axis:
            return None
        value = source
    return value, axis


def _open(program: Program, gate: Node, axis: int, step: str) -> None:
    source = gate.args[0]
    if not isinstance(source, Node):
        return
    shape = [1] * (program.tensor_type(source).rank - axis)
    shape[0] = int(str(program.shape(source)[axis]))
    constant = add_param(program, gate, f"{gate.name}.opening", torch.ones(shape, dtype=torch.float64), step)
    builder = program.before(gate, step)
    inside = builder.call(_PRODUCT, source, constant)
    share = builder.call(_GATES[program.op(gate)], inside)
    program.replace(gate, builder.call(_PRODUCT, source, share, name=f"{gate.name}_open"))
