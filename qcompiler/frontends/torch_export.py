"""An ExportedProgram becomes a Program at stage traced; parameters are shared, symbols renamed, provenance kept."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sympy
import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, InputSpec, OutputKind
from torch.fx.experimental.symbolic_shapes import ShapeEnv, free_unbacked_symbols
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from qcompiler.errors import InputError, UnsupportedError
from qcompiler.frontends.torch_control import add_control, is_control
from qcompiler.frontends.torch_meta import is_stand_in
from qcompiler.frontends.torch_values import is_only_asserted, refuse_value, source_line, stays_a_tensor
from qcompiler.frontends.torch_whole import decompositions
from qcompiler.frontends.weight_files import Coded, WeightFiles
from qcompiler.ir.fill import Fill, Shelf
from qcompiler.ir.finite import check_finite
from qcompiler.ir.program import Node, Origin, Program, Signature
from qcompiler.ir.states import add_state, plain_fill
from qcompiler.ir.structure import Structure, describe
from qcompiler.ir.types import Dim as Dimension
from qcompiler.ir.types import Symbol, SymbolType, TensorType, TupleType, Type, as_dim

WRAPPED = "_model"
_ORDERED = "order_columns"
Specs = dict[str, InputSpec]


def import_exported(
    exported: ExportedProgram,
    names: Sequence[str] | None = None,
    name: str = "model",
    signature: Signature | None = None,
    weights: WeightFiles | None = None,
) -> Program:
    """Turns an ExportedProgram into a Program; parameters are shared, not copied.

    Args:
        exported: from torch.export; decompositions that make it functional are applied here.
        names: names of the user inputs; those of the exported signature when None.
        name: of the program.
        signature: how the program is called; that of the exported program when None.
        weights: hold the parameters, which are read when a pass asks; the model's own values are used when None.

    Raises:
        InputError: for a weight that holds NaN or infinity or that `weights` lack, and an export in which two inputs
            became one.
        UnsupportedError: for an operator or a state that programs cannot hold.

    Buffers that the model writes to become states, which start from what the buffers hold now; what it writes to its
    inputs stays inside.
    """
    _check_examples(exported)
    functional = _functional(exported)
    importer = _Importer(functional, Program(name=_safe(name)), weights)
    program = importer.run(names)
    if signature is None:
        call = functional.call_spec
        args, kwargs = _indexed(call.in_spec) if call.in_spec else ((), {})
        signature = Signature(
            _structure(args, importer.given),
            _structure(kwargs, importer.given),
            _structure(_indexed(call.out_spec), importer.returned),
        )
    program.signature = signature
    return program


def _check_examples(exported: ExportedProgram) -> None:
    """Refuses an export whose example passed one tensor twice: torch.export reads one input in place of the other."""
    example = pytree.tree_leaves(exported.example_inputs)
    tensors = [id(leaf) for leaf in example if isinstance(leaf, torch.Tensor)]
    if len(set(tensors)) < len(tensors):
        raise InputError(
            "the program was exported with one tensor for two inputs, which torch.export takes for one input",
            step="trace",
            mend="export it again with a tensor of its own for each input, such as x.clone()",
        )


def _functional(exported: ExportedProgram) -> ExportedProgram:
    """Without in-place operators; composites that the compiler knows, such as linear, stay whole.

    Example inputs are put aside meanwhile: with them torch inserts a call that re-checks its guards, which its own
    functionalization then fails to run.
    """
    example = exported.example_inputs
    exported.example_inputs = None
    try:
        with quiet():
            return exported.run_decompositions(decompositions())
    except (RuntimeError, AssertionError) as error:
        raise UnsupportedError(
            f"torch.export cannot take the model's writes apart: {(str(error).splitlines() or [''])[0]}",
            step="trace",
            mend="register each tensor that the model writes to as a buffer, once; where it is reached by another name "
            "too, pass torch.export.export(model, ..., strict=True)",
        ) from error
    finally:
        exported.example_inputs = example


def _indexed(spec: pytree.TreeSpec | None) -> Any:
    return pytree.tree_unflatten(list(range(spec.num_leaves)), spec) if spec else 0


def _structure(value: object, leaves: Sequence[Structure]) -> Structure:
    """The containers of `value`, whose integers say which of `leaves` stands there."""
    indexed, integers, _ = describe(pytree.tree_map(lambda index: torch.tensor(index), value))
    return _placed(indexed, [leaves[int(index)] for index in integers])


def _placed(structure: Structure, leaves: Sequence[Structure]) -> Structure:
    if structure.kind == "leaf":
        return leaves[structure.index]
    children = tuple(_placed(child, leaves) for child in structure.children)
    return Structure(structure.kind, children, structure.keys, structure.index, structure.value, structure.class_name)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps torch's warnings, log lines and half-made graphs (on standard error) from the user while it traces."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@dataclass
class _Importer:
    exported: ExportedProgram
    program: Program
    weights: WeightFiles | None = None

    def run(self, names: Sequence[str] | None) -> Program:
        self.values: dict[Node, Node] = {}
        self.renamed: dict[str, Dimension] = {}
        self.missing: list[str] = []
        self.given: list[Structure] = []
        self.returned: list[Structure] = []
        self.ordered: dict[Node, Node] = {}
        self.shelf = Shelf()
        specs = {spec.arg.name: spec for spec in self.exported.graph_signature.input_specs if hasattr(spec.arg, "name")}
        placeholders = [node for node in self.exported.graph.nodes if node.op == "placeholder"]
        self.written = set(self.exported.graph_signature.buffers_to_mutate.values())
        self.add_inputs(placeholders, specs, names)
        self.add_states(placeholders, specs)
        self.add_params(placeholders, specs)
        for node in self.exported.graph.nodes:
            if node.op == "call_function":
                self.add_call(node)
            elif node.op not in ("placeholder", "output", "get_attr"):
                raise UnsupportedError(f"the traced graph holds a {node.op} node, '{node.name}'")
        self.add_outputs()
        self.order_inputs()
        self.program.erase_dead()
        self.program.edits = 0
        return self.program

    def add_inputs(self, placeholders: list[Node], specs: Specs, names: Sequence[str] | None) -> None:
        user_names = iter(names) if names is not None else None
        for node in placeholders:
            spec = specs[node.name]
            if spec.kind == InputKind.USER_INPUT and isinstance(spec.arg, ConstantArgument):
                self.given.append(Structure("const", value=spec.arg.value))
            elif spec.kind == InputKind.USER_INPUT:
                self.given.append(Structure("leaf", index=len(self.program.inputs)))
                name = next(user_names) if user_names else node.name
                self.values[node] = self.program.add_input(name, self.type(node.meta["val"]))

    def add_states(self, placeholders: list[Node], specs: Specs) -> None:
        for node in placeholders:
            target = str(specs[node.name].target)
            if target in self.written:
                name, value = _strip(target), self.stored(target)
                type_, found = TensorType(value.dtype, tuple(value.shape)), self.found(target, value)
                value = found.materialize(type_) if isinstance(found, Fill) else value if found is None else found
                if is_stand_in(value):
                    mend = "make this buffer outside of torch.device('meta')"
                    raise InputError(f"the state '{name}' has no value to start from", step="trace", mend=mend)
                check_finite(name, value, self.program.name, "trace")
                self.values[node] = add_state(self.program, name, type_, plain_fill(value))

    def add_params(self, placeholders: list[Node], specs: Specs) -> None:
        for node in placeholders:
            spec = specs[node.name]
            if spec.kind == InputKind.BUFFER and str(spec.target) in self.written:
                continue
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
                self.add_param(node, str(spec.target), spec.kind)
            elif spec.kind != InputKind.USER_INPUT:
                raise UnsupportedError(f"input '{node.name}' of kind {spec.kind} is not supported")
        if self.weights is not None:
            self.weights.check(self.missing)

    def add_param(self, node: Node, target: str, kind: InputKind) -> None:
        if not node.users:
            return
        name, value = _strip(target), self.stored(target)
        coded = self.weights.decode(self.names(target), value) if self.weights is not None else None
        if coded is not None:
            self.values[node] = self.add_coded(name, coded, value.dtype)
            return
        found = self.found(target, value)
        hollow = is_stand_in(value)
        if self.weights is not None and found is None and (hollow or kind == InputKind.PARAMETER):
            self.missing.append(name)
        if target in self.exported.state_dict and not hollow and found is None:
            check_finite(name, value, self.program.name, "trace")
        type_ = TensorType(value.dtype, tuple(value.shape))
        stands = Fill("absent") if hollow else value
        self.values[node] = self.program.add_param(name, stands if found is None else found, type_)

    def found(self, target: str, value: torch.Tensor) -> Fill | torch.Tensor | None:
        """What the files of weights have in the place of a value."""
        return self.weights.find(self.names(target), value) if self.weights is not None else None

    def stored(self, target: str) -> torch.Tensor:
        """What the model holds under a name."""
        state = self.exported.state_dict
        value = state[target] if target in state else self.exported.constants[target]
        if not isinstance(value, torch.Tensor):
            raise UnsupportedError(f"constant '{target}' is a {type(value).__name__}, not a tensor")
        return value.detach()

    def add_coded(self, name: str, coded: Coded, dtype: torch.dtype) -> Node:
        """The real numbers of a weight that is stored quantized: codes, and what dequantizes them."""
        codes = coded.codes.to(dtype)
        kept = self.shelf.keep(codes, coded.spec)
        holder = self.program.add_param(name, kept, TensorType(dtype, tuple(codes.shape), coded.spec))
        scales = [
            self.program.add_param(f"{name}.scale{f'.{level}' if level else ''}", scale)
            for level, scale in enumerate(coded.scales)
        ]
        zero_point = coded.zero_point
        zero = None if zero_point is None else self.program.add_param(f"{name}.zero_point", zero_point)
        builder = self.program.append(module=name.rpartition(".")[0])
        scale = scales[0] if len(scales) == 1 else scales
        weight = builder.call(
            "qc.dequantize", holder, scale, zero, kwargs={"spec": coded.spec}, name=f"{holder.name}_dq"
        )
        if coded.columns is None:
            return weight
        places = self.program.add_param(f"{name}.places", torch.argsort(coded.columns))
        ordering = self.program.append(_ORDERED, builder.origin.module)
        ordered = ordering.call("aten.index_select", weight, 1, places, name=f"{holder.name}_ordered")
        self.ordered[ordered] = self.program.add_param(f"{name}.columns", coded.columns)
        return ordered

    def order_inputs(self) -> None:
        """Sorts the inputs of linear layers whose stored columns are sorted, so that kernels read these as they lie."""
        for weight, columns in self.ordered.items():
            for user in [user for user in weight.users if self.program.op(user) == "aten.linear"]:
                x, read, *rest = user.args
                if read is weight and x is not weight:
                    sorted_x = self.program.before(user, _ORDERED).call("aten.index_select", x, -1, columns)
                    self.program.set_args(user, (sorted_x, weight.all_input_nodes[0], *rest), user.kwargs)

    def names(self, target: str) -> list[str]:
        """All names of a parameter: its own first, then those of the parameters that it is tied to."""
        state = self.exported.state_dict
        own = state.get(target)
        tied = [name for name, value in state.items() if value is own and name != target]
        return [_strip(name) for name in (target, *tied)]

    def nested(self, program: Program) -> _Importer:
        """What imports a subgraph into a program of its own, under the same symbols."""
        inner = _Importer(self.exported, program, self.weights)
        inner.values, inner.renamed = {}, self.renamed
        return inner

    def add_call(self, node: Node) -> None:
        if is_control(node.target):
            self.values[node] = add_control(self, node, Origin(_module_path(node)))
            return
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            raise UnsupportedError(
                f"the model uses {node.target}, which is not supported",
                where=_module_path(node) or source_line(node),
                mend="rewrite data-dependent control flow with torch.where, or trace the part without it",
            )
        if node.meta.get("val") is None and not node.users:
            return
        if any(source not in self.values for source in node.all_input_nodes):
            return  # reads what serves assertions alone
        if free_unbacked_symbols(node.meta["val"]):
            if is_only_asserted(node):
                return
            if stays_a_tensor(node):
                self.values[node] = self.values[node.all_input_nodes[0]]
                return
            refuse_value(node, _module_path(node))
        origin = Origin(_module_path(node))
        builder = self.program.append(module=origin.module)
        args = map_arg(node.args, lambda source: self.values[source])
        kwargs = map_arg(node.kwargs, lambda source: self.values[source])
        type_ = self.type(node.meta["val"])
        kwargs = {**kwargs, **_derived_epsilon(node)}
        self.values[node] = builder.call(node.target, *args, kwargs=kwargs, name=node.name, type_=type_)  # pyright: ignore[reportArgumentType, reportCallIssue]

    def add_outputs(self) -> None:
        output = next(node for node in self.exported.graph.nodes if node.op == "output")
        specs = self.exported.graph_signature.output_specs
        kept: list[Node] = []
        written: dict[str, Node] = {}
        for spec, value in zip(specs, output.args[0], strict=True):
            if spec.kind == OutputKind.USER_OUTPUT:
                if isinstance(value, torch.fx.Node):
                    self.returned.append(Structure("leaf", index=len(kept)))
                    kept.append(self.values[value])
                else:
                    self.returned.append(Structure("const", value=value))
            elif spec.kind == OutputKind.BUFFER_MUTATION:
                written[_strip(str(spec.target))] = self.values[value]
        self.program.set_outputs([*kept, *(written[name] for name in self.program.states)])

    def type(self, value: object) -> Type:
        type_ = self.program.dimensions.type_of(list(value) if isinstance(value, tuple) else value)
        if type_ is None:
            raise UnsupportedError("an operator yields nothing")
        return self.rename(type_)

    def rename(self, type_: Type) -> Type:
        if isinstance(type_, TupleType):
            return TupleType(tuple(item and self.rename(item) for item in type_.items))
        if isinstance(type_, SymbolType):
            return SymbolType(self.dim(type_.expr))
        return TensorType(type_.dtype, tuple(self.dim(dim) for dim in type_.shape))

    def dim(self, dim: Dimension) -> Dimension:
        if isinstance(dim, int):
            return dim
        for symbol in sorted(dim.free_symbols, key=str):
            if str(symbol) not in self.renamed:
                self.renamed[str(symbol)] = self.declare(symbol)
        return as_dim(dim.xreplace({s: sympy.sympify(self.renamed[str(s)]) for s in dim.free_symbols}))

    def declare(self, symbol: sympy.Basic) -> Dimension:
        """A program symbol for one of torch.export."""
        env = self.shape_env
        known = env.backed_var_to_val.get(symbol) if env else None  # pyright: ignore[reportArgumentType, reportCallIssue]
        bounds = self.exported.range_constraints.get(symbol)  # pyright: ignore[reportArgumentType, reportCallIssue]
        low = int(bounds.lower) if bounds is not None else 1
        high = int(bounds.upper) if bounds is not None and bounds.upper.is_Integer and bounds.upper < 2**62 else None
        hint = int(known) if known is not None else max(2, low)
        return self.program.dimensions.add(
            f"s{len(self.program.dimensions.symbols)}", Symbol(hint, 1 if low <= 2 else low, high)
        )

    @cached_property
    def shape_env(self) -> ShapeEnv | None:
        for node in self.exported.graph.nodes:
            value = node.meta.get("val")
            if isinstance(value, torch._subclasses.FakeTensor):
                return value.fake_mode.shape_env
        return None


def _derived_epsilon(node: Node) -> dict[str, float]:
    """The epsilon that an RMS norm without one takes from the dtype of its input; stated, it is the same in float64."""
    if node.target is not torch.ops.aten.rms_norm.default or len(node.args) > 3 or node.kwargs.get("eps") is not None:
        return {}
    return {"eps": torch.finfo(node.meta["val"].dtype).eps}


def _module_path(node: Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(path) for path, _ in stack.values()]
    return _strip(paths[-1]) if paths and not paths[-1].startswith("_empty") else ""


def _strip(path: str) -> str:
    if path == WRAPPED:
        return ""
    return path.removeprefix(f"{WRAPPED}.")


def _safe(name: str) -> str:
    return "".join(char if char.isalnum() or char == "_" else "_" for char in name) or "model"
