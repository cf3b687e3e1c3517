"""Canonical passes: one spelling for everything, whichever front-end it came from. All of them keep the function."""

from qcompiler.passes.canonical.canonicalize import Canonicalize
from qcompiler.passes.canonical.canonicalize_regions import CanonicalizeRegions
from qcompiler.passes.canonical.common_subexpressions import CommonSubexpressions
from qcompiler.passes.canonical.erase_dead import EraseDead
from qcompiler.passes.canonical.fold_batch_norm import FoldBatchNorm
from qcompiler.passes.canonical.fold_constants import FoldConstants
from qcompiler.passes.canonical.fuse_linear_bias import FuseLinearBias
from qcompiler.passes.canonical.fuse_permutes import FusePermutes
from qcompiler.passes.canonical.merge_pads import MergePads
from qcompiler.passes.canonical.name_activations import NameActivations
from qcompiler.passes.canonical.name_attention import NameAttention
from qcompiler.passes.canonical.name_norms import NameNorms
from qcompiler.passes.canonical.narrow_rows import NarrowRows
from qcompiler.passes.canonical.normalize import Normalize
from qcompiler.passes.canonical.split_attention import SplitAttention
from qcompiler.passes.canonical.split_complex import SplitComplex
from qcompiler.passes.canonical.split_projection import SplitProjection
from qcompiler.passes.canonical.steps import STEPS
from qcompiler.pipeline import Pass

PASSES: tuple[type[Pass], ...] = (
    Normalize,
    SplitComplex,
    FoldConstants,
    CommonSubexpressions,
    NameNorms,
    NameActivations,
    FusePermutes,
    NameAttention,
    FuseLinearBias,
    FoldBatchNorm,
    MergePads,
    EraseDead,
    CanonicalizeRegions,
    Canonicalize,
    NarrowRows,
    SplitProjection,
    SplitAttention,
)
CANONICAL: tuple[Pass, ...] = (*STEPS, CanonicalizeRegions(), Canonicalize())
