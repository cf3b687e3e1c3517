"""The PyTorch front-end: a module is traced by torch.export with every free dimension kept symbolic.

The module is wrapped so that torch.export sees flat tensors only; keyword inputs, dataclasses and dicts on either side
are kept as a `Structure`.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sympy
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils import _pytree as pytree

from qcompiler.data import Inputs
from qcompiler.errors import InputError, UnsupportedError
from qcompiler.frontends.explain import explain_failure, failed_call
from qcompiler.frontends.torch_export import import_exported, quiet
from qcompiler.frontends.torch_meta import is_stand_in, stand_ins
from qcompiler.frontends.weight_files import WeightFiles
from qcompiler.ir.program import Program, Signature
from qcompiler.ir.structure import Structure, describe

Dynamic = Literal["auto", "none"]


@dataclass
class _Found:
    """What the trace learns besides the graph; torch.export restores plain attributes of a module, not this."""

    result: Structure | None = None
    leaves: Sequence[torch.Tensor] = ()
    outgrown: Sequence[str] = ()


class _Tied(Exception):
    """The trace has just tied free dimensions to single values, so that finishing it is of no use.

    Args:
        axes: that must be fixed, for each input.
    """

    def __init__(self, axes: list[set[int]]) -> None:
        super().__init__("free dimensions were tied to single values")
        self.axes = axes


class _Flat(torch.nn.Module):
    """Takes and returns flat tensors; remembers the structure of the result."""

    def __init__(self, model: torch.nn.Module, args: Structure, kwargs: Structure) -> None:
        super().__init__()
        self._model = model
        self._args, self._kwargs = args, kwargs
        self.found = _Found()

    def forward(self, *leaves: torch.Tensor) -> list[torch.Tensor]:
        self.found.leaves = leaves
        args: Any = self._args.build(leaves)
        kwargs: Any = self._kwargs.build(leaves)
        before = _buffer_types(self._model)
        self.found.result, flat, _ = describe(self._model(*args, **kwargs))
        after = _buffer_types(self._model)
        self.found.outgrown = [name for name, type_ in before.items() if after.get(name, type_) != type_]
        return flat


def _buffer_types(model: torch.nn.Module) -> dict[str, str]:
    """Dtype and sizes of every buffer, as text, so that free sizes are not looked at."""
    return {name: f"{buffer.dtype} {[*buffer.shape]}" for name, buffer in model.named_buffers()}


def trace_module(
    model: torch.nn.Module, inputs: Inputs, dynamic: Dynamic = "auto", weights: WeightFiles | None = None
) -> Program:
    """Traces a module in inference mode.

    Args:
        model: put into eval mode for the trace; every module of it gets its own mode back. Parameters may be on the
            meta device.
        inputs: one example call.
        dynamic: `auto` keeps free dimensions symbolic, `none` fixes all of them to the example.
        weights: hold the parameters by the model's names for them; the model's own are used when None.

    Raises:
        InputError: when the example does not fit the model, the model fails on it, or a weight holds NaN or infinity.
        UnsupportedError: when torch.export cannot trace the model; says why, where and how to mend it.
    """
    args, kwargs, leaves, names = _describe_call(model, inputs)
    flat = _Flat(model, args, kwargs)
    with _inference(model), stand_ins(model):
        _check_dtypes(flat, leaves)
        exported = _export(flat, leaves, dynamic)
        by_bytecode = dynamic == "auto" and not _has_free_batch(exported) and not _writes_buffers(exported)
        seen_through = _export_bytecode(flat, leaves) if by_bytecode else None
    if seen_through is not None:
        program = import_exported(seen_through, names, type(model).__name__, weights=weights)
    else:
        result = flat.found.result
        if result is None or not result.leaf_count():
            raise UnsupportedError(
                "the model returned nothing", mend="return tensors, or dicts or dataclasses of tensors"
            )
        program = import_exported(exported, names, type(model).__name__, Signature(args, kwargs, result), weights)
    _refuse_growth(program, flat.found.outgrown)
    return program


def _refuse_growth(program: Program, outgrown: Sequence[str]) -> None:
    """Refuses buffers that grow from what they held, which torch.export takes for constants."""
    grown = [name for name in outgrown if name in program.params]
    if grown:
        raise UnsupportedError(
            f"the model puts a tensor of another type in the place of '{grown[0]}' while it runs",
            step="trace",
            mend="write into a buffer of fixed sizes, such as a cache as long as the longest text",
        )


@contextlib.contextmanager
def _inference(model: torch.nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _describe_call(
    model: torch.nn.Module, inputs: Inputs
) -> tuple[Structure, Structure, list[torch.Tensor], list[str]]:
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
        inspect.signature(model.forward).bind(*inputs.args, **inputs.kwargs)
    except TypeError as error:
        raise InputError(
            f"the example inputs do not fit {type(model).__name__}.forward: {error}",
            where=f"forward{inspect.signature(model.forward)}",
            mend="give inputs=(...) for positional, inputs={...} for keyword inputs, or qcompiler.Inputs(...) for both",
        ) from error
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    names = [positional[i] if i < len(positional) else f"arg{i}" for i in range(len(inputs.args))]
    structure, leaves, paths = describe((tuple(inputs.args), dict(inputs.kwargs)))
    args, kwargs = structure.children
    renamed = [_input_name(path, names) for path in paths]
    if not leaves:
        raise InputError("the example inputs hold no tensor", mend="give at least one tensor input")
    return args, kwargs, _distinct(leaves), renamed


def _distinct(leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Leaves of which none is the same object as another: torch.export would take two such inputs for one."""
    seen: set[int] = set()
    result = []
    for leaf in leaves:
        result.append(leaf.clone() if id(leaf) in seen else leaf)
        seen.add(id(leaf))
    return result


