"""A branch beside a layer: their sum is what everybody reads."""

from __future__ import annotations

from qcompiler.ir.program import Node, Program


def join(program: Program, node: Node, branch: Node, step: str) -> Node:
    """Adds a branch to a value and lets everybody who read the value read the sum.

    Args:
        program: edited.
        node: the value.
        branch: of the same shape and dtype, defined behind it.
        step: name of the pass.
    """
    joined = program.after(branch, step).call("aten.add.Tensor", node, branch, name=f"{node.name}_joined")
    for user in [user for user in node.users if user is not joined]:
        if user.op == "output":
            program.set_outputs([joined if result is node else result for result in program.outputs])
        else:
            program.redirect(user, node, joined)
    return joined
