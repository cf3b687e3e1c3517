"""What an artefact may cost, in the user's words."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from qcompiler.errors import InputError, SpecError

_BYTES = {
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
_SECONDS = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_COUNTS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)\s*([a-zA-Z]*)\s*")
_EXAMPLE = (
    "for example size=4x, size=500kB, latency=0.5x, latency=2ms, average_bits=4.2, peak_memory=256kB, max_drop=0.01"
)


@dataclass(frozen=True)
class Budget:
    """Limits of a compilation; all that are given hold together.

    Args:
        size: bytes of the deployed weights and graph: a number, `"4x"` (four times smaller than float), or text with a
            unit such as `"500kB"` or `"2MiB"`.
        latency: seconds of one call: a number, `"0.5x"` (half of what float takes), or text such as `"2ms"`.
        average_bits: bits per weight, scales and zero points included.
        peak_memory: bytes of activations alive at once, written like a size.
        bops: bit operations: a number, `"0.1x"` of float, or text such as `"2.5G"`.
        max_drop: the largest squared error of the results, as a part of their square: 0.01 is 20 dB.
    """

    size: str | float | None = None
    latency: str | float | None = None
    average_bits: str | float | None = None
    peak_memory: str | float | None = None
    bops: str | float | None = None
    max_drop: str | float | None = None

    @staticmethod
    def parse(text: str) -> Budget:
        """Reads `size=4x,latency=0.5x`; inverts `str(budget)`.

        Raises:
            SpecError: for an unknown limit, or one that cannot be read.
        """
        known = [field.name for field in dataclasses.fields(Budget)]
        words: dict[str, str] = {}
        for part in text.split(","):
            key, _, value = (word.strip() for word in part.partition("="))
            if key not in known or not value or key in words:
                raise SpecError(f"'{text}' is not a budget", mend=_EXAMPLE)
            words[key] = value
        budget = Budget(**words)
        budget.check_words()
        return budget

    def __str__(self) -> str:
        return ",".join(f"{name}={value}" for name, value in self.words.items())

    @property
    def words(self) -> Mapping[str, str | float]:
        """The limits that are given, as they were."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value not in (None, "")}

    def check_words(self) -> None:
        """Refuses words that cannot be read.

        Raises:
            SpecError: naming the limit.
        """
        for name in self.words:
            self.resolve(name, 1.0)

    def resolve(self, name: str, reference: float) -> float | None:
        """One limit as a number: bytes, seconds, bits, operations or a part of the square.

        Args:
            name: of the limit.
            reference: what the float model takes, for words such as `4x`.

        Returns:
            None when there is no such limit.

        Raises:
            SpecError: when the text cannot be read.
        """
        word = self.words.get(name)
        if word is None:
            return None
        match = _NUMBER.fullmatch(str(word))
        value, unit = (float(match[1]), match[2].lower()) if match else (0.0, "?")
        if not 0 < value < math.inf and not (value == 0 and name == "max_drop"):
            unit = "?"
        if unit == "x" and value > 0 and name in _FACTORS:
            return reference / value if name in _DIVIDED else reference * value
        units = _FACTORS.get(name, {"": 1.0})
        plain = unit.removesuffix("bytes") if units is _BYTES else unit
        if plain in units:
            return value * units[plain]
        kind = f"{'an' if name[0] in 'aeiou' else 'a'} {name.replace('_', ' ')}"
        raise SpecError(f"'{word}' is not {kind}", mend=_EXAMPLES.get(name, "a number, such as 4.2 or 0.01"))

    def limit(self, float_bytes: int) -> float | None:
        """The size limit in bytes, None when there is none.

        Raises:
            SpecError: when the text cannot be read.
        """
        return self.resolve("size", float_bytes)

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

    def check_bits(self, bits: float | None) -> None:
        """Refuses an artefact whose weights take more bits than allowed, with all that passes have added to them.

        Args:
            bits: average over the weights that were allocated, None when none was.

        Raises:
            InputError: saying what was asked and what came out.
        """
        limit = self.resolve("average_bits", 1.0)
        if limit is not None and bits is not None and bits > limit * (1 + _ROUNDING):
            raise InputError(
                f"the budget allows {limit:.6g} bits per weight and the artefact takes {bits:.6g}: passes after the "
                "allocation have added parts to weights",
                mend="take out the pass that adds branches or parts, or allow that much less to the allocation",
            )

    def check_drop(self, sqnr_db: float | None) -> None:
        """Refuses an artefact whose results are too far from the float ones.

        Raises:
            InputError: saying what was asked and what came out.
        """
        limit = self.resolve("max_drop", 1.0)
        drop = None if sqnr_db is None else 10 ** (-sqnr_db / 10)
        if limit is not None and drop is not None and drop > limit:
            raise InputError(
                f"the budget allows an error of {limit:.3g} of the results and the artefact has {drop:.3g}",
                mend="choose a recipe with more bits, or a larger max_drop",
            )


_FACTORS: Mapping[str, Mapping[str, float]] = {
    "size": _BYTES,
    "peak_memory": _BYTES,
    "latency": _SECONDS,
    "bops": _COUNTS,
}
_ROUNDING = 1e-9
_DIVIDED = ("size", "peak_memory")
_EXAMPLES = {
    "size": 'for example "4x", "500kB", "2MiB" or a number of bytes',
    "peak_memory": 'for example "4x", "500kB", "2MiB" or a number of bytes',
    "latency": 'for example "0.5x", "2ms" or a number of seconds',
    "bops": 'for example "0.1x", "2.5G" or a number',
}
