"""Spelling rules for shapes: one operator per kind of rearrangement, axes non-negative, sizes taken from the types."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qcompiler.ir.program import Node
from qcompiler.ir.types import Dim, TensorType, TupleType
from qcompiler.passes.canonical.site import Result, Rule, Site
from qcompiler.passes.canonical.sizes import Size, Sizes
from qcompiler.passes.canonical.spell_identity import END


def permutation(order: Callable[[Site, int], Sequence[int]]) -> Rule:
    """A rearrangement of axes as `permute`; `order` gives the axes."""

    def rule(site: Site) -> Result:
        x = site.tensor("self")
        dims = list(order(site, site.rank(x)))
        if site.program.op(site.node) == "aten.permute" and list(site.integers("dims")) == dims:
            return None
        return site.call("aten.permute", x, dims)

    return rule


def _swapped(rank: int, first: int, second: int) -> list[int]:
    dims = list(range(rank))
    if rank:
        dims[first % rank], dims[second % rank] = dims[second % rank], dims[first % rank]
    return dims


def _moved(site: Site, rank: int) -> list[int]:
    sources = [axis % rank for axis in site.integers("source")]
    goals = [axis % rank for axis in site.integers("destination")]
    placed = dict(zip(goals, sources, strict=True))
    rest = iter(axis for axis in range(rank) if axis not in sources)
    return [placed[axis] if axis in placed else next(rest) for axis in range(rank)]


def squeeze(site: Site) -> Result:
    """Every squeeze as `squeeze.dims` of axes that really have size one."""
    x = site.tensor("self")
    rank = site.rank(x)
    asked = (
        sorted(axis % max(rank, 1) for axis in site.integers("dim")) if "dim" in site.arguments else list(range(rank))
    )
    axes = [axis for axis in asked if rank and site.shape(x)[axis] == 1]
    if not axes:
        return x
    if site.program.op(site.node) == "aten.squeeze.dims" and site.integers("dim") == axes:
        return None
    return site.call("aten.squeeze.dims", x, axes)


def unsqueeze(site: Site) -> Result:
    """`unsqueeze` at a non-negative axis."""
    x = site.tensor("self")
    axis = site.axis("dim", site.rank(x) + 1)
    return None if axis == site.integer("dim") else site.call("aten.unsqueeze", x, axis)


def select(site: Site) -> Result:
    """`select` at a non-negative axis, and index where the size is known."""
    x, index = site.tensor("self"), site.arguments["index"]
    axis = site.axis("dim", site.rank(x))
    size = site.shape(x)[axis]
    if isinstance(index, int) and index < 0 and isinstance(size, int):
        index += size
    if (axis, index) == (site.integer("dim"), site.arguments["index"]):
        return None
    return site.call("aten.select.int", x, axis, index)


def slice_(site: Site) -> Result:
    """`slice` with explicit bounds; a slice of everything goes."""
    x, bounds, step = site.tensor("self"), [site.arguments["start"], site.arguments["end"]], site.arguments["step"]
    axis = site.axis("dim", site.rank(x))
    size = site.shape(x)[axis]
    start = 0 if bounds[0] is None else bound(bounds[0], size)
    end = END if bounds[1] is None else bound(bounds[1], size)
    if isinstance(end, int) and isinstance(size, int) and end >= size:
        end = END
    if (start, end, step) == (0, END, 1):
        return x
    spelled = [x, axis, start, end, step]
    return None if list(site.node.args) == spelled else site.call("aten.slice.Tensor", *spelled)


def bound(place: object, size: Dim) -> object:
    """A bound of a slice, counted from the front where the size is known."""
    if isinstance(place, int) and place < 0 and isinstance(size, int):
        return max(place + size, 0)
    return place


def narrow(site: Site) -> Result:
    """`narrow` as a slice."""
    start, length = site.arguments["start"], site.arguments["length"]
    if not isinstance(start, int) or not isinstance(length, int) or start < 0:
        return None
    return site.call("aten.slice.Tensor", site.tensor("self"), site.integer("dim"), start, start + length, 1)


def split(site: Site) -> Result:
    """Every split as `split_with_sizes`, the sizes taken from the results."""
    x, type_ = site.tensor("self"), site.program.type(site.node)
    axis = site.axis("dim", site.rank(x))
    parts = type_.items if isinstance(type_, TupleType) else ()
    sizes = [part.shape[axis] for part in parts if isinstance(part, TensorType)]
    if not all(isinstance(size, int) for size in sizes) or list(site.node.args) == [x, sizes, axis]:
        return None
    new = site.call("aten.split_with_sizes", x, sizes, axis)
    return site.program.before(site.node, site.step).items(new)


def unbind(site: Site) -> Result:
    """`unbind` as one `select` per result that is read."""
    x, type_ = site.tensor("self"), site.program.type(site.node)
    count = len(type_.items) if isinstance(type_, TupleType) else 0
    read = [user.args[1] for user in site.node.users]
    axis = site.axis("dim", site.rank(x))
    return [site.call("aten.select.int", x, axis, index) if index in read else None for index in range(count)]


def stack(site: Site) -> Result:
    """`stack` as `unsqueeze` of each and `cat`."""
    tensors = site.nodes("tensors")
    axis = site.axis("dim", site.rank(tensors[0]) + 1)
    return site.call("aten.cat", [site.call("aten.unsqueeze", tensor, axis) for tensor in tensors], axis)


def cat(site: Site) -> Result:
    """`cat` along a non-negative axis; of one tensor: the tensor."""
    tensors = site.nodes("tensors")
    if len(tensors) == 1:
        return tensors[0]
    axis = site.axis("dim", site.rank(site.node))
    spelled = site.program.op(site.node) == "aten.cat" and list(site.node.args) == [tensors, axis]
    return None if spelled else site.call("aten.cat", tensors, axis)


def tile(site: Site) -> Result:
    """`tile` as `repeat` of every axis of the result; `repeat` of one everywhere goes."""
    x = site.tensor("self")
    name = "dims" if "dims" in site.arguments else "repeats"
    counts = site.arguments[name]
    if not isinstance(counts, list | tuple):
        return None
    counts = [1] * (site.rank(x) - len(counts)) + list(counts)
    if all(count == 1 for count in counts) and len(counts) == site.rank(x):
        return x
    return None if site.program.op(site.node) == "aten.repeat" else site.call("aten.repeat", x, counts)


def pad(site: Site) -> Result:
    """Constant padding as `constant_pad_nd` of numbers; padding by nothing goes."""
    x, amounts = site.tensor("self"), site.arguments["pad"]
    if isinstance(amounts, list | tuple) and all(amount == 0 for amount in amounts):
        return x
    if site.program.op(site.node) == "aten.constant_pad_nd" or site.arguments["mode"] != "constant":
        return None
    return site.call("aten.constant_pad_nd", x, amounts, site.arguments["value"] or 0.0)


def reshape_rule(sizes: Sizes) -> Rule:
    """Every reshape as `reshape` to the sizes of its type: -1 for the only unknown one, else size arithmetic."""
    return lambda site: _reshaped(site, sizes, site.tensor("self"))


def _reshaped(site: Site, sizes: Sizes, x: Node) -> Node | None:
    """`x` in the shape of the node at hand; None when the node reads like that already."""
    shape = site.shape(site.node)
    unknown = [axis for axis, dim in enumerate(shape) if not isinstance(dim, int)]
    if len(unknown) == 1:
        wanted: list[object] = [-1 if axis == unknown[0] else dim for axis, dim in enumerate(shape)]
        made = _respelled(site, "aten.reshape", x, wanted)
        if made is None or site.shape(made) == shape:
            return made
    return _sized(site, sizes, "aten.reshape", x, list(shape))


def repeat_rule(sizes: Sizes) -> Rule:
    """Every element repeated along an axis, as `unsqueeze`, `expand` and `reshape`."""

    def rule(site: Site) -> Result:
        x, count = site.tensor("self"), site.arguments["repeats"]
        if not isinstance(count, int) or site.arguments["dim"] is None or not site.rank(x):
            return None
        axis = site.axis("dim", site.rank(x)) + 1
        copies = [-1] * (site.rank(x) + 1)
        copies[axis] = count
        spread = site.call("aten.expand", site.call("aten.unsqueeze", x, axis), copies)
        return _reshaped(site, sizes, spread)

    return rule


def expand_rule(sizes: Sizes) -> Rule:
    """Every expand as `expand`, -1 where the size stays."""

    def rule(site: Site) -> Result:
        x = site.tensor("self")
        shape = site.shape(site.node)
        if site.shape(x) == shape:
            return x
        added = len(shape) - site.rank(x)
        kept = [axis >= added and site.shape(x)[axis - added] == dim for axis, dim in enumerate(shape)]
        return _sized(
            site, sizes, "aten.expand", x, [-1 if same else dim for same, dim in zip(kept, shape, strict=True)]
        )

    return rule


def meshgrid_rule(sizes: Sizes) -> Rule:
    """`meshgrid` as one `reshape` and `expand` per tensor."""

    def rule(site: Site) -> Result:
        tensors, type_ = site.nodes("tensors"), site.program.type(site.node)
        shape = type_.items[0].shape if isinstance(type_, TupleType) and isinstance(type_.items[0], TensorType) else ()
        found = [sizes.size(dim, site.node) for dim in shape]
        axes = list(range(len(tensors)))
        if site.arguments.get("indexing") == "xy":
            axes[:2] = reversed(axes[:2])
        if any(size is None for size in found):
            return None
        made = []
        for tensor, own in zip(tensors, axes, strict=True):
            line = site.call("aten.reshape", tensor, [-1 if axis == own else 1 for axis in range(len(axes))])
            made.append(
                site.call("aten.expand", line, [-1 if axis == own else size for axis, size in enumerate(found)])
            )
        return made

    return rule


def _sized(site: Site, sizes: Sizes, op: str, x: Node, dims: Sequence[Dim]) -> Node | None:
    sizes.learn(site.node)
    arguments: list[Size] = []
    for dim in dims:
        size = sizes.size(dim, site.node)
        if size is None:
            return None if site.program.op(site.node) == op else site.call(op, x, *list(site.node.args)[1:])
        arguments.append(size)
    return _respelled(site, op, x, list(arguments))


def _respelled(site: Site, op: str, x: Node, sizes: list[object]) -> Node | None:
    """The call, or None when the node already reads like that."""
    if site.program.op(site.node) == op and list(site.node.args) == [x, sizes] and not site.node.kwargs:
        return None
    return site.call(op, x, sizes)


def sized_rules(sizes: Sizes) -> dict[str, Rule]:
    """Rules that need the program's size arithmetic."""
    reshapes = (
        "view",
        "_unsafe_view",
        "reshape",
        "view_copy",
        "flatten.using_ints",
        "unflatten.int",
        "view_as",
        "reshape_as",
    )
    expands = ("expand", "expand_copy", "broadcast_to", "expand_as")
    return {
        **{f"aten.{name}": reshape_rule(sizes) for name in reshapes},
        **{f"aten.{name}": expand_rule(sizes) for name in expands},
        "aten.repeat_interleave.self_int": repeat_rule(sizes),
        "aten.meshgrid": meshgrid_rule(sizes),
        "aten.meshgrid.indexing": meshgrid_rule(sizes),
    }


