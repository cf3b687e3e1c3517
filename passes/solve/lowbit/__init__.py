"""Weights of one to two bits: planes of signs, zeros and ones, trits, each with the numbers that scale them.

A method fits one block of columns at a time (`fits`, a function per method); `blocks` walks through the columns and
lets those behind a block make up for its error; `planes` is what the results are made of.
"""

from qcompiler.passes.solve.lowbit.billm import BiLlm
from qcompiler.passes.solve.lowbit.dbllm import DbLlm
from qcompiler.passes.solve.lowbit.ir_qlora import IrQlora
from qcompiler.passes.solve.lowbit.pt2llm import Pt2Llm
from qcompiler.passes.solve.lowbit.ptq161 import Ptq161
from qcompiler.passes.solve.lowbit.quant_dllm import QuantDllm

LOWBIT = (BiLlm, Ptq161, Pt2Llm, DbLlm, QuantDllm, IrQlora)

__all__ = ["LOWBIT", "BiLlm", "DbLlm", "IrQlora", "Pt2Llm", "Ptq161", "QuantDllm"]
