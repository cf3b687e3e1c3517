"""From explicit Q/DQ to kernel calls: each assigned operator with its dequantized operands and its result's quantizer
becomes one `qc.kernel`.

A call passes the operator's arguments in order, quantized ones as `[codes, scale, zero point]`; see
`backends.reference`. Biases become int32 codes of scale `input scale * weight scale` where the target adds them so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch.fx.node import Argument

from qcompiler.backends.lowering.biases import integer_bias
from qcompiler.backends.lowering.operands import keywords, operand_of
from qcompiler.errors import VerifyError
from qcompiler.ir import ops
from qcompiler.ir.program import Node, Program, Stage
from qcompiler.ir.verify import neighbourhood
from qcompiler.plan import Assignment
from qcompiler.spec import QuantSpec
from qcompiler.spec import quantize as spec_quantize
from qcompiler.target import Kernel

STEP = "lower"


@dataclass(frozen=True)
class Style:
    """What differs between targets.

    Args:
        integer_bias: names of kernels that add biases as int32 codes; others add them in float.
        leaves: whether an assigned operator stays as it is, with its dequantized operands.
        attributes: further keywords of the call, such as the weight's spec.
        nested: names of kernels that take scales of scales, in the place of a scale a list of them, innermost first.
    """

    integer_bias: frozenset[str]
    leaves: Callable[[Assignment], bool]
    attributes: Callable[[Assignment], Mapping[str, Argument]]
    nested: frozenset[str] = frozenset()


def lower_calls(program: Program, kernels: Sequence[Kernel], style: Style) -> Program:
    """The program at stage lowered, not yet verified; nodes keep the names of the operators they replace.

    Raises:
        VerifyError: where the graph around an assigned operator is not what its kernel needs.
    """
    lowered = program.copy()
    lowering = _Lowering(lowered, {kernel.name: kernel for kernel in kernels}, style)
    by_name = {node.name: node for node in lowered.nodes}
    for node in lowered.nodes:
        assigned = node.meta.get("assignment")
        if isinstance(assigned, Assignment) and "decomposition" not in node.meta and not style.leaves(assigned):
            lowering.replace(node, assigned, by_name)
    lowered.stage = Stage.LOWERED
    return lowered


@dataclass(frozen=True)
class _Lowering:
    program: Program
    kernels: dict[str, Kernel]
    style: Style

    def replace(self, node: Node, assigned: Assignment, by_name: dict[str, Node]) -> None:
        """Puts a kernel call in the place of an operator and of the quantizer behind it."""
        if assigned.kernel not in self.kernels:
            self.refuse(node, f"the target has no kernel '{assigned.kernel}'")
        given = self.given(node, assigned)
        operands = {name: self.operands(node, name, value, assigned.inputs[name]) for name, value in given.items()}
        attributes: dict[str, Argument] = {"op": self.program.op(node)}
        last, chain = node, []
        if assigned.result is not None:
            value = by_name.get(assigned.result_at, node)
            last, chain = self.quantizer(node, value), [*self.absorbed(node, value), node]
            attributes |= self.result(node, chain, last)
        arguments = self.arguments(node, operands, last)
        attributes |= self.style.attributes(assigned)
        call = self.program.before(last, STEP).call(
            "qc.kernel",
            assigned.kernel,
            *arguments,
            kwargs=attributes,
            name=f"{node.name}_kernel",
            type_=self.program.type(last),
        )
        call.meta["assignment"] = assigned
        self.program.replace(last, call)
        for dead in chain:
            self.program.erase(dead)
        self.program.rename(call, node.name)

    def given(self, node: Node, assigned: Assignment) -> dict[str, Argument]:
        bound = self.program.bind(node)
        return {name: bound[name] for name in assigned.inputs}

    def operands(self, node: Node, name: str, value: Argument, asked: QuantSpec) -> Argument:
        """`[codes, scale, zero point]` of a dequantized argument, a list of them for a list of tensors."""
        if isinstance(value, list | tuple):
            return [self.operands(node, name, item, asked) for item in value]
        if not isinstance(value, Node) or value.target is not ops.dequantize:
            self.refuse(node, f"its argument '{name}' is not dequantized")
        bound = self.program.bind(value)
        codes, scale, zero_point, spec = bound["codes"], bound["scale"], bound["zero_point"], bound["spec"]
        if not isinstance(spec, QuantSpec) or spec.format != asked.format:
            self.refuse(node, f"its argument '{name}' holds {spec}, the kernel was chosen for {asked}")
        levels = list(scale) if isinstance(scale, list | tuple) else []
        if levels and node.meta["assignment"].kernel not in self.style.nested:
            self.refuse(node, f"its argument '{name}' has scales of scales")
        return [codes, levels or scale, zero_point if isinstance(zero_point, Node) else None]

    def quantizer(self, node: Node, value: Node) -> Node:
        """The one reader of the result, which must quantize it."""
        readers = list(value.users)
        if len(readers) != 1 or readers[0].target is not ops.quantize:
            self.refuse(node, f"its result %{value.name} is not read by one quantize alone")
        return readers[0]

    def result(self, node: Node, chain: list[Node], quantizer: Node) -> dict[str, Argument]:
        """Scale, zero point and limits of a quantized result; absorbed activations narrow the limits."""
        bound = self.program.bind(quantizer)
        scale, zero_point, spec = bound["scale"], bound["zero_point"], self.program.tensor_type(quantizer).spec
        if not isinstance(scale, Node) or spec is None:
            self.refuse(node, "its result has scales of scales")
        low, high = spec.format.lowest, spec.format.highest
        for activation in chain:
            floor, ceiling = self.limits(activation)
            low, high = max(low, self.code(floor, quantizer, low)), min(high, self.code(ceiling, quantizer, high))
        zero = zero_point if isinstance(zero_point, Node) else None
        return {"result": [scale, zero], "low": low, "high": max(low, high)}

    def absorbed(self, node: Node, value: Node) -> list[Node]:
        """The activations between an operator and the value that is quantized."""
        chain: list[Node] = []
        while value is not node:
            chain.append(value)
            source = value.all_input_nodes[0] if value.all_input_nodes else None
            if source is None or len(source.users) != 1:
                self.refuse(node, f"%{value.name} does not follow it alone")
            value = source
        return chain

    def limits(self, activation: Node) -> tuple[float | None, float | None]:
        """The real numbers between which an activation keeps its result; None for no limit."""
        op = self.program.op(activation)
        if op == "aten.relu":
            return 0.0, None
        if op != "aten.clamp":
            return None, None
        bound = self.program.bind(activation)
        floor, ceiling = bound["min"], bound["max"]
        return (
            float(floor) if isinstance(floor, int | float) else None,
            float(ceiling) if isinstance(ceiling, int | float) else None,
        )

    def code(self, bound: float | None, quantizer: Node, default: float) -> float:
        """The code of a real number on the grid of a quantizer; rounding is monotone, so limits commute with it."""
        if bound is None:
            return default
        arguments = self.program.bind(quantizer)
        scale, zero_point = self.program.constant(arguments["scale"]), self.program.constant(arguments["zero_point"])
        spec = self.program.tensor_type(quantizer).spec
        if scale is None or spec is None or scale.numel() != 1:
            self.refuse(quantizer, "its limits need one static scale")
        point = torch.full([1] * spec.rank, bound)
        return float(spec_quantize(point, scale, zero_point, spec).reshape(()))

    def arguments(self, node: Node, operands: dict[str, Argument], last: Node) -> list[Argument]:
        """All positional arguments of the operator, quantized ones in parts."""
        bound = self.program.bind(node) | operands
        bias = bound.get("bias")
        if isinstance(bias, Node) and node.meta["assignment"].kernel in self.style.integer_bias:
            x, w = operand_of(bound["input"]), operand_of(bound["weight"])
            folded = integer_bias(self.program.before(last, STEP), x, w, bias) if x and w else None
            if folded is None:
                self.refuse(node, "its bias and scales are not constant")
            bound["weight"], bound["bias"] = folded
        for name, default in keywords(node).items():
            if bound.pop(name) != default:
                self.refuse(node, f"its kernel takes no '{name}'")
        return list(bound.values())

    def refuse(self, node: Node, why: str) -> NoReturn:
        raise VerifyError(
            f"%{node.name} cannot become a kernel call: {why}",
            where=neighbourhood(self.program, node),
            step=STEP,
            mend="every pass after apply_plan must keep dequantize, operator and quantize together",
        )
