"""Codebooks applied: which entry of its table stands for each element or vector, and back.

Source: Han et al. 2016, "Deep Compression" (scalar codebooks); Gray 1984, "Vector Quantization"; JLCM 2023, "Jointly
Learned Codebooks and Mappings" (the slope between neighbouring entries as gradient of an index).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.formats import Codebook
from qcompiler.formats.blocks import expand_blocks
from qcompiler.formats.grid import Grid
from qcompiler.spec.parts import Parts, SharedTable, StoredName
from qcompiler.spec.quantspec import QuantSpec

# Distances held at a time.
_DISTANCES = 1 << 22


def round_table(table: Tensor, stored: StoredName) -> Tensor:
    """The table as its stored format keeps it: float32 values; `i8` are multiples of 1/127 between -1 and 1."""
    match stored:
        case "f32":
            return table.float()
        case "f16":
            return table.clamp(-65504, 65504).half().float()
        case "bf16":
            return table.bfloat16().float()
        case "i8":
            return (table.float() * 127).round().clamp(-127, 127) / 127


def nearest_entries(
    ratio: Tensor, table: Tensor, spec: QuantSpec, mask: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """The index of the entry nearest to each element, or to each vector along the axis that the spec names.

    Formula: argmin_k sum_j h_j m_j (v_j - c_kj)^2 with importance h >= 0 and mask m; equal distances give the lower
    index (scalar: the even one). A short last vector counts only the elements that it has.
    Shapes: ratio [...], divided by its scales already; table [spec.table_shape]; mask bool and weight as `ratio`
    -> int64 of the shape of `ratio`, with ceil(size / dimension) along the axis for vectors.
    Raises SpecError when the table does not fit.
    """
    codebook, shared = _codebook(spec)
    plain, values = ratio.detach(), _checked(table, ratio.shape, spec).detach()
    if codebook.dimension == 1:
        found = torch.empty(plain.shape, dtype=torch.int64, device=plain.device)
        for place, region in _regions(shared, plain.shape, 1, 0):
            found[region] = Grid.from_codes(values[place].tolist()).encode(plain[region]).long()
        return found
    axis = (spec.parts or Parts()).along % plain.dim()
    vectors = _vectors(plain, codebook.dimension, axis)
    importance = _importance(plain, mask, weight, codebook.dimension, axis)
    found = torch.empty(vectors.shape[:-1], dtype=torch.int64, device=plain.device)
    for place, region in _regions(shared, plain.shape, codebook.dimension, axis):
        part = None if importance is None else importance[region]
        found[region] = _nearest_vectors(vectors[region], values[place].to(vectors), part)
    return found


def entries_at(indices: Tensor, table: Tensor, spec: QuantSpec, size: int | None = None) -> Tensor:
    """The values that indices stand for; inverse of `nearest_entries`, differentiable in the table.

    Shapes: indices as `nearest_entries` gives them, integer -> the shape of the tensor, dtype of `table`. `size`: the
    extent of the vectors' axis, needed where the dimension does not divide it.
    Raises SpecError when the table does not fit.
    """
    codebook, shared = _codebook(spec)
    axis = (spec.parts or Parts()).along % indices.dim()
    shape = list(indices.shape)
    shape[axis] = size or shape[axis] * codebook.dimension
    values = _checked(table, torch.Size(shape), spec)
    counts = shared.counts(shape)
    block = list(shared.block)
    block[axis] = block[axis] if block[axis] == -1 else block[axis] // codebook.dimension
    which = torch.arange(max(1, int(torch.tensor(counts).prod())), device=indices.device).reshape(counts)
    rows = expand_blocks(which, tuple(block), indices.shape) * codebook.entries + indices.long()
    if codebook.dimension == 1:
        return values.reshape(-1)[rows]
    found = values.reshape(-1, codebook.dimension)[rows]
    return found.movedim(-1, axis + 1).flatten(axis, axis + 1).narrow(axis, 0, shape[axis])


def index_through(ratio: Tensor, table: Tensor, spec: QuantSpec, carrier: torch.dtype) -> Tensor:
    """`nearest_entries` in a float carrier; for scalar codebooks with the gradient that `value_through` undoes.

    Raises SpecError when the carrier cannot count that far.
    """
    codebook, _ = _codebook(spec)
    if codebook.entries > 2 / torch.finfo(carrier).eps:
        raise SpecError(f"{carrier} cannot hold {codebook.entries} indices", where=str(spec), mend="use float32")
    indices = nearest_entries(ratio, table, spec)
    found = indices.to(carrier)
    if codebook.dimension > 1 or not (torch.is_grad_enabled() and ratio.requires_grad):
        return found
    return found + ((ratio - ratio.detach()) / _slopes(indices, table, spec)).to(carrier)


def value_through(q: Tensor, table: Tensor, spec: QuantSpec) -> Tensor:
    """`entries_at` of indices in a float carrier, differentiable in the table and, for scalars, in the index.

    The gradient of an index is half the distance between its neighbours' values: after `index_through` the chain
    gives 1 for the element itself.
    """
    indices = q.detach().round().long()
    values = entries_at(indices, table, spec)
    if not (torch.is_grad_enabled() and q.requires_grad) or _codebook(spec)[0].dimension > 1:
        return values
    return values + (q - q.detach()) * _slopes(indices, table, spec)


def _slopes(indices: Tensor, table: Tensor, spec: QuantSpec) -> Tensor:
    """Half the distance between the entries on both sides of each index, at the ends the one distance there is."""
    ordered, order = table.detach().float().sort(dim=-1)
    gaps = ordered.diff(dim=-1)
    both = torch.cat([gaps[..., :1], gaps], -1) + torch.cat([gaps, gaps[..., -1:]], -1)
    steps = (both / 2).clamp(min=torch.finfo(torch.float32).tiny)
    return entries_at(indices, torch.empty_like(steps).scatter_(-1, order, steps), spec)


def _codebook(spec: QuantSpec) -> tuple[Codebook, SharedTable]:
    if not isinstance(spec.format, Codebook) or spec.parts is None or spec.parts.table is None:
        raise SpecError(f"{spec.format.name} has no table of values", where=str(spec))
    return spec.format, spec.parts.table


def _checked(table: Tensor, shape: torch.Size, spec: QuantSpec) -> Tensor:
    wanted = spec.table_shape(shape)
    if tuple(table.shape) != wanted:
        raise SpecError(
            f"a table of shape {tuple(table.shape)} where the spec says {wanted}", where=f"{spec} on {tuple(shape)}"
        )
    return table


def _regions(
    shared: SharedTable, shape: Sequence[int], dimension: int, axis: int
) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Every table's place, and the part of the elements (along `axis`: of the vectors) that it serves."""
    extents = [extent if at != axis or extent == -1 else extent // dimension for at, extent in enumerate(shared.block)]
    for place in itertools.product(*(range(count) for count in shared.counts(shape))):
        yield (
            place,
            tuple(
                slice(None) if extent == -1 else slice(at * extent, (at + 1) * extent)
                for at, extent in zip(place, extents, strict=True)
            ),
        )


def _vectors(x: Tensor, dimension: int, axis: int) -> Tensor:
    """[..., size, ...] -> [..., ceil(size / dimension), ..., dimension], the last short vector filled with zeros."""
    missing = -x.shape[axis] % dimension
    filled = torch.nn.functional.pad(x.movedim(axis, -1), (0, missing)).movedim(-1, axis)
    return filled.unflatten(axis, (-1, dimension)).movedim(axis + 1, -1)


def _importance(x: Tensor, mask: Tensor | None, weight: Tensor | None, dimension: int, axis: int) -> Tensor | None:
    """How much each element of each vector counts, None where all count alike; the filling counts nothing."""
    if mask is None and weight is None and x.shape[axis] % dimension == 0:
        return None
    whole = torch.ones_like(x) if weight is None else weight.to(x)
    return _vectors(whole if mask is None else whole * mask, dimension, axis)


def _nearest_vectors(vectors: Tensor, entries: Tensor, importance: Tensor | None) -> Tensor:
    """Shapes: vectors, importance [..., d], entries [K, d] -> [...] int64."""
    rows = vectors.reshape(-1, vectors.shape[-1])
    weights = None if importance is None else importance.reshape(rows.shape)
    found = [part.argmin(-1) for part in relative_distances(rows, entries, weights)]
    return torch.cat(found).reshape(vectors.shape[:-1])


def relative_distances(rows: Tensor, entries: Tensor, importance: Tensor | None = None) -> Iterator[Tensor]:
    """Squared distance of every row to every entry, less the square of the row itself, which all entries share.

    Shapes: rows, importance [N, d], entries [K, d] -> parts [some rows, K], in order.
    """
    squares = entries.square()
    step = max(1, _DISTANCES // entries.shape[0])
    if importance is None:
        constant, turned = squares.sum(1), entries.T.contiguous()
        for part in rows.split(step):
            yield torch.addmm(constant, part, turned, alpha=-2)
        return
    both = torch.cat([-2 * entries, squares], 1).T.contiguous()
    for part, cost in zip(rows.split(step), importance.split(step), strict=True):
        yield torch.cat([cost * part, cost], 1) @ both
