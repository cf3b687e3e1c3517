"""Spelling rules for products in groups of rows, as mixtures of experts have them: counts and one product per group."""

from __future__ import annotations

from qcompiler.passes.canonical.site import Result, Rule, Site
from qcompiler.passes.canonical.sizes import Sizes


def histogram(site: Site) -> Result:
    """`histc` between given limits: how many elements fall into each of equal bins, the last one closed."""
    x, bins = site.tensor("self"), site.integer("bins")
    low, high = site.arguments["min"], site.arguments["max"]
    if not isinstance(low, int | float) or not isinstance(high, int | float) or low >= high:
        return None
    column = site.call("aten.reshape", x, [-1, 1])
    share = site.call("aten.div.Tensor", site.call("aten.sub.Tensor", column, low), high - low)
    place = site.call("aten.floor", site.call("aten.mul.Tensor", share, bins))
    edge = site.call("aten.eq.Scalar", column, high)
    place = site.call("aten.where.ScalarSelf", edge, bins - 1.0, place)
    numbers = site.call("aten.arange.start_step", 0, bins, 1, kwargs={"dtype": site.dtype(place)})
    hits = site.cast(site.call("aten.eq.Tensor", place, numbers), site.dtype(site.node))
    return site.call("aten.sum.dim_IntList", hits, [0])


def grouped_product(sizes: Sizes, left: str, right: str) -> Rule:
    """Rows in order of their group, each group times its own matrix: every row times every matrix, then the choice.

    Row r belongs to the first group whose end lies behind r. All products are computed, so that each matrix is an
    ordinary weight and no shape depends on data.
    Shapes: rows [S, K], matrices [E, K, M], ends [E] -> [S, M]; rows behind the last end give 0.
    """

    def rule(site: Site) -> Result:
        rows, matrices, ends = site.tensor(left), site.tensor(right), site.optional("offs")
        plain = site.arguments.get("bias") is None and site.dtype(rows) == site.dtype(site.node)
        if ends is None or not plain or (site.rank(rows), site.rank(matrices)) != (2, 3):
            return None
        groups, count = site.shape(matrices)[0], sizes.size(site.shape(rows)[0], site.node)
        if not isinstance(groups, int) or count is None:
            return None
        numbers = site.call("aten.arange.start_step", 0, count, 1, kwargs={"dtype": site.dtype(ends)})
        within = site.call("aten.lt.Tensor", site.call("aten.unsqueeze", numbers, 1), ends)
        total = None
        for group in reversed(range(groups)):
            product = site.call("aten.mm", rows, site.call("aten.select.int", matrices, 0, group))
            mask = site.call("aten.slice.Tensor", within, 1, group, group + 1, 1)
            if total is None:
                total = site.call("aten.where.ScalarOther", mask, product, 0.0)
            else:
                total = site.call("aten.where.self", mask, product, total)
        return total

    return rule


def grouped_rules(sizes: Sizes) -> dict[str, Rule]:
    """The operators that torch and libraries above it have for such products."""
    return {
        "aten.histc": histogram,
        "aten._grouped_mm": grouped_product(sizes, "self", "mat2"),
        "transformers.grouped_mm_fallback": grouped_product(sizes, "input", "weight"),
    }
