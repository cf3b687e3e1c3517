"""Binary: 1 and -1; the code is the sign bit, so zero rounds to 1 (the even code).

Source: Rastegari et al. 2016, "XNOR-Net".
"""

from __future__ import annotations

from qcompiler.formats.table import Table

BINARY = Table("binary", (1.0, -1.0))
