"""The canonical passes in the order in which they run on a program and on every region inside it."""

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
from qcompiler.passes.canonical.normalize import Normalize
from qcompiler.passes.canonical.split_complex import SplitComplex
from qcompiler.pipeline import Pass

STEPS: tuple[Pass, ...] = (
    Normalize(),
    SplitComplex(),
    FoldConstants(),
    CommonSubexpressions(),
    NameNorms(),
    NameActivations(),
    FusePermutes(),
    NameAttention(),
    FusePermutes(),
    FuseLinearBias(),
    FoldBatchNorm(),
    MergePads(),
    CommonSubexpressions(),
    EraseDead(),
)
