"""The `qcompiler` command: its subcommands, its errors and its exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import click

from qcompiler import __version__
from qcompiler.cli.audit import audit_command
from qcompiler.cli.bench import bench_command
from qcompiler.cli.bisect import bisect_command
from qcompiler.cli.compile import compile_command
from qcompiler.cli.diff import diff_command
from qcompiler.cli.dump import dump_command
from qcompiler.cli.explain import explain_command
from qcompiler.cli.export import export_command
from qcompiler.cli.lists import formats_command, passes_command, recipes_command, targets_command
from qcompiler.cli.options import TRACEBACK, examples
from qcompiler.cli.replay import replay_command
from qcompiler.cli.why import why_command
from qcompiler.errors import AuditError, QCompilerError

OK, FAILED, USAGE, NOT_AS_ASKED, INTERRUPTED = 0, 1, 2, 3, 130

_EPILOG = """
\b
Exit codes:
  0  done
  1  the command failed: the message says what, where and what to do
  2  the command line itself is wrong
  3  --strict: a layer does not run as it was asked to
"""


@click.group(
    "qcompiler",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=_EPILOG
    + examples(
        "qcompiler compile model.onnx --calibration samples.npz -o model_int8",
        "qcompiler compile net.py:build --calibration samples.npz --recipe w4a16g32 -o model_int4",
        "qcompiler dump model.onnx --after all",
        "qcompiler diff model.onnx --pass fold_batch_norm",
        "qcompiler compile model.onnx --calibration samples.npz -o edge --dump-dir run",
        "qcompiler why run assign",
        "qcompiler bisect run --metric 'sqnr>30'",
    ),
)
@click.version_option(__version__, message="qcompiler %(version)s")
def app() -> None:
    """A quantization compiler: any PyTorch or ONNX model in, low-bit ONNX and kernels out, all steps readable."""


for _command in (
    compile_command,
    dump_command,
    diff_command,
    why_command,
    bisect_command,
    replay_command,
    explain_command,
    audit_command,
    bench_command,
    export_command,
    passes_command,
    targets_command,
    recipes_command,
    formats_command,
):
    app.add_command(_command)


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code; errors are printed, never raised."""
    context: click.Context | None = None
    try:
        with app.make_context("qcompiler", list(arguments)) as context:
            app.invoke(context)
        return OK
    except click.exceptions.Exit as request:
        return request.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except QCompilerError as error:
        if context is not None and context.meta.get(TRACEBACK):
            traceback.print_exc()
        else:
            click.echo(f"error: {error}", err=True)
        return NOT_AS_ASKED if isinstance(error, AuditError) else FAILED
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return INTERRUPTED


def main() -> int:
    """Entry point of the `qcompiler` script."""
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader of our output went away (`| head`): quiet the interpreter's own flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
