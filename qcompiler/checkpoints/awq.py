"""AWQ checkpoints of version "gemm": codes and zero points packed along the output channels, even ones first.

Formula   weight[n, k] = (code[k, n] - zero[k // group, n]) * scale[k // group, n]
Shapes    qweight int32 [K, N / 8], qzeros int32 [G, N / 8], scales [G, N]
Source    Lin et al. 2023, "AWQ"; AutoAWQ `WQLinear_GEMM`
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from qcompiler.checkpoints.layouts import AWQ_GEMM, unpack_words
from qcompiler.checkpoints.reading import (
    SCALE_NAMES,
    coded,
    group_size,
    integer_spec,
    misfit,
    module_of,
    signed_if_centred,
    take,
)
from qcompiler.checkpoints.settings import Settings
from qcompiler.frontends.weight_files import Coded, WeightFiles

_BITS = 4


@dataclass(frozen=True)
class Awq:
    """Decodes the weights of an AWQ checkpoint.

    Args:
        group: columns per scale; -1 for whole rows.
    """

    group: int

    @staticmethod
    def of(settings: Settings) -> Awq:
        """From a quantization configuration; raises InputError for one that cannot be read."""
        settings.word("version", "gemm", ("gemm",))
        bits = settings.integer("bits" if "bits" in settings.data else "w_bit", _BITS)
        if bits != _BITS:
            raise settings.refusal("bits", bits, (_BITS,))
        return Awq(settings.integer("group_size" if "group_size" in settings.data else "q_group_size", -1))

    def decode(self, files: WeightFiles, name: str, shape: tuple[int, ...]) -> Coded | None:
        """The weight called `name`; None when it is not stored quantized.

        Raises:
            InputError: naming file and tensor, when its parts do not fit together.
        """
        module = module_of(name, files, "qweight")
        if module is None:
            return None
        if len(shape) != 2 or shape[0] % 8:
            raise misfit(files, f"{module}.qweight", f"a weight of {list(shape)} has no words of 8 output channels")
        rows, columns = shape
        words = take(files, f"{module}.qweight", (columns, rows // 8), (torch.int32,))
        scale = take(files, f"{module}.scales", dtypes=(torch.float16, torch.bfloat16, torch.float32))
        if scale.dim() != 2 or scale.shape[1] != rows:
            raise misfit(files, f"{module}.scales", f"shape {list(scale.shape)} for {rows} output channels")
        groups = scale.shape[0]
        group = group_size(files, f"{module}.scales", columns, groups, self.group)
        zeros = take(files, f"{module}.qzeros", (groups, rows // 8), (torch.int32,))
        codes, zero = (AWQ_GEMM.undo(unpack_words(part, _BITS, rows)).T for part in (words, zeros))
        values, middle = signed_if_centred(codes, zero, _BITS)
        block = (1, -1) if group == columns else (1, group)
        spec = integer_spec(_BITS, middle is None, block, SCALE_NAMES[scale.dtype])
        return coded(files, f"{module}.scales", values, (scale.T,), middle, spec)
