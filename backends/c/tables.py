"""Elementwise arithmetic between two grids of 256 codes becomes a table: what it computes for each of them.

Formula   `table[q] = quantize(f(dequantize(q)))`, f whatever stands between, numbers beside it included
Shapes    any
Needs     one code in, one out, scales that are known, nobody else who reads what lies between
Source    own
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch.fx.node import Argument

from qcompiler.errors import VerifyError
from qcompiler.ir import ops
from qcompiler.ir.program import Node, Program, map_nodes
from qcompiler.spec import QuantSpec
from qcompiler.spec import dequantize as spec_dequantize
from qcompiler.spec import quantize as spec_quantize

STEP = "lower"
CODES = 256


@dataclass(frozen=True)
class Region:
    """Arithmetic on one code.

    Args:
        source: dequantizes it.
        between: the operators, in order.
        result: quantizes again.
    """

    source: Node
    between: tuple[Node, ...]
    result: Node


def look_up(program: Program, pointwise: Collection[str]) -> None:
    """Puts tables in the place of arithmetic.

    Args:
        program: at stage lowered; changed in place.
        pointwise: operators that work element by element.
    """
    for node in program.nodes:
        region = region_of(program, node, pointwise)
        if region is not None:
            _replace(program, region)


def region_of(program: Program, node: Node, pointwise: Collection[str]) -> Region | None:
    """What lies between a quantizer and the one dequantizer behind it; None where it is not a function of one code."""
    if node.target is not ops.quantize or not _is_single(program, node):
        return None
    sources: set[Node] = set()
    between: set[Node] = set()
    waiting = [node.all_input_nodes[0]]
    while waiting:
        each = waiting.pop()
        if each.target is ops.dequantize:
            sources.add(each)
        elif each not in between and not _is_number(program, each):
            if program.op(each) not in pointwise or each in program.outputs:
                return None
            between.add(each)
            waiting += each.all_input_nodes
    if len(sources) != 1 or not all(user in between or user is node for each in between for user in each.users):
        return None
    (source,) = sources
    same = source.all_input_nodes[0].op != "get_attr" and program.shape(source) == program.shape(node)
    if not same or not _is_single(program, source):
        return None
    return Region(source, tuple(each for each in program.nodes if each in between), node)


def _is_number(program: Program, node: Node) -> bool:
    known = program.constant(node) if node.op == "get_attr" else None
    return known is not None and known.numel() == 1


def _is_single(program: Program, node: Node) -> bool:
    """Whether a quantizer or dequantizer has one known scale, and 8-bit integers for codes."""
    bound, codes = program.bind(node), node if node.target is ops.quantize else node.all_input_nodes[0]
    scale, spec = program.constant(bound["scale"]), program.tensor_type(codes).spec
    zero = bound["zero_point"]
    known = scale is not None and scale.numel() == 1 and (zero is None or program.constant(zero) is not None)
    integers = spec is not None and spec.format.is_integer and spec.bits == 8 and spec.parts is None
    return known and integers and program.tensor_type(node).dtype == torch.float32


def _replace(program: Program, region: Region) -> None:
    found = program.bind(region.result)
    source, spec = program.bind(region.source), _spec(program, region.result)
    name = region.result.name
    op = program.op(region.between[-1]) if region.between else "qc.quantize"
    builder = program.before(region.result, STEP)
    call = builder.call(
        "qc.kernel",
        "lookup",
        [source["codes"], source["scale"], source["zero_point"]],
        builder.param(f"{name}.table", table_of(program, region)),
        kwargs={
            "op": op,
            "result": [found["scale"], found["zero_point"]],
            "low": spec.format.lowest,
            "high": spec.format.highest,
            "least": float(least_code(_spec(program, region.source))),
        },
        name=f"{name}_lookup",
        type_=program.type(region.result),
    )
    program.replace(region.result, call)
    for dead in reversed(region.between):
        program.erase(dead)
    program.rename(call, name)


def table_of(program: Program, region: Region) -> torch.Tensor:
    """The results of all codes, the least first: float32 [256]."""
    source, result = program.bind(region.source), program.bind(region.result)
    spec = _spec(program, region.source)
    rank = program.tensor_type(region.source).rank
    codes = (torch.arange(CODES, dtype=torch.float32) + least_code(spec)).reshape(-1, *[1] * max(rank - 1, 0))
    scale, zero = _parameters(program, source)
    values: dict[Node, torch.Tensor] = {region.source: spec_dequantize(codes, scale, zero, spec)}
    for node in region.between:
        values[node] = _evaluated(program, node, values)
    last = region.between[-1] if region.between else region.source
    scale, zero = _parameters(program, result)
    return spec_quantize(values[last], scale, zero, _spec(program, region.result)).flatten()


def least_code(spec: QuantSpec) -> int:
    """The code that stands first in a table."""
    return -CODES // 2 if spec.format.signed else 0


def _spec(program: Program, node: Node) -> QuantSpec:
    """What a quantizer yields, or a dequantizer reads."""
    codes = node if node.target is ops.quantize else node.all_input_nodes[0]
    spec = program.tensor_type(codes).spec
    if spec is None:
        raise VerifyError("codes have no spec", where=f"%{node.name}", step=STEP)
    return spec


def _parameters(program: Program, bound: Mapping[str, Argument]) -> tuple[torch.Tensor, torch.Tensor | None]:
    scale = program.constant(bound["scale"])
    if scale is None:
        raise VerifyError("a scale is not known", step=STEP)
    return scale, program.constant(bound["zero_point"])


def _evaluated(program: Program, node: Node, values: Mapping[Node, torch.Tensor]) -> torch.Tensor:
    def known(source: Node) -> Argument:
        return values[source] if source in values else program.param(source)  # pyright: ignore[reportReturnType]

    arguments = [map_nodes(argument, known) for argument in node.args]
    named = {key: map_nodes(argument, known) for key, argument in node.kwargs.items()}
    found = ops.op_target(program.op(node))(*arguments, **named)
    if not isinstance(found, torch.Tensor):
        raise VerifyError("it yields no tensor", where=f"%{node.name}", step=STEP)
    return found
