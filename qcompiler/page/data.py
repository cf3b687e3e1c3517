"""Everything that the page shows, as one plain value."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from qcompiler.ir.program import Program
from qcompiler.page.details import layer_details
from qcompiler.page.graph import graph_data
from qcompiler.page.texts import texts_data
from qcompiler.pipeline import Step
from qcompiler.report import Report
from qcompiler.stats import Batch

MOST_LAYERS = 800
MOST_REFUSALS = 3_000
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


@dataclass(frozen=True)
class PageData:
    """What the page knows besides the report.

    Args:
        graph: see `graph_data`; empty when there is none.
        details: see `layer_details`.
        texts: see `texts_data`; empty when there are none.
        refusals: what passes left alone: number of the step, node, reason, mend.
        seconds: predicted time of each layer, by name.
        seconds_from: where these come from.
        trimmed: what was left out to keep the page small.
    """

    graph: Mapping[str, object] = field(default_factory=dict)
    details: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    texts: Mapping[str, object] = field(default_factory=dict)
    refusals: Sequence[tuple[int, str, str, str]] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    seconds_from: str = ""
    trimmed: Sequence[str] = ()


def page_data(
    canonical: Program,
    quantized: Program,
    batch: Batch,
    report: Report,
    steps: Sequence[Step],
    texts: Mapping[int, str] | None = None,
    seconds: tuple[Mapping[str, float], str] = ({}, ""),
) -> PageData:
    """Collects what the page shows of a compilation.

    Args:
        canonical: the float program.
        quantized: at stage quantized; its graph is the one that is shown.
        batch: a few samples.
        report: says which layers there are.
        steps: with what the passes left alone.
        texts: of the program after each step.
        seconds: predicted, by layer, and where they come from.
    """
    ranked = sorted(report.layers, key=lambda layer: -(layer.error_share or 0.0))
    chosen = {layer.name for layer in ranked[:MOST_LAYERS]}
    graph, told = graph_data(quantized), texts_data(texts or {})
    refusals = [
        (step.number, refusal.node, refusal.reason, refusal.mend) for step in steps for refusal in step.refusals
    ]
    trimmed: list[str] = []
    if len(ranked) > MOST_LAYERS:
        trimmed.append(f"histograms of the {MOST_LAYERS} layers with most error out of {len(ranked)}")
    if graph["cut"]:
        trimmed.append(f"the last {graph['cut']} nodes of the graph are left out")
    if told["cut"]:
        trimmed.append(f"the texts of steps {', '.join(map(str, told['cut']))} are left out")  # pyright: ignore[reportArgumentType]
    if len(refusals) > MOST_REFUSALS:
        trimmed.append(f"the first {MOST_REFUSALS} refusals of {len(refusals)}")
    return PageData(
        graph,
        layer_details(canonical, quantized, batch, chosen),
        told,
        refusals[:MOST_REFUSALS],
        *seconds,
        trimmed,
    )


def embedded(report: Report, data: PageData) -> str:
    """All of it as JSON that no HTML parser can mistake for markup."""
    drawn = {"frontiers", "symmetries", "notes", "warnings"}
    value: dict[str, object] = {
        "report": {name: item for name, item in report.to_dict().items() if name not in drawn},
        "worst": sorted(report.worst()),
        "graph": data.graph,
        "details": data.details,
        "texts": data.texts,
        "refusals": data.refusals,
        "seconds": {name: float(f"{seconds:.4g}") for name, seconds in data.seconds.items()},
        "seconds_from": data.seconds_from,
    }
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.translate(str.maketrans(_ESCAPES))
