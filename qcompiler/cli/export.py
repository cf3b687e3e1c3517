"""`qcompiler export`: from an artefact to a checkpoint that other projects load."""

from __future__ import annotations

from pathlib import Path

import click

from qcompiler.cli.options import examples, print_json, shared


@click.command(
    "export",
    epilog=examples(
        "qcompiler export model_int4 --source hf_model -o model_int4_hf",
        "qcompiler export model_int4 --format gguf --names names.json -o model_gguf",
    ),
)
@click.argument("artefact", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER",
    help="Where the checkpoint goes; must not exist.",
)
@click.option("--format", "format_", default="compressed-tensors", show_default=True, help="Or gguf.")
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="The checkpoint of the float model: names and shapes are checked, config.json and tokenizer go along.",
)
@click.option(
    "--names",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Names of tensors in the checkpoint by names of the source model.",
)
@shared
def export_command(
    artefact: Path, output: Path, format_: str, source: Path | None, names: Path | None, as_json: bool
) -> None:
    """Write the weights of ARTEFACT, the folder of a compiled torch model, as a checkpoint of another project.

    Codes and scales stay as they are; what the format cannot say is an error, what it leaves out is listed.
    """
    from qcompiler.compiler import load
    from qcompiler.exporter import export

    written = export(load(artefact), output, format_, source=source, names=names)
    if as_json:
        return print_json(
            {
                "folder": str(written.folder),
                "files": list(written.files),
                "layers": written.layers,
                "lost": list(written.lost),
            }
        )
    click.echo(f"{written.layers} quantized weights in {written.folder}: {', '.join(written.files)}")
    for line in written.lost:
        click.echo(f"lost: {line}")
    return None
