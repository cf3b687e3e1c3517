"""A lowered program as a `Module`: inputs bound, every node emitted, results copied out."""

from __future__ import annotations

from qcompiler.backends.c.emit import EMITTERS, KERNELS
from qcompiler.backends.c.emit.sized import SIZED
from qcompiler.backends.c.generator import ELEMENTS, Generator
from qcompiler.backends.c.loops import Computed
from qcompiler.backends.c.module import Module, Port
from qcompiler.backends.c.names import Names, identifier
from qcompiler.backends.c.settings import Settings
from qcompiler.backends.c.sizes import with_free
from qcompiler.backends.c.states import bind_states, check_states, kept_memory, kept_states, write_states
from qcompiler.backends.c.value import BYTES, Buffer, Value, row_major
from qcompiler.backends.lowering.call import Call
from qcompiler.errors import UnsupportedError
from qcompiler.ir import ops
from qcompiler.ir.program import Node, Program
from qcompiler.ir.states import arguments, results
from qcompiler.ir.types import SymbolType, TensorType

_FREE = frozenset({"aten.sym_size.int", ops.GETITEM})


def write_module(program: Program, settings: Settings) -> Module:
    """The model as C functions.

    Raises:
        UnsupportedError: for an operator, a dtype or a number format that generated C lacks, naming node and module.
        SpecError: for sizes in the settings that the program has not.
    """
    check_writable(program)
    sizes = with_free(program, settings.batch, settings.most)
    generator = Generator(program, sizes, settings.level, {**EMITTERS, **KERNELS}, SIZED)
    names = Names()
    inputs = [_input(generator, node, index, names) for index, node in enumerate(arguments(program))]
    bind_states(generator)
    for node in program.nodes:
        _emit(generator, node)
    outputs = [_output(generator, node, index, names) for index, node in enumerate(results(program))]
    write_states(generator)
    layers, size = generator.finish(kept_memory(generator))
    states = kept_states(generator, names)
    return Module(
        identifier(program.name).lower(),
        tuple(inputs),
        tuple(outputs),
        layers,
        tuple(sorted(generator.kernels)),
        bytes(generator.constants),
        size,
        settings.level,
        settings.dispatched,
        settings.threads,
        headers=("qc_loops.h",),
        run_threads=settings.run_threads,
        sizes=sizes.free,
        nonnegative=tuple(sizes.nonnegative),
        states=states,
    )


def check_writable(program: Program) -> None:
    """Finds out before any other work whether a program can be written.

    Raises:
        UnsupportedError: naming every operator that generated C lacks, with its first node and the source module, or a
            state whose elements it lacks.
    """
    check_states(program)
    unknown: dict[str, Node] = {}
    for node in program.nodes:
        op = program.op(node)
        if op != "qc.kernel" and op not in EMITTERS and op not in _FREE and not _is_size(node):
            unknown.setdefault(op, node)
    places = unknown.values()
    if places:
        raise UnsupportedError(
            f"generated C has no operator {', '.join(unknown)}",
            where="; ".join(f"%{node.name} from module {program.origin(node).module or '(top)'}" for node in places),
            step="emit",
            mend="keep the module outside of the compiled model, or compile for another target",
        )


def _is_size(node: Node) -> bool:
    return isinstance(node.meta["type"], SymbolType)


def _emit(generator: Generator, node: Node) -> None:
    program = generator.program
    op = program.op(node)
    if _is_size(node):
        return
    if op == ops.GETITEM:
        source, index = node.args
        found = generator.results(source)[int(index)]  # pyright: ignore[reportArgumentType]
        if found is not None:
            generator.bind(node, found)
        return
    generator.begin(node, str(node.args[0]) if op == "qc.kernel" else op)
    call = call_of(program, node)
    generator.bind(node, generator.emit(call))


def call_of(program: Program, node: Node) -> Call:
    """A node with its arguments bound; a kernel call by the name of its kernel."""
    if program.op(node) == "qc.kernel":
        name, *inputs = node.args
        return Call(node, str(name), dict(node.kwargs), tuple(inputs))
    return Call(node, program.op(node), program.bind(node))


def _input(generator: Generator, node: Node, index: int, names: Names) -> Port:
    type_ = generator.program.type(node)
    if not isinstance(type_, TensorType) or type_.dtype not in ELEMENTS:
        raise UnsupportedError(f"an input of type {type_}", where=f"%{node.name}", step="emit")
    shape = generator.shape(node)
    element = ELEMENTS[type_.dtype]
    buffer = Buffer("input", BYTES[element], index)
    generator.bind(node, Value(buffer, element, shape, row_major(shape)))
    return Port(names.take(str(node.target)), str(node.target), type_.dtype, shape)


def _output(generator: Generator, node: Node, index: int, names: Names) -> Port:
    type_ = generator.program.tensor_type(node)
    shape = generator.shape(node)
    element = ELEMENTS[type_.dtype]
    generator.begin_output(node, index)
    value = generator.operand(node)
    if type_.spec is not None:
        # A program holds codes in floats, and so does whoever reads them as a result.
        value = Computed(element, shape, f"({element}){{0}} - {value.shift}", (value,))
    out = Value(Buffer("output", 0, index), element, shape, row_major(shape))
    generator.loop(out, value)
    return Port(names.take(f"out_{node.name}"), node.name, type_.dtype, shape)
