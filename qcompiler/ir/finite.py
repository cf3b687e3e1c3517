"""Refuses weights that are not numbers, wherever they come from."""

from __future__ import annotations

import torch

from qcompiler.errors import InputError


def check_finite(name: str, tensor: torch.Tensor, where: str, step: str) -> None:
    """Refuses NaN anywhere, and infinity except in masks (tensors of nothing but zeros and infinities).

    Args:
        name: of the weight.
        tensor: its value, any shape and dtype.
        where: file or model that holds it.
        step: the front-end.

    Raises:
        InputError: naming the weight.
    """
    if not tensor.is_floating_point() or not tensor.numel() or tensor.is_meta:
        return
    low, high = torch.aminmax(tensor if tensor.dtype.itemsize > 1 else tensor.float())
    if torch.isfinite(low) and torch.isfinite(high):
        return
    kind = "NaN" if bool(torch.isnan(low)) else "infinity"
    if kind == "infinity" and bool((torch.isinf(tensor) | (tensor == 0)).all()):
        return
    raise InputError(
        f"weight '{name}' holds {kind}",
        where=where,
        step=step,
        mend="repair the checkpoint: such a weight makes every output meaningless",
    )
