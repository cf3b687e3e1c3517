"""What is legal at each stage: the only place that says so.

Invariants, whatever the stage:
1. every value is defined before it is used, and once; there is one output node and it comes last;
2. every parameter node has a value, of the dtype (or in float64, see `Program.set_exact`) and shape of its type;
3. every node's type is the one its operator yields for its arguments;
4. an operator with regions, its operands and results fit the inputs and results of the regions (`ir.region_rules`), and
   every region keeps these rules too;
5. scales, zero points and tables have the shape that their spec asks for; a single scale has any number of axes, so
   that tensors of different rank can share it;
6. states are the last inputs, of fixed sizes, and the last results are of their types (`ir.states`).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from qcompiler.errors import QCompilerError, VerifyError
from qcompiler.ir import ops
from qcompiler.ir.infer import infer
from qcompiler.ir.program import Node, Program, Stage
from qcompiler.ir.region import named_regions, nested_stage, regions_of
from qcompiler.ir.region_rules import region_problems
from qcompiler.ir.states import state_problems
from qcompiler.ir.text import print_program, print_type
from qcompiler.ir.types import Dim, TensorType
from qcompiler.spec import QuantSpec

_TRAINING_ONLY = frozenset(
    {"aten.dropout", "aten.native_dropout", "aten.bernoulli", "aten.rand_like", "aten.alpha_dropout"}
)
_FOLDED = frozenset({"aten.batch_norm", "aten.lift_fresh_copy", "aten.detach", "aten.alias", "aten.lift_fresh"})
_BEFORE_CODES = frozenset(ops.QC_OPS) - {"qc.dequantize"}
_FORBIDDEN: dict[Stage, frozenset[str]] = {
    Stage.TRACED: _BEFORE_CODES,
    Stage.CANONICAL: _BEFORE_CODES | _TRAINING_ONLY | _FOLDED,
    Stage.QUANTIZED: frozenset({"qc.kernel"}) | _TRAINING_ONLY | _FOLDED,
    Stage.LOWERED: _TRAINING_ONLY | _FOLDED,
}


def verify(program: Program) -> None:
    """Checks a program against the rules of its stage.

    Raises:
        VerifyError: naming the first node at fault, with its neighbours.
    """
    for node, problem in problems(program):
        raise VerifyError(
            problem,
            where=neighbourhood(program, node) if node is not None else f"program @{program.name}",
            step=f"verify stage={program.stage}",
        )
    for name, region in named_regions(program).items():
        try:
            verify(region.program)
        except VerifyError as error:
            raise VerifyError(error.what, where=error.where, step=f"{error.step}, region @{name}") from error


def problems(program: Program) -> Iterator[tuple[Node | None, str]]:
    """Every broken rule: the node at fault (None for the whole program) and what is wrong."""
    seen: set[Node] = set()
    closed = False
    for node in program.graph.nodes:
        if closed:
            yield node, "a node stands after the output"
        for source in node.all_input_nodes:
            if source not in seen:
                yield node, f"%{source.name} is used before it is defined"
        seen.add(node)
        closed = node.op == "output"
        yield from ((node, text) for text in _node_problems(program, node))
    if not closed:
        yield None, "the program returns nothing"
    yield from state_problems(program)


def _node_problems(program: Program, node: Node) -> Iterator[str]:
    if node.op == "output":
        return
    if "type" not in node.meta:
        yield f"%{node.name} has no type"
    elif node.op == "get_attr":
        yield from _param_problems(program, node)
    elif node.op == "call_function":
        yield from _call_problems(program, node)
    elif node.op != "placeholder":
        yield f"fx node kind '{node.op}' is not part of the IR"


def neighbourhood(program: Program, node: Node, around: int = 2) -> str:
    """Text of a node between its neighbours, an arrow at the node."""
    nodes = [other for other in program.graph.nodes if other.op == "call_function"]
    if node not in nodes:
        return f"%{node.name}"
    at = nodes.index(node)
    lines = []
    for other in nodes[max(0, at - around) : at + around + 1]:
        text = print_program(program, {other.name}) if "type" in other.meta else f"  %{other.name}\n"
        line = next((text_line for text_line in text.splitlines() if f"%{other.name}" in text_line.split("=")[0]), "")
        lines.append(("-> " if other is node else "   ") + (line.strip() or f"%{other.name}"))
    return "\n         ".join(lines)


def _param_problems(program: Program, node: Node) -> Iterator[str]:
    name = str(node.target)
    type_ = node.meta["type"]
    if name not in program.params:
        yield f"parameter '{name}' has no value"
        return
    value = program.params[name]
    if not isinstance(value, torch.Tensor) or not isinstance(type_, TensorType):
        return
    exact = value.dtype == torch.float64 and type_.dtype.is_floating_point and type_.spec is None
    if not (exact or value.dtype == type_.dtype) or tuple(value.shape) != type_.shape:
        yield f"parameter '{name}' is {value.dtype} {list(value.shape)}, its type says {print_type(type_)}"


def _call_problems(program: Program, node: Node) -> Iterator[str]:
    try:
        name = program.op(node)
    except QCompilerError as error:
        yield error.what
        return
    if name in _FORBIDDEN[program.stage]:
        yield f"{name} is not allowed at stage {program.stage}"
    if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
        yield f"{name} writes to its argument; programs are functional"
    if ops.is_declared(node.target):
        yield from _region_problems(program, node)
        return
    try:
        inferred = infer(program.dimensions, node.target, node.args, node.kwargs)
    except QCompilerError as error:
        yield error.what
        return
    if inferred != node.meta["type"]:
        yield f"%{node.name} says {print_type(node.meta['type'])}, {name} yields {print_type(inferred)}"
    if node.target in (ops.quantize, ops.dequantize):
        yield from _qparam_problems(program, node)
    if name == "qc.dequantize" and program.stage in (Stage.TRACED, Stage.CANONICAL):
        yield from (
            f"%{source.name} is computed, and only stored codes are dequantized at stage {program.stage}"
            for source in node.all_input_nodes
            if source.op != "get_attr"
        )


def _region_problems(program: Program, node: Node) -> Iterator[str]:
    if not ops.runs_regions(node.target):
        return
    yield from region_problems(node)
    stage = nested_stage(program.stage)
    for region in regions_of(node).values():
        if region.program.stage is not stage:
            yield f"region @{region.program.name} is at stage {region.program.stage}, it must be at {stage}"


def _qparam_problems(program: Program, node: Node) -> Iterator[str]:
    bound = program.bind(node)
    source, spec = node.args[0], bound["spec"]
    if not isinstance(spec, QuantSpec) or not isinstance(source, Node):
        yield "quantize and dequantize need a tensor and a spec"
        return
    type_ = program.tensor_type(source)
    if node.target is ops.dequantize and type_.spec != spec:
        yield f"%{source.name} holds {type_.spec or 'no codes'}, the node reads {spec}"
    scales = bound["scale"] if isinstance(bound["scale"], list | tuple) else [bound["scale"]]
    if len(scales) != len(spec.levels):
        yield f"{spec} has {len(spec.levels)} levels of scales, {len(scales)} were given"
        return
    whole = spec.element_shape(type_.shape) if node.target is ops.dequantize else type_.shape
    for shape, scale in zip(spec.scale_shapes(whole), scales, strict=True):
        single = all(dim == 1 for dim in shape)
        if not isinstance(scale, Node) or (single and all(dim == 1 for dim in program.shape(scale))):
            continue
        if program.shape(scale) != tuple(shape):
            yield f"scale %{scale.name} has shape {list(program.shape(scale))}, {spec} asks for {list(shape)}"
    zero_point = bound["zero_point"]
    if isinstance(zero_point, Node) == spec.symmetric and not spec.dynamic:
        yield f"{spec} {'has no' if spec.symmetric else 'needs a'} zero point"
    yield from _table_problems(program, bound["table"], spec, spec.table_shape(whole))


def _table_problems(program: Program, table: object, spec: QuantSpec, wanted: tuple[Dim, ...] | None) -> Iterator[str]:
    if isinstance(table, Node) != (wanted is not None):
        yield f"{spec} {'has no' if wanted is None else 'needs a'} table"
    elif isinstance(table, Node) and program.shape(table) != wanted:
        yield f"table %{table.name} has shape {list(program.shape(table))}, {spec} asks for {list(wanted or ())}"
