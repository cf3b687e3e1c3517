"""Solving weights from front to back, each on the activations that the solved weights before it leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from qcompiler.heap import release_freed_memory
from qcompiler.ir import ops
from qcompiler.ir.fill import Fill, Shelf
from qcompiler.ir.program import Builder, Node, Program
from qcompiler.passes.solve.driver import Site, finite_weight, put_codes, set_ranges, weight_sites
from qcompiler.passes.solve.expression import Codes, Expression, bits_per_weight
from qcompiler.passes.solve.layers import Geometry, Inputs, Layer, LayerSolver, geometry_of
from qcompiler.passes.solve.ranges import Search
from qcompiler.passes.solve.rows import row_slices
from qcompiler.pipeline import Context
from qcompiler.plan import Decomposition
from qcompiler.qparams import Qparams, is_set, qparam_values, set_qparams
from qcompiler.spec import QuantSpec, Scales, dequantize, quantize
from qcompiler.stats import Stream
from qcompiler.walk import Walk


@dataclass(frozen=True)
class Reader:
    """An operator and the weight it reads.

    Args:
        node: the operator.
        site: the weight.
        geometry: how the weight is a matrix; None where no matrix product reads it.
        spec: of the matrix; None without a matrix, or where blocks are no rectangles of it.
    """

    node: Node
    site: Site
    geometry: Geometry | None
    spec: QuantSpec | None

    @property
    def solvable(self) -> bool:
        """Whether a layer solver can take it."""
        return self.geometry is not None and self.spec is not None


# Elements that are rounded together.
_SLICE = 1 << 20
Install = Callable[[Program, str], None]
Gather = Callable[[Program, Walk, Reader], Inputs | None]


def readers_of(program: Program) -> list[Reader]:
    """The operators that read quantized weights, in order, each weight with the first operator that reads it."""
    sites = {dequantizer: site for site in weight_sites(program) for dequantizer in dequantizers(site)}
    found: dict[Site, Reader] = {}
    for node in program.nodes:
        for source in node.all_input_nodes:
            site = sites.get(source)
            if site is None or site in found:
                continue
            is_weight = program.bind(node).get("weight") is source
            geometry = geometry_of(program, node) if is_weight else None
            found[site] = Reader(node, site, geometry, geometry.spec(site.spec) if geometry else None)
    return list(found.values())


def dequantizers(site: Site) -> list[Node]:
    """The nodes that make reals of a weight's codes."""
    return [user for quantizer in site.quantizers for user in quantizer.users if user.target is ops.dequantize]


def solve_layers(
    program: Program,
    ctx: Context,
    solver: LayerSolver,
    streams: Sequence[Stream],
    step: str,
    gather: Gather | None = None,
) -> int:
    """Solves every weight, layer by layer.

    Layers that read the same value are solved together and share its moments. Weights that no matrix product reads
    (embeddings), or whose blocks are no rectangles of the matrix, go to the nearest grid value.

    Args:
        program: quantized; activations calibrated.
        ctx: its batches are walked through the program.
        solver: a layer to its expression.
        streams: what the solver looks at; `quantized` is always there.
        step: name of the pass.
        gather: what the operator at the front reads; `inputs_of` when None.

    Returns:
        how many weights were solved, those to the nearest value left out.

    Raises:
        InputError: without calibration data; when weights or activations hold NaN or infinity.
    """
    readers = readers_of(program)
    if not readers:
        return 0
    share_ranges(program, [reader.site for reader in readers])
    walk = Walk(program, ctx.batches, streams)
    installs: dict[Site, Install] = {}
    shelf = Shelf()
    for reader in readers:
        if reader.site in installs:
            continue
        walk.to(reader.node)
        inputs = (gather or inputs_of)(program, walk, reader)
        for other in [
            other for other in readers if other.site not in installs and _reads_alike(program, reader, other)
        ]:
            found = None if inputs is None else solver(layer_of(program, other, inputs, ctx.seed))
            value, installs[other.site] = settle(program, other, found, shelf)
            for node in dequantizers(other.site):
                walk.settle(node, value)
            release_freed_memory()
            ctx.progress(len(installs), len(readers))
    for install in installs.values():
        install(program, step)
    return sum(reader.solvable for reader in readers)


def share_ranges(program: Program, sites: Sequence[Site]) -> None:
    """Sets the scales that several weights share, which no solver of a single weight may choose."""
    users: dict[Qparams, int] = {}
    for site in sites:
        users[site.qparams] = users.get(site.qparams, 0) + 1
    shared = frozenset(qparams for qparams, count in users.items() if count > 1)
    set_ranges(program, Search().range, shared)


def inputs_of(program: Program, walk: Walk, reader: Reader) -> Inputs | None:
    """What the operator at the front reads; None where no layer solver can take it."""
    if reader.geometry is None or reader.spec is None:
        return None
    source = cast(Node, program.bind(reader.node)["input"])
    return Inputs(lambda stream: walk.values(source, stream), reader.geometry)


