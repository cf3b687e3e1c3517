"""The catalogues: `qcompiler passes | targets | recipes | formats`."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING

import click

from qcompiler.cli.options import examples, print_json, print_table, shared

if TYPE_CHECKING:
    from qcompiler.formats import Format
    from qcompiler.passes.recipes import Recipe
    from qcompiler.pipeline import Pass
    from qcompiler.target import Kernel, Target


@click.command("passes", epilog=examples("qcompiler passes", "qcompiler passes --json"))
@shared
def passes_command(as_json: bool) -> None:
    """List the passes with their stages, promises and options."""
    from qcompiler.passes.recipes import catalogue

    found = [describe_pass(cls) for cls in catalogue()]
    if as_json:
        return print_json(found)
    rows = [
        (
            str(item["name"]),
            f"{item['needs']} -> {item['gives']}",
            str(item["promise"]),
            _options(item["options"]),
            str(item["summary"]),
        )
        for item in found
    ]
    return print_table(("pass", "stage", "promise", "options", "what it does"), rows)


@click.command("targets", epilog=examples("qcompiler targets", "qcompiler targets onnxruntime"))
@click.argument("name", required=False)
@shared
def targets_command(name: str | None, as_json: bool) -> None:
    """List the targets, or the kernel rows of target NAME."""
    from qcompiler.job import backends
    from qcompiler.targets import load_target, target_names

    if name is not None:
        return _show_target(load_target(name, backends()), as_json)
    targets = [load_target(known, backends()) for known in target_names()]
    if as_json:
        return print_json([describe_target(target) for target in targets])
    rows = [(target.name, target.backend.name, str(len(target.kernels)), target.description) for target in targets]
    return print_table(("target", "backend", "kernels", "description"), rows)


@click.command("recipes", epilog=examples("qcompiler recipes", "qcompiler recipes w8a8 > mine.yaml"))
@click.argument("name", required=False)
@shared
def recipes_command(name: str | None, as_json: bool) -> None:
    """List the recipes, or print recipe NAME fully resolved, ready to be edited.

    Any scheme name, such as w4a16g64, is a recipe too.
    """
    from qcompiler.passes.recipes import load_recipe, recipe_names

    recipes = [load_recipe(known) for known in ([name] if name else recipe_names())]
    if as_json:
        described = [describe_recipe(recipe) for recipe in recipes]
        return print_json(described[0] if name else described)
    if name:
        return click.echo(recipes[0].to_yaml(), nl=False)
    return print_table(
        ("recipe", "passes after the canonical ones", "description"),
        [(recipe.name, str(recipe).replace(",", ", "), recipe.description) for recipe in recipes],
    )


@click.command("formats", epilog=examples("qcompiler formats", "qcompiler formats --json"))
@shared
def formats_command(as_json: bool) -> None:
    """List the number formats."""
    from qcompiler.formats import FORMATS

    found = [describe_format(format_) for format_ in FORMATS]
    if as_json:
        return print_json(found)
    rows = [(str(item["name"]), str(item["bits"]), f"{item['lowest']:g}", f"{item['highest']:g}") for item in found]
    return print_table(("format", "bits", "lowest", "highest"), rows)


def describe_pass(cls: type[Pass]) -> dict[str, object]:
    """What the catalogue says of a pass."""
    fields = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
    options = {
        field.name: field.default for field in fields if isinstance(field.default, bool | int | float | str | None)
    }
    return {
        "name": cls.name,
        "needs": str(cls.needs),
        "gives": str(cls.gives),
        "promise": type(cls.promise).__name__.lower(),
        "options": options,
        "summary": (inspect.getdoc(cls) or "").partition("\n")[0],
    }


def describe_recipe(recipe: Recipe) -> dict[str, object]:
    """What the catalogue says of a recipe."""
    from qcompiler.pass_text import pass_text

    return {
        "name": recipe.name,
        "description": recipe.description,
        "passes": [pass_text(pass_) for pass_ in recipe.passes],
    }


def describe_format(format_: Format) -> dict[str, object]:
    """What the catalogue says of a number format."""
    return {
        "name": format_.name,
        "bits": format_.storage_bits,
        "signed": format_.signed,
        "integer": format_.is_integer,
        "lowest": format_.lowest,
        "highest": format_.highest,
    }


def describe_target(target: Target) -> dict[str, object]:
    """What the catalogue says of a target, kernel rows included."""
    return {
        "name": target.name,
        "backend": target.backend.name,
        "description": target.description,
        "kernels": [describe_kernel(kernel) | {"meaning": _meaning(target, kernel)} for kernel in target.kernels],
    }


def describe_kernel(kernel: Kernel) -> dict[str, object]:
    """What the catalogue says of one kernel row."""
    slots = {
        name: {"need": slot.need, "accepts": [str(accept) for accept in slot.accepts]}
        for name, slot in (*kernel.slots.items(), ("result", kernel.result))
    }
    return {"name": kernel.name, "ops": list(kernel.ops), "slots": slots, "note": kernel.note}


def _meaning(target: Target, kernel: Kernel) -> dict[str, object] | None:
    """How the kernel computes: formula, accumulator, rounding; None where it has no meaning of its own."""
    from qcompiler.backends.reference.semantics import BIT_SEMANTICS, GROUPED_SEMANTICS, SEMANTICS, WHOLE_SEMANTICS

    found = (
        {**SEMANTICS, **BIT_SEMANTICS, **GROUPED_SEMANTICS, **WHOLE_SEMANTICS}.get(kernel.name)
        if kernel.name in target.backend.meanings()
        else None
    )
    return None if found is None else found.to_dict()


def _options(values: object) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items()) if isinstance(values, dict) else ""


def _show_target(target: Target, as_json: bool) -> None:
    if as_json:
        return print_json(describe_target(target))
    rows = []
    for kernel in target.kernels:
        slots = (*kernel.slots.items(), ("result", kernel.result))
        texts = [f"{name}: {' or '.join(str(a) for a in slot.accepts) or 'float'}" for name, slot in slots]
        meaning = _meaning(target, kernel)
        computes = f"{meaning['formula']}; agrees in {meaning['agreement']}" if meaning else "float operators"
        note = " ".join(kernel.note.split())
        rows.append((kernel.name, ", ".join(kernel.ops), "; ".join(texts), computes, note))
    return print_table(
        ("kernel", "operators", "numbers", "computes", "note"), rows, f"{target.name}: {target.description}"
    )