def _input_name(path: str, names: Sequence[str]) -> str:
    side, _, rest = path.partition(".")
    if side == "1":
        return rest
    index, _, inner = rest.partition(".")
    return names[int(index)] + (f".{inner}" if inner else "")


def _export(flat: _Flat, leaves: Sequence[torch.Tensor], dynamic: Dynamic) -> ExportedProgram:
    """Exports with every dimension free if possible; a dimension of one is widened first, or torch would fix it.

    States have fixed sizes, so that beside them nothing is widened: torch would read it as broadcast into them.
    """
    attempts: list[tuple[Sequence[torch.Tensor], bool]] = []
    if dynamic == "auto":
        widened = [_widened(leaf) for leaf in leaves]
        if any(a is not b for a, b in zip(widened, leaves, strict=True)):
            attempts.append((widened, True))
        attempts.append((leaves, True))
    attempts.append((leaves, False))
    failure: Exception | None = None
    for example, free in attempts:
        try:
            exported = _export_free(lambda shapes, given=example: _export_once(flat, given, shapes), example, free)
            if example is leaves or not _writes_buffers(exported):
                return exported
        except Exception as error:
            failure = error
    raise explain_failure(failure or RuntimeError("torch.export failed"), _eager_failure(flat, leaves), flat._model)


def _writes_buffers(exported: ExportedProgram) -> bool:
    """Whether an operator writes to a buffer or to what looks into one."""
    buffers = exported.graph_signature.inputs_to_buffers
    for node in exported.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            source: object = node
            while isinstance(source, torch.fx.Node) and source.op == "call_function":
                source = source.args[0] if source.args else None
            if isinstance(source, torch.fx.Node) and source.name in buffers:
                return True
    return False


def _check_dtypes(flat: _Flat, leaves: Sequence[torch.Tensor]) -> None:
    """Calls the model when an input has a floating dtype that no weight has: torch.export traces through such errors.

    Raises:
        InputError: when the model then fails.
    """
    weights = {parameter.dtype for parameter in flat.parameters() if parameter.is_floating_point()}
    if weights and any(leaf.is_floating_point() and leaf.dtype not in weights for leaf in leaves):
        failure = _eager_failure(flat, leaves)
        if failure is not None:
            raise failed_call(failure, flat._model)


def _eager_failure(flat: _Flat, leaves: Sequence[torch.Tensor]) -> Exception | None:
    """What the model says when it is simply called with the example; None when it runs.

    A model without weights is called with shapes alone.
    """
    hollow = any(is_stand_in(tensor) for tensor in (*flat.parameters(), *flat.buffers()))
    # The call may write to buffers, and the model must be left as it came; without values there is nothing to write.
    own = {} if hollow else {name: buffer.clone() for name, buffer in flat.named_buffers()}
    try:
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) if hollow else contextlib.nullcontext():
            torch.func.functional_call(flat, own, tuple(leaves))
    except Exception as error:
        return error
    return None


FreeDims = list[dict[int, Any]]


def _export_free(
    export: Callable[[FreeDims], ExportedProgram], leaves: Sequence[torch.Tensor], free: bool
) -> ExportedProgram:
    """Exports with all dimensions free, and again with those fixed that a trace tied to one value."""
    shapes: FreeDims = [{axis: Dim.AUTO for axis in range(leaf.dim())} if free else {} for leaf in leaves]
    while True:
        try:
            exported = export(shapes)
            pinned = _pinned_dims(exported)
            if not any(pinned):
                return exported
        except _Tied as tied:
            pinned = tied.axes
        shapes = [
            {axis: dim for axis, dim in dims.items() if axis not in fixed}
            for dims, fixed in zip(shapes, pinned, strict=True)
        ]


