"""Costs that follow from the graph alone: bytes of weights, average bits, bit operations.

Formula   size: codes, scales and zero points of the weights that a unit reads as the target stores them, each parameter
          once; other parameters as they are; what a file takes besides. average_bits: codes, scales and zero points in
          the bits of their formats, over the number of weights that units decide. bops: products of an operator x bits
          of its weight x bits of its input, 32 for float
Shapes    tables [unit][option]
Promise   what the plan's specs take; of a file's graph and padding only what it is told
Needs     nothing
Source    bit operations after Baskin et al. 2018, "UNIQ", as used by "AdaQuant" and "HAWQ-V3"
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.analysis.weights import CONVOLUTIONS, TRANSPOSED
from qcompiler.ir.program import Node, Program, all_nodes
from qcompiler.ir.types import TensorType
from qcompiler.passes.allocate.measures import Cost, Costs
from qcompiler.passes.allocate.problem import Option, Unit
from qcompiler.pipeline import Context
from qcompiler.plan import Assignment
from qcompiler.spec import QuantSpec, bits_per_element
from qcompiler.target import Target

_FLOAT_BITS = 32
_BYTE = 8


@dataclass(frozen=True)
class Size:
    """Bytes of all parameters as the target stores them.

    Args:
        overhead: bytes that a file takes besides.
    """

    overhead: float = 0.0
    resource: ClassVar[str] = "size"

    def measure(self, program: Program, units: Sequence[Unit], ctx: Context) -> Costs:
        """See `Cost`."""
        decided = decided_params(program, units)
        table = [[_bits(program, unit, option, ctx.target) / _BYTE for option in unit.options] for unit in units]
        whole = {node: float_bits(program, node) / _BYTE for node in program.param_nodes}
        fixed = sum(size for node, size in whole.items() if node not in decided)
        return Costs(table, fixed + self.overhead, sum(whole.values()))


@dataclass(frozen=True)
class AverageBits:
    """Bits per weight with everything that decoding needs, over all weights that units decide."""

    resource: ClassVar[str] = "average_bits"

    def measure(self, program: Program, units: Sequence[Unit], ctx: Context) -> Costs:
        """See `Cost`."""
        del ctx
        count = sum(_elements(program, node) for node in decided_params(program, units)) or 1
        table = [[_bits(program, unit, option) / count for option in unit.options] for unit in units]
        return Costs(table, 0.0, float(_FLOAT_BITS))


@dataclass(frozen=True)
class BitOperations:
    """Products times the bits of both factors, for the sizes that the model was traced with."""

    resource: ClassVar[str] = "bops"

    def measure(self, program: Program, units: Sequence[Unit], ctx: Context) -> Costs:
        """See `Cost`."""
        del ctx
        nodes = {node.name: node for node in program.nodes}

        def of(unit: Unit, option: Option) -> float:
            return sum(bit_operations(program, nodes[name], option.assignments.get(name)) for name in unit.nodes)

        decided = {name for unit in units for name in unit.nodes}
        fixed = sum(bit_operations(program, node, None) for name, node in nodes.items() if name not in decided)
        whole = sum(bit_operations(program, node, None) for node in nodes.values())
        return Costs([[of(unit, option) for option in unit.options] for unit in units], fixed, whole)


COSTS: tuple[type[Cost], ...] = (Size, AverageBits, BitOperations)


def decided_params(program: Program, units: Sequence[Unit]) -> set[Node]:
    """The parameters that some option quantizes."""
    nodes = {node.name: node for node in program.nodes}
    options = [option for unit in units for option in unit.options]
    return {node for option in options for node, *_ in _weights(program, nodes, option)}


def planned_bytes(program: Program, plan: Mapping[str, Assignment], target: Target) -> float:
    """Bytes of all parameters under a plan as the target stores them.

    Args:
        program: at stage canonical.
        plan: assignments by name; operators that the program lacks are passed over.
        target: the plan was made for.
    """
    known = {node.name for node in program.nodes}
    option = Option("plan", {name: assigned for name, assigned in plan.items() if name in known})
    costs = Size().measure(program, [Unit("plan", (option,), tuple(option.assignments))], Context(target))
    return costs.fixed + costs.table[0][0]


def float_bits(program: Program, param: Node) -> float:
    """Bits that a parameter takes as it is."""
    return _elements(program, param) * program.tensor_type(param).dtype.itemsize * _BYTE


def weight_bits(program: Program, param: Node, spec: QuantSpec, kernel: str, target: Target | None) -> float:
    """Bits that a quantized parameter takes, scales included; without a target in the bits of its formats."""
    shape = [int(size) for size in program.shape(param)]
    each = bits_per_element(spec, shape) if target is None else target.stored_bits(kernel, spec, shape)
    return _elements(program, param) * each


def products(program: Program, node: Node) -> float:
    """Multiplications of a linear or convolution, free sizes at their hints; 0 for other operators."""
    op = program.op(node)
    weight = program.bind(node).get("weight")
    if not isinstance(weight, Node) or not (op == "aten.linear" or op in CONVOLUTIONS or op in TRANSPOSED):
        return 0.0
    # A transposed convolution uses its whole kernel at each element that it reads, the others at each that they make.
    each = _elements(program, weight) / float(int(program.shape(weight)[0]))
    value = next(all_nodes(program.bind(node)["input"])) if op in TRANSPOSED else node
    type_ = program.type(value)
    shape = type_.shape if isinstance(type_, TensorType) else ()
    return each * math.prod(program.dimensions.hint(size, {}) for size in shape)


def bit_operations(program: Program, node: Node, assigned: Assignment | None) -> float:
    """Products times the bits of both factors."""
    specs = assigned.inputs if assigned is not None else {}
    weight = _mean_width(specs["weight"]) if "weight" in specs else _FLOAT_BITS
    activation = specs["input"].bits if "input" in specs else _FLOAT_BITS
    return products(program, node) * weight * activation


def _mean_width(spec: QuantSpec) -> float:
    """Bits of a code, over all segments."""
    segments = spec.parts.segments if spec.parts is not None else ()
    count = sum(size for size, _ in segments)
    return sum(size * number.storage_bits for size, number in segments) / count if count else float(spec.bits)


def _bits(program: Program, unit: Unit, option: Option, target: Target | None = None) -> float:
    """Bits of all parameters that a unit decides, under one option."""
    nodes = {node.name: node for node in program.nodes}
    # Kernels that store codes in their own way have a copy each; all others read the same one.
    own = target.stored_widths if target is not None else {}
    read = _weights(program, nodes, option)
    chosen = dict.fromkeys((param, spec, kernel if kernel in own else "") for param, spec, kernel in read)
    given = {param for param, *_ in chosen}
    all_of_them = {param for each in unit.options for param, *_ in _weights(program, nodes, each)}
    rest = sum(float_bits(program, param) for param in all_of_them - given)
    return rest + sum(weight_bits(program, param, spec, kernel, target) for param, spec, kernel in chosen)


def _weights(program: Program, nodes: dict[str, Node], option: Option) -> list[tuple[Node, QuantSpec, str]]:
    """The parameters that an option quantizes, their specs and the kernels that read them."""
    found: list[tuple[Node, QuantSpec, str]] = []
    for name, assigned in option.assignments.items():
        bound = program.bind(nodes[name])
        for argument, spec in assigned.inputs.items():
            sources = [source for source in all_nodes(bound[argument]) if source.op == "get_attr"]
            found += [(source, spec, assigned.kernel) for source in sources]
    return found


def _elements(program: Program, param: Node) -> int:
    return math.prod(int(size) for size in program.shape(param))
