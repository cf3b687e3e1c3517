"""What an artefact may cost."""

from __future__ import annotations

import re
from dataclasses import dataclass

from qcompiler.errors import InputError, SpecError

_UNITS = {
    "": 1,
    "k": 1e3,
    "kb": 1e3,
    "kib": 2**10,
    "m": 1e6,
    "mb": 1e6,
    "mib": 2**20,
    "g": 1e9,
    "gb": 1e9,
    "gib": 2**30,
}


@dataclass(frozen=True)
class Budget:
    """Limits of a compilation.

    Args:
        size: bytes of the deployed weights and graph: a number, `"4x"` (four times smaller than float), or text with a
            unit such as `"500kB"` or `"2MiB"`.
    """

    size: str | int | None = None

    @staticmethod
    def parse(text: str) -> Budget:
        """Reads `size=4x`.

        Raises:
            SpecError: for an unknown limit, or a size that cannot be read.
        """
        key, _, value = text.partition("=")
        if key.strip() != "size" or not value.strip():
            raise SpecError(f"'{text}' is not a budget", mend="for example size=4x or size=500kB")
        budget = Budget(size=value.strip())
        budget.limit(0)
        return budget

    def limit(self, float_bytes: int) -> float | None:
        """The size limit in bytes, None when there is none.

        Raises:
            SpecError: when the text cannot be read.
        """
        if self.size is None or isinstance(self.size, int):
            return self.size
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", self.size)
        unit = match[2].lower() if match else "?"
        if match and unit == "x" and float(match[1]) > 0:
            return float_bytes / float(match[1])
        if match and unit.removesuffix("bytes") in _UNITS:
            return float(match[1]) * _UNITS[unit.removesuffix("bytes")]
        raise SpecError(f"'{self.size}' is not a size", mend='for example "4x", "500kB", "2MiB" or a number of bytes')

    def check(self, float_bytes: int, quantized_bytes: int) -> None:
        """Refuses an artefact that is too large.

        Raises:
            InputError: saying what was asked and what came out.
        """
        limit = self.limit(float_bytes)
        if limit is not None and quantized_bytes > limit:
            raise InputError(
                f"the budget allows {limit:,.0f} bytes and the artefact takes {quantized_bytes:,} "
                f"({float_bytes / quantized_bytes:.2f}x smaller than float)",
                mend="choose a recipe with fewer bits, such as w4a16g128, or a larger budget",
            )
