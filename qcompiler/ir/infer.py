"""The type of every call: torch's own shape functions for ATen, a rule each for the `qc::` dialect."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

import torch
from torch.fx.node import Argument, Node, map_arg

from qcompiler.errors import QCompilerError, VerifyError
from qcompiler.hadamard import core
from qcompiler.ir import ops
from qcompiler.ir.ops import Target
from qcompiler.ir.types import Dimensions, TensorType, TupleType, Type
from qcompiler.spec import QuantSpec


def infer(dimensions: Dimensions, target: object, args: Sequence[Argument], kwargs: Mapping[str, Argument]) -> Type:
    """Type of a call, from the types of its arguments. Equal calls have equal types, so that each is inferred once.

    Raises:
        VerifyError: when the arguments do not fit the operator.
    """
    call = (target, _key(args), _key(kwargs))
    found = dimensions.known.get(call)
    if found is None:
        found = dimensions.known[call] = _inferred(dimensions, target, args, kwargs)
    return found


def _key(value: object) -> Hashable:
    """What the type of a call depends on: types of nodes, values of all else; 1, 1.0 and True are not the same."""
    if isinstance(value, Node):
        return value.meta["type"]
    if isinstance(value, Mapping):
        return tuple((name, _key(item)) for name, item in value.items())
    if isinstance(value, list | tuple):
        return (type(value), *(_key(item) for item in value))
    if isinstance(value, slice):
        return (slice, _key(value.start), _key(value.stop), _key(value.step))
    return (type(value), value)


def _inferred(dimensions: Dimensions, target: object, args: Sequence[Argument], kwargs: Mapping[str, Argument]) -> Type:
    rule = _DIALECT_TYPES.get(target)  # pyright: ignore[reportArgumentType, reportCallIssue]
    if rule is not None:
        return rule(ops.bind(target, tuple(args), dict(kwargs)))
    fake_args, fake_kwargs = map_arg((tuple(args), dict(kwargs)), lambda node: dimensions.fake(node.meta["type"]))  # pyright: ignore[reportArgumentType, reportGeneralTypeIssues, reportReturnType]
    try:
        with dimensions.inference():
            result = target(*fake_args, **fake_kwargs)  # pyright: ignore[reportCallIssue, reportOptionalMemberAccess]
    except QCompilerError:
        raise
    except Exception as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise VerifyError(
            f"the arguments do not fit {ops.op_name(target)}: {first_line}",
            where=_describe_call(ops.op_name(target), args),
        ) from error
    type_ = dimensions.type_of(result)
    if type_ is None:
        raise VerifyError(f"{ops.op_name(target)} yields nothing")
    return type_


def _describe_call(name: str, args: Iterable[object]) -> str:
    texts = [f"%{arg.name} : {_brief(arg.meta['type'])}" if isinstance(arg, Node) else str(arg) for arg in args]
    return f"{name} {', '.join(texts)}"


def _brief(type_: Type) -> str:
    if isinstance(type_, TensorType):
        return f"[{', '.join(str(dim) for dim in type_.shape)}]"
    return str(type_)


def _tensor_of(value: object) -> TensorType:
    if isinstance(value, Node) and isinstance(value.meta["type"], TensorType):
        return value.meta["type"]
    raise VerifyError("a qc operator takes a tensor", where=str(value))


def _spec_of(value: object) -> QuantSpec:
    if isinstance(value, QuantSpec):
        return value
    raise VerifyError("a qc operator needs a QuantSpec", where=str(value))


def _type_quantize(bound: Mapping[str, Argument]) -> Type:
    x, spec = _tensor_of(bound["x"]), _spec_of(bound["spec"])
    return TensorType(x.dtype, spec.code_shape(x.shape), spec)


def _type_dequantize(bound: Mapping[str, Argument]) -> Type:
    codes = _tensor_of(bound["codes"])
    return TensorType(codes.dtype, _spec_of(bound["spec"]).element_shape(codes.shape))


def _type_choose_qparams(bound: Mapping[str, Argument]) -> Type:
    shapes = _spec_of(bound["spec"]).scale_shapes(_tensor_of(bound["x"]).shape)
    return TupleType(tuple(TensorType(torch.float32, tuple(shape)) for shape in (*shapes, shapes[0])))


def _type_hadamard(bound: Mapping[str, Argument]) -> Type:
    x, signs, block = _tensor_of(bound["x"]), bound["signs"], bound["block"]
    channels = x.shape[-1] if x.shape else 1
    if not isinstance(channels, int) or not isinstance(block, int) or block < 1 or channels % block:
        raise VerifyError(f"blocks of {block} do not divide the last axis, which has {channels} channels")
    if not core(block):
        raise VerifyError(f"no Hadamard matrix of order {block} is known", where=f"order {block}")
    if signs is not None and _tensor_of(signs).shape != (channels,):
        raise VerifyError(
            f"the signs have shape {list(_tensor_of(signs).shape)}, the last axis has {channels} channels"
        )
    return _real(x)


def _type_kronecker(bound: Mapping[str, Argument]) -> Type:
    x = _tensor_of(bound["x"])
    channels = x.shape[-1] if x.shape else 1
    shapes = [None if factor is None else _tensor_of(factor).shape for factor in (bound["left"], bound["right"])]
    sides = [shape[0] for shape in shapes if shape is not None and len(shape) == 2 and shape[0] == shape[1]]
    given = [side for side in sides if isinstance(side, int) and side > 0]
    size = math.prod(given)
    fits = isinstance(channels, int) and (channels == size if len(given) == 2 else channels % size == 0)
    if not given or len(given) != sum(shape is not None for shape in shapes) or not fits:
        raise VerifyError(f"the factors {shapes} do not make up an axis of {channels} channels")
    return _real(x)


def _real(x: TensorType) -> TensorType:
    if not x.is_float:
        raise VerifyError("a change of basis takes floating-point numbers", where=str(x.dtype))
    return TensorType(x.dtype, x.shape)


def _type_declared(bound: Mapping[str, Argument]) -> Type:
    raise VerifyError("the type of a kernel call and of an operator with regions must be given where it is built")


def _type_getitem(bound: Mapping[str, Argument]) -> Type:
    source, index = bound["a"], bound["b"]
    type_ = source.meta["type"] if isinstance(source, Node) else None
    if (
        not isinstance(type_, TupleType)
        or not isinstance(index, int)
        or not -len(type_.items) <= index < len(type_.items)
    ):
        raise VerifyError("getitem takes a tuple value and an index inside it", where=str(source))
    item = type_.items[index]
    if item is None:
        raise VerifyError(f"result {index} of '%{source}' is absent")
    return item


_DIALECT_TYPES: dict[Target, Callable[[Mapping[str, Argument]], Type]] = {
    ops.quantize: _type_quantize,
    ops.dequantize: _type_dequantize,
    ops.choose_qparams: _type_choose_qparams,
    ops.hadamard: _type_hadamard,
    ops.kronecker: _type_kronecker,
    ops.kernel: _type_declared,
    **dict.fromkeys((row.target for row in ops.REGION_OPS.values()), _type_declared),
    ops.op_target(ops.GETITEM): _type_getitem,
}
