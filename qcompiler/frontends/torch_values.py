"""Numbers that a traced model reads out of its tensors: which can stay in the graph, and what to say of the others."""

from __future__ import annotations

import re
from typing import NoReturn

import torch
from torch.fx.node import Node

from qcompiler.errors import UnsupportedError

_READS = torch.ops.aten._local_scalar_dense.default
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\w+)')


def is_only_asserted(node: Node) -> bool:
    """Whether a value leads to no result: it serves assertions, which a compiled model does not check."""
    waiting, seen = [node], {node}
    while waiting:
        users = [user for user in waiting.pop().users if user not in seen]
        if any(user.op == "output" for user in users):
            return False
        seen.update(users)
        waiting.extend(users)
    return True


def stays_a_tensor(node: Node) -> bool:
    """Whether a number read out of a tensor is used only where the tensor itself would do, such as a factor."""
    return node.target is _READS and bool(node.users) and all(_takes_tensor(user, node) for user in node.users)


def refuse_value(node: Node, module: str) -> NoReturn:
    """Refuses a value or size that is known only at run time.

    Raises:
        UnsupportedError: says which operator yields it, where in the user's code, and the usual mend.
    """
    where = source_line(node) + (f" (module {module})" if module else "")
    if node.target is _READS:
        raise UnsupportedError(
            "the model turns a tensor into a Python number, whose value a traced graph cannot hold",
            where=where,
            step="trace",
            mend="keep it a tensor: leave .item(), .tolist(), int() and float() out; sizes must not depend on data",
        )
    raise UnsupportedError(
        f"the size of what {node.target} yields depends on data",
        where=where,
        step="trace",
        mend="choose with torch.where or masks instead of picking elements, or trace the part without it",
    )


def source_line(node: Node) -> str:
    """The line of the user's code that made a node: file, line number, function, text; its name when unknown."""
    lines = [line.strip() for line in str(node.meta.get("stack_trace", "")).splitlines() if line.strip()]
    frames = [(index, match) for index, line in enumerate(lines) if (match := _FRAME.match(line))]
    if not frames:
        return lines[-1] if lines else node.name
    index, frame = frames[-1]
    code = lines[index + 1] if index + 1 < len(lines) else ""
    return f"{frame[1]}:{frame[2]} in {frame[3]}: {code}"


def _takes_tensor(user: Node, node: Node) -> bool:
    """Whether `user` reads `node` only as tensor operands, and yields the same dtype when that is a tensor."""
    source = node.args[0]
    if not isinstance(user.target, torch._ops.OpOverload) or not isinstance(source, Node) or user.kwargs:
        return False
    result, read = user.meta.get("val"), source.meta["val"]
    slots = zip(user.target._schema.arguments, user.args, strict=False)
    as_tensors = all(isinstance(slot.type, torch.TensorType) for slot, argument in slots if argument is node)
    return as_tensors and isinstance(result, torch.Tensor) and result.dtype == read.dtype and result.shape != ()
