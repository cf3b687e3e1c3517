"""ViM-VQ: vectors as mixtures of near table entries that are learned together with the table and hardened in turn.

Formula   k-means, then `learn_assignments` with a table that learns too, on the output error of the layer; then the
          table alone for the indices as they are, and the scale of each row of least squared output error
Shapes    indices [rows * columns / length], a table [entries, length] and a number per row in half precision
Promise   Lossy; log2(entries) / length bits per weight, the table and 16 / columns
Needs     calibration; nothing of the spec
Source    "ViM-VQ: Efficient Post-Training Vector Quantization for Visual Mamba" 2025. The paper looks at
          the output of a block and the task; this form looks at the output of each layer
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.errors import SpecError
from qcompiler.ir.program import Program, Stage
from qcompiler.passes.solve.codebook.learn import tuned_table
from qcompiler.passes.solve.codebook.soft import SoftSearch, learn_assignments
from qcompiler.passes.solve.codebook.vectors import check_table, cut, kmeans, lookup
from qcompiler.passes.solve.decompose import decompose
from qcompiler.passes.solve.expression import Expression
from qcompiler.passes.solve.layers import Layer
from qcompiler.passes.solve.lowbit.planes import halves, rounded
from qcompiler.pipeline import Context, Lossy, Promise


@dataclass(frozen=True)
class VimVq:
    """Vector quantization with learned mixtures.

    Args:
        entries: of the table.
        length: of a vector.
        candidates: entries that each vector mixes.
        steps: of gradient descent.
    """

    entries: int = 256
    length: int = 4
    candidates: int = 4
    steps: int = 300
    name: ClassVar[str] = "vimvq"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    def __post_init__(self) -> None:
        check_table(self.entries, self.length)
        if self.candidates < 1 or self.steps < 0:
            raise SpecError(f"{self.candidates} candidates, {self.steps} steps", mend="4 and 300 are usual")

    def solve(self, layer: Layer) -> Expression:
        """One weight; see `LayerSolver`."""
        pieces = cut(layer, self.length)
        _, table = kmeans(pieces.vectors, self.entries, pieces.costs, layer.seed)
        found = learn_assignments(pieces, table, SoftSearch(self.candidates, self.steps))
        table = rounded(tuned_table(pieces, found.indices, found.table, self.steps // 2))
        scale = pieces.refitted(table[found.indices])
        return pieces.expression(lookup(pieces, found.indices, halves(table), len(table)), scale)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with indices and tables.

        Raises:
            InputError: without calibration data; when weights or activations hold NaN or infinity.
        """
        return decompose(program, ctx, self.solve, self.name, ("quantized",))
