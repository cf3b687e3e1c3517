"""Sensitivities: what each option of each unit costs in quality. One registry; `table.measure` fills the tables."""

from __future__ import annotations

from collections.abc import Sequence

from qcompiler.ir.program import Program
from qcompiler.passes.allocate.problem import Table, Unit
from qcompiler.passes.allocate.sensitivity.curvature import Fisher, GaussNewton, HessianEigenvalue, HessianTrace
from qcompiler.passes.allocate.sensitivity.evolved import Evolved
from qcompiler.passes.allocate.sensitivity.gradients import kind_of
from qcompiler.passes.allocate.sensitivity.images import GradientSimilarity, StructuralSimilarity
from qcompiler.passes.allocate.sensitivity.joint import JointFit
from qcompiler.passes.allocate.sensitivity.method import Harm, Sensitivity, Subject
from qcompiler.passes.allocate.sensitivity.proxies import (
    FirstOrder,
    GradientNorm,
    Orthogonality,
    Parameters,
    Snip,
    SynapticFlow,
)
from qcompiler.passes.allocate.sensitivity.relevance import Relevance
from qcompiler.passes.allocate.sensitivity.results import (
    LocalError,
    LossDelta,
    OutputDecibels,
    OutputDivergence,
    OutputError,
)
from qcompiler.passes.allocate.sensitivity.statistics import Entropy, Kurtosis, OutlierShare, WeightError
from qcompiler.passes.allocate.sensitivity.stirred import BlockSimilarity, Mask, NoiseToggle
from qcompiler.passes.allocate.sensitivity.table import Term, measure, parse_terms
from qcompiler.pipeline import Context

SENSITIVITIES: tuple[type[Sensitivity], ...] = (
    WeightError,
    LocalError,
    OutputError,
    OutputDecibels,
    OutputDivergence,
    LossDelta,
    Fisher,
    GaussNewton,
    HessianTrace,
    HessianEigenvalue,
    FirstOrder,
    Snip,
    GradientNorm,
    SynapticFlow,
    Parameters,
    Orthogonality,
    Kurtosis,
    OutlierShare,
    Entropy,
    BlockSimilarity,
    Relevance,
    Mask,
    NoiseToggle,
    StructuralSimilarity,
    GradientSimilarity,
    Evolved,
    JointFit,
)


def read_terms(text: str) -> list[Term]:
    """Sensitivities from the user's words; see `table.parse_terms`."""
    return parse_terms(text, SENSITIVITIES)


def measure_table(text: str, program: Program, units: Sequence[Unit], ctx: Context) -> Table:
    """The loss table of one sensitivity, or a sum of several: [unit][option].

    Args:
        text: such as `output` or `fisher(draws=4)`.
        program: at stage canonical; not changed.
        units: with options that `trial.Trial` can run.
        ctx: `batches` hold the calibration data.

    Raises:
        SpecError: for unknown words.
        InputError: when data is missing.
        UnsupportedError: for an operator that the sensitivity cannot judge.
    """
    return measure(read_terms(text), Subject(program, ctx), units).table()


def judged_by(text: str, program: Program) -> Harm:
    """How whole plans are judged for sensitivities: `divergence` when each of them is after that, else `error`."""
    own = "divergence" if kind_of(program, "auto") == "divergence" else "error"
    kinds = [term.sensitivity.judged_by for term in read_terms(text)]
    return "divergence" if {own if kind == "auto" else kind for kind in kinds} == {"divergence"} else "error"
