"""What kernels of int8 images need of a node; empty where they take it."""

from __future__ import annotations

from collections.abc import Mapping

from qcompiler.backends.cuda.codes import IMAGE_RANK, SIGNAL_RANK
from qcompiler.backends.cuda.image_launches import pair
from qcompiler.backends.lowering.guards import spatial_mean, static_bounds
from qcompiler.formats import BINARY, TERNARY, Integer
from qcompiler.ir import ops
from qcompiler.ir.program import Node, Program, all_nodes
from qcompiler.ir.types import TensorType
from qcompiler.plan import Assignment
from qcompiler.spec import QuantSpec
from qcompiler.target import Guard

MAX_POOLS = ("aten.max_pool1d", "aten.max_pool2d")
_MOST_SIDE = 1 << 14
"""Of an image with what surrounds it: kernels hold two places in 32 bits."""


def image_window(program: Program, node: Node) -> str:
    """A convolution or pool in one or two dimensions, over all channels or over each one alone."""
    bound = program.bind(node)
    source = bound.get("input", bound.get("self"))
    problem = _image(program, source, SIGNAL_RANK if program.op(node).endswith("1d") else IMAGE_RANK)
    if problem or not isinstance(source, Node):
        return problem
    _, channels, *sides = (program.dimensions.hint(dim) for dim in program.shape(source))
    if max(sides) + 2 * max(pair(bound.get("padding"), (0, 0))) > _MOST_SIDE:
        return f"its images are larger than {_MOST_SIDE}"
    if bound.get("ceil_mode") and program.op(node) not in MAX_POOLS:
        return "has windows cut off at the end"
    groups = bound.get("groups", 1)
    alone = groups == channels and program.shape(node)[1] == channels
    return "" if groups == 1 or alone else f"has {groups} groups: neither one nor a window for each channel"


def image_pair(program: Program, node: Node) -> str:
    """Two images of one size, that of the example."""
    operands = list(all_nodes(list(program.bind(node).values())))
    shapes = [program.shape(operand) for operand in operands]
    sizes = [[program.dimensions.hint(dim) for dim in shape] for shape in shapes]
    same = len(sizes) == 2 and sizes[0] == sizes[1] and len(sizes[0]) == IMAGE_RANK and shapes[0][0] == shapes[1][0]
    return _image(program, operands[0]) if same else "does not add two images of one size"


def image_source(program: Program, node: Node) -> str:
    """Reads an image."""
    return _image(program, program.bind(node)["self"])


def image_mean(program: Program, node: Node) -> str:
    """The mean of whole images, or of signals."""
    return spatial_mean(program, node) or _image(program, program.bind(node)["self"], SIGNAL_RANK, IMAGE_RANK)


def image_carry(program: Program, node: Node) -> str:
    """Pools of the largest codes need whole windows; what only moves codes needs nothing."""
    return image_window(program, node) if program.op(node) in MAX_POOLS else ""


def _image(program: Program, value: object, *ranks: int) -> str:
    """A tensor of one of some ranks, that of images otherwise, whose channels have a known number."""
    type_ = program.type(value) if isinstance(value, Node) else None
    if not isinstance(type_, TensorType) or type_.rank not in (ranks or (IMAGE_RANK,)):
        return "does not read images"
    return "" if isinstance(type_.shape[1], int) else "its number of channels is free"


def one_grid(program: Program, node: Node) -> str:
    """Parts that are quantized with one scale already, and so is the whole."""
    whole = [user for user in node.users if user.target is ops.quantize]
    parts = [part for part in node.all_input_nodes if part.target is ops.dequantize]
    scales = [program.bind(one)["scale"] for one in (*whole, *parts)]
    same = all(scale is scales[0] for scale in scales)
    return "" if whole and parts and same else "brings its parts to one scale"


