"""Spelling rules: operators that change nothing are removed."""

from __future__ import annotations

from qcompiler.ir.program import Node
from qcompiler.passes.canonical.site import Result, Rule, Site

END = 2**63 - 1


def identity(site: Site) -> Result:
    """Copies and aliases: the value itself."""
    return site.node.args[0] if isinstance(site.node.args[0], Node) else None


def dropout(site: Site) -> Result:
    """Dropout outside training."""
    return None if site.flag("train") and site.arguments["p"] else identity(site)


def native_dropout(site: Site) -> Result:
    """Dropout outside training, with its mask unread."""
    return None if site.flag("train") else (site.tensor("input"), None)


def convert(site: Site) -> Result:
    """`_to_copy` and its relatives: nothing, or a plain conversion of dtype."""
    x = site.tensor("self")
    wanted = site.dtype(site.node)
    if site.dtype(x) == wanted:
        return x
    spelled = site.program.op(site.node) == "aten._to_copy" and dict(site.node.kwargs) == {"dtype": wanted}
    return None if spelled else site.cast(x, wanted)


def same_shape(site: Site) -> Result:
    """Operators that only change the shape, when they do not."""
    x = site.tensor("self")
    return x if site.shape(x) == site.shape(site.node) else None


def add_zero(site: Site) -> Result:
    """A sum with 0."""
    return site.tensor("self") if site.number("other") == 0 and _keeps_shape(site) else None


def times_one(site: Site) -> Result:
    """A product with 1, a quotient by 1."""
    return site.tensor("self") if site.number("other") == 1 and _keeps_shape(site) else None


def _keeps_shape(site: Site) -> bool:
    return site.shape(site.tensor("self")) == site.shape(site.node)


IDENTITY: dict[str, Rule] = {
    "aten.clone": identity,
    "aten.contiguous": identity,
    "aten.detach": identity,
    "aten.alias": identity,
    "aten.lift_fresh": identity,
    "aten.lift_fresh_copy": identity,
    "aten.dropout": dropout,
    "aten.alpha_dropout": dropout,
    "aten.feature_dropout": dropout,
    "aten.feature_alpha_dropout": dropout,
    "aten.native_dropout": native_dropout,
    "aten._to_copy": convert,
    "aten.to.dtype": convert,
    "aten.to.dtype_layout": convert,
    "aten.to.device": convert,
    "aten.to.other": convert,
    "aten.type_as": convert,
}
