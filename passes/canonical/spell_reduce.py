"""Spelling rules for reductions, softmax and pools: axes explicit, non-negative and in order."""

from __future__ import annotations

from qcompiler.ir.program import Node
from qcompiler.ir.types import Dim
from qcompiler.passes.canonical.site import Result, Rule, Site, only_item


def _source(site: Site) -> Node:
    """The reduced tensor, converted first when the call asks for another dtype."""
    x = site.tensor("self")
    wanted = site.arguments.get("dtype")
    return x if wanted is None else site.cast(x, site.dtype(site.node))


def reduce_axes(op: str) -> Rule:
    """A reduction as `op(x, axes, keepdim)`."""

    def rule(site: Site) -> Result:
        rank = site.rank(site.tensor("self"))
        axes = site.axes("dim", rank) if "dim" in site.arguments else list(range(rank))
        keepdim = bool(site.arguments.get("keepdim"))
        if site.program.op(site.node) == op and list(site.node.args[1:]) == [axes, keepdim] and not site.node.kwargs:
            return None
        return site.call(op, _source(site), axes, keepdim)

    return rule


def reduce_axis(site: Site) -> Result:
    """A reduction over one axis, made non-negative."""
    rank = site.rank(site.tensor("self"))
    if not isinstance(site.arguments["dim"], int) or site.integer("dim") >= 0:
        return None
    replaced = {**site.arguments, "dim": site.axis("dim", rank)}
    positional = list(replaced.values())[: max(len(site.node.args), list(replaced).index("dim") + 1)]
    kwargs = {key: value for key, value in site.node.kwargs.items() if key != "dim"}
    site.program.set_args(site.node, positional, kwargs)  # pyright: ignore[reportArgumentType]
    return None


def extreme(op: str) -> Rule:
    """`max.dim` and `min.dim` as `amax` and `amin` when nobody reads the index."""

    def rule(site: Site) -> Result:
        if not only_item(site):
            return reduce_axis(site)
        axis = site.axis("dim", site.rank(site.tensor("self")))
        return site.call(op, site.tensor("self"), [axis], site.flag("keepdim")), None

    return rule


def variance(root: bool) -> Rule:
    """Variances as `var.correction`, deviations as its root."""

    def rule(site: Site) -> Result:
        x = site.tensor("self")
        axes = site.axes("dim", site.rank(x)) if "dim" in site.arguments else list(range(site.rank(x)))
        given = site.arguments.get("correction")
        correction = int(site.arguments.get("unbiased", True) is not False) if given is None else given
        options = {"correction": correction, "keepdim": bool(site.arguments.get("keepdim"))}
        spelled = list(site.node.args[1:]) == [axes] and dict(site.node.kwargs) == options
        if not root and site.program.op(site.node) == "aten.var.correction" and spelled:
            return None
        found = site.call("aten.var.correction", x, axes, kwargs=options)
        return site.call("aten.sqrt", found) if root else found

    return rule


def variance_and_mean(site: Site) -> Result:
    """Both moments, each by its own operator."""
    x = site.tensor("self")
    mean = site.call("aten.mean.dim", x, site.axes("dim", site.rank(x)), site.flag("keepdim"))
    found = variance(False)(site)
    return (found, mean) if isinstance(found, Node) else None


def ranks(values: str, edges: str) -> Rule:
    """`bucketize` and `searchsorted` in one row of edges: how many of them lie before each value."""

    def rule(site: Site) -> Result:
        row, x = site.tensor(edges), site.tensor(values)
        if site.rank(row) != 1 or site.arguments.get("side") is not None or site.arguments.get("sorter") is not None:
            return None
        op = "aten.ge.Tensor" if site.flag("right") else "aten.gt.Tensor"
        before = site.call(op, site.call("aten.unsqueeze", x, site.rank(x)), row)
        return site.call("aten.sum.dim_IntList", site.cast(before, site.dtype(site.node)), [site.rank(x)])

    return rule


def softmax(op: str) -> Rule:
    """Softmax over a non-negative axis, conversions outside."""

    def rule(site: Site) -> Result:
        axis = site.axis("dim", site.rank(site.tensor("self")))
        if site.program.op(site.node) == op and list(site.node.args[1:]) == [axis] and not site.node.kwargs:
            return None
        return site.cast(site.call(op, _source(site), axis), site.dtype(site.node))

    return rule


def vector_norm(site: Site) -> Result:
    """`norm` along axes as `linalg_vector_norm`."""
    order = 2 if site.arguments["p"] is None else site.arguments["p"]
    axes = site.axes("dim", site.rank(site.tensor("self")))
    return site.call("aten.linalg_vector_norm", site.tensor("self"), order, axes, site.flag("keepdim"))


def spatial(site: Site, count: int) -> tuple[Node, list[int], list[Dim]]:
    """What is pooled, its last `count` axes and their sizes."""
    x = site.tensor("self")
    axes = list(range(site.rank(x) - count, site.rank(x)))
    return x, axes, [site.shape(x)[axis] for axis in axes]


