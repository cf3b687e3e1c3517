"""Weights as indices into tables of vectors or scalars.

`vectors` cuts a weight and clusters the pieces, `learn` changes whatever is learned by gradient descent on the output
error of the layer, `soft` learns assignments.
"""

from qcompiler.passes.solve.codebook.jlcm import Jlcm
from qcompiler.passes.solve.codebook.kmeans_vq import KMeansVq
from qcompiler.passes.solve.codebook.mvq import Mvq
from qcompiler.passes.solve.codebook.ssvq import Ssvq
from qcompiler.passes.solve.codebook.vimvq import VimVq
from qcompiler.passes.solve.codebook.vq4all import Vq4All

CODEBOOKS = (KMeansVq, VimVq, Ssvq, Mvq, Vq4All, Jlcm)

__all__ = ["CODEBOOKS", "Jlcm", "KMeansVq", "Mvq", "Ssvq", "VimVq", "Vq4All"]
