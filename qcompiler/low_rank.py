"""Low-rank parts of matrices: the product of two thin matrices that comes closest, by plain or by weighted error.

Formula   argmin |(E - B A) S|_F over B [m, r], A [r, n], with S S^T = M: B A = U U^T E, U the leading left singular
          vectors of E S. Without M the same with S = I. The sizes of B's columns and A's rows are alike
Source    Eckart and Young 1936, "The approximation of one matrix by another of lower rank"; weighted as in Wang et al.
          2024, "SVD-LLM: Truncation-aware Singular Value Decomposition for Large Language Model Compression"
"""

from __future__ import annotations

import torch
from torch import Tensor

_DAMPING = 1e-8


def low_rank(matrix: Tensor, rank: int, moment: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The two thin matrices `left @ right` of least error.

    Shapes: matrix [m, n]; moment [n, n], symmetric and positive semidefinite -> left [m, r], right [r, n] float64,
    r = min(rank, m, n). Where r = min(m, n) the product is the matrix itself.
    """
    matrix = matrix.double()
    smaller = min(matrix.shape)
    rank = min(rank, smaller)
    weighted = moment is not None and rank < smaller
    if matrix.shape[0] <= matrix.shape[1]:
        around = matrix @ moment.double() if weighted and moment is not None else matrix
        left = _leading(around @ matrix.T, rank)
        right = left.T @ matrix
    elif weighted and moment is not None:
        left = torch.linalg.qr(_weighted_columns(matrix, moment.double(), rank)).Q
        right = left.T @ matrix
    else:
        right = _leading(matrix.T @ matrix, rank).T
        left = matrix @ right.T
    return _balanced(left, right)


def _leading(gram: Tensor, rank: int) -> Tensor:
    """Eigenvectors of the largest eigenvalues: [size, rank]."""
    return torch.linalg.eigh((gram + gram.T) / 2).eigenvectors[:, gram.shape[0] - rank :]


def _weighted_columns(matrix: Tensor, moment: Tensor, rank: int) -> Tensor:
    """A basis of the leading left singular vectors of `matrix S`, for matrices with more rows than columns."""
    values, vectors = torch.linalg.eigh((moment + moment.T) / 2)
    root = vectors * values.clamp(min=_DAMPING * values[-1].item()).sqrt()
    weighted = matrix @ root
    return weighted @ _leading(weighted.T @ weighted, rank)


def _balanced(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    ratio = (right.norm(dim=1) / left.norm(dim=0).clamp(min=torch.finfo(left.dtype).tiny)).sqrt()
    ratio = torch.where(ratio > 0, ratio, 1.0)
    return left * ratio, right / ratio[:, None]
