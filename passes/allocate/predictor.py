"""How long a whole plan takes on the target: rows of a table, or the roofline, with the price of changes of numbers.

Formula   time of the float program + sum over operators of (row of the plan - row in float) + what changes of numbers
          and of layout take under the plan, less the same in float; then the table's correction
Shapes    at the hints that the model was traced with
Promise   the float program takes what was measured; a value changes its numbers once for all its readers
Needs     a table of the target, or its peaks
Source    latency tables of "HAWQ-V3", Yao et al. 2021; changes of numbers and of layout are own
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping
from functools import cache, cached_property

from qcompiler.cost import Kind, LatencyTable
from qcompiler.errors import UnsupportedError
from qcompiler.ir.program import Node, Program, all_nodes
from qcompiler.ir.types import TensorType
from qcompiler.passes.allocate.costs import products
from qcompiler.passes.allocate.units import FLOAT
from qcompiler.plan import Assignment
from qcompiler.spec import QuantSpec
from qcompiler.target import Target

Assignments = Mapping[str, Assignment]
Key = tuple[str, str, str, str]
LAYOUT_IN, LAYOUT_OUT, QUANTIZE, DEQUANTIZE, PROGRAM = "layout in", "layout out", "quantize", "dequantize", "program"
_FLOAT_BITS = 32
_BYTE = 8
_PLAIN = ""


def row_key(program: Program, node: Node, assigned: Assignment | None, at: str = "") -> Key:
    """The row of a table that tells how long an operator takes.

    Args:
        program: at stage canonical.
        node: the operator.
        assigned: None for float.
        at: the activation right behind it, which the runtime may make one with it; empty for none.
    """
    numbers: list[str] = []
    if assigned is not None:
        numbers = [f"{name}: {spec}" for name, spec in sorted(assigned.inputs.items())]
        numbers += [f"result: {assigned.result}"] if assigned.result is not None else []
    absorbed = next((user for user in node.users if user.name == at), None)
    then = "" if absorbed is None else f" then {program.op(absorbed)} {_arguments(program, absorbed)}"
    kernel = FLOAT if assigned is None else assigned.kernel
    return program.op(node), kernel, "; ".join(numbers), _arguments(program, node) + then


def value_key(program: Program, op: str, value: Node, spec: QuantSpec) -> Key:
    """The row of a change of numbers: `quantize` or `dequantize`."""
    return op, "", str(spec), _shape(program, value)


def program_key(program: Program) -> Key:
    """The row of the whole float program: any other operator or shape makes another row."""
    text = "\n".join(" ".join(row_key(program, node, None)) for node in program.nodes)
    return PROGRAM, FLOAT, "", hashlib.sha256(text.encode()).hexdigest()[:16]


def activation_behind(program: Program, node: Node, target: Target) -> str:
    """Name of the activation that alone reads a value and that kernels of the target absorb; empty for none.

    What the runtime does with it depends on the numbers on both sides, so that the two are timed together.
    """
    users = list(node.users)
    absorbed = {op for kernel in target.kernels for op in kernel.absorbs}
    alone = len(users) == 1 and node not in program.outputs
    return users[0].name if alone and program.op(users[0]) in absorbed else ""


class Predictor:
    """Seconds of whole plans of one program.

    Args:
        program: at stage canonical; must not change meanwhile.
        table: measured rows, None when there are none.
        target: its peaks model rows that the table lacks.

    Raises:
        UnsupportedError: when there is no table and the target has no peaks.
    """

    def __init__(self, program: Program, table: LatencyTable | None, target: Target) -> None:
        if table is None and target.device is None:
            raise UnsupportedError(
                f"nothing tells how long each option takes on {target.name}",
                mend="measure it with `qcompiler bench` and pass latencies=table.json, or give the target a `device`",
            )
        self.program = program
        self.table = table
        self.roofline = target.device
        self.nodes = {node.name: node for node in program.nodes}
        self._behind = {node: activation_behind(program, node, target) for node in program.nodes}
        self._carrying = {kernel.name for kernel in target.kernels if kernel.carries}
        self._outputs = set(program.outputs)
        self._operands = {node: _operands(program, node) for node in self.nodes.values()}
        self._row = cache(self._row_of)
        self._keys: dict[object, Key] = {}
        self._modelled: set[Key] = set()

    @property
    def kind(self) -> Kind:
        """`measured` when every row that was needed so far was."""
        return "modelled" if self.table is None or self._modelled else "measured"

    def seconds(self, plan: Assignments) -> float:
        """Seconds of one call under a plan."""
        total = self.sum(plan)
        return total if self.table is None else self.table.correction(total)

    def sum(self, plan: Assignments) -> float:
        """The same before the correction."""
        return max(self._whole + self._around(plan) - self._around_float + math.fsum(self._gains(plan)), 0.0)

    def each(self, plan: Assignments) -> dict[str, float]:
        """Seconds of each operator under a plan, by name, without changes of numbers and before the correction."""
        made = {item.result_at for item in plan.values() if item.result is not None}
        return {
            name: self._assigned(node, plan[name], made) if name in plan else self._operator(node, None)
            for name, node in self.nodes.items()
        }

    def described(self) -> str:
        """Where the figures come from."""
        if self.table is None:
            return f"modelled by the target's peaks ({self.roofline.source})" if self.roofline else "modelled"
        found = f"measured on {self.table.device}"
        missing = f"; {len(self._modelled)} rows are missing there and modelled" if self._modelled else ""
        fitted = self.table.correction
        checked = f"; {fitted.plans} whole plans were within {fitted.error:.0%}" if fitted.plans else ""
        dropped = f"; {fitted.dropped} others were not, and count for nothing" if fitted.dropped else ""
        return found + missing + checked + dropped

    def _gains(self, plan: Assignments) -> Iterator[float]:
        """What each operator of a plan takes more than in float."""
        made = {item.result_at for item in plan.values() if item.result is not None}
        for name, assigned in plan.items():
            node = self.nodes[name]
            yield self._assigned(node, assigned, made) - self._operator(node, None)

    @cached_property
    def _whole(self) -> float:
        row = None if self.table is None else self.table.find(*program_key(self.program))
        if row is not None:
            return row.seconds
        if self.table is not None:
            self._modelled.add(program_key(self.program))
        return math.fsum(self._operator(node, None) for node in self.nodes.values())

    @cached_property
    def _around_float(self) -> float:
        return self._around({})

    def _key(self, node: Node, assigned: Assignment | None) -> Key:
        way = None if assigned is None else (assigned.kernel, tuple(assigned.inputs.items()), assigned.result)
        place = (node, way)
        if place not in self._keys:
            self._keys[place] = row_key(self.program, node, assigned, self._behind[node])
        return self._keys[place]

    def _operator(self, node: Node, assigned: Assignment | None) -> float:
        found = self._row(self._key(node, assigned))
        return self._model(node, assigned) if found is None else found

    def _assigned(self, node: Node, assigned: Assignment, made: Collection[str]) -> float:
        """Seconds of an operator under a plan that makes the values `made` as codes.

        A kernel that carries codes works in the layout of the kernel that made them; alone, or behind a change of
        numbers, it lacks that and can be far slower than in float.
        """
        found = self._operator(node, assigned)
        fed = assigned.kernel in self._carrying and any(source.name in made for source in node.all_input_nodes)
        return min(found, self._operator(node, None)) if fed else found

    def _row_of(self, key: Key) -> float | None:
        row = None if self.table is None else self.table.find(*key)
        if row is None:
            self._modelled.add(key)
        return None if row is None else row.seconds

    def _model(self, node: Node, assigned: Assignment | None) -> float:
        """Seconds of an operator by the roofline, 0 without one."""
        if self.roofline is None or not isinstance(self.program.type(node), TensorType):
            return 0.0
        specs = {} if assigned is None else assigned.inputs
        widths: list[int] = []
        result = _FLOAT_BITS if assigned is None or assigned.result is None else assigned.result.bits
        size = float(_elements(self.program, node) * result)
        for name, value in self.program.bind(node).items():
            bits = specs[name].bits if name in specs else _FLOAT_BITS
            tensors = [each for each in all_nodes(value) if isinstance(self.program.type(each), TensorType)]
            size += math.fsum(_elements(self.program, each) * bits for each in tensors)
            widths += [bits] * (name in ("input", "weight") or name in specs)
        operations = 2 * products(self.program, node) or float(_elements(self.program, node))
        return self.roofline.seconds(operations, max(widths, default=_FLOAT_BITS), size / _BYTE)

    def _change(self, op: str, value: Node, spec: QuantSpec) -> float:
        place = (op, value, spec)
        if place not in self._keys:
            self._keys[place] = value_key(self.program, op, value, spec)
        found = self._row(self._keys[place])
        if found is not None or self.roofline is None:
            return found or 0.0
        size = _elements(self.program, value) * (spec.bits + _FLOAT_BITS) / _BYTE
        return self.roofline.seconds(0.0, _FLOAT_BITS, size)

    def _around(self, plan: Assignments) -> float:
        """Seconds of all changes of numbers and of layout under a plan."""
        made = {item.result_at: item.result for item in plan.values() if item.result is not None}
        values = [*self.program.inputs, *self.nodes.values()]
        changes = (self._changes(value, made.get(value.name), plan) for value in values)
        return math.fsum(changes) + (math.fsum(self._layouts(plan)) if self.table is not None else 0.0)

    def _changes(self, value: Node, made: QuantSpec | None, plan: Assignments) -> float:
        """What it takes to hand one value to all its readers."""
        specs = [self._read(reader, value, plan) for reader in value.users if reader.op == "call_function"]
        wanted = dict.fromkeys(spec for spec in specs if spec is not None and not spec.dynamic and spec != made)
        total = math.fsum(self._change(QUANTIZE, value, spec) for spec in wanted)
        as_float = value in self._outputs or any(spec is None or spec.dynamic for spec in specs)
        return total + (self._change(DEQUANTIZE, value, made) if made is not None and (wanted or as_float) else 0.0)

    def _read(self, reader: Node, value: Node, plan: Assignments) -> QuantSpec | None:
        assigned = plan.get(reader.name)
        if assigned is None:
            return None
        operands = self._operands[reader]
        return next((spec for name, spec in assigned.inputs.items() if value in operands[name]), None)

    def _layouts(self, plan: Assignments) -> Iterator[float]:
        """What kernels that want values laid out in their own way take for changes to it and back."""
        layouts: dict[Node, tuple[str, float]] = {}
        codes = set(plan) | {item.result_at for item in plan.values()}
        for node in self.nodes.values():
            key = self._key(node, plan.get(node.name))
            enter, leave = self._layout(LAYOUT_IN, key), self._layout(LAYOUT_OUT, key)
            sources = [source for source in node.all_input_nodes if source.op != "get_attr"]
            if enter + leave > 0:
                yield sum(enter for source in sources[:1] if layouts.get(source, (_PLAIN, 0.0))[0] != key[1])
                layouts[node] = key[1], leave
            elif sources and self._keeps_layout(node, sources[0]):
                found = layouts.get(sources[0], (_PLAIN, 0.0))
                # A change of numbers ends a layout: kernels of codes and of reals have layouts of their own.
                layouts[node] = found if (found[0] == FLOAT) == (node.name not in codes) else (_PLAIN, 0.0)
        for node, (layout, leave) in layouts.items():
            kept = node not in self._outputs and all(
                layouts.get(user, (_PLAIN, 0.0))[0] == layout for user in node.users
            )
            yield 0.0 if kept or layout == _PLAIN else leave

    def _layout(self, op: str, key: Key) -> float:
        row = None if self.table is None else self.table.find(f"{op} {key[0]}", *key[1:])
        return 0.0 if row is None else row.seconds

    def _keeps_layout(self, node: Node, source: Node) -> bool:
        """Whether an operator without a layout of its own works in that of its operand, as pools do."""
        types = self.program.type(node), self.program.type(source)
        alike = all(isinstance(type_, TensorType) for type_ in types)
        moves = self.program.op(node) in ("aten.permute", "aten.reshape", "aten.transpose.int")
        return alike and not moves and self.program.tensor_type(node).rank == self.program.tensor_type(source).rank


def _operands(program: Program, node: Node) -> dict[str, frozenset[Node]]:
    return {name: frozenset(all_nodes(value)) for name, value in program.bind(node).items()}


def _arguments(program: Program, node: Node) -> str:
    """Shapes of tensors and values of all else, by argument."""
    return " ".join(
        f"{name}={_value(program, value)}" for name, value in program.bind(node).items() if value is not None
    )


def _value(program: Program, value: object) -> str:
    if isinstance(value, Node):
        constant = "constant " if value.op == "get_attr" else ""
        return constant + _shape(program, value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(program, item) for item in value)}]"
    return str(value)


def _shape(program: Program, value: Node) -> str:
    type_ = program.type(value)
    if not isinstance(type_, TensorType):
        return "other"
    sizes = ",".join(str(program.dimensions.hint(size)) for size in type_.shape)
    return f"{str(type_.dtype).removeprefix('torch.')}[{sizes}]"


def _elements(program: Program, value: Node) -> int:
    type_ = program.type(value)
    shape = type_.shape if isinstance(type_, TensorType) else ()
    return math.prod(program.dimensions.hint(size) for size in shape)
