"""Parameter values that stay in a safetensors file, memory-mapped, until somebody asks for them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from safetensors import SafetensorError, safe_open

from qcompiler.errors import InputError
from qcompiler.ir.finite import check_finite

CONVERTIBLE = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Dtypes that a weight may have in the file and in the model, each converted to any other."""


@dataclass(frozen=True)
class Stored:
    """One tensor of a safetensors file, whole or as a strided view.

    Args:
        file: path.
        key: name of the tensor in the file.
        dtype: of the tensor in the file.
        shape: of the tensor in the file.
        strides: of the view, in elements, one per axis of the view; None for the whole tensor as it lies.
        offset: first element of the view.
    """

    file: str
    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None
    offset: int = 0

    def read(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """The value: mapped memory when dtypes agree, which the operating system loads page by page; else a copy.

        Args:
            shape: of the parameter.
            dtype: of the parameter; floating-point values are converted to it.

        Raises:
            InputError: when the file is gone, damaged or another than the one that was traced with, or the values are
                not finite.
        """
        tensor = self._mapped()
        if tensor.dtype != self.dtype or tuple(tensor.shape) != self.shape:
            raise InputError(
                f"tensor '{self.key}' is {tensor.dtype} {list(tensor.shape)}, and was {self.dtype} {list(self.shape)}",
                where=self.file,
                mend="the file was changed; trace the model again",
            )
        if self.strides is not None:
            last = self.offset + sum((size - 1) * step for size, step in zip(shape, self.strides, strict=False))
            if len(shape) != len(self.strides) or (0 not in shape and last >= tensor.numel()):
                raise InputError(f"a view of tensor '{self.key}' reaches outside it", where=self.file)
            tensor = tensor.as_strided(shape, self.strides, self.offset)
        check_finite(self.key, tensor, self.file, "read weights")
        return tensor.to(dtype)

    def layout(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """The value without its bytes, on the meta device; views of it tell what `viewed` needs."""
        tensor = torch.empty(self.shape, dtype=dtype, device="meta")
        return tensor if self.strides is None else tensor.as_strided(shape, self.strides, self.offset)

    def viewed(self, view: torch.Tensor) -> Stored:
        """The part of the file's tensor that a view of `layout` shows."""
        return replace(self, strides=tuple(view.stride()), offset=int(view.storage_offset()))

    def _mapped(self) -> torch.Tensor:
        try:
            with safe_open(self.file, framework="pt") as file:
                return file.get_tensor(self.key)
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"tensor '{self.key}' cannot be read: {error}",
                where=self.file,
                mend="put the weight file back where it was when the model was traced, complete and unchanged",
            ) from error
