"""What goes from call to call in generated C: states lie in the arena, at places that nothing else uses.

An operator that writes some elements of a state writes them in place where nobody reads the old ones any more, so that
a token costs its own row of a cache and not the whole. What cannot be written so is computed aside and copied at the
end of a call, when all old values have been read.
"""

from __future__ import annotations

from collections.abc import Iterator

from qcompiler.backends.c.generator import ELEMENTS, Draft, Emitted, Generator
from qcompiler.backends.c.loops import Operand, leaves
from qcompiler.backends.c.module import Kept, Port
from qcompiler.backends.c.names import Names, comment
from qcompiler.backends.c.value import BYTES, Buffer, Value
from qcompiler.errors import UnsupportedError
from qcompiler.ir.nodes import all_nodes
from qcompiler.ir.program import Node, Program
from qcompiler.ir.states import first_value, state_nodes, updates


def check_states(program: Program) -> None:
    """Raises UnsupportedError for a state whose elements generated C lacks."""
    for node in state_nodes(program):
        type_ = program.tensor_type(node)
        if type_.spec is not None or type_.dtype not in ELEMENTS:
            elements = type_.dtype if type_.spec is None else type_.spec
            fault = f"generated C keeps no {elements} from call to call"
            raise UnsupportedError(fault, where=f"state %{node.name}", step="emit", mend="keep torch.float32")


def bind_states(generator: Generator) -> None:
    """Gives every state its memory; the program has passed `check_states`."""
    for node in state_nodes(generator.program):
        type_ = generator.program.tensor_type(node)
        value = generator.new(generator.shape(node), ELEMENTS[type_.dtype])
        generator.kept[node] = value
        generator.bind(node, value)


def write_states(generator: Generator) -> None:
    """Puts into the states what the next call starts from."""
    program = generator.program
    buffers = [value.buffer for value in generator.kept.values()]
    late: list[tuple[Node, Value, Operand]] = []
    for node, update in zip(state_nodes(program), updates(program), strict=True):
        place, found = generator.kept[node], generator.operand(update)
        if isinstance(found, Value) and _same(found, place):
            continue
        generator.drop_idle()
        generator.drafts.append(Draft(f"state_{node.name}", comment(f"state {node.target}: {update.name}")))
        others = (leaf for leaf in leaves(found) if leaf.buffer in buffers and not _same(leaf, place))
        if next(others, None) is not None:
            found = generator.copied(found, range(len(found.shape)))
        late.append((node, place, found))
    for node, place, found in late:
        generator.drop_idle()
        generator.drafts.append(Draft(f"keep_{node.name}", comment(f"state {node.target} of the next call")))
        generator.loop(place, found)


def kept_memory(generator: Generator) -> list[Buffer]:
    """The memory of all states."""
    return [value.buffer for value in generator.kept.values()]


def kept_states(generator: Generator, names: Names) -> tuple[Kept, ...]:
    """The states, after the arena was planned; what they start from goes into the weights where it is not all zero."""
    return tuple(_kept(generator, node, value, names) for node, value in generator.kept.items())


def written_over(generator: Generator, node: Node, source: Node) -> Value | None:
    """The memory of a state that `node` may write to in the place of a copy of `source`; None when it may not.

    It may when `source` lies in a state, and whatever looks into that state, `source` included, has no other reader
    left: readers that come later would see the new elements.
    """
    found = generator.operand(source)
    if not isinstance(found, Value) or found.buffer not in kept_memory(generator):
        return None
    if any(stride == 0 and size != 1 for size, stride in zip(found.shape, found.strides, strict=True)):
        return None
    read = list(all_nodes((node.args, node.kwargs)))
    if read.count(source) > 1 or any(_looks_into(generator, other, found.buffer) for other in read if other != source):
        return None
    bound = generator.bound
    pending = (other for other in bound if any(user is not node and user not in bound for user in other.users))
    return None if any(_looks_into(generator, other, found.buffer) for other in pending) else found


def _looks_into(generator: Generator, node: Node, buffer: Buffer) -> bool:
    found = generator.bound.get(node)
    return found is not None and any(leaf.buffer is buffer for each in _operands(found) for leaf in leaves(each))


def _operands(emitted: Emitted) -> Iterator[Operand]:
    yield from (each for each in (emitted if isinstance(emitted, list) else [emitted]) if each is not None)


def _same(one: Value, other: Value) -> bool:
    """Whether both are the same elements in the same order."""
    strides = (
        size == 1 or first == second for size, first, second in zip(one.shape, one.strides, other.strides, strict=False)
    )
    return (one.buffer, one.offset, one.shape) == (other.buffer, other.offset, other.shape) and all(strides)


def _kept(generator: Generator, node: Node, value: Value, names: Names) -> Kept:
    title, first = str(node.target), first_value(generator.program, node)
    port = Port(names.take(title), title, generator.program.tensor_type(node).dtype, value.shape)
    place = -1
    if first.count_nonzero():
        element = value.element
        place = generator.constant(first.numpy(), element).offset * BYTES[element]
    return Kept(port, value.buffer.place, value.buffer.size, place)
