"""Queries and keys in another basis, behind whatever turns them by position: their products stay the same.

Formula   (Q R) (K R)^T = Q K^T for every orthogonal R: one node for the queries, one for the keys
Shapes    Q, K [..., tokens, size]; R = D H / sqrt(size)
Promise   Exact
Needs     attention as one operator (`name_attention`)
Source    Ashkboos et al. 2024, "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs", section 4.3
"""

from __future__ import annotations

from qcompiler.certificate import hide
from qcompiler.hadamard import block_of, random_signs
from qcompiler.ir.program import Node, Program
from qcompiler.passes.transform.factors import Hadamard

ATTENTION = "aten.scaled_dot_product_attention"


def rotate_keys(program: Program, step: str, seed: int) -> int:
    """Rotates queries and keys of every attention online; returns the number of attentions.

    Args:
        program: edited.
        step: name of the pass.
        seed: of the random signs; all heads of an attention share them.

    An attention whose values are its queries or keys is left alone: they would be rotated too.
    """
    count = 0
    for node in [node for node in program.nodes if program.op(node) == ATTENTION]:
        query, key, value = (program.bind(node)[name] for name in ("query", "key", "value"))
        if not isinstance(query, Node) or not isinstance(key, Node) or value in (query, key):
            continue
        size = program.shape(key)[-1]
        if isinstance(size, int) and block_of(size) > 1:
            factor = Hadamard(block_of(size), random_signs(size, seed + count))
            for side in dict.fromkeys((query, key)):
                new = factor.insert(program.before(node, step), side, side.name)
                hide(new)
                program.redirect(node, side, new)
            count += 1
    return count
