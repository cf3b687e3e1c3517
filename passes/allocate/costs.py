"""Costs that follow from the graph alone: bytes of weights, average bits, bit operations.

Formula   size: codes, scales and zero points of the weights that a unit reads, each parameter once; other parameters as
          they are. average_bits: the same in bits, over the number of weights that units decide. bops: products of an
          operator x bits of its weight x bits of its input, 32 for float
Shapes    tables [unit][option]
Promise   what the plan's specs take; a backend that pads codes to bytes takes more
Needs     nothing
Source    bit operations after Baskin et al. 2018, "UNIQ", as used by "AdaQuant" and "HAWQ-V3"
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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

_FLOAT_BITS = 32
_BYTE = 8


@dataclass(frozen=True)
class Size:
    """Bytes of all parameters."""

    resource: ClassVar[str] = "size"

    def measure(self, program: Program, units: Sequence[Unit], ctx: Context) -> Costs:
        """See `Cost`."""
        del ctx
        decided = decided_params(program, units)
        table = [[_bits(program, unit, option) / _BYTE for option in unit.options] for unit in units]
        whole = {node: stored_bits(program, node, None) / _BYTE for node in program.param_nodes}
        fixed = sum(size for node, size in whole.items() if node not in decided)
        return Costs(table, fixed, sum(whole.values()))


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
    return {node for option in options for node, _ in _weights(program, nodes, option)}


def stored_bits(program: Program, param: Node, spec: QuantSpec | None) -> float:
    """Bits that a parameter takes, scales included; None for as it is."""
    type_ = program.tensor_type(param)
    if spec is None:
        return _elements(program, param) * type_.dtype.itemsize * _BYTE
    return _elements(program, param) * bits_per_element(spec, [int(size) for size in type_.shape])


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
    weight = specs["weight"].bits if "weight" in specs else _FLOAT_BITS
    activation = specs["input"].bits if "input" in specs else _FLOAT_BITS
    return products(program, node) * weight * activation


def _bits(program: Program, unit: Unit, option: Option) -> float:
    """Bits of all parameters that a unit decides, under one option."""
    nodes = {node.name: node for node in program.nodes}
    chosen = dict.fromkeys(_weights(program, nodes, option))
    given = {param for param, _ in chosen}
    all_of_them = {param for each in unit.options for param, _ in _weights(program, nodes, each)}
    rest = sum(stored_bits(program, param, None) for param in all_of_them - given)
    return rest + sum(stored_bits(program, param, spec) for param, spec in chosen)


def _weights(program: Program, nodes: dict[str, Node], option: Option) -> list[tuple[Node, QuantSpec]]:
    """The parameters that an option quantizes and their specs."""
    found: list[tuple[Node, QuantSpec]] = []
    for name, assigned in option.assignments.items():
        bound = program.bind(nodes[name])
        for argument, spec in assigned.inputs.items():
            sources = [source for source in all_nodes(bound[argument]) if source.op == "get_attr"]
            found += [(source, spec) for source in sources]
    return found


def _elements(program: Program, param: Node) -> int:
    return math.prod(int(size) for size in program.shape(param))
