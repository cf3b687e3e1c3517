"""Operators that work element by element: a C expression each, fused into the loops of their readers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch

from qcompiler.backends.c.extent import Extent
from qcompiler.backends.c.generator import ELEMENTS, Emitted, Emitter, Generator
from qcompiler.backends.c.loops import Computed, Operand
from qcompiler.backends.c.number import float_text, integer_text
from qcompiler.backends.c.value import Element
from qcompiler.backends.lowering.call import Call
from qcompiler.ir.program import Node

# Not a number goes through: the comparison is false for it.
UNARY: Mapping[str, str] = {
    "aten.relu": "({0} < 0 ? 0 : {0})",
    "aten.neg": "-{0}",
    "aten.abs": "({0} < 0 ? -{0} : {0})",
    "aten.reciprocal": "1.0f / {0}",
    "aten.sqrt": "sqrtf({0})",
    "aten.rsqrt": "1.0f / sqrtf({0})",
    "aten.exp": "qc_exp({0})",
    "aten.expm1": "qc_expm1({0})",
    "aten.log": "qc_log({0})",
    "aten.log1p": "qc_log1p({0})",
    "aten.sin": "qc_sin({0})",
    "aten.cos": "qc_cos({0})",
    "aten.tanh": "qc_tanh({0})",
    "aten.erf": "qc_erf({0})",
    "aten.sigmoid": "qc_sigmoid({0})",
    "aten.silu": "qc_silu({0})",
    "aten.hardsigmoid": "qc_hard_sigmoid({0})",
    "aten.hardswish": "qc_hard_swish({0})",
    "aten.floor": "floorf({0})",
    "aten.ceil": "ceilf({0})",
    "aten.round": "rintf({0})",
    "aten.trunc": "truncf({0})",
    "aten.square": "{0} * {0}",
    "aten.clone": "{0}",
    "aten.alias": "{0}",
    "aten.mish": "qc_mish({0})",
    "aten.sign": "qc_sign({0})",
    "aten.log2": "qc_log2({0})",
    "aten.log10": "qc_log10({0})",
    "aten.exp2": "qc_pow(2.0f, {0})",
    "aten.erfc": "1.0f - qc_erf({0})",
    "aten.log_sigmoid": "-qc_softplus(-{0})",
    "aten.frac": "{0} - truncf({0})",
    **{f"aten.{name}": f"qc_{name}({{0}})" for name in (
        "tan", "sinh", "cosh", "asin", "acos", "atan", "asinh", "acosh", "atanh",
    )},
}  # fmt: skip
BINARY: Mapping[str, str] = {
    "aten.add.Tensor": "{0} + {1}",
    "aten.sub.Tensor": "{0} - {1}",
    "aten.mul.Tensor": "{0} * {1}",
    "aten.div.Tensor": "{0} / {1}",
    "aten.maximum": "({0} < {1} ? {1} : {0})",
    "aten.minimum": "({1} < {0} ? {1} : {0})",
    "aten.atan2": "qc_atan2({0}, {1})",
    "aten.bitwise_and.Tensor": "{0} & {1}",
    "aten.bitwise_or.Tensor": "{0} | {1}",
    "aten.bitwise_xor.Tensor": "{0} ^ {1}",
}
# Whole numbers and reals.
DIVISIONS: Mapping[str, tuple[str, str]] = {
    "floor": ("qc_floor_whole({0}, {1})", "qc_floor_divide({0}, {1})"),
    "trunc": ("qc_trunc_whole({0}, {1})", "truncf({0} / {1})"),
    "remainder": ("qc_remainder_whole({0}, {1})", "qc_remainder({0}, {1})"),
    "fmod": ("qc_fmod_whole({0}, {1})", "fmodf({0}, {1})"),
}
TESTS: Mapping[str, str] = {
    "aten.isnan": "{0} != {0}",
    "aten.isinf": "{0} == INFINITY || {0} == -INFINITY",
    "aten.isfinite": "{0} - {0} == 0",
    "aten.signbit": "{0} < 0",
    "aten.logical_not": "{0} == 0",
}
BINARY_SCALAR: Mapping[str, str] = {
    "aten.add.Scalar": "{0} + {1}",
    "aten.sub.Scalar": "{0} - {1}",
    "aten.mul.Scalar": "{0} * {1}",
    "aten.div.Scalar": "{0} / {1}",
    "aten.bitwise_and.Scalar": "{0} & {1}",
    "aten.bitwise_or.Scalar": "{0} | {1}",
    "aten.bitwise_xor.Scalar": "{0} ^ {1}",
    "aten.bitwise_left_shift.Tensor": "qc_shift_left({0}, {1})",
    "aten.bitwise_left_shift.Tensor_Scalar": "qc_shift_left({0}, {1})",
    "aten.bitwise_right_shift.Tensor": "qc_shift_right({0}, {1})",
    "aten.bitwise_right_shift.Tensor_Scalar": "qc_shift_right({0}, {1})",
}
COMPARISONS: Mapping[str, str] = {
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
}
LOGICAL: Mapping[str, str] = {
    "aten.logical_and": "({0} != 0) & ({1} != 0)",
    "aten.logical_or": "({0} != 0) | ({1} != 0)",
    "aten.logical_xor": "({0} != 0) ^ ({1} != 0)",
}
_SINGLE = ("float", "double")


def literal(value: float | bool, element: Element) -> str:
    """A number of a C type."""
    if element == "float":
        return float_text(float(value))
    return repr(float(value)) if element == "double" else integer_text(int(value))


def operand_at(generator: Generator, call: Call, name: str, element: Element) -> Operand | str:
    """An argument as a tensor, or as a constant of a C type."""
    found = call.raw(name)
    if isinstance(found, Node) and not isinstance(found.meta["type"], type(None)):
        if hasattr(found.meta["type"], "expr"):
            size = generator.size(found)
            return f"(({element}){size})" if isinstance(size, Extent) else literal(size, element)
        return generator.operand(found)
    if isinstance(found, bool | int | float):
        return literal(found, element)
    raise call.unsupported(f"'{name}' must be a tensor or a number")


def compute(
    generator: Generator, call: Call, template: str, names: tuple[str, ...], work: Element | None = None
) -> Emitted:
    """`template` over arguments, each converted to the type in which it is computed; the result to its own."""
    result, shift = generator.element(call.type)
    inner = work or result
    parts: list[Operand] = []
    texts: list[str] = []
    for name in names:
        found = operand_at(generator, call, name, inner)
        if isinstance(found, str):
            texts.append(found)
            continue
        texts.append(f"{{{len(parts)}}}" if found.element == inner else f"({inner}){{{len(parts)}}}")
        parts.append(found)
    shape = generator.shape(call.node)
    return generator.fused(call.node, Computed(result, shape, template.format(*texts), tuple(parts), shift))


def unary(template: str, generator: Generator, call: Call) -> Emitted:
    """A function of one tensor."""
    return compute(generator, call, template, ("self",))


def binary(template: str, generator: Generator, call: Call) -> Emitted:
    """A function of two tensors, or of a tensor and a number; a factor on the second where the operator has one."""
    alpha = call.arguments.get("alpha", 1)
    if alpha != 1:
        result, _ = generator.element(call.type)
        template = template.replace("{1}", f"({literal(call.number('alpha'), result)} * {{1}})")
    return compute(generator, call, template, ("self", "other"))


def add(generator: Generator, call: Call) -> Emitted:
    """A sum, unless the layer of an operand has made it already."""
    made = generator.summed.get(call.node)
    return binary(BINARY["aten.add.Tensor"], generator, call) if made is None else made


def compared(sign: str, generator: Generator, call: Call) -> Emitted:
    """A comparison, in the type to which both operands are promoted."""
    return compute(generator, call, f"{{0}} {sign} {{1}}", ("self", "other"), _promoted(generator, call))


def logical(template: str, generator: Generator, call: Call) -> Emitted:
    """A connective of truth values."""
    return compute(generator, call, template, ("self", "other"), _promoted(generator, call))


def divided(kind: str, generator: Generator, call: Call) -> Emitted:
    """A division rounded to a whole number, or what it leaves."""
    whole, real = DIVISIONS[kind]
    result, _ = generator.element(call.type)
    return compute(generator, call, real if result in _SINGLE else whole, ("self", "other"))


def rounded_division(generator: Generator, call: Call) -> Emitted:
    """A division, rounded as the call says."""
    mode = call.raw("rounding_mode")
    if mode is not None:
        return divided(str(mode), generator, call)
    return compute(generator, call, "{0} / {1}", ("self", "other"))


def tested(template: str, generator: Generator, call: Call) -> Emitted:
    """Whether something is true of an element."""
    return compute(generator, call, template, ("self",), generator.element(call.tensor("self"))[0])


def bitwise_not(generator: Generator, call: Call) -> Emitted:
    """All bits flipped; a truth value negated."""
    return compute(generator, call, "{0} == 0" if call.type.dtype == torch.bool else "~{0}", ("self",))


def _promoted(generator: Generator, call: Call) -> Element:
    types = [
        found.meta["type"].dtype
        for name in ("self", "other")
        if isinstance(found := call.raw(name), Node) and hasattr(found.meta["type"], "dtype")
    ]
    numbers = [found for name in ("self", "other") if isinstance(found := call.raw(name), float)]
    dtype = types[0] if len(types) == 1 else torch.promote_types(types[0], types[1])
    if numbers and not dtype.is_floating_point:
        dtype = torch.float32
    del generator
    return ELEMENTS[dtype]


def gelu(generator: Generator, call: Call) -> Emitted:
    """GELU by the error function, or its approximation by tanh."""
    exact = call.arguments.get("approximate", "none") == "none"
    return compute(generator, call, "qc_gelu({0})" if exact else "qc_gelu_tanh({0})", ("self",))


def leaky_relu(generator: Generator, call: Call) -> Emitted:
    """A slope below zero."""
    slope = float_text(call.number("negative_slope"))
    return compute(generator, call, f"({{0}} < 0 ? {{0}} * {slope} : {{0}})", ("self",))


def elu(generator: Generator, call: Call) -> Emitted:
    """`scale * (x > 0 ? x : alpha * expm1(x * input_scale))`."""
    alpha, scale, inner = (float_text(call.number(name)) for name in ("alpha", "scale", "input_scale"))
    text = f"{scale} * ({{0}} > 0 ? {{0}} : {alpha} * qc_expm1({{0}} * {inner}))"
    return compute(generator, call, text, ("self",))


def softplus(generator: Generator, call: Call) -> Emitted:
    """`log(1 + exp(beta x)) / beta`, the identity above a threshold."""
    beta, threshold = float_text(call.number("beta")), float_text(call.number("threshold"))
    text = f"({{0}} * {beta} > {threshold} ? {{0}} : qc_softplus({{0}} * {beta}) / {beta})"
    return compute(generator, call, text, ("self",))


def prelu(generator: Generator, call: Call) -> Emitted:
    """A slope below zero for every channel."""
    slope = generator.value(call.node_at("weight"))
    rank = call.tensor("self").rank
    wanted = (1, slope.count, *[1] * (rank - 2)) if slope.count > 1 else (1,) * rank
    fitted = slope.reshaped(wanted)
    source = generator.operand(call.node_at("self"))
    if fitted is None:
        raise call.unsupported("its slopes are not one per channel")
    computed = Computed("float", generator.shape(call.node), "({0} < 0 ? {0} * {1} : {0})", (source, fitted))
    return generator.fused(call.node, computed)


def clamp(generator: Generator, call: Call, low: str = "min", high: str = "max") -> Emitted:
    """Limits, either of which may be absent."""
    template, names = "{0}", ["self"]
    for name, sign in ((low, "<"), (high, ">")):
        if call.raw(name) is not None:
            mark = f"{{{len(names)}}}"
            template, names = f"({template} {sign} {mark} ? {mark} : {template})", [*names, name]
    return compute(generator, call, template, tuple(names))


def power(generator: Generator, call: Call) -> Emitted:
    """A constant exponent; small whole ones are products."""
    exponent = call.number("exponent")
    products = {2.0: "{0} * {0}", 3.0: "{0} * {0} * {0}", 1.0: "{0}", 0.5: "sqrtf({0})", -1.0: "1.0f / {0}"}
    template = products.get(float(exponent)) or f"qc_pow({{0}}, {float_text(exponent)})"
    return compute(generator, call, template, ("self",))


def power_of_tensors(generator: Generator, call: Call) -> Emitted:
    """An exponent for every element."""
    return compute(generator, call, "qc_pow({0}, {1})", ("self", "exponent"))


def convert(generator: Generator, call: Call) -> Emitted:
    """Another element type."""
    source = generator.element(call.tensor("self"))[0]
    if call.type.dtype == torch.bool:
        return compute(generator, call, "{0} != 0", ("self",), source)
    return compute(generator, call, "{0}", ("self",))


def where(generator: Generator, call: Call) -> Emitted:
    """One of two values per element."""
    result, _ = generator.element(call.type)
    chosen = generator.operand(call.node_at("condition"))
    parts: list[Operand] = [chosen]
    texts = []
    for name in ("self", "other"):
        found = operand_at(generator, call, name, result)
        if isinstance(found, str):
            texts.append(found)
        else:
            texts.append(f"({result}){{{len(parts)}}}")
            parts.append(found)
    text = f"({{0}} ? {texts[0]} : {texts[1]})"
    return generator.fused(call.node, Computed(result, generator.shape(call.node), text, tuple(parts)))


def masked_fill(generator: Generator, call: Call) -> Emitted:
    """A number where a mask is set."""
    result, _ = generator.element(call.type)
    parts = [generator.operand(call.node_at("self")), generator.operand(call.node_at("mask"))]
    filling = operand_at(generator, call, "value", result)
    if not isinstance(filling, str):
        parts.append(filling)
    text = f"({{1}} ? {filling if isinstance(filling, str) else '{2}'} : {{0}})"
    return generator.fused(call.node, Computed(result, generator.shape(call.node), text, tuple(parts)))


def _compared_all() -> dict[str, Emitter]:
    return {
        f"aten.{name}.{kind}": partial(compared, sign)
        for name, sign in COMPARISONS.items()
        for kind in ("Tensor", "Scalar")
    }


EMITTERS: dict[str, Emitter] = {
    **{op: partial(unary, template) for op, template in UNARY.items()},
    **{op: partial(binary, template) for op, template in (BINARY | BINARY_SCALAR).items()},
    "aten.add.Tensor": add,
    **_compared_all(),
    **{op: partial(logical, template) for op, template in LOGICAL.items()},
    **{op: partial(tested, template) for op, template in TESTS.items()},
    **{f"aten.remainder.{kind}": partial(divided, "remainder") for kind in ("Tensor", "Scalar")},
    **{f"aten.fmod.{kind}": partial(divided, "fmod") for kind in ("Tensor", "Scalar")},
    "aten.floor_divide": partial(divided, "floor"),
    "aten.floor_divide.Scalar": partial(divided, "floor"),
    "aten.div.Tensor_mode": rounded_division,
    "aten.div.Scalar_mode": rounded_division,
    "aten.bitwise_not": bitwise_not,
    "aten.gelu": gelu,
    "aten.leaky_relu": leaky_relu,
    "aten.elu": elu,
    "aten.softplus": softplus,
    "aten.prelu": prelu,
    "aten.clamp": clamp,
    "aten.clamp.Tensor": clamp,
    "aten.clamp_min": clamp,
    "aten.clamp_max": clamp,
    "aten.pow.Tensor_Scalar": power,
    "aten.pow.Tensor_Tensor": power_of_tensors,
    "aten.pow.Scalar": power_of_tensors,
    "aten._to_copy": convert,
    **{f"aten.where.{kind}": where for kind in ("self", "ScalarOther", "ScalarSelf", "Scalar")},
    "aten.masked_fill.Scalar": masked_fill,
    "aten.masked_fill.Tensor": masked_fill,
}
