"""Weight solvers: from a float weight to codes and scales.

A solver answers one question: codes, scales and zero point of a weight, from its spec and what is known of
the loss around it. The driver finds the weights and puts the codes in their place.
"""

from qcompiler.passes.solve.branches import BRANCHES
from qcompiler.passes.solve.codebook import CODEBOOKS
from qcompiler.passes.solve.fair_gptq import FairGptq
from qcompiler.passes.solve.foem import Foem
from qcompiler.passes.solve.format_search import FormatSearch
from qcompiler.passes.solve.gptaq import Gptaq
from qcompiler.passes.solve.gptq import Gptq
from qcompiler.passes.solve.gwq import Gwq
from qcompiler.passes.solve.learned import LEARNED, REPAIRS
from qcompiler.passes.solve.lowbit import LOWBIT
from qcompiler.passes.solve.nearest import Nearest
from qcompiler.passes.solve.rescomp import Rescomp
from qcompiler.passes.solve.rsq import Rsq
from qcompiler.passes.solve.slim import Slim
from qcompiler.passes.solve.udfc import Udfc, UdfcPrune
from qcompiler.passes.solve.weight_ranges import WeightRanges

METHODS = (Nearest,)
SECOND_ORDER = (Gptq, Gptaq, Foem, Rescomp, Rsq, FairGptq, Slim, Gwq)
SEARCHED = (FormatSearch,)
PASSES = (
    WeightRanges,
    Nearest,
    *LEARNED,
    *REPAIRS,
    *SECOND_ORDER,
    *SEARCHED,
    *LOWBIT,
    *CODEBOOKS,
    Udfc,
    UdfcPrune,
    *BRANCHES,
)

__all__ = ["METHODS", "PASSES", "SECOND_ORDER", "Nearest", "WeightRanges"]
