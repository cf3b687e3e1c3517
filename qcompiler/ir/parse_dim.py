"""Dimensions read from text: arithmetic over declared symbols, evaluated without `eval`."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable

import sympy
from torch.utils._sympy.functions import CeilToInt, FloorDiv, FloorToInt, Max, Min, Mod, PythonMod, ToFloat

from qcompiler.errors import ParseError
from qcompiler.ir.types import Dim, Dimensions, as_dim, symbol_expr


def parse_dim(text: str, dimensions: Dimensions) -> Dim:
    """Reads one dimension.

    Raises:
        ParseError: for an unknown symbol or a malformed expression.
    """
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError:
        raise ParseError(f"'{text}' is not a dimension") from None
    result = _evaluate_dim(tree.body, dimensions)
    return result if isinstance(result, int) else as_dim(result)


_DIM_FUNCTIONS = {
    "FloorDiv": FloorDiv,
    "Mod": Mod,
    "PythonMod": PythonMod,
    "CeilToInt": CeilToInt,
    "FloorToInt": FloorToInt,
    "ToFloat": ToFloat,
    "Max": Max,
    "Min": Min,
    "Abs": sympy.Abs,
    "Eq": sympy.Eq,
    "Ne": sympy.Ne,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[..., sympy.Basic]] = {
    ast.Lt: sympy.Lt,
    ast.LtE: sympy.Le,
    ast.Gt: sympy.Gt,
    ast.GtE: sympy.Ge,
}
_OPERATORS: dict[type[ast.operator], Callable[..., object]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Pow: operator.pow,
    ast.Div: operator.truediv,
    ast.FloorDiv: FloorDiv,
}
_CONNECTIVES: dict[type[ast.operator], Callable[..., sympy.Basic]] = {
    ast.BitAnd: sympy.And,
    ast.BitOr: sympy.Or,
}


def _factors(tree: ast.expr) -> list[ast.expr]:
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Mult):
        return [*_factors(tree.left), *_factors(tree.right)]
    return [tree]


def _evaluate_truth(tree: ast.expr, dimensions: Dimensions) -> sympy.Basic | None:
    """A truth value over sizes, as it stands where a branch depends on them; None for a number."""
    if isinstance(tree, ast.Compare) and len(tree.ops) == 1 and type(tree.ops[0]) in _COMPARISONS:
        sides = (sympy.sympify(_evaluate_dim(side, dimensions)) for side in (tree.left, tree.comparators[0]))
        return _COMPARISONS[type(tree.ops[0])](*sides)
    if isinstance(tree, ast.BinOp) and type(tree.op) in _CONNECTIVES:
        sides = (sympy.sympify(_evaluate_dim(side, dimensions)) for side in (tree.left, tree.right))
        return _CONNECTIVES[type(tree.op)](*sides)
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.Invert):
        return sympy.Not(_evaluate_dim(tree.operand, dimensions))
    return None


def _evaluate_dim(tree: ast.expr, dimensions: Dimensions) -> Dim:
    truth = _evaluate_truth(tree, dimensions)
    if truth is not None:
        return as_dim(truth)
    if isinstance(tree, ast.Constant) and isinstance(tree.value, int | float):
        return tree.value if isinstance(tree.value, int) else sympy.Float(tree.value)
    if isinstance(tree, ast.Name) and tree.id in dimensions.symbols:
        return symbol_expr(tree.id)
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
        return -_evaluate_dim(tree.operand, dimensions)
    if isinstance(tree, ast.BinOp) and type(tree.op) in _OPERATORS:
        return _evaluate_pair(tree, dimensions)
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.func.id in _DIM_FUNCTIONS:
        return as_dim(_DIM_FUNCTIONS[tree.func.id](*(_evaluate_dim(arg, dimensions) for arg in tree.args)))
    raise ParseError(f"'{ast.unparse(tree)}' is not a dimension", mend="declare its symbol above: dim s0 = 4 in 1..")


def _evaluate_pair(tree: ast.BinOp, dimensions: Dimensions) -> Dim:
    if isinstance(tree.op, ast.Mult):
        # one product of all factors: sympy spreads a number over a sum only when it is the sole other factor
        return sympy.Mul(*(_evaluate_dim(factor, dimensions) for factor in _factors(tree)))
    left, right = (sympy.sympify(_evaluate_dim(side, dimensions)) for side in (tree.left, tree.right))
    return as_dim(_OPERATORS[type(tree.op)](left, right))