def layer_of(program: Program, reader: Reader, inputs: Inputs, seed: int) -> Layer:
    """The problem of one weight."""
    weight = finite_weight(program, reader.site.param).detach().float()
    geometry, spec = cast(Geometry, reader.geometry), cast(QuantSpec, reader.spec)
    matrix = geometry.matrix(weight)
    qparams = None
    if is_set(program, reader.site.qparams):
        scale, zero_point = qparam_values(program, reader.site.qparams)
        scales = (scale,) if isinstance(scale, Tensor) else scale
        shapes = _scale_shapes(spec, matrix)
        shaped = tuple(value.reshape(shape) for value, shape in zip(scales, shapes, strict=True))
        zero = None if zero_point is None else zero_point.reshape(shapes[0])
        qparams = (shaped[0] if len(shaped) == 1 else shaped, zero)
    return Layer(reader.node.name, matrix, geometry.groups, spec, inputs, qparams, seed)


def settle(
    program: Program, reader: Reader, found: Expression | None, shelf: Shelf | None = None
) -> tuple[Tensor, Install]:
    """The value of a solved weight, and what puts it into the program; None goes to the nearest grid value."""
    shelf = shelf or Shelf()
    if found is None:
        return _nearest(program, reader.site, shelf)
    geometry, site = cast(Geometry, reader.geometry), reader.site
    dtype = program.tensor_type(site.param).dtype
    value = geometry.weight(found.value()).to(dtype)
    if not isinstance(found, Codes) or found.spec != reader.spec:
        return value, lambda program, step: put_expression(program, site, found, step, geometry)
    shapes = _scale_shapes(site.spec, value)
    scales = tuple(scale.reshape(shape) for scale, shape in zip(found.scales, shapes, strict=True))
    zero_point = None if found.zero_point is None else found.zero_point.reshape(shapes[0])
    codes = shelf.keep(geometry.weight(found.codes).to(dtype), site.spec)
    return value, lambda program, step: _put(program, site, codes, scales, zero_point, step)


def _reads_alike(program: Program, reader: Reader, other: Reader) -> bool:
    if other is reader:
        return True
    if not (reader.solvable and other.solvable) or reader.geometry != other.geometry:
        return False
    return program.bind(reader.node)["input"] is program.bind(other.node)["input"]


def _nearest(program: Program, site: Site, shelf: Shelf) -> tuple[Tensor, Install]:
    if not is_set(program, site.qparams):
        set_ranges(program, Search().range, frozenset([site.qparams]))
    scale, zero_point = qparam_values(program, site.qparams)
    weight = finite_weight(program, site.param)
    codes, value = torch.empty_like(weight), torch.empty_like(weight)
    for rows in row_slices(weight.shape, site.spec, _SLICE):
        scales = scale[rows] if isinstance(scale, Tensor) else tuple(level[rows] for level in scale)
        zeros = None if zero_point is None else zero_point[rows]
        codes[rows] = quantize(weight[rows], scales, zeros, site.spec)
        value[rows] = dequantize(codes[rows].clone(), scales, zeros, site.spec)
    stored = shelf.keep(codes, site.spec)
    return value, lambda program, step: put_codes(program, site, stored, step)


def _put(
    program: Program, site: Site, codes: Tensor | Fill, scales: Scales, zero_point: Tensor | None, step: str
) -> None:
    zero = torch.zeros(()) if zero_point is None else zero_point
    set_qparams(program, site.qparams, scales, zero)
    put_codes(program, site, codes, step)


def put_expression(
    program: Program, site: Site, found: Expression, step: str, geometry: Geometry | None = None
) -> None:
    """Replaces a weight's quantize and dequantize nodes by those of an expression, which no kernel reads.

    Args:
        program: edited.
        site: the weight.
        found: what it became.
        step: name of the pass.
        geometry: how the expression is a matrix of the weight; None when it has the weight's own shape.
    """
    readers = dequantizers(site)
    builder = program.before(readers[0], step)
    type_ = program.tensor_type(site.param)
    node = found.build(builder, str(site.param.target))
    if geometry is not None:
        node = _shaped(builder, node, tuple(int(str(size)) for size in type_.shape), geometry)
    dtype = type_.dtype
    if dtype != torch.float32:
        node = builder.call("aten._to_copy", node, kwargs={"dtype": dtype})
    for reader in readers:
        for user in reader.users:
            user.meta["decomposition"] = Decomposition(step, bits_per_weight(found))
        program.replace(reader, node)
    program.erase_dead()


def _shaped(builder: Builder, node: Node, shape: tuple[int, ...], geometry: Geometry) -> Node:
    """The matrix in the shape of the weight; see `Geometry.weight`."""
    if not geometry.kernel:
        return node
    if not geometry.transposed:
        return builder.call("aten.reshape", node, list(shape))
    grouped = [geometry.groups, shape[1], shape[0] // geometry.groups, *shape[2:]]
    axes = list(range(3, len(grouped)))
    node = builder.call("aten.permute", builder.call("aten.reshape", node, grouped), [0, 2, 1, *axes])
    return builder.call("aten.reshape", builder.call("aten.flip", node, axes), list(shape))


def _scale_shapes(spec: QuantSpec, tensor: Tensor) -> list[list[int]]:
    """Shape of the scales of each level."""
    return [[int(size) for size in shape] for shape in spec.scale_shapes(tensor.shape)]
