"""Options that several commands share, and the small things all commands print."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import click

TRACEBACK = "qcompiler.traceback"
_Command = TypeVar("_Command", bound=Callable[..., None])


def examples(*lines: str) -> str:
    """The examples section of a help text."""
    return "\n\n\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def _remember(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    del parameter
    context.meta[TRACEBACK] = value


def shared(command: _Command) -> _Command:
    """Adds what every command has: `--json` and `--traceback`."""
    command = click.option(
        "--traceback",
        is_flag=True,
        expose_value=False,
        callback=_remember,
        help="Show where an error was raised.",
    )(command)
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(command)


def model_options(command: _Command) -> _Command:
    """Adds the options that say how a model is read and which passes run on it."""
    path = click.Path(path_type=Path)
    for option in reversed(
        (
            click.option(
                "--calibration",
                type=path,
                metavar="FILE.npz",
                help="Real samples: one array per model input, named like it, first axis over samples.",
            ),
            click.option(
                "--inputs",
                type=path,
                metavar="FILE.npz",
                help="One example call of a PyTorch model, one array per input. Default: the first samples.",
            ),
            click.option(
                "--weights",
                type=path,
                metavar="PATH",
                help="A .safetensors or .gguf file, or a checkpoint's folder, with the weights of a PyTorch model; "
                "quantized ones keep their codes.",
            ),
            click.option(
                "--target",
                default="onnxruntime",
                show_default=True,
                help="See `qcompiler targets`; NAME{setting=value} changes a setting.",
            ),
            click.option("--plan", type=path, metavar="FILE", help="Replay the plan.json of an artefact."),
            click.option("--seed", default=0, show_default=True, help="Of every random choice."),
            click.option(
                "--dynamic",
                type=click.Choice(["auto", "none"]),
                default="auto",
                show_default=True,
                help="Keep free input dimensions free, or fix all of them to the example's.",
            ),
        )
    ):
        command = option(command)
    return command


def print_json(data: object) -> None:
    """Prints plain data as indented JSON."""
    click.echo(json.dumps(data, indent=2))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Prints a table that fits the terminal; the first column stays whole, the others wrap."""
    from rich.table import Table

    from qcompiler.terminal import make_console

    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for number, heading in enumerate(headings):
        table.add_column(heading, overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*row)
    make_console().print(table)
