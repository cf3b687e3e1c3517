"""Layers of signs that yield signs: what follows them reads bits, and no reals are written between the two."""

from __future__ import annotations

from dataclasses import dataclass

from qcompiler.backends.cuda.integer_packing import CHUNK
from qcompiler.backends.cuda.layer import Argument, Port
from qcompiler.formats import BINARY
from qcompiler.ir import ops
from qcompiler.ir.program import Node, Program

_OUT_SIGNS = 5
"""What the argument `out_kind` is for them."""
_KERNEL = "linear_binary"
_CODES = 8 * CHUNK


@dataclass(frozen=True)
class Signs:
    """Signs of a layer's reals.

    Args:
        read: the quantizer behind the layer, whose codes they are.
        scale: of the codes.
        width: of a row.
    """

    read: Node
    scale: float
    width: int

    @property
    def port(self) -> Port:
        """What the layer yields."""
        return Port(width=-(-self.width // _CODES) * CHUNK, element="uint8")

    @property
    def arguments(self) -> dict[str, Argument]:
        """Of the product, beside those of any."""
        return {"out_kind": _OUT_SIGNS, "out_scale": self.scale}


def signs_behind(program: Program, node: Node) -> Signs | None:
    """The signs of a layer of signs, when they are all that anybody reads of it, and other such layers read them."""
    readers = list(node.users)
    if node.args[0] != _KERNEL or len(readers) != 1 or readers[0].target is not ops.quantize:
        return None
    (read,) = readers
    bound, spec = program.bind(read), program.tensor_type(read).spec
    scale = program.constant(bound["scale"])
    if bound["x"] is not node or spec is None or spec.format != BINARY or scale is None or scale.numel() != 1:
        return None
    if not all(user.target is ops.kernel and user.args[0] == _KERNEL for user in read.users):
        return None
    width = program.shape(node)[-1]
    return Signs(read, float(scale), width) if isinstance(width, int) else None
