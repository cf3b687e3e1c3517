"""Ternary: -1, 0, 1, stored as two's complement of 2 bits (code 2 is unused).

Source: Li et al. 2016, "Ternary Weight Networks".
"""

from __future__ import annotations

import math

from qcompiler.formats.table import Table

TERNARY = Table("ternary", (0.0, 1.0, math.nan, -1.0))