def before_layers(program: Program, node: Node) -> str:
    """A linear layer that only linear layers read, perhaps behind an activation that a kernel does."""
    readers = list(node.users)
    if len(readers) == 1 and program.op(readers[0]) in ("aten.relu", "aten.clamp"):
        (node,) = readers
    behind = [user for user in node.users if program.op(user) == "aten.linear" and program.bind(user)["input"] is node]
    return "" if behind and len(behind) == len(node.users) else "is not read by linear layers alone"


def anything(program: Program, node: Node) -> str:
    """Every node."""
    return ""


IMAGE_GUARDS: Mapping[str, Guard] = {
    "image_window": image_window,
    "image_pair": image_pair,
    "image_source": image_source,
    "image_mean": image_mean,
    "image_carry": image_carry,
    "before_layers": before_layers,
}
_MOVED = frozenset(
    {"aten.reshape", "aten.permute", "aten.squeeze.dims", "aten.unsqueeze", "aten.slice.Tensor", "aten.select.int"}
    | {"aten.pixel_shuffle", "aten.pixel_unshuffle"}
)
_ELEMENTWISE = frozenset(
    f"aten.{name}" for name in ("sigmoid", "leaky_relu", "silu", "gelu", "tanh", "hardswish", "hardsigmoid", "elu")
)
_TAKEN: Mapping[str, tuple[frozenset[str], Guard]] = {
    "conv": (frozenset({"aten.conv1d", "aten.conv2d"}), image_window),
    "linear_codes": (frozenset({"aten.linear"}), anything),
    "add": (frozenset({"aten.add.Tensor"}), image_pair),
    "carry": (_MOVED | frozenset(MAX_POOLS), image_carry),
    "limit": (frozenset({"aten.relu", "aten.clamp"}), static_bounds),
    "pad": (frozenset({"aten.constant_pad_nd"}), anything),
    "cat": (frozenset({"aten.cat"}), one_grid),
    "table": (_ELEMENTWISE, image_source),
    "average_pool": (frozenset({"aten.avg_pool2d"}), image_window),
    "global_mean": (frozenset({"aten.mean.dim"}), image_mean),
}
IMAGES = frozenset(_TAKEN)
"""Kernels whose results stay codes."""


def leave_to_floats(program: Program) -> None:
    """Takes back assignments of operators on images that another target's rows chose and no kernel takes."""
    for node in program.nodes:
        assigned = node.meta.get("assignment")
        if isinstance(assigned, Assignment) and assigned.kernel in IMAGES and not _takes(program, node, assigned):
            del node.meta["assignment"]


def _takes(program: Program, node: Node, assigned: Assignment) -> bool:
    operators, guard = _TAKEN[assigned.kernel]
    bound = program.bind(node)
    if program.op(node) not in operators or guard(program, node) or isinstance(bound.get("padding"), str):
        return False
    if assigned.result is None and assigned.kernel != "conv":
        return False
    activations = [spec for name, spec in assigned.inputs.items() if name != "weight"]
    results = [] if assigned.result is None else [assigned.result]
    weights = [spec for name, spec in assigned.inputs.items() if name == "weight"]
    return all(map(_one_grid, [*activations, *results])) and all(map(_weighs, weights))


def _one_grid(spec: QuantSpec) -> bool:
    """Bytes of one scale that is known."""
    number = spec.format
    return (
        isinstance(number, Integer)
        and number.bits == 8
        and not number.narrow
        and _plain(spec)
        and not spec.dynamic
        and all(extent == -1 for extent in spec.block)
    )


def _weighs(spec: QuantSpec) -> bool:
    """Whole numbers of up to eight bits, with one scale or one for each column."""
    number = spec.format
    whole = number in (TERNARY, BINARY) or (isinstance(number, Integer) and number.signed and number.bits <= 8)
    columns = spec.block[0] in (1, -1) and all(extent == -1 for extent in spec.block[1:])
    return whole and _plain(spec) and spec.symmetric and columns


def _plain(spec: QuantSpec) -> bool:
    return spec.parts is None and len(spec.levels) == 1 and spec.levels[0].scale == "f32"
