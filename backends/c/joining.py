"""Which tensors are computed right where another tensor joins them to others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qcompiler.backends.c.value import Element
from qcompiler.ir.program import Node, Program
from qcompiler.ir.types import TensorType


def joining_of(
    program: Program, node: Node, element: Callable[[TensorType], tuple[Element, int]]
) -> tuple[Node, list[Node], int] | None:
    """The one reader of a result, when it puts tensors of one type side by side: with these and the axis.

    Args:
        program: that both are of.
        node: the result.
        element: C type and shift of a tensor in memory.
    """
    users = list(node.users)
    if len(users) != 1 or node in program.outputs:
        return None
    (user,) = users
    arguments = user.args[1:] if program.op(user) == "qc.kernel" and user.args[0] == "cat" else user.args
    if program.op(user) != "aten.cat" and arguments is user.args:
        return None
    items = arguments[0] if isinstance(arguments[0], list | tuple) else []
    tensors = [item[0] if isinstance(item, list | tuple) else item for item in items]
    axis = arguments[1] if len(arguments) > 1 else 0
    wanted = element(program.tensor_type(user))
    alike = [isinstance(each, Node) and element(program.tensor_type(each)) == wanted for each in tensors]
    plain = bool(alike) and all(alike)
    if not plain or tensors.count(node) != 1 or not isinstance(axis, int) or not _same_grid(user, items):
        return None
    return user, tensors, axis % len(program.shape(node))  # pyright: ignore[reportReturnType]


def _same_grid(user: Node, items: Sequence[object]) -> bool:
    """Whether all codes that are joined have the scale and zero point of the result; reals have none."""
    result = user.kwargs.get("result")
    if not isinstance(result, list | tuple):
        return True
    return all(isinstance(item, list | tuple) and list(item[1:]) == list(result) for item in items)
