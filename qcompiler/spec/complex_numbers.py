"""Complex weights as units with one scale per part, and as the two ternary planes that real kernels multiply.

Source: Wang et al. 2025, "iFairy: the First 2-bit Complex LLM with All Parameters in {+-1, +-i}".
"""

from __future__ import annotations

import torch
from torch import Tensor

from qcompiler.errors import InputError
from qcompiler.formats import COMPLEX_UNITS


def complex_scale(x: Tensor) -> Tensor:
    """Mean magnitude of the real parts of what becomes +-1, and of the imaginary parts of what becomes +-i.

    Shapes: x complex, any -> scalar complex64 whose parts are the two scales; a part that nothing uses is 1.
    Raises InputError for a real tensor.
    """
    units = COMPLEX_UNITS.round(_complex(x))
    real, imaginary = (_mean_where(part.abs(), unit != 0) for part, unit in _parts(x, units))
    return torch.complex(real, imaginary)


def quantize_complex(x: Tensor) -> Tensor:
    """The unit of each complex number; scales do not change a phase class. Raises InputError for a real tensor."""
    return COMPLEX_UNITS.round(_complex(x))


def dequantize_complex(units: Tensor, scale: Tensor) -> Tensor:
    """Complex numbers of units: real and imaginary part times their own scale. Shape and dtype of `units`."""
    return torch.complex(units.real * scale.real, units.imag * scale.imag).to(units.dtype)


def ternary_planes(units: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of units: two ternary tensors of which exactly one is not zero at every place."""
    return units.real, units.imag


def real_matrix(units: Tensor, scale: Tensor) -> Tensor:
    """The real matrix that maps stacked (real, imaginary) inputs to stacked outputs: weights times conjugate input.

    Formula: y_re = Q_re x_re + Q_im x_im, y_im = Q_im x_re - Q_re x_im, so `[[Q_re, Q_im], [Q_im, -Q_re]]`.
    Shapes: units [rows, columns] complex -> [2 rows, 2 columns] float32.
    """
    value = dequantize_complex(units, scale)
    top = torch.cat([value.real, value.imag], dim=1)
    return torch.cat([top, torch.cat([value.imag, -value.real], dim=1)], dim=0)


def _complex(x: Tensor) -> Tensor:
    if not x.is_complex():
        raise InputError(f"complex units are for complex numbers, not {x.dtype}", mend="give torch.complex(re, im)")
    return x


def _parts(x: Tensor, units: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return (x.real, units.real), (x.imag, units.imag)


def _mean_where(magnitude: Tensor, used: Tensor) -> Tensor:
    mean = magnitude[used].float().mean() if bool(used.any()) else magnitude.new_zeros((), dtype=torch.float32)
    return torch.where(mean > 0, mean, 1.0)
