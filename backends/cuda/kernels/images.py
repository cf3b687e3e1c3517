"""Images of int8 codes: convolutions channel by channel, and what stands between convolutions."""

from __future__ import annotations

from qcompiler.backends.cuda.kernels.quantizers import Kind
from qcompiler.backends.cuda.kernels.row import Axis, CudaKernel, Instance
from qcompiler.backends.cuda.kernels.tiles import PRODUCT

CHANNELS = 16
"""Of which images have a multiple: what a lane reads at once."""
_HEADER, _POOL = "qc_images.cuh", "qc_image_pool.cuh"
_THREADS = 128
_CODES = 256
_KINDS: dict[Kind, str] = {"f16": "qc_half", "bf16": "qc_bfloat", "f32": "qc_float"}


def _each(name: str, fields: tuple[str, ...], channels: int, lanes: int = 1, shared: int = 0) -> tuple[Instance]:
    """The one instance of a kernel in which `lanes` take so many channels of a place, the product of two fields."""
    grid = (Axis(fields, channels * _THREADS // lanes), Axis(), Axis())
    return (Instance(name=f"qc_{name}_{channels}", body=f"qc_{name}", threads=_THREADS, grid=grid, shared=shared),)


def codes_instance(kind: Kind) -> Instance:
    """Of the kernel that finds the codes of images of reals."""
    return Instance(
        name=f"qc_image_codes_{kind}",
        body=f"qc_image_codes<{_KINDS[kind]}>",
        threads=_THREADS,
        grid=(Axis(("rows",), _THREADS), Axis(("out_channels",), CHANNELS), Axis()),
    )


ROWS = (
    CudaKernel("image_codes", _HEADER, tuple(codes_instance(kind) for kind in _KINDS)),
    CudaKernel("image_add", _HEADER, _each("image_add", ("rows", "width"), CHANNELS)),
    CudaKernel("image_table", _HEADER, _each("image_table", ("rows", "width"), CHANNELS, shared=_CODES)),
    CudaKernel("image_mean", _HEADER, _each("image_mean", ("rows", "channels"), CHANNELS, 32)),
    CudaKernel("image_max", _POOL, _each("image_max", ("rows", "channels"), CHANNELS), "image_pool"),
    CudaKernel("image_average", _POOL, _each("image_average", ("rows", "channels"), CHANNELS), "image_pool"),
    CudaKernel("depthwise_i8", "qc_depthwise_i8.cuh", _each("depthwise_i8", ("rows", "columns"), 4), PRODUCT),
)
