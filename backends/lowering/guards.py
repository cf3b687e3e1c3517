"""Predicates that kernel rows name: what a kernel needs of a node beside number formats. Empty means yes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from qcompiler.backends.lowering.operands import keywords
from qcompiler.backends.reference.arithmetic import MOST_TERMS
from qcompiler.ir.program import Node, Program
from qcompiler.ir.types import TensorType
from qcompiler.target import Guard

_LARGEST_BLOCK = 128
_ROWS = 3
"""Axes of rows: batch, places, channels."""
_MOST_WORDS = 512
"""Of 64 signs, in one sum of a kernel of signs: QC_B1_WORDS of the generated C."""


def accumulator_fits(program: Program, node: Node) -> str:
    """The sum behind each output must fit int32 whatever the codes are."""
    weight = program.bind(node)["weight"]
    if not isinstance(weight, Node):
        return "its weight is not a tensor"
    terms = math.prod(int(dim) for dim in program.shape(weight)[1:])
    return f"sums {terms} products, int32 holds {MOST_TERMS}" if terms > MOST_TERMS else ""


def batched(program: Program, node: Node) -> str:
    """Convolutions and pools need a batch axis, linear layers a row axis."""
    bound = program.bind(node)
    source = bound.get("input", bound.get("self"))
    weight = bound.get("weight")
    if not isinstance(source, Node):
        return "its input is not a tensor"
    rank = program.tensor_type(source).rank
    wanted = program.tensor_type(weight).rank if isinstance(weight, Node) else program.tensor_type(node).rank
    return "" if rank >= max(wanted, 2) else f"its input has only {rank} axes"


def explicit_padding(program: Program, node: Node) -> str:
    """Padding must be numbers."""
    return "its padding is a word, not numbers" if isinstance(program.bind(node).get("padding"), str) else ""


def single_precision(program: Program, node: Node) -> str:
    """Scales are float32, and so is what a kernel yields."""
    dtype = program.tensor_type(node).dtype
    name = str(dtype).removeprefix("torch.")
    return "" if dtype == torch.float32 else f"works in float32, the model in {name}: convert it with .float() first"


def signs_fit(program: Program, node: Node) -> str:
    """The signs behind each output, channels filled up to whole words, must fit what a kernel counts at once."""
    weight = program.bind(node)["weight"]
    if not isinstance(weight, Node):
        return "its weight is not a tensor"
    _, channels, *window = (int(dim) for dim in program.shape(weight))
    words = math.prod(window) * -(-channels // 64)
    return f"compares {words} words of signs, its kernel {_MOST_WORDS}" if words > _MOST_WORDS else ""


def single_group(program: Program, node: Node) -> str:
    """Kernels that sum over all input channels have one group; so do those that need output channels on one axis."""
    return "" if program.bind(node)["groups"] == 1 else "has several groups"


def spatial_mean(program: Program, node: Node) -> str:
    """The mean over all axes behind the channels, whose sizes are known to be small enough for int32."""
    bound = program.bind(node)
    source, dims = bound["self"], bound["dim"]
    if not isinstance(source, Node) or not isinstance(dims, list | tuple):
        return "does not name its axes"
    shape = program.shape(source)
    axes = sorted(dim % len(shape) for dim in dims if isinstance(dim, int))
    if len(shape) < 3 or axes != list(range(2, len(shape))):
        return "is not the mean over all spatial axes"
    sizes = [dim for dim in shape[2:] if isinstance(dim, int)]
    if math.prod(sizes) > MOST_TERMS:
        return f"averages {math.prod(sizes)} values, int32 holds {MOST_TERMS}"
    return "" if bound.get("dtype") is None else "changes the element type"


def token_mean(program: Program, node: Node) -> str:
    """The mean over all spatial axes, or over the middle axis of three."""
    bound = program.bind(node)
    source, dims = bound["self"], bound["dim"]
    rows = isinstance(source, Node) and program.tensor_type(source).rank == _ROWS
    if not rows or not isinstance(dims, list | tuple) or list(dims) not in ([1], [1 - _ROWS]):
        return spatial_mean(program, node)
    return "" if bound.get("dtype") is None else "changes the element type"


def plain_average(program: Program, node: Node) -> str:
    """An average pool with the usual divisor: where windows are cut off at the end, runtimes divide differently."""
    bound = program.bind(node)
    if bound.get("divisor_override") is not None:
        return "overrides its divisor"
    return "has windows cut off at the end" if bound["ceil_mode"] else ""


def plain_operands(program: Program, node: Node) -> str:
    """Two tensors with axes, combined without a factor."""
    bound = program.bind(node)
    for name in ("self", "other"):
        operand = bound[name]
        type_ = operand.meta["type"] if isinstance(operand, Node) else None
        if not isinstance(type_, TensorType) or type_.rank == 0:
            return f"'{name}' is not a tensor with axes"
    return "" if bound.get("alpha", 1) == 1 else "has a factor on its second operand"


def plain_keywords(program: Program, node: Node) -> str:
    """Kernel calls take what has a place; what has only a name must be as it is by default."""
    bound = program.bind(node)
    stated = [name for name, default in keywords(node).items() if bound[name] != default]
    return f"has no kernel for its '{stated[0]}'" if stated else ""


def product_fits(program: Program, node: Node) -> str:
    """The sum behind each element of a matrix product must fit int32 whatever the codes are."""
    left = program.bind(node)["self"]
    terms = program.shape(left)[-1] if isinstance(left, Node) else None
    if not isinstance(terms, int):
        return "sums over an axis of unknown size"
    return f"sums {terms} products, int32 holds {MOST_TERMS}" if terms > MOST_TERMS else ""


def along_rows(program: Program, node: Node) -> str:
    """A softmax over the last axis."""
    bound = program.bind(node)
    source, dim = bound["self"], bound["dim"]
    rank = program.tensor_type(source).rank if isinstance(source, Node) else 0
    if not isinstance(dim, int) or not rank or dim % rank != rank - 1:
        return "does not run along the last axis"
    return "" if bound.get("dtype") is None else "changes the element type"


def constant_affine(program: Program, node: Node) -> str:
    """A norm over few enough elements whose factors and offsets are parameters."""
    bound = program.bind(node)
    sizes = bound["normalized_shape"]
    width = math.prod(size for size in sizes if isinstance(size, int)) if isinstance(sizes, list | tuple) else 0
    if not 0 < width <= MOST_TERMS:
        return f"sums {width} values, int32 holds {MOST_TERMS}"
    vectors = [bound.get(name) for name in ("weight", "bias")]
    constant = all(program.constant(each) is not None for each in vectors if isinstance(each, Node))
    return "" if constant else "its factors are not constant"


def one_tensor(program: Program, node: Node) -> str:
    """A function of one tensor; numbers may stand beside it."""
    count = len(node.all_input_nodes)
    return "" if count == 1 and isinstance(node.args[0], Node) else f"takes {count} tensors"


def whole_windows(program: Program, node: Node) -> str:
    """An average pool that divides by one number everywhere."""
    bound = program.bind(node)
    padded = any(isinstance(size, int) and size for size in _items(bound["padding"]))
    return "divides by the pixels inside of the image" if padded and not bound["count_include_pad"] else ""


def _items(found: object) -> list[object]:
    return list(found) if isinstance(found, list | tuple) else [found]


def whole_blocks(program: Program, node: Node) -> str:
    """Blocks of 128 inputs must divide a weight."""
    weight = program.bind(node)["weight"]
    inputs = program.shape(weight)[1] if isinstance(weight, Node) else None
    whole = isinstance(inputs, int) and inputs % _LARGEST_BLOCK == 0
    return "" if whole else f"its {inputs} inputs are not a multiple of {_LARGEST_BLOCK}"


def static_bounds(program: Program, node: Node) -> str:
    """Limits of a clamp must be numbers."""
    bound = program.bind(node)
    dynamic = any(isinstance(bound.get(name), Node) for name in ("min", "max"))
    return "its bounds are tensors" if dynamic else ""


GUARDS: Mapping[str, Guard] = {
    "accumulator_fits": accumulator_fits,
    "along_rows": along_rows,
    "batched": batched,
    "constant_affine": constant_affine,
    "explicit_padding": explicit_padding,
    "one_tensor": one_tensor,
    "signs_fit": signs_fit,
    "single_group": single_group,
    "single_precision": single_precision,
    "spatial_mean": spatial_mean,
    "plain_average": plain_average,
    "plain_keywords": plain_keywords,
    "plain_operands": plain_operands,
    "product_fits": product_fits,
    "static_bounds": static_bounds,
    "token_mean": token_mean,
    "whole_blocks": whole_blocks,
    "whole_windows": whole_windows,
}
