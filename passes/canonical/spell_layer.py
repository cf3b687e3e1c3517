"""Spelling rules for layers: convolutions, norms, attention, embeddings, gated and scaled activations, constants."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from qcompiler.errors import UnsupportedError
from qcompiler.passes.canonical.site import Result, Rule, Site, is_constant
from qcompiler.passes.canonical.sizes import Sizes

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def conv_op(count: int, transposed: bool) -> str:
    """Name of the convolution over `count` axes."""
    if not transposed:
        return f"aten.conv{count}d"
    return "aten.conv_transpose1d" if count == 1 else f"aten.conv_transpose{count}d.input"


def convolution(site: Site) -> Result:
    """The general convolution as the one of its kind."""
    transposed = site.flag("transposed")
    count = site.rank(site.tensor("weight")) - 2
    lists = {name: _list(site, name, count) for name in ("stride", "padding", "dilation", "output_padding")}
    head = [site.tensor("input"), site.tensor("weight"), site.optional("bias"), lists["stride"], lists["padding"]]
    groups = site.integer("groups")
    tail = [lists["output_padding"], groups, lists["dilation"]] if transposed else [lists["dilation"], groups]
    return site.call(conv_op(count, transposed), *head, *tail)


def conv(count: int, transposed: bool) -> Rule:
    """A convolution with every list written out."""
    names = ("stride", "padding", "output_padding", "groups", "dilation")
    names = names if transposed else ("stride", "padding", "dilation", "groups")
    op = conv_op(count, transposed)

    def rule(site: Site) -> Result:
        head = [site.tensor("input"), site.tensor("weight"), site.optional("bias")]
        tail = [site.integer(name) if name == "groups" else _list(site, name, count) for name in names]
        if not is_constant(head[2]):
            column = site.call("aten.reshape", head[2], [-1] + [1] * count)
            return site.call("aten.add.Tensor", site.call(op, *head[:2], None, *tail), column)
        return None if list(site.node.args) == [*head, *tail] else site.call(op, *head, *tail)

    return rule


def conv_padding(count: int) -> Rule:
    """A convolution with padding in words: numbers, uneven padding in front."""

    def rule(site: Site) -> Result:
        x, weight = site.tensor("input"), site.tensor("weight")
        dilation = _list(site, "dilation", count)
        totals = [0] * count
        if site.arguments["padding"] == "same":
            sizes = site.shape(weight)[2:]
            totals = [step * (int(size) - 1) for step, size in zip(dilation, sizes, strict=True)]
        if any(total % 2 for total in totals):
            amounts = [amount for total in reversed(totals) for amount in (total // 2, total - total // 2)]
            x, totals = site.call("aten.constant_pad_nd", x, amounts, 0.0), [0] * count
        padding = [total // 2 for total in totals]
        stride = _list(site, "stride", count)
        return site.call(
            conv_op(count, False), x, weight, site.optional("bias"), stride, padding, dilation, site.integer("groups")
        )

    return rule


def _list(site: Site, name: str, count: int) -> list[int]:
    values = site.integers(name)
    return values * count if len(values) == 1 else values


def batch_norm(single: bool, eps: str = "eps", momentum: str = "momentum") -> Rule:
    """Batch norm with stored statistics as `batch_norm`; `single` when the call yields one tensor."""

    def rule(site: Site) -> Result:
        names = ("input", "weight", "bias", "running_mean", "running_var")
        x, weight, bias, mean, variance = (site.optional(name) for name in names)
        if site.arguments.get("training") or mean is None or variance is None:
            raise UnsupportedError(
                f"%{site.node.name} normalizes with the statistics of the batch, as in training",
                where=site.program.origin(site.node).module,
                mend="put the model in eval mode, and keep track_running_stats on",
            )
        arguments = [x, weight, bias, mean, variance, False, site.arguments[momentum], site.arguments[eps], True]
        if single:
            return None if list(site.node.args) == arguments else site.call("aten.batch_norm", *arguments)
        return [site.call("aten.batch_norm", *arguments)] + [None] * 3

    return rule


def batch_statistics_norm(site: Site) -> Result:
    """Batch norm without stored statistics, as weight standardization uses it, in plain arithmetic."""
    x, weight, bias = site.tensor("input"), site.optional("weight"), site.optional("bias")
    axes = [axis for axis in range(site.rank(x)) if axis != 1]
    centered = site.call("aten.sub.Tensor", x, site.call("aten.mean.dim", x, axes, True))
    variance = site.call("aten.mean.dim", site.call("aten.mul.Tensor", centered, centered), axes, True)
    scale = site.call("aten.rsqrt", site.call("aten.add.Tensor", variance, site.arguments["eps"]))
    result = site.call("aten.mul.Tensor", centered, scale)
    shape = [-1] + [1] * (site.rank(x) - 2)
    if weight is not None:
        result = site.call("aten.mul.Tensor", result, site.call("aten.reshape", weight, shape))
    if bias is not None:
        result = site.call("aten.add.Tensor", result, site.call("aten.reshape", bias, shape))
    return result, None, None


def native_layer_norm(site: Site) -> Result:
    """`native_layer_norm` without its statistics."""
    names = ("input", "normalized_shape", "weight", "bias", "eps")
    return site.call("aten.layer_norm", *(site.arguments[name] for name in names)), None, None


def native_group_norm(site: Site) -> Result:
    """`native_group_norm` without its statistics."""
    names = ("input", "group", "weight", "bias", "eps")
    return site.call("aten.group_norm", *(site.arguments[name] for name in names)), None, None


def instance_norm(site: Site) -> Result:
    """Instance norm; with stored statistics it is a batch norm."""
    x, weight, bias = site.tensor("input"), site.optional("weight"), site.optional("bias")
    mean, variance = site.optional("running_mean"), site.optional("running_var")
    eps = site.arguments["eps"]
    if not site.flag("use_input_stats") and mean is not None:
        return site.call("aten.batch_norm", x, weight, bias, mean, variance, False, 0.0, eps, True)
    arguments = [x, weight, bias, None, None, True, 0.0, eps, True]
    return None if list(site.node.args) == arguments else site.call("aten.instance_norm", *arguments)


def attention(mask: str, results: int) -> Rule:
    """Attention with its scale written out; `results` is how many tensors the call yields."""

    def rule(site: Site) -> Result:
        query, key, value = (site.tensor(name) for name in ("query", "key", "value"))
        width, scale = site.shape(query)[-1], site.arguments["scale"]
        if site.arguments["dropout_p"] or not isinstance(width, int):
            return None
        kwargs: dict[str, object] = {"scale": 1.0 / math.sqrt(width) if scale is None else scale}
        kwargs.update({"enable_gqa": True} if site.arguments.get("enable_gqa") else {})
        arguments = [query, key, value, site.optional(mask), 0.0, site.flag("is_causal")]
        if list(site.node.args) == arguments and dict(site.node.kwargs) == kwargs:
            return None
        found = site.call("aten.scaled_dot_product_attention", *arguments, kwargs=kwargs)
        return found if results == 1 else [found] + [None] * (results - 1)

    return rule


def glu(site: Site) -> Result:
    """`glu` as a split, a sigmoid and a product."""
    x = site.tensor("self")
    axis = site.axis("dim", site.rank(x))
    size = site.shape(x)[axis]
    if not isinstance(size, int):
        return None
    halves = site.call("aten.split_with_sizes", x, [size // 2, size // 2], axis)
    value, gate = site.program.before(site.node, site.step).items(halves)
    return site.call("aten.mul.Tensor", value, site.call("aten.sigmoid", gate))


def selu(site: Site) -> Result:
    """`selu` as a scaled `elu`."""
    return site.call("aten.elu", site.tensor("self"), _SELU_ALPHA, _SELU_SCALE)


def celu(site: Site) -> Result:
    """`celu` as an `elu` with a scaled input."""
    alpha = float(site.arguments["alpha"])  # pyright: ignore[reportArgumentType]
    return site.call("aten.elu", site.tensor("self"), alpha, 1.0, 1.0 / alpha)


def arange(site: Site) -> Result:
    """`arange` with start and step."""
    start, step = site.arguments.get("start", 0), site.arguments.get("step", 1)
    kwargs = {"dtype": site.dtype(site.node)}
    arguments = [start, site.arguments["end"], step]
    spelled = list(site.node.args) == arguments and dict(site.node.kwargs) == kwargs
    return None if spelled else site.call("aten.arange.start_step", *arguments, kwargs=kwargs)


def filled(sizes: Sizes, value: Callable[[Site], object]) -> Rule:
    """A tensor of one value as `full`, its sizes taken from the type."""

    def rule(site: Site) -> Result:
        sizes.learn(site.node)
        found = [sizes.size(dim, site.node) for dim in site.shape(site.node)]
        if any(size is None for size in found):
            return None
        number = value(site)
        dtype = site.dtype(site.node)
        if dtype.is_floating_point and isinstance(number, int | float):
            number = float(number)
        kwargs: dict[str, torch.dtype] = {"dtype": dtype}
        if (
            site.program.op(site.node) == "aten.full"
            and list(site.node.args) == [found, number]
            and dict(site.node.kwargs) == kwargs
        ):
            return None
        return site.call("aten.full", found, number, kwargs=kwargs)

    return rule


def filled_rules(sizes: Sizes) -> dict[str, Rule]:
    """Rules for constant tensors."""
    zero, one = filled(sizes, lambda site: 0), filled(sizes, lambda site: 1)
    given = filled(sizes, lambda site: site.arguments["fill_value"])
    # What memory holds before it is written is undefined; zeros make it the same in every run.
    empty = ("empty.memory_format", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
    return {
        **{f"aten.{name}": zero for name in ("zeros", "zeros_like", "new_zeros", "zero", *empty)},
        **{f"aten.{name}": one for name in ("ones", "ones_like", "new_ones")},
        **{f"aten.{name}": given for name in ("full", "full_like", "new_full")},
        "aten.fill.Scalar": filled(sizes, lambda site: site.arguments["value"]),
        "aten.scalar_tensor": filled(sizes, lambda site: site.arguments["s"]),
    }


def prelu(site: Site) -> Result:
    """`_prelu_kernel`, whose slope is broadcast, as `prelu`."""
    slope = site.tensor("weight")
    x = site.tensor("self")
    width = site.shape(x)[1] if site.rank(x) > 1 else 1
    if math.prod(int(dim) for dim in site.shape(slope) if isinstance(dim, int)) not in (1, width):
        return None
    return site.call("aten.prelu", x, site.call("aten.reshape", slope, [-1]))


LAYER: dict[str, Rule] = {
    "aten.convolution": convolution,
    "aten._convolution": convolution,
    **{conv_op(count, False): conv(count, False) for count in (1, 2, 3)},
    **{conv_op(count, True): conv(count, True) for count in (1, 2, 3)},
    **{f"aten.conv{count}d.padding": conv_padding(count) for count in (1, 2, 3)},
    "aten.batch_norm": batch_norm(single=True),
    "aten._native_batch_norm_legit_no_training": batch_norm(single=False),
    "aten.native_batch_norm": batch_norm(single=False),
    "aten._native_batch_norm_legit": batch_norm(single=False),
    "aten._native_batch_norm_legit.no_stats": batch_statistics_norm,
    "aten.cudnn_batch_norm": batch_norm(single=False, eps="epsilon", momentum="exponential_average_factor"),
    "aten.native_layer_norm": native_layer_norm,
    "aten.native_group_norm": native_group_norm,
    "aten.instance_norm": instance_norm,
    "aten.scaled_dot_product_attention": attention("attn_mask", 1),
    "aten._scaled_dot_product_flash_attention_for_cpu": attention("attn_mask", 2),
    "aten._scaled_dot_product_efficient_attention": attention("attn_bias", 4),
    "aten.glu": glu,
    "aten.selu": selu,
    "aten.celu": celu,
    "aten._prelu_kernel": prelu,
    "aten.arange": arange,
    "aten.arange.start": arange,
    "aten.arange.start_step": arange,
}