def _export_once(flat: _Flat, leaves: Sequence[torch.Tensor], shapes: FreeDims) -> ExportedProgram:
    with quiet(), torch.no_grad(), _watched(flat):
        return torch.export.export(
            flat, tuple(leaves), dynamic_shapes=(tuple(dims or None for dims in shapes),), strict=False
        )


@contextlib.contextmanager
def _watched(flat: _Flat) -> Iterator[None]:
    """Raises `_Tied` from inside a trace as soon as it ties a free dimension: what follows only gets slower."""
    seen = 0
    tied: set[sympy.Basic] = set()

    def look(module: torch.nn.Module, args: object, result: object) -> None:
        nonlocal seen
        del module, args, result
        if torch.compiler.is_dynamo_compiling():
            # inside a branch or a loop body, where reading anything else makes it an operand
            return
        env = next((size.node.shape_env for leaf in flat.found.leaves for size in _symbolic(leaf.shape)), None)
        if env is None or len(env.guards) == seen:
            return
        tied.update(symbol for guard in env.guards[seen:] for symbol in _tied_by(guard.expr))
        seen = len(env.guards)
        axes = [_axes_of(leaf, tied) for leaf in flat.found.leaves]
        if any(axes):
            raise _Tied(axes)

    handles = [module.register_forward_hook(look) for module in flat._model.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _export_bytecode(flat: _Flat, leaves: Sequence[torch.Tensor]) -> ExportedProgram | None:
    """A second trace with torch's bytecode tracer, which sees through code such as `len(x)` that fixes the batch.

    None when it frees no first dimension either, or the inputs are not plain tensors.
    """
    widened = [_widened(leaf) for leaf in leaves]
    args: Any = flat._args.build(widened)
    kwargs: Any = flat._kwargs.build(widened)
    plain, _ = pytree.tree_flatten((args, kwargs))
    if len(plain) != len(leaves) or not all(isinstance(item, torch.Tensor) for item in plain):
        return None
    bound = dict(inspect.signature(flat._model.forward).bind(*args, **kwargs).arguments)
    _, tree = pytree.tree_flatten(bound)

    def export(shapes: FreeDims) -> ExportedProgram:
        dynamic = pytree.tree_unflatten([dims or None for dims in shapes], tree)
        with quiet(), torch.no_grad():
            return torch.export.export(flat._model, args, kwargs, dynamic_shapes=dynamic, strict=True)

    try:
        exported = _export_free(export, leaves, free=True)
    except Exception:
        # Whatever torch raises here, the first trace stands; only a free batch would have been won.
        return None
    return exported if _has_free_batch(exported) else None


def _user_inputs(exported: ExportedProgram) -> list[torch._subclasses.FakeTensor]:
    names = {spec.arg.name for spec in exported.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT}
    values = [node.meta.get("val") for node in exported.graph.nodes if node.op == "placeholder" and node.name in names]
    return [value for value in values if isinstance(value, torch._subclasses.FakeTensor)]


def _pinned_dims(exported: ExportedProgram) -> list[set[int]]:
    """Per input, the axes whose symbol the trace tied to one value: the model does not leave them free."""
    values = _user_inputs(exported)
    envs: dict[int, ShapeEnv] = {id(s.node.shape_env): s.node.shape_env for v in values for s in _symbolic(v.shape)}
    tied = {symbol for env in envs.values() for guard in env.guards for symbol in _tied_by(guard.expr)}
    return [_axes_of(value, tied) for value in values]


def _axes_of(value: torch.Tensor, tied: set[sympy.Basic]) -> set[int]:
    """The axes whose size is still free and depends on one of the symbols."""
    return {
        axis
        for axis, size in enumerate(value.shape)
        if isinstance(size, torch.SymInt) and size.node.expr.free_symbols & tied
    }


def _symbolic(shape: Sequence[int]) -> Iterator[torch.SymInt]:
    return (size for size in shape if isinstance(size, torch.SymInt))


def _tied_by(expr: sympy.Basic) -> set[sympy.Basic]:
    """The symbols of an expression that must equal a constant; divisibility (a remainder of zero) does not count."""
    if isinstance(expr, sympy.Eq) and any(side.is_Integer and side != 0 for side in expr.args):
        return expr.free_symbols
    return set()


def _has_free_batch(exported: ExportedProgram) -> bool:
    """Whether the first dimension of some input stayed symbolic."""
    sizes = [value.shape[0] for value in _user_inputs(exported) if value.dim()]
    return any(isinstance(size, torch.SymInt) and size.node.expr.free_symbols for size in sizes)


def _widened(leaf: torch.Tensor) -> torch.Tensor:
    if leaf.dim() and leaf.shape[0] == 1:
        return leaf.expand(2, *leaf.shape[1:]).clone()
    return leaf