SHAPE: dict[str, Rule] = {
    "aten.permute": permutation(lambda site, rank: [axis % rank for axis in site.integers("dims")]),
    "aten.permute_copy": permutation(lambda site, rank: [axis % rank for axis in site.integers("dims")]),
    "aten.transpose.int": permutation(lambda site, rank: _swapped(rank, site.integer("dim0"), site.integer("dim1"))),
    "aten.swapaxes": permutation(lambda site, rank: _swapped(rank, site.integer("axis0"), site.integer("axis1"))),
    "aten.t": permutation(lambda site, rank: list(reversed(range(rank)))),
    "aten.numpy_T": permutation(lambda site, rank: list(reversed(range(rank)))),
    "aten.mT": permutation(lambda site, rank: _swapped(rank, -1, -2)),
    "aten.movedim.int": permutation(_moved),
    "aten.movedim.intlist": permutation(_moved),
    "aten.squeeze": squeeze,
    "aten.squeeze.dim": squeeze,
    "aten.squeeze.dims": squeeze,
    "aten.unsqueeze": unsqueeze,
    "aten.select.int": select,
    "aten.slice.Tensor": slice_,
    "aten.narrow": narrow,
    "aten.split.Tensor": split,
    "aten.split_with_sizes": split,
    "aten.unsafe_split.Tensor": split,
    "aten.chunk": split,
    "aten.unsafe_chunk": split,
    "aten.unbind.int": unbind,
    "aten.stack": stack,
    "aten.cat": cat,
    "aten.concat": cat,
    "aten.concatenate": cat,
    "aten.tile": tile,
    "aten.repeat": tile,
    "aten.pad": pad,
    "aten.constant_pad_nd": pad,
}
