"""Types of values: tensors with symbolic dimensions, symbolic integers, tuples; and the algebra of dimensions.

A dimension is a Python int or a sympy expression over the Program's symbols. `Dimensions` holds what is known of each
symbol and turns types into fake tensors, so that torch's own shape functions infer the type of every node.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import sympy
import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._guards import SLoc
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv, ValueRangesSLoc
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.value_ranges import ValueRanges

from qcompiler.errors import VerifyError
from qcompiler.spec import QuantSpec

Dim = int | sympy.Expr

# torch logs a trace of every misfit, which the caller turns into an error of its own
_TORCH_LOG = logging.getLogger("torch._subclasses.fake_tensor")

DTYPE_NAMES: dict[torch.dtype, str] = {
    torch.float64: "f64",
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.uint16: "u16",
    torch.bool: "bool",
    torch.complex64: "c64",
    torch.complex128: "c128",
    torch.float8_e4m3fn: "f8e4m3",
    torch.float8_e5m2: "f8e5m2",
    torch.float8_e4m3fnuz: "f8e4m3fnuz",
    torch.float8_e5m2fnuz: "f8e5m2fnuz",
}
DTYPES_BY_NAME: dict[str, torch.dtype] = {name: dtype for dtype, name in DTYPE_NAMES.items()}


@dataclass(frozen=True)
class TensorType:
    """Element dtype, shape, and the spec when the tensor holds quantized codes (in a float carrier of `dtype`)."""

    dtype: torch.dtype
    shape: tuple[Dim, ...]
    spec: QuantSpec | None = None

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def is_float(self) -> bool:
        """Whether elements are real numbers (quantized codes excluded)."""
        return self.dtype.is_floating_point and self.spec is None


@dataclass(frozen=True)
class SymbolType:
    """A symbolic scalar: the result of `sym_size` and of arithmetic on sizes."""

    expr: Dim


@dataclass(frozen=True)
class TupleType:
    """The type of an op with several results; None stands for a result that is absent."""

    items: tuple[Type | None, ...]


Type = TensorType | SymbolType | TupleType


@dataclass(frozen=True)
class Symbol:
    """What is known of one symbolic dimension.

    Args:
        hint: an example value, used where a shape function must decide and to make sample inputs.
        low: smallest legal value.
        high: largest legal value, None when unbounded.
    """

    hint: int
    low: int = 1
    high: int | None = None


def symbol_expr(name: str) -> sympy.Symbol:
    """The sympy symbol that stands for dimension `name` in types."""
    return sympy.Symbol(name, integer=True, positive=True)


def dim_symbols(dim: Dim) -> set[str]:
    """Names of the symbols in one dimension."""
    return set() if isinstance(dim, int) else {str(symbol) for symbol in dim.free_symbols}


@dataclass
class Dimensions:
    """The symbols of a Program, and the fake-tensor world in which the types of its nodes are inferred.

    Args:
        symbols: by name.
        known: types inferred under these symbols, by call; see `ir.infer`.
    """

    symbols: dict[str, Symbol] = field(default_factory=dict)
    known: dict[Hashable, Type] = field(default_factory=dict)
    _mode: FakeTensorMode | None = None
    _fakes: dict[TensorType, torch.Tensor] = field(default_factory=dict)

    def copy(self) -> Dimensions:
        """The same symbols; the inference world is shared because what it knows depends on nothing else."""
        return Dimensions(dict(self.symbols), self.known, self._mode, self._fakes)

    def add(self, name: str, symbol: Symbol) -> sympy.Symbol:
        """Declares a symbol; the inference world is rebuilt at the next use."""
        self.symbols[name] = symbol
        self.known, self._mode, self._fakes = {}, None, {}
        return symbol_expr(name)

    def fresh(self, hint: int) -> sympy.Symbol:
        """A new symbol for a size that only a run can tell, under a name of its own."""
        count = len(self.symbols)
        while f"s{count}" in self.symbols:
            count += 1
        return self.add(f"s{count}", Symbol(hint))

    def hint(self, dim: Dim, values: Mapping[str, int] | None = None) -> int:
        """The example value of `dim`, or its value when the symbols are bound to `values`."""
        if isinstance(dim, int):
            return dim
        known = {symbol_expr(name): symbol.hint for name, symbol in self.symbols.items()}
        known.update({symbol_expr(name): value for name, value in (values or {}).items()})
        return int(cast(int, dim.xreplace(known)))

    @property
    def mode(self) -> FakeTensorMode:
        """The fake-tensor mode in which shape functions run."""
        if self._mode is None:
            env = ShapeEnv()
            for name, symbol in self.symbols.items():
                expr = symbol_expr(name)
                env.add_backed_var_to_val(expr, symbol.hint)
                high = int_oo if symbol.high is None else symbol.high
                env.var_to_range[expr] = ValueRanges(symbol.low, high)
                env.var_to_range_sloc[expr] = ValueRangesSLoc(SLoc(name, None), SLoc(name, None))
                env.var_to_sources[expr] = [ConstantSource(name)]
            self._mode = FakeTensorMode(shape_env=env, allow_non_fake_inputs=True)
            # Equal calls are inferred once (see `known`): torch's own cache would only cost.
            self._mode.cache_enabled = False
        return self._mode

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Runs shape functions: decisions follow the hints and leave no trace, so every inference starts alike."""
        env = self.mode.shape_env
        if env is None:
            raise VerifyError("the fake-tensor mode has no shape environment")
        disabled, _TORCH_LOG.disabled = _TORCH_LOG.disabled, True
        try:
            with env.suppress_guards(), enable_python_dispatcher(), self.mode, torch.no_grad():
                yield
        finally:
            _TORCH_LOG.disabled = disabled

    def symint(self, dim: Dim) -> int | torch.SymInt:
        """`dim` as torch sees it."""
        if isinstance(dim, int) or not dim.free_symbols:
            return int(dim)
        env = self.mode.shape_env
        if env is None:
            raise VerifyError(f"dimension '{dim}' has no shape environment")
        return cast(torch.SymInt, env.create_symintnode(dim, hint=self.hint(dim)))

    def fake(self, type_: Type | None) -> object:
        """A stand-in value of type `type_` for shape functions."""
        if type_ is None:
            return None
        if isinstance(type_, TupleType):
            return [self.fake(item) for item in type_.items]
        if isinstance(type_, SymbolType):
            return self.symint(type_.expr)
        if type_ not in self._fakes:
            with self.inference():
                shape = [self.symint(dim) for dim in type_.shape]
                self._fakes[type_] = torch.empty(shape, dtype=type_.dtype, device="cpu")
        return self._fakes[type_]

    def type_of(self, value: object) -> Type | None:
        """The type of a (fake or real) value; inverse of `fake`."""
        if isinstance(value, torch.Tensor):
            return TensorType(value.dtype, tuple(dim_of(size) for size in value.shape))
        if isinstance(value, torch.SymInt | int | torch.SymFloat | float | torch.SymBool | bool):
            return SymbolType(dim_of(value))
        if isinstance(value, Sequence) and not isinstance(value, str):
            return TupleType(tuple(self.type_of(item) for item in value))
        if value is None:
            return None
        raise VerifyError(f"a value of Python type {type(value).__name__} has no place in a program")


def dim_of(size: object) -> Dim:
    """A torch size as a dimension: int when static, else the sympy expression."""
    if isinstance(size, torch.SymInt | torch.SymFloat | torch.SymBool):
        return as_dim(size.node.expr)
    if isinstance(size, bool | int):
        return int(size)
    return as_dim(sympy.sympify(size))


def as_dim(expr: object) -> Dim:
    """A sympy expression as a dimension: an int when it is one."""
    found = cast(sympy.Expr, expr)
    return int(cast(int, found)) if found.is_Integer else found
