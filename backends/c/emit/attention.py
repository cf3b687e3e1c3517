"""Scaled dot-product attention."""

from __future__ import annotations

import math

import numpy as np

from qcompiler.backends.c.generator import Emitted, Emitter, Generator
from qcompiler.backends.c.number import float_text
from qcompiler.backends.c.value import Value
from qcompiler.backends.lowering.call import Call
from qcompiler.ir.program import Node

_ = (math, np, float_text, Value, Node)


def attention(generator: Generator, call: Call) -> Emitted:
    """`softmax(q k^T scale + mask) v` for every head; fewer heads of keys are shared by neighbouring ones of queries."""
    raise call.unsupported("attention")


EMITTERS: dict[str, Emitter] = {"aten.scaled_dot_product_attention": attention}
