"""The constants of operators: found, made where they are missing, spread out where broadcasting shares them."""

from __future__ import annotations

import torch
from torch import Tensor

from qcompiler.analysis.groups import Place
from qcompiler.analysis.weights import TRANSPOSED
from qcompiler.errors import VerifyError
from qcompiler.ir.program import Node, Program
from qcompiler.ir.types import Dim

_NEUTRAL = {"weight": 1.0, "bias": 0.0}


def exact_constant(program: Program, value: object) -> Tensor | None:
    """The float64 value behind an argument that is a parameter; None for anything else."""
    return program.exact(value) if isinstance(value, Node) and value.op == "get_attr" else None


def shift_obstacle(program: Program, node: Node) -> str:
    """Why a layer gives something else than one vector everywhere when its input is; empty when it does not."""
    padding = program.bind(node).get("padding")
    if any(bool(size) for size in padding) if isinstance(padding, list | tuple) else bool(padding):
        return "pads with zeros"
    return "spreads its input unevenly" if program.op(node) in TRANSPOSED else ""


def zero_or_one(argument: str) -> float | None:
    """What a missing constant stands for."""
    return _NEUTRAL.get(argument)


def constant_at(
    program: Program,
    node: Node,
    argument: str,
    place: Place,
    fill: float | None,
    step: str,
    listed: Node | None = None,
) -> Node | None:
    """The parameter node behind an argument, long enough for the coordinates of `place`.

    Args:
        program: edited where a constant must be made or spread.
        node: the operator.
        argument: by its parameter name.
        place: the coordinates that are about to change.
        fill: number that stands for a missing constant; None leaves it missing.
        step: name of the pass.
        listed: which of the constants, where the argument is a list.

    Returns:
        None where the constant is missing and may stay so.

    Raises:
        VerifyError: when the argument is computed.
    """
    found = program.bind(node).get(argument)
    if found is None:
        return None if fill is None else _made(program, node, argument, fill, step)
    if isinstance(found, list | tuple) and listed in found:
        found = listed
    if isinstance(found, Node) and found.op == "get_attr":
        shape = program.tensor_type(found).shape
        if _reaches(place, shape):
            return found
        value = program.exact(found)
    elif isinstance(found, bool | int | float):
        value = torch.tensor(float(found), dtype=torch.float64)
    else:
        raise VerifyError(f"'{argument}' of '%{node.name}' is no constant", where=f"%{node.name}", step=step)
    return _spread(program, node, argument, place, value, step)


def set_argument(program: Program, node: Node, argument: str, value: Node | None) -> None:
    """Gives an operator another value for one argument, by its parameter name."""
    names = list(program.bind(node))
    place = names.index(argument)
    if argument in node.kwargs or place > len(node.args):
        program.set_args(node, node.args, {**node.kwargs, argument: value})
    else:
        program.set_args(node, (*node.args[:place], value, *node.args[place + 1 :]), node.kwargs)


def add_param(program: Program, node: Node, name: str, value: Tensor, step: str) -> Node:
    """A new parameter in front of a node, in the dtype of the node's value, remembered in float64."""
    found = program.before(node, step).param(name, value.to(program.tensor_type(node).dtype))
    program.set_exact(found, value)
    return found


def normalized_shape(program: Program, node: Node) -> tuple[int, ...]:
    """Sizes of the last axes over which a norm goes; empty for any other operator."""
    shape = program.bind(node).get("normalized_shape")
    return tuple(size for size in shape if isinstance(size, int)) if isinstance(shape, list | tuple) else ()


def _bias_shape(program: Program, node: Node, weight: object, argument: str) -> tuple[int, ...]:
    if not isinstance(weight, Node) or argument != "bias":
        return ()
    sizes = program.exact(weight).shape
    groups = program.bind(node).get("groups", 1)
    if "transpose" in program.op(node) and isinstance(groups, int):
        return (sizes[1] * groups,)
    return (sizes[0],)


def _reaches(place: Place, shape: tuple[Dim, ...]) -> bool:
    dim = shape[place.axis] if place.axis < len(shape) else 0
    return isinstance(dim, int) and int(place.index.max()) < dim * place.groups


def _made(program: Program, node: Node, argument: str, fill: float, step: str) -> Node:
    """A constant that was left out."""
    bound = program.bind(node)
    shape = normalized_shape(program, node) or _bias_shape(program, node, bound.get("weight"), argument)
    if not shape:
        raise VerifyError(f"'{argument}' of '%{node.name}' cannot be added", where=f"%{node.name}", step=step)
    value = torch.full(shape, fill, dtype=torch.float64)
    param = add_param(program, node, f"{node.name}.{argument}", value, step)
    set_argument(program, node, argument, param)
    return param


def _spread(program: Program, node: Node, argument: str, place: Place, value: Tensor, step: str) -> Node:
    """A constant that stands for a whole axis, written out along it."""
    rank = program.tensor_type(node).rank
    full = value.reshape(*[1] * (max(rank, place.axis + 1) - value.dim()), *value.shape) if not value.dim() else value
    behind = full.dim() - place.axis
    size = program.shape(node)[rank - behind]
    if not isinstance(size, int):
        raise VerifyError(f"an axis of free size has no constant coordinates: '%{node.name}'", step=step)
    sizes = list(full.shape)
    sizes[place.axis] = size
    param = add_param(program, node, f"{node.name}.{argument}", full.expand(sizes).contiguous(), step)
    set_argument(program, node, argument, param)
    return param