def adaptive_average(count: int) -> Rule:
    """Adaptive averaging to one value as a mean, to the size at hand as nothing."""

    def rule(site: Site) -> Result:
        x, axes, sizes = spatial(site, count)
        wanted = site.arguments["output_size"]
        wanted = list(wanted) if isinstance(wanted, list | tuple) else [wanted] * count
        if wanted == sizes:
            return x
        if all(size == 1 for size in wanted):
            return site.call("aten.mean.dim", x, axes, True)
        op = f"aten.adaptive_avg_pool{count}d"
        return None if site.program.op(site.node) == op else site.call(op, x, wanted)

    return rule


def adaptive_maximum(count: int) -> Rule:
    """Adaptive maximum to one value as `amax`."""

    def rule(site: Site) -> Result:
        x, axes, _ = spatial(site, count)
        if not only_item(site) or any(size != 1 for size in site.integers("output_size")):
            return None
        return site.call("aten.amax", x, axes, True), None

    return rule


def _window(site: Site, name: str, count: int) -> list[int]:
    values = site.integers(name)
    return values * count if len(values) == 1 else values


def max_pool(count: int, indexed: bool) -> Rule:
    """Maximum pools with every list written out, indices dropped when unread."""

    def rule(site: Site) -> Result:
        if indexed and not only_item(site):
            return None
        kernel = _window(site, "kernel_size", count)
        stride = _window(site, "stride", count) or kernel
        arguments = [
            kernel,
            stride,
            _window(site, "padding", count),
            _window(site, "dilation", count),
            site.flag("ceil_mode"),
        ]
        op = f"aten.max_pool{count}d"
        if site.program.op(site.node) == op and list(site.node.args[1:]) == arguments:
            return None
        pooled = site.call(op, site.tensor("self"), *arguments)
        return (pooled, None) if indexed else pooled

    return rule


def average_pool(count: int) -> Rule:
    """Average pools with every list written out; over the whole plane: a mean."""

    def rule(site: Site) -> Result:
        x, axes, sizes = spatial(site, count)
        kernel = _window(site, "kernel_size", count)
        stride = _window(site, "stride", count) or kernel
        padding = _window(site, "padding", count)
        divisor = site.arguments.get("divisor_override")
        if kernel == sizes and not any(padding) and divisor is None:
            return site.call("aten.mean.dim", x, axes, True)
        arguments: list[object] = [kernel, stride, padding, site.flag("ceil_mode"), site.flag("count_include_pad")]
        arguments += [divisor] if "divisor_override" in site.arguments else []
        op = f"aten.avg_pool{count}d"
        return None if list(site.node.args[1:]) == arguments else site.call(op, x, *arguments)

    return rule


REDUCE: dict[str, Rule] = {
    "aten.mean": reduce_axes("aten.mean.dim"),
    "aten.mean.dim": reduce_axes("aten.mean.dim"),
    "aten.sum": reduce_axes("aten.sum.dim_IntList"),
    "aten.sum.dim_IntList": reduce_axes("aten.sum.dim_IntList"),
    "aten.amax": reduce_axes("aten.amax"),
    "aten.amin": reduce_axes("aten.amin"),
    "aten.max": reduce_axes("aten.amax"),
    "aten.min": reduce_axes("aten.amin"),
    "aten.max.dim": extreme("aten.amax"),
    "aten.min.dim": extreme("aten.amin"),
    "aten.var": variance(False),
    "aten.var.dim": variance(False),
    "aten.var.correction": variance(False),
    "aten.std": variance(True),
    "aten.std.dim": variance(True),
    "aten.std.correction": variance(True),
    **{
        f"aten.{name}": reduce_axis
        for name in ("argmax", "argmin", "cumsum", "topk", "sort", "prod.dim_int", "any.dim", "all.dim")
    },
    "aten.var_mean.correction": variance_and_mean,
    "aten.bucketize.Tensor": ranks("self", "boundaries"),
    "aten.searchsorted.Tensor": ranks("self", "sorted_sequence"),
    "aten.norm.ScalarOpt_dim": vector_norm,
    "aten.softmax.int": softmax("aten.softmax.int"),
    "aten._softmax": softmax("aten.softmax.int"),
    "aten.log_softmax.int": softmax("aten.log_softmax.int"),
    "aten._log_softmax": softmax("aten.log_softmax.int"),
    **{f"aten.adaptive_avg_pool{count}d": adaptive_average(count) for count in (1, 2, 3)},
    **{f"aten._adaptive_avg_pool{count}d": adaptive_average(count) for count in (2, 3)},
    **{f"aten.adaptive_max_pool{count}d": adaptive_maximum(count) for count in (1, 2, 3)},
    **{f"aten.max_pool{count}d": max_pool(count, False) for count in (1, 2, 3)},
    **{f"aten.max_pool{count}d_with_indices": max_pool(count, True) for count in (2, 3)},
    **{f"aten.avg_pool{count}d": average_pool(count) for count in (1, 2, 3)},
}
