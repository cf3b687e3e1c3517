"""Evaluates a Program at any stage.

Floating point can be widened to float64 (the oracle of Exact promises). At stage lowered the caller hands in the
target's kernel meanings; running them *is* the simulation of what ships.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch.fx.node import map_arg

from qcompiler.errors import InputError, QCompilerError, UnsupportedError
from qcompiler.ir import ops
from qcompiler.ir.fill import is_unset
from qcompiler.ir.program import Node, Program, Stage
from qcompiler.ir.region import widened
from qcompiler.ir.states import arguments, first_values
from qcompiler.ir.text import print_type
from qcompiler.ir.types import TensorType

Observer = Callable[[Node, torch.Tensor], None]
KernelMeaning = Callable[..., object]


def evaluate(
    program: Program,
    inputs: Sequence[torch.Tensor],
    *,
    widen: bool = False,
    observe: Observer | None = None,
    observed: frozenset[str] | None = None,
    kernels: Mapping[str, KernelMeaning] | None = None,
    bypass_quantization: bool = False,
) -> list[torch.Tensor]:
    """Runs a program on flat inputs.

    Args:
        program: any stage.
        inputs: one tensor per input, in order.
        widen: compute in float64 whatever is floating point.
        observe: called with every input and operator node that yields one tensor, and its value, as it is computed.
        observed: names of the nodes to show to `observe`; all when None.
        kernels: meaning of each kernel by name, for stage lowered; and of operators that the device computes in an
            order of its own, by theirs.
        bypass_quantization: let activations through quantize and dequantize unchanged and weights as they were stored,
            which gives the float stream of a quantized program.

    Returns:
        The flat results. Intermediate values are freed after their last use.

    Raises:
        InputError: when the inputs do not fit the program.
        UnsupportedError: for a kernel without a meaning.
    """
    check_inputs(program, inputs)
    return evaluate_values(
        program,
        [value.detach() for value in inputs],
        widen=widen,
        observe=observe,
        observed=observed,
        kernels=kernels,
        bypass_quantization=bypass_quantization,
    )  # pyright: ignore[reportReturnType]


def evaluate_values(
    program: Program,
    inputs: Sequence[object],
    *,
    widen: bool = False,
    observe: Observer | None = None,
    observed: frozenset[str] | None = None,
    kernels: Mapping[str, KernelMeaning] | None = None,
    bypass_quantization: bool = False,
) -> list[object]:
    """Runs a program, or a region with sizes among its inputs, unchecked; arguments and results as for `evaluate`."""
    remaining = Counter({node: len(node.users) for node in program.graph.nodes})
    values: dict[Node, object] = {}

    def show(node: Node, value: object) -> None:
        if observe and isinstance(value, torch.Tensor) and (observed is None or node.name in observed):
            observe(node, value)

    def make(node: Node) -> None:
        values[node] = compute(
            program, node, values, widen=widen, kernels=kernels, bypass_quantization=bypass_quantization
        )

    feed = iter(inputs)
    for node in program.graph.nodes:
        # A parameter is read when its first reader comes, so that only those in use take memory.
        for source in node.all_input_nodes:
            if source.op == "get_attr" and source not in values:
                make(source)
        if node.op == "output":
            break
        if node.op == "placeholder":
            values[node] = _fed(program, next(feed), widen)
            show(node, values[node])
        elif node.op == "call_function":
            make(node)
            show(node, values[node])
        _release(node, values, remaining)
    return [values[node] for node in program.outputs]


def _release(node: Node, values: dict[Node, object], remaining: Counter[Node]) -> None:
    """Frees what `node` was the last to read."""
    for source in node.all_input_nodes:
        remaining[source] -= 1
        if not remaining[source]:
            del values[source]


def _fed(program: Program, value: object, widen: bool) -> object:
    if not isinstance(value, torch.Tensor):
        return value
    # Traced views were recorded on contiguous inputs; later stages hold reshapes, which take any layout.
    return _widened(value.contiguous() if program.stage is Stage.TRACED else value, widen)


def compute(
    program: Program,
    node: Node,
    values: Mapping[Node, object],
    *,
    widen: bool = False,
    kernels: Mapping[str, KernelMeaning] | None = None,
    bypass_quantization: bool = False,
) -> object:
    """The value of one parameter or operator from those of its sources; options as for `evaluate`.

    Raises:
        InputError: when the operator cannot be run on these values.
        UnsupportedError: for a kernel without a meaning.
    """
    if node.op == "get_attr":
        # Without quantization nobody reads the scales, so they need not be known yet.
        unread = bypass_quantization and is_unset(program.params[str(node.target)])
        return None if unread else _known_value(program, node, widen)
    if bypass_quantization and node.target in _QUANTIZERS and _bypassed(node):
        return values[node.all_input_nodes[0]]
    return _call(program, node, values, widen, kernels)


def _known_value(program: Program, node: Node, widen: bool) -> torch.Tensor:
    wide = widen and program.tensor_type(node).dtype.is_floating_point
    value = program.exact(node) if wide else _widened(program.param(node), widen)
    if value.is_meta:
        raise InputError(
            f"parameter '{node.target}' has no value",
            where=f"program @{program.name}",
            mend="the model was traced on the meta device; name its weights: trace(..., weights='model.safetensors')",
        )
    return value.detach()


def run(program: Program, *args: object, **kwargs: object) -> object:
    """Runs a program as its model was called: inputs and results in the model's own structure, without gradients.

    Every call is a first one, where the program has states.
    """
    with torch.no_grad():
        return program.signature.result.build(evaluate(program, flatten_inputs(program, args, kwargs)))


def flatten_inputs(program: Program, args: Sequence[object], kwargs: Mapping[str, object]) -> list[torch.Tensor]:
    """Python call arguments as the program's flat inputs, states at what the first call starts from.

    Raises:
        InputError: when they have another structure than the traced ones.
    """
    args, kwargs = bind_call(program, tuple(args), dict(kwargs))
    names = [str(node.target) for node in arguments(program)]
    leaves: list[object] = [None] * len(names)
    try:
        for structure, value, path in (
            (program.signature.kwargs, kwargs, "kwargs"),
            (program.signature.args, args, "args"),
        ):
            for index, leaf in zip(_leaf_indices(structure), structure.flatten(value, path), strict=True):
                leaves[index] = leaf
    except InputError as error:
        mend = error.mend or f"the model takes {', '.join(names)}"
        raise InputError(error.what, where=error.where or f"a call of @{program.name}", mend=mend) from error
    return [*(as_tensor(leaf, name) for leaf, name in zip(leaves, names, strict=True)), *first_values(program)]


def bind_call(
    program: Program, args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[tuple[object, ...], dict[str, object]]:
    """Moves arguments between positional and keyword, so that inputs may be given either way by name."""
    names = program.input_names
    wanted = len(program.signature.args.children)
    bare = list(_leaf_indices(program.signature.args)) == list(range(wanted))
    if bare and len(args) < wanted and set(kwargs) <= set(names[len(args) :]):
        ordered = [kwargs.pop(name) for name in names[len(args) : wanted] if name in kwargs]
        return (*args, *ordered), kwargs
    keys = program.signature.kwargs.keys
    if not wanted and args and len(args) <= len(keys):
        return (), {**dict(zip(keys, args, strict=False)), **kwargs}
    return args, kwargs


def as_tensor(value: object, name: str) -> torch.Tensor:
    """A tensor from a tensor, numpy array or number.

    Raises:
        InputError: for anything else.
    """
    if isinstance(value, torch.Tensor):
        return value
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            f"input '{name}' is a {type(value).__name__}, not a tensor or array", mend="pass tensors, arrays or numbers"
        ) from None


def check_inputs(program: Program, inputs: Sequence[torch.Tensor]) -> dict[str, int]:
    """Checks count, dtype and shape of flat inputs; returns the value of each symbolic dimension that stands alone.

    Raises:
        InputError: naming the input, what was expected and what came.
    """
    nodes = program.inputs
    if len(inputs) != len(nodes):
        names = ", ".join(program.input_names)
        raise InputError(f"the program takes {len(nodes)} inputs ({names}), got {len(inputs)}")
    bound: dict[str, int] = {}
    for node, value in zip(nodes, inputs, strict=True):
        type_ = node.meta["type"]
        if not isinstance(type_, TensorType):
            continue
        fits = value.dtype == type_.dtype and value.dim() == type_.rank
        fits = fits and all(
            _dim_fits(program, dim, size, bound) for dim, size in zip(type_.shape, value.shape, strict=True)
        )
        if not fits:
            raise InputError(
                f"input '{node.target}' must be {print_type(type_)}, got {value.dtype} {list(value.shape)}",
                where=f"program @{program.name}" + (f" with {bound}" if bound else ""),
                mend="convert or reshape the data, or trace the model with such an example",
            )
    return bound


def _dim_fits(program: Program, dim: object, size: int, bound: dict[str, int]) -> bool:
    if isinstance(dim, int):
        return dim == size
    name = str(dim)
    if name not in program.dimensions.symbols:
        return True
    symbol = program.dimensions.symbols[name]
    return bound.setdefault(name, size) == size and (symbol.high is None or size <= symbol.high)


_QUANTIZERS = (ops.quantize, ops.dequantize)


def _bypassed(node: Node) -> bool:
    source = node.all_input_nodes[0]
    return node.target is ops.quantize or source.target is ops.quantize


def _leaf_indices(structure: object) -> list[int]:
    from qcompiler.ir.structure import Structure

    if not isinstance(structure, Structure):
        return []
    if structure.kind == "leaf":
        return [structure.index]
    return [index for child in structure.children for index in _leaf_indices(child)]


def _widened(value: torch.Tensor, widen: bool) -> torch.Tensor:
    if widen and value.is_complex():
        return value.to(torch.complex128)
    return value.double() if widen and value.is_floating_point() else value


def _call(
    program: Program,
    node: Node,
    values: Mapping[Node, object],
    widen: bool,
    kernels: Mapping[str, KernelMeaning] | None,
) -> object:
    stated = {**node.kwargs, **(_stated_dtype(program, node) if widen else {})}
    args, kwargs = map_arg((node.args, stated), lambda source: values[source])  # pyright: ignore[reportGeneralTypeIssues, reportArgumentType]
    target = node.target
    if target is ops.kernel and kernels is not None:
        name = str(args[0])
        if name not in kernels:
            raise UnsupportedError(f"the kernel table has no kernel '{name}'", where=f"%{node.name}")
        target, args = kernels[name], args[1:]
    elif kernels is not None and program.op(node) in kernels:
        target = kernels[program.op(node)]
    elif widen:
        args, kwargs = widen_dtypes(args), widen_dtypes(kwargs)
    try:
        return target(*args, **kwargs)  # pyright: ignore[reportCallIssue]
    except QCompilerError:
        raise
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        origin = program.origin(node)
        raise InputError(
            f"running '%{node.name} = {program.op(node)}' failed: {str(error).splitlines()[0]}",
            where=f"from module {origin.module or '(top)'}",
            mend="check that the inputs hold sensible values (indices in range, matching shapes and dtypes)",
        ) from error


def _stated_dtype(program: Program, node: Node) -> dict[str, torch.dtype]:
    """The dtype of a tensor made from numbers alone, where the call leaves it to torch's default."""
    if any(isinstance(program.type(source), TensorType) for source in node.all_input_nodes):
        return {}
    type_, bound = program.type(node), program.bind(node)
    unstated = "dtype" in bound and bound["dtype"] is None
    return {"dtype": type_.dtype} if unstated and isinstance(type_, TensorType) else {}


def widen_dtypes(value: object) -> object:
    """Nested call arguments with every floating dtype replaced by float64, in regions too."""
    if isinstance(value, torch.dtype) and value in (torch.float32, torch.float16, torch.bfloat16):
        return torch.float64
    if value is torch.complex64:
        return torch.complex128
    if isinstance(value, list | tuple):
        return type(value)([widen_dtypes(item) for item in value])
    if isinstance(value, dict):
        return {key: widen_dtypes(item) for key, item in value.items()}
    return widened(value)
