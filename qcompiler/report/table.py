"""The report in a terminal."""

from __future__ import annotations

import io

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from qcompiler.notebook import table as html_table
from qcompiler.report.model import LayerReport, Report
from qcompiler.report.words import bits_text, db_text, metric_text, ratio_text, seconds_text, share_text, size_text
from qcompiler.terminal import PLAIN_WIDTH, make_console

_NAMED = 4


def print_report(report: Report, console: Console | None = None) -> None:
    """Prints layers (the worst marked), totals, warnings and fallbacks."""
    console = make_console() if console is None else console
    console.print(Text(f"{report.model} · {report.recipe} · {report.target}", style="bold"))
    if report.layers:
        console.print(_layer_table(report))
    console.print(_totals(report))
    for note in report.notes:
        console.print(Text(note, style="dim"))
    for warning in report.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"))
    if report.fallbacks:
        count = len(report.fallbacks)
        words = "layer does" if count == 1 else "layers do"
        console.print(Text(f"{count} {words} not run as asked", style="bold yellow"))
        for group in report.fallback_groups():
            _print_fallbacks(group, console)
    for reason, layers in report.kept_in_float().items():
        names = ", ".join(layer.module or layer.name for layer in layers[:_NAMED])
        more = f" and {len(layers) - _NAMED} more" if len(layers) > _NAMED else ""
        console.print(Text(f"in float: {names}{more}: {reason}", style="dim"))


def plain_text(report: Report) -> str:
    """The same without colours, at a fixed width."""
    buffer = io.StringIO()
    print_report(report, Console(file=buffer, width=PLAIN_WIDTH, color_system=None, force_terminal=False))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def notebook_table(report: Report) -> str:
    """The totals and the layers, those that add most of the error first, as HTML for a notebook."""
    layers = sorted(report.layers, key=lambda layer: -(layer.error_share or 0.0))
    size = f"{size_text(report.float_bytes)} to {size_text(report.quantized_bytes)}, {ratio_text(report.ratio)}"
    caption = f"{report.model} · {report.recipe} · {report.target}: output SQNR {db_text(report.sqnr_db)} dB; {size}"
    rows = [
        (
            layer.module or layer.name,
            bits_text(layer),
            db_text(layer.sqnr_db),
            share_text(layer.error_share),
            layer.requested,
            layer.realised,
            layer.reason,
        )
        for layer in layers
    ]
    headings = ("layer", "bits", "SQNR dB", "error share", "asked", "runs", "why")
    return html_table(caption, headings, rows, len(rows), "; ".join(report.warnings))


def _layer_table(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    for heading in ("", "layer", "op", "asked", "runs"):
        table.add_column(heading, overflow="fold")
    for heading in ("bits", "SQNR dB", "error", "bytes"):
        table.add_column(heading, justify="right", no_wrap=True)
    worst = report.worst()
    for layer in report.layers:
        mark = "!" if layer.fell_back else "*" if layer.name in worst else ""
        cells = (
            mark,
            layer.module or layer.name,
            layer.op.removeprefix("aten."),
            layer.requested,
            layer.realised,
            bits_text(layer),
            db_text(layer.sqnr_db),
            share_text(layer.error_share),
            size_text(layer.bytes) if layer.float_bytes else "–",
        )
        table.add_row(*(Text(cell) for cell in cells), style={"!": "yellow", "*": "red"}.get(mark))
    return table


def _totals(report: Report) -> Table:
    table = Table.grid(padding=(0, 2))
    rows = [
        ("output SQNR", f"{db_text(report.sqnr_db)} dB" if report.sqnr_db is not None else "not measured"),
        ("size", f"{size_text(report.float_bytes)} -> {size_text(report.quantized_bytes)}"),
        ("ratio", ratio_text(report.ratio)),
    ]
    if report.metric_float is not None or report.metric_quantized is not None:
        rows.append(("metric", f"{metric_text(report.metric_float)} -> {metric_text(report.metric_quantized)}"))
    if report.symmetries is not None:
        rows.append(("symmetries", report.symmetries.words()))
    rows.append(("compiled in", f"{seconds_text(report.seconds)}, peak memory {size_text(report.peak_bytes)}"))
    if report.worst():
        rows.append(("* marks", "the layers that add most of the error"))
    for name, value in rows:
        table.add_row(Text(name, style="bold"), Text(value))
    return table


def _print_fallbacks(group: tuple[LayerReport, ...], console: Console) -> None:
    first = group[0]
    text = Text(f"! asked {first.requested}, {'runs' if len(group) == 1 else 'run'} {first.realised}: ")
    text.append(", ".join(layer.module or layer.name for layer in group))
    text.append(f"\nreason: {first.reason}")
    if first.mend:
        text.append(f"\nmend:   {first.mend}")
    console.print(Padding(text, (0, 0, 0, 2)))
