"""Smoothing: scales and shifts per channel that move range from activations into weights."""

from __future__ import annotations

from qcompiler.passes.transform.smoothing.absorb_bias import AbsorbBias
from qcompiler.passes.transform.smoothing.awq import Awq
from qcompiler.passes.transform.smoothing.cfp import Cfp
from qcompiler.passes.transform.smoothing.cfp_weights import CfpWeights
from qcompiler.passes.transform.smoothing.crossquant import CrossQuant
from qcompiler.passes.transform.smoothing.equalize import Equalize
from qcompiler.passes.transform.smoothing.gps import Gps
from qcompiler.passes.transform.smoothing.llm_fp4 import PreShift
from qcompiler.passes.transform.smoothing.open_gates import OpenGates
from qcompiler.passes.transform.smoothing.qsam2 import QSam2
from qcompiler.passes.transform.smoothing.repq_vit import RepqVit
from qcompiler.passes.transform.smoothing.repquant import Repquant
from qcompiler.passes.transform.smoothing.smooth import Smooth
from qcompiler.passes.transform.smoothing.smoothquant import SmoothQuant
from qcompiler.passes.transform.smoothing.sqb import SqB
from qcompiler.pipeline import Pass

METHODS: tuple[type[Pass], ...] = (
    OpenGates,
    SmoothQuant,
    SqB,
    RepqVit,
    Repquant,
    Gps,
    CrossQuant,
    Cfp,
    Awq,
    PreShift,
    Smooth,
    Equalize,
    QSam2,
    CfpWeights,
    AbsorbBias,
)
