"""Dimensions read from text: arithmetic over declared symbols, evaluated without `eval`."""

from __future__ import annotations

import ast

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
}


def _factors(tree: ast.expr) -> list[ast.expr]:
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Mult):
        return [*_factors(tree.left), *_factors(tree.right)]
    return [tree]


def _evaluate_dim(tree: ast.expr, dimensions: Dimensions) -> Dim:
    if isinstance(tree, ast.Constant) and isinstance(tree.value, int):
        return tree.value
    if isinstance(tree, ast.Name) and tree.id in dimensions.symbols:
        return symbol_expr(tree.id)
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
        return -_evaluate_dim(tree.operand, dimensions)
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Mult):
        # one product of all factors: sympy spreads a number over a sum only when it is the sole other factor
        return sympy.Mul(*(_evaluate_dim(factor, dimensions) for factor in _factors(tree)))
    if isinstance(tree, ast.BinOp):
        left, right = (
            sympy.sympify(_evaluate_dim(tree.left, dimensions)),
            _evaluate_dim(tree.right, dimensions),
        )
        operators = {ast.Add: "__add__", ast.Sub: "__sub__", ast.Pow: "__pow__", ast.Div: "__truediv__"}
        if isinstance(tree.op, ast.FloorDiv):
            return as_dim(FloorDiv(left, right))
        if type(tree.op) in operators:
            return getattr(left, operators[type(tree.op)])(right)
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.func.id in _DIM_FUNCTIONS:
        return as_dim(_DIM_FUNCTIONS[tree.func.id](*(_evaluate_dim(arg, dimensions) for arg in tree.args)))
    raise ParseError(f"'{ast.unparse(tree)}' is not a dimension", mend="declare its symbol above: dim s0 = 4 in 1..")
