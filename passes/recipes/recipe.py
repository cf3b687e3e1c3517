"""The recipe: what the user writes, or names, to say which passes run with which options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from qcompiler.errors import InputError, QCompilerError, SpecError
from qcompiler.pass_text import make_pass, parse_pass, pass_text
from qcompiler.passes.allocate import Assign
from qcompiler.passes.canonical import CANONICAL
from qcompiler.passes.recipes.catalogue import catalogue
from qcompiler.pipeline import Pass
from qcompiler.spec import parse_scheme

_FOLDER = Path(__file__).parent
_SCHEMA = "a recipe has name, description and passes; see `qcompiler recipes --json`"


class _File(BaseModel):
    """Schema of a recipe file."""

    model_config = ConfigDict(extra="forbid")

    name: str
    description: str = ""
    passes: list[str | dict[str, dict[str, str | int | float | bool]]]


@dataclass(frozen=True)
class Recipe:
    """Passes that follow the canonical ones.

    Args:
        name: how users call it.
        passes: in order.
        description: one line.
    """

    name: str
    passes: tuple[Pass, ...]
    description: str = ""

    @staticmethod
    def of(name: str, passes: Sequence[str | Pass], description: str = "") -> Recipe:
        """A recipe from passes, or their texts such as `assign{scheme=w8a8}`.

        Raises:
            SpecError: for an unknown pass or option.
        """
        known = catalogue()
        made = tuple(parse_pass(item, known) if isinstance(item, str) else item for item in passes)
        return Recipe(name, made, description)

    @property
    def all_passes(self) -> tuple[Pass, ...]:
        """The canonical passes and then the recipe's own."""
        return (*CANONICAL, *self.passes)

    def to_yaml(self) -> str:
        """The recipe fully resolved: every pass with all its options; `load_recipe` reads it back."""
        passes: list[object] = []
        for pass_ in self.passes:
            options = {key: getattr(pass_, key) for key in getattr(pass_, "__dataclass_fields__", {}) if key.islower()}
            classwide = ("name", "needs", "gives", "promise")
            fields = {key: value for key, value in options.items() if key not in classwide and value is not None}
            passes.append({pass_.name: fields} if fields else pass_.name)
        data = {"name": self.name, "description": self.description, "passes": passes}
        return yaml.safe_dump(data, sort_keys=False, width=110)

    def __str__(self) -> str:
        return ",".join(pass_text(pass_) for pass_ in self.passes)


def recipe_names() -> tuple[str, ...]:
    """Names of the recipes that ship."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def load_recipe(source: str | Path | Recipe) -> Recipe:
    """A recipe by name, by the path of a YAML file, or by the name of a scheme (`w4a16g64`), which needs no file.

    Raises:
        SpecError: when there is no such recipe, or its file does not follow the schema.
    """
    if isinstance(source, Recipe):
        return source
    text = str(source)
    if text.lower() in recipe_names():
        return _read(_FOLDER / f"{text.lower()}.yaml")
    if text.endswith((".yaml", ".yml")):
        return _read(Path(text))
    try:
        scheme = parse_scheme(text)
    except QCompilerError:
        raise SpecError(
            f"there is no recipe '{text}'",
            mend=f"recipes: {', '.join(recipe_names())}; any scheme such as w4a16g64; or the path of a .yaml file",
        ) from None
    template = "static" if scheme.activation is not None and not scheme.activation.dynamic else "weights"
    base = _read(_FOLDER / f"{'w8a8' if template == 'static' else 'w8a16'}.yaml")
    passes = tuple(_with_scheme(pass_, text) for pass_ in base.passes)
    return Recipe(text.lower(), passes, f"{text} wherever the target has a kernel for it")


def _with_scheme(pass_: Pass, scheme: str) -> Pass:
    return replace(pass_, scheme=scheme) if isinstance(pass_, Assign) else pass_


def _read(path: Path) -> Recipe:
    try:
        data = yaml.safe_load(path.read_text())
    except OSError as error:
        mend = f"recipes: {', '.join(recipe_names())}; or the path of a .yaml file"
        raise InputError(f"cannot read the recipe: {error.strerror}", where=str(path), mend=mend) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"the recipe is not YAML: {error}", where=str(path), mend=_SCHEMA) from error
    if not isinstance(data, dict):
        raise SpecError(f"the recipe is a {type(data).__name__}, not a mapping", where=str(path), mend=_SCHEMA)
    try:
        file = _File.model_validate(data)
        return Recipe(file.name, tuple(_pass_of(item) for item in file.passes), file.description)
    except ValidationError as error:
        first = error.errors()[0]
        raise SpecError(
            f"the recipe does not follow the schema: {first['msg']}",
            where=f"{path}: {'.'.join(str(part) for part in first['loc'])}",
            mend=_SCHEMA,
        ) from error
    except SpecError as error:
        raise SpecError(error.what, where=str(path), mend=error.mend) from error


def _pass_of(item: str | dict[str, dict[str, str | int | float | bool]]) -> Pass:
    if isinstance(item, str):
        return parse_pass(item, catalogue())
    if len(item) != 1:
        raise SpecError(f"one pass per line, found {', '.join(item)}")
    name, options = next(iter(item.items()))
    classes = {cls.name: cls for cls in catalogue()}
    if name not in classes:
        raise SpecError(f"there is no pass '{name}'", mend=f"passes: {', '.join(sorted(classes))}")
    return make_pass(classes[name], dict(options or {}))
