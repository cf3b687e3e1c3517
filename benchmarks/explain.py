"""Does the explainer find what is wrong? Faults in three real models: the right place, the right cause, the right gain.

One fault at a time is put into a quantized program: a bad scale, a saturated channel, a wrong zero point, exchanged
axes, stale statistics of a normalisation, scales of another axis. A fault counts when it costs a decibel or more. The
explainer sees the float program, the faulty one, and four samples. The place is right when its first finding names the
tensor, the cause when it also names the fault. The gain that it foretells for quantizing that tensor anew is compared
with what quantizing it anew wins.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from benchmarks.common import print_table, write_results
from benchmarks.faults import INJECTORS, Fault
from benchmarks.models import CASES
from qcompiler.explain import Explanation, Subject, explain
from qcompiler.explain.verify import result_error
from qcompiler.ir.program import Program
from qcompiler.job import prepare, run_job
from qcompiler.measure import limit_samples
from qcompiler.report.explanation import gain_db
from qcompiler.stats import Batch

MODELS = (("resnet20", "w8a8"), ("vit_mnist", "w8a8"), ("code_lm", "w4a16g32"))
SAMPLES = 4
LEAST_DB = 1.0
TRIES = 30


@dataclass(frozen=True)
class Bench:
    """A model, quantized as it should be."""

    name: str
    reference: Program
    quantized: Program
    batches: Sequence[Batch]
    error: float

    @staticmethod
    def of(name: str, recipe: str) -> Bench:
        """Loads and quantizes one."""
        case = CASES[name]()
        job = prepare(case.module, calibration=list(case.calibration)[:4], recipe=recipe)
        reference, quantized, _ = run_job(job)
        few = list(limit_samples(reference, job.batches, SAMPLES))
        return Bench(name, reference, quantized, few, result_error(reference, quantized, few))

    def faults(self, count: int, seed: int) -> Iterator[Fault]:
        """So many faults of all kinds in turn that cost something."""
        draw = torch.Generator().manual_seed(seed)
        made = 0
        for kind in list(INJECTORS) * count:
            fault = next(filter(None, (self.costly(kind, draw) for _ in range(TRIES))), None)
            if fault is not None:
                made += 1
                yield fault
            if made == count:
                return

    def costly(self, kind: str, draw: torch.Generator) -> Fault | None:
        """One fault of a kind, None when it costs nothing to speak of or the kind does not occur here."""
        fault = INJECTORS[kind](self.reference, self.quantized, draw)
        if fault is None:
            return None
        error = result_error(self.reference, fault.applied(self.quantized), self.batches)
        return fault if gain_db(error, self.error) >= LEAST_DB else None

    def recovered(self, fault: Fault, found: Explanation) -> float:
        """Decibels that quantizing the tensor of the first finding anew wins."""
        tensor = found.findings[0].tensor
        broken = fault.applied(self.quantized)
        mended = self.quantized if tensor in fault.tensors else broken
        before, after = (result_error(self.reference, item, self.batches) for item in (broken, mended))
        return gain_db(before, after)


def measure(bench: Bench, fault: Fault) -> dict[str, object]:
    """One fault explained."""
    started = time.perf_counter()
    subject = Subject(bench.reference, fault.applied(bench.quantized))
    found = explain(subject, bench.batches, samples=SAMPLES, verify=0)
    seconds = time.perf_counter() - started
    first = found.findings[0] if found.findings else None
    gains = {mend.tensor: mend.predicted_db for mend in found.mends}
    place = first is not None and first.tensor in fault.tensors
    return {
        "model": bench.name,
        "fault": fault.kind,
        "what": fault.text,
        "sqnr db": found.sqnr_db,
        "found": "" if first is None else f"{first.kind} at {first.tensor}: {first.evidence}",
        "place": place,
        "cause": place and first is not None and first.kind == fault.kind,
        "foretold db": gains.get(first.tensor, 0.0) if first is not None else 0.0,
        "real db": bench.recovered(fault, found) if first is not None else 0.0,
        "explained": found.explained,
        "points": found.points,
        "seconds": seconds,
    }


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's, ties at their mean rank."""
    ranks = [_ranks(torch.tensor(values, dtype=torch.float64)) for values in (one, other)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def _ranks(values: torch.Tensor) -> torch.Tensor:
    _, group, counts = torch.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    return (ends - (counts - 1) / 2)[group]


def main() -> None:
    """Explains all faults and writes `results/explain.json`; the exit code is 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=201, help="faults in all")
    parser.add_argument("--only", default="", help="models whose name holds this")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chosen = [item for item in MODELS if options.only in item[0]]
    rows: list[dict[str, object]] = []
    for number, (name, recipe) in enumerate(chosen):
        bench = Bench.of(name, recipe)
        for fault in bench.faults(options.count // len(chosen), options.seed + number):
            rows.append(measure(bench, fault))
            if not rows[-1]["cause"]:
                print({key: rows[-1][key] for key in ("model", "fault", "what", "found", "sqnr db")}, flush=True)
    place, cause = (sum(bool(row[key]) for row in rows) / len(rows) for key in ("place", "cause"))
    ranks = rank_correlation(*([float(str(row[key])) for row in rows] for key in ("foretold db", "real db")))
    off = [abs(1 - float(str(row["explained"]))) for row in rows]
    print_table([_summary(rows, kind) for kind in dict.fromkeys(str(row["fault"]) for row in rows)])
    within = sum(item <= 0.1 for item in off) / len(off)
    print(f"{len(rows)} faults: place {place:.1%}, cause {cause:.1%}, rank correlation {ranks:.3f}")
    print(f"parts sum to the whole within 10 % for {within:.1%}; {dict(Counter(str(row['model']) for row in rows))}")
    if not options.only:
        note = f"place {place:.3f}, cause {cause:.3f}, rank correlation {ranks:.3f}, sums within 10 % {within:.3f}"
        print(write_results("explain", rows, note))
    sys.exit(not (place >= 0.95 and cause >= 0.9 and ranks >= 0.8))


def _summary(rows: Sequence[dict[str, object]], kind: str) -> dict[str, object]:
    some = [row for row in rows if row["fault"] == kind]
    means = {
        key: sum(float(str(row[key])) for row in some) / len(some) for key in ("foretold db", "real db", "seconds")
    }
    right = {key: sum(bool(row[key]) for row in some) for key in ("place", "cause")}
    return {"fault": kind, "number": len(some), **right, **means}


if __name__ == "__main__":
    main()
