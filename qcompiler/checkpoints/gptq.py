"""GPTQ checkpoints: codes packed along the input channels, zero points along the output channels.

Formula   weight[n, k] = (code[n, k] - zero[n, g]) * scale[n, g], g = g_idx[k], else k // group_size
Shapes    qweight int32 [K * bits / 32, N], qzeros int32 [G, N * bits / 32], scales [G, N], g_idx int32 [K]
Source    Frantar et al. 2022, "GPTQ"; AutoGPTQ and GPTQModel `QuantLinear`: version 1 stores each zero point less
          one, modulo 2^bits, version 2 as it is
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qcompiler.checkpoints.layouts import unpack_words
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

_WIDTHS = (2, 3, 4, 8)
_FORMATS = ("gptq", "gptq_v2")


@dataclass(frozen=True)
class Gptq:
    """Decodes the weights of a GPTQ checkpoint.

    Args:
        bits: of a code; None when modules differ, as `dynamic` rules of the configuration say.
        group: columns per scale; -1 for whole rows; None when modules differ.
        version: 1 or 2.
    """

    bits: int | None
    group: int | None
    version: int

    @staticmethod
    def of(settings: Settings) -> Gptq:
        """From a quantization configuration; raises InputError for one that cannot be read."""
        stored = settings.word("checkpoint_format", settings.word("format", "gptq"), _FORMATS)
        settings.word("pack_dtype", "int32", ("int32",))
        if settings.data.get("dynamic"):
            return Gptq(None, None, 1 + (stored == "gptq_v2"))
        bits = settings.integer("bits")
        if bits not in _WIDTHS:
            raise settings.refusal("bits", bits, _WIDTHS)
        return Gptq(bits, settings.integer("group_size", -1), 1 + (stored == "gptq_v2"))

    def decode(self, files: WeightFiles, name: str, shape: tuple[int, ...]) -> Coded | None:
        """The weight called `name`; None when it is not stored quantized.

        Raises:
            InputError: naming file and tensor, when its parts do not fit together.
        """
        module = module_of(name, files, "qweight")
        if module is None:
            return None
        words = take(files, f"{module}.qweight", dtypes=(torch.int32,))
        if len(shape) != 2 or words.dim() != 2 or words.shape[1] != shape[0]:
            raise misfit(files, f"{module}.qweight", f"shape {list(words.shape)} for a weight of {list(shape)}")
        rows, columns = shape
        bits = self.bits or words.shape[0] * 32 // columns
        if bits not in _WIDTHS or columns * bits % 32 or words.shape[0] * 32 != columns * bits:
            raise misfit(files, f"{module}.qweight", f"{words.shape[0]} words for {columns} codes of {bits} bits")
        codes = unpack_words(words.T, bits, columns)
        scale = take(files, f"{module}.scales", dtypes=(torch.float16, torch.bfloat16, torch.float32))
        if scale.dim() != 2 or scale.shape[1] != rows:
            raise misfit(files, f"{module}.scales", f"shape {list(scale.shape)} for {rows} output channels")
        groups = scale.shape[0]
        stated = self.group if self.group is not None else -(-columns // groups)
        group = group_size(files, f"{module}.scales", columns, groups, stated)
        zeros = take(files, f"{module}.qzeros", (groups, -(-rows * bits // 32)), (torch.int32,))
        zero = unpack_words(zeros, bits, rows)
        zero = (zero + 1) & ((1 << bits) - 1) if self.version == 1 else zero
        order = self._order(files, module, columns, group)
        ordered = codes if order is None else codes[:, order]
        values, middle = signed_if_centred(ordered, zero.T, bits)
        block = (1, -1) if group == columns else (1, group)
        spec = integer_spec(bits, middle is None, block, SCALE_NAMES[scale.dtype])
        return coded(files, f"{module}.scales", values, (scale.T,), middle, spec, order)

    def _order(self, files: WeightFiles, module: str, columns: int, group: int) -> Tensor | None:
        """The columns sorted by group; None when they lie so."""
        name = f"{module}.g_idx"
        if name not in files.files:
            return None
        index = take(files, name, (columns,), (torch.int32, torch.int64)).long()
        plain = torch.arange(columns) // group
        if torch.equal(index, plain):
            return None
        order = torch.argsort(index, stable=True)
        if not torch.equal(index[order], plain):
            raise misfit(files, name, f"it does not put {group} columns into every group")
        return order
