"""The text of a pass, `name{option=value, ...}`: printed from its fields, read back against them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import ClassVar, Protocol, TypeVar

from qcompiler.errors import SpecError


class Named(Protocol):
    """A frozen dataclass with a name; every pass is one."""

    name: ClassVar[str]


_Pass = TypeVar("_Pass", bound=Named)


def pass_text(pass_: Named) -> str:
    """A pass as `name{option=value, ...}`, options at their default left out."""
    options = []
    for option in dataclasses.fields(pass_):  # pyright: ignore[reportArgumentType]
        value = getattr(pass_, option.name)
        if value != option.default:
            options.append(f"{option.name}={value}")
    return pass_.name + (f"{{{', '.join(options)}}}" if options else "")


def name_and_options(text: str) -> tuple[str, dict[str, str]]:
    """The parts of `name{option=value, ...}`; commas within brackets belong to a value.

    Raises:
        SpecError: when the braces do not match.
    """
    name, brace, body = text.strip().partition("{")
    if bool(brace) != body.endswith("}"):
        raise SpecError("the braces do not match", where=text, mend="write name{option=value, ...}")
    words = [word.partition("=") for word in re.split(r",(?![^\[\]]*\])", body.rstrip("} ")) if word.strip()]
    return name, {key.strip(): value.strip() for key, _, value in words}


def parse_pass(text: str, catalogue: Iterable[type[_Pass]]) -> _Pass:
    """Reads `name{option=value, ...}`; inverse of `pass_text`.

    Raises:
        SpecError: for an unknown pass, option or value.
    """
    name, options = name_and_options(text)
    classes = {cls.name: cls for cls in catalogue}
    if name not in classes:
        raise SpecError(f"there is no pass '{name}'", mend=f"passes: {', '.join(sorted(classes))}")
    return make_pass(classes[name], dict(options))


def parse_passes(text: str, catalogue: Iterable[type[_Pass]]) -> list[_Pass]:
    """Reads passes with commas between them: `fold_constants,assign{scheme=w8a8, keep=head}`.

    Raises:
        SpecError: for an unknown pass, option or value.
    """
    known = tuple(catalogue)
    parts = re.split(r",(?![^{}]*\})", text)
    return [parse_pass(part, known) for part in parts if part.strip()]


def make_pass(cls: type[_Pass], options: dict[str, object]) -> _Pass:
    """Builds a pass from options given as text or as values, checked against its fields.

    Raises:
        SpecError: naming the pass and the option.
    """
    known = {option.name: option for option in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]
    values: dict[str, object] = {}
    for key, value in options.items():
        if key not in known:
            raise SpecError(f"pass '{cls.name}' has no option '{key}'", mend=f"options: {', '.join(known) or 'none'}")
        values[key] = _convert(cls.name, key, value, known[key].default)
    try:
        return cls(**values)
    except TypeError as error:
        raise SpecError(f"pass '{cls.name}': {error}") from error
    except SpecError as error:
        raise SpecError(error.what, where=error.where or f"pass '{cls.name}'", mend=error.mend) from error


def _convert(name: str, key: str, value: object, default: object) -> object:
    if isinstance(default, str):
        return str(value)
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[str(value).lower()]
        if isinstance(default, int):
            return int(str(value))
        return float(str(value)) if isinstance(default, float) else value
    except (ValueError, KeyError):
        raise SpecError(
            f"pass '{name}': '{value}' is not a value for {key}", mend=f"for example {key}={default}"
        ) from None
