"""Values per block, given to the elements of a tensor by standard operators."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from qcompiler.backends.onnx.context import Context


def expanded(
    context: Context, value: ir.Value, counts: Sequence[int], block: Sequence[int], shape: Sequence[int]
) -> ir.Value:
    """One value per block as a tensor that broadcasts to `shape`; see `spec.expand_blocks`.

    Args:
        context: what it is written into.
        value: of shape `counts`.
        counts: blocks along each axis.
        block: extents, -1 for a whole axis.
        shape: of the tensor; short last blocks are cut.
    """
    sizes = list(counts)
    for axis, (extent, size) in enumerate(zip(block, shape, strict=True)):
        if not 1 < extent < size:
            continue
        before, after = sizes[: axis + 1], sizes[axis + 1 :]
        value = context.op("Reshape", [value, context.ints([*before, 1, *after])])
        value = context.op("Expand", [value, context.ints([*before, extent, *after])])
        sizes[axis] *= extent
        value = context.op("Reshape", [value, context.ints(sizes)])
        if sizes[axis] != size:
            value = context.op("Slice", [value, *(context.ints([part]) for part in (0, size, axis))])
            sizes[axis] = size
    return value
