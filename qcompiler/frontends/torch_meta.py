"""Models without weights: built with their parameters on the meta device, traced with stand-ins that hold no memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook


@contextlib.contextmanager
def without_weights() -> Iterator[None]:
    """Modules built inside have their parameters on the meta device, and real buffers.

    A parameter goes there as its module registers it, so that building a model of any size takes the memory of its
    largest parameter at most; buffers, such as the frequencies of rotary embeddings, are in no weight file and keep
    their values. Applies to all threads.
    """

    def empty(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter) -> torch.nn.Parameter:
        del module, name
        if parameter.is_meta:
            return parameter  # tied to one that was registered before
        return torch.nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    handle = register_module_parameter_registration_hook(empty)  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def stand_ins(model: torch.nn.Module) -> Iterator[bool]:
    """Puts tensors with an empty storage in the place of a model's meta tensors; yields whether there are any.

    The model is traced as it will run: on the CPU, without a constant that names the meta device. A stand-in has the
    type of its tensor and no bytes, so that it must never be computed with.
    """
    slots = [
        (module, name, tensor)
        for module in model.modules()
        for members in (module.named_parameters, module.named_buffers)
        for name, tensor in members(recurse=False, remove_duplicate=False)
        if tensor.is_meta
    ]
    made = {id(tensor): _stand_in(tensor) for _, _, tensor in slots}
    try:
        for module, name, tensor in slots:
            setattr(module, name, made[id(tensor)])
        yield bool(slots)
    finally:
        for module, name, tensor in slots:
            setattr(module, name, tensor)


def is_stand_in(tensor: torch.Tensor) -> bool:
    """Whether a tensor has no values: on the meta device, or a stand-in for one that is."""
    if tensor.is_meta or tensor.layout is not torch.strided or not tensor.numel():
        return tensor.is_meta
    return tensor.untyped_storage().nbytes() == 0


def _stand_in(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    empty.untyped_storage().resize_(0)
    return torch.nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else empty
