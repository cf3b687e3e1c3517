"""What a program keeps from call to call: states, each an input and a result that belong together.

A state is one of the last inputs; the result in its place from the end is the value that the next call starts from.
`Program.states` says by the name of the input what the first call starts from. A program stays a pure function: whoever
runs it hands the results on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from qcompiler.ir.fill import Fill, resolve
from qcompiler.ir.program import Node, Program
from qcompiler.ir.types import TensorType


def arguments(program: Program) -> list[Node]:
    """The inputs that a call gives, without states."""
    nodes = program.inputs
    return nodes[: len(nodes) - len(program.states)]


def state_nodes(program: Program) -> list[Node]:
    """The inputs that are states."""
    nodes = program.inputs
    return nodes[len(nodes) - len(program.states) :]


def results(program: Program) -> list[Node]:
    """What a call returns, without states."""
    nodes = program.outputs
    return nodes[: len(nodes) - len(program.states)]


def updates(program: Program) -> list[Node]:
    """What the next call starts from, one per state."""
    nodes = program.outputs
    return nodes[len(nodes) - len(program.states) :]


def add_state(program: Program, name: str, type_: TensorType, first: torch.Tensor | Fill) -> Node:
    """Adds a state behind all inputs; its new value is to be the last result.

    Args:
        program: without inputs behind its states.
        name: of the state.
        type_: of fixed sizes.
        first: what the first call starts from; it is kept, not copied.
    """
    program.states[name] = first
    return program.add_input(name, type_)


def first_values(program: Program) -> list[torch.Tensor]:
    """What the first call starts from, tensors of their own.

    Raises:
        InputError: for values that are not at hand.
    """
    return [first_value(program, node) for node in state_nodes(program)]


def first_value(program: Program, node: Node) -> torch.Tensor:
    """What the first call starts from in one state; raises as `first_values`."""
    value = program.states[str(node.target)]
    return value.clone() if isinstance(value, torch.Tensor) else value.materialize(program.tensor_type(node))


def plain_fill(value: torch.Tensor) -> torch.Tensor | Fill:
    """A Fill where all is zero, else a copy: the model may write to its buffer."""
    zero = not value.is_meta and not bool(value.count_nonzero())
    return Fill("zeros") if zero else value.detach().clone()


def stored_states(program: Program) -> Iterator[tuple[str, str, torch.Tensor]]:
    """States whose first value is a tensor: name, name in a file of weights, value."""
    for name, value in program.states.items():
        if isinstance(value, torch.Tensor):
            yield name, state_place(name), value


def state_place(name: str) -> str:
    """What a file of weights calls a state."""
    return f"state/{name}"


def resolve_states(program: Program, weights: Mapping[str, torch.Tensor]) -> None:
    """Replaces digests by the tensors of these names, as `stored_states` or the program calls them."""
    named = {name: weights.get(state_place(name), weights.get(name)) for name in program.states}
    known = {name: value for name, value in named.items() if value is not None}
    program.states = resolve(program.states, known)


def state_problems(program: Program) -> Iterator[tuple[Node | None, str]]:
    """Every broken rule of states: the node at fault and what is wrong."""
    kept = list(program.states)
    if [str(node.target) for node in state_nodes(program)] != kept or len(program.inputs) < len(kept):
        yield None, f"the last inputs are not the states {', '.join(kept)}"
        return
    if len(program.outputs) < len(kept):
        yield None, "a state is never written"
        return
    for node, update in zip(state_nodes(program), updates(program), strict=True):
        type_ = node.meta.get("type")
        if not isinstance(type_, TensorType) or any(not isinstance(size, int) for size in type_.shape):
            yield node, f"state %{node.name} is not of fixed sizes"
        elif update.meta.get("type") != type_:
            yield update, f"%{update.name} is not of the type of state %{node.name}"
