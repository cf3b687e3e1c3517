"""Rotations: orthogonal changes of basis that spread outliers over all coordinates."""

from __future__ import annotations

from qcompiler.passes.transform.rotation.adaptive import AdaptiveRotation
from qcompiler.passes.transform.rotation.klt import Klt
from qcompiler.passes.transform.rotation.normal_scales import NormalScales
from qcompiler.passes.transform.rotation.quantface import QuantFace
from qcompiler.passes.transform.rotation.quantvggt import QuantVggt
from qcompiler.passes.transform.rotation.randomized_hadamard import Rotate
from qcompiler.passes.transform.rotation.robuq import RobuQ
from qcompiler.passes.transform.rotation.smooth_fused import SmoothFused
from qcompiler.passes.transform.rotation.turn import Turn
from qcompiler.passes.transform.rotation.viditq import ViditQ
from qcompiler.pipeline import Pass

METHODS: tuple[type[Pass], ...] = (
    Rotate,
    Klt,
    SmoothFused,
    ViditQ,
    QuantVggt,
    QuantFace,
    AdaptiveRotation,
    RobuQ,
    Turn,
    NormalScales,
)
