"""The quantization configuration that lies beside a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qcompiler.checkpoints.reading import STEP
from qcompiler.errors import InputError

MODEL_CONFIG = "config.json"
_OLDER = "quantize_config.json"
_KEY = "quantization_config"


@dataclass(frozen=True)
class Settings:
    """A quantization configuration.

    Args:
        path: file that holds it.
        data: plain data.
    """

    path: Path
    data: Mapping[str, object]

    def word(self, key: str, otherwise: str, known: Sequence[str] = ()) -> str:
        """A word in lower case, `otherwise` when it is not there; raises InputError when it is not `known`."""
        value = str(self.data.get(key) or otherwise).lower()
        if known and value not in known:
            raise self.refusal(key, value, known)
        return value

    def integer(self, key: str, otherwise: int | None = None) -> int:
        """A whole number; raises InputError when there is none."""
        value = self.data.get(key)
        value = otherwise if value is None else value
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.refusal(key, value, ("a whole number",))
        return value

    def refusal(self, key: str, value: object, known: Sequence[object]) -> InputError:
        """The error for a value that cannot be read."""
        return InputError(
            f"the quantization configuration has {key} {value!r}",
            where=str(self.path),
            step=STEP,
            mend=f"read here: {', '.join(map(str, known))}",
        )


def read_settings(source: Path) -> Settings | None:
    """The configuration beside the weights; None when they are not quantized.

    Args:
        source: the folder, or a file in it.

    Raises:
        InputError: when it is not JSON.
    """
    folder = source if source.is_dir() else source.parent
    path = folder / MODEL_CONFIG
    if path.is_file():
        found = read_json(path).get(_KEY)
        if isinstance(found, dict):
            return Settings(path, found)
    older = folder / _OLDER
    if not older.is_file():
        return None
    data = read_json(older)
    return Settings(older, {"quant_method": "gptq", **data})


def read_json(path: Path) -> dict[str, object]:
    """A JSON object; raises InputError when the file holds none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"the configuration cannot be read: {error}", where=str(path), step=STEP) from error
    if not isinstance(data, dict):
        raise InputError(f"the configuration is a {type(data).__name__}, not an object", where=str(path), step=STEP)
    return data
