"""Inputs and results that a model hands from call to call itself, made states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from qcompiler.errors import InputError
from qcompiler.ir.fill import Fill
from qcompiler.ir.program import Node, Program, Signature
from qcompiler.ir.states import state_problems
from qcompiler.ir.structure import Structure


def paired(program: Program, pairs: Mapping[str, str | int]) -> Program:
    """The program with some inputs as states, which begin at zero; callers neither give nor get them any more.

    Args:
        program: without states.
        pairs: name of an input, and of the result that the next call is given there: its key, or its number.

    Raises:
        InputError: for a program that has states, for a name that there is not, one that is there twice, and a pair of
            two types or of free sizes.
    """
    if program.states:
        raise InputError(f"the model keeps {', '.join(program.states)} itself", mend="leave `states` out")
    made = program.copy()
    results = dict(_paths(program.signature.result))
    given, kept = (
        _found(made.input_names, list(pairs), "input"),
        _found(list(results), [str(name) for name in pairs.values()], "result"),
    )
    new = [results[name] for name in kept]
    inputs, outputs = made.inputs, made.outputs
    states = [inputs[made.input_names.index(name)] for name in given]
    rest = [index for index in range(len(outputs)) if index not in new]
    behind = inputs[-1]
    for node in states:
        if node is not behind:
            behind.append(node)
        behind = node
    made.set_outputs([outputs[index] for index in (*rest, *new)])
    made.states = dict.fromkeys(given, Fill("zeros"))
    stay = [index for index, node in enumerate(inputs) if node not in states]
    signature = program.signature
    made.signature = Signature(
        _kept(signature.args, stay) or Structure("tuple"),
        _kept(signature.kwargs, stay) or Structure("dict"),
        _kept(signature.result, rest) or Structure("tuple"),
    )
    for node, problem in state_problems(made):
        raise InputError(
            f"the states do not fit: {problem}",
            where=f"%{node.name}" if isinstance(node, Node) else "",
            mend="a state has fixed sizes, such as a cache as long as the longest text, and one type",
        )
    return made


def _paths(structure: Structure, path: tuple[str, ...] = ()) -> Iterator[tuple[str, int]]:
    """Keys and numbers on the way to every leaf, joined by dots, and the number of the leaf."""
    if structure.kind == "leaf":
        yield ".".join(path) or "0", structure.index
    keys = structure.keys or tuple(str(i) for i in range(len(structure.children)))
    for key, child in zip(keys, structure.children, strict=True):
        yield from _paths(child, (*path, key))


def _found(there: Sequence[str], wanted: Sequence[str], what: str) -> list[str]:
    for name in wanted:
        if name not in there or wanted.count(name) > 1:
            fault = "is named twice" if name in there else "is not there"
            raise InputError(f"the {what} '{name}' {fault}", mend=f"{what}s: {', '.join(there)}")
    return list(wanted)


def _kept(structure: Structure, stay: Sequence[int]) -> Structure | None:
    """What is left of a structure when only some leaves stay, numbered anew; None where nothing is."""
    if structure.kind == "leaf":
        return replace(structure, index=stay.index(structure.index)) if structure.index in stay else None
    if structure.kind == "const" or not structure.leaf_count():
        return structure
    children = [_kept(child, stay) for child in structure.children]
    left = [index for index, child in enumerate(children) if child is not None]
    if not left:
        return None
    keys = tuple(structure.keys[index] for index in left) if structure.keys else ()
    return replace(structure, children=tuple(child for child in children if child is not None), keys=keys)
