"""What the assembler made of a kernel: its instructions, and those of its main loop."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qcompiler.backends.cuda.toolchain import find_tool
from qcompiler.errors import InputError

_FUNCTION = re.compile(r"^\.text\.(\w+):$")
_LABEL = re.compile(r"^(\.L_x_\w+):$")
_INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?\s*([A-Z][\w.]*)\s*(.*?)\s*;")
_TARGET = re.compile(r"`\((\.L_x_\w+)\)")
_MATRIX = ("HMMA", "IMMA", "BMMA", "QMMA", "HGMMA", "IGMMA", "QGMMA", "OMMA")
_WARPGROUP = 16
"""Products of one warp, at least, that one of four warps is."""
_SECONDS = 600


@dataclass(frozen=True)
class Listing:
    """One function.

    Args:
        opcodes: with their modifiers, in the order of addresses; one stands every 16 bytes.
        loops: first and last instruction of each loop, by place in `opcodes`.
    """

    opcodes: tuple[str, ...]
    loops: tuple[tuple[int, int], ...]

    def count(self, prefix: str) -> int:
        """How many instructions begin like this."""
        return sum(opcode.startswith(prefix) for opcode in self.opcodes)

    def main_loop(self) -> Counter[str]:
        """Instructions of the loop that does the work, by opcode without modifiers: the one with most matrix products
        or, where there are none, most loads; of equals the shortest. Empty where nothing repeats.
        """
        spans = [self.opcodes[first : last + 1] for first, last in self.loops]
        best = max(spans, key=lambda span: (_weight(span), -len(span)), default=())
        return Counter(opcode.split(".")[0] for opcode in best)

    @property
    def uses_local_memory(self) -> bool:
        """Whether arrays or spilled registers go through memory."""
        return any(opcode.split(".")[0] in ("LDL", "STL") for opcode in self.opcodes)


def disassemble(cubin: bytes) -> Mapping[str, Listing]:
    """The functions of compiled code, by name.

    Raises:
        UnsupportedError: when there is no disassembler.
        InputError: when it cannot read the code.
    """
    tool = find_tool("nvdisasm")
    with tempfile.TemporaryDirectory(prefix="qc_sass_") as folder:
        path = Path(folder) / "kernels.cubin"
        path.write_bytes(cubin)
        done = subprocess.run(
            [str(tool), "-c", str(path)], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    if done.returncode:
        raise InputError(f"nvdisasm failed: {done.stderr.strip()}", step="disassemble")
    return _parse(done.stdout)


def _weight(span: tuple[str, ...]) -> tuple[int, int]:
    matrix = [opcode.split(".")[0] for opcode in span if opcode.split(".")[0] in _MATRIX]
    products = sum(_WARPGROUP if opcode.endswith("GMMA") else 1 for opcode in matrix)
    return products, sum(opcode.startswith(("LDG", "LDS", "IDP", "HFMA2", "FFMA")) for opcode in span)


def _parse(text: str) -> dict[str, Listing]:
    found: dict[str, Listing] = {}
    name, lines = "", list[str]()
    for line in [*text.splitlines(), ".text.end:"]:
        match = _FUNCTION.match(line)
        if match is None:
            lines.append(line)
            continue
        if name:
            found[name] = _listing(lines)
        name, lines = match[1], []
    return found


def _listing(lines: list[str]) -> Listing:
    opcodes: list[str] = []
    labels: dict[str, int] = {}
    loops: list[tuple[int, int]] = []
    for line in lines:
        label, instruction = _LABEL.match(line), _INSTRUCTION.match(line)
        if label is not None:
            labels[label[1]] = len(opcodes)
        if instruction is None:
            continue
        target = _TARGET.search(instruction[3]) if instruction[2].startswith("BRA") else None
        if target is not None and target[1] in labels and labels[target[1]] < len(opcodes):
            loops.append((labels[target[1]], len(opcodes)))
        opcodes.append(instruction[2])
    return Listing(tuple(opcodes), tuple(loops))
