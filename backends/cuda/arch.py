"""Generations of NVIDIA GPUs: what their multiprocessors hold and which matrix products they have."""

from __future__ import annotations

from dataclasses import dataclass

from qcompiler.errors import SpecError


@dataclass(frozen=True)
class Architecture:
    """One compute capability.

    Args:
        capability: times ten, such as 87.
        shared_per_block: most bytes of shared memory that a block may ask for.
        shared_per_multiprocessor: bytes of shared memory.
        threads_per_multiprocessor: most threads that are resident.
        native_s4: whether products of signed nibbles are instructions; elsewhere they are emulated and slow.
        native_b1: which products of bits are instructions.
        reserved: bytes of shared memory that every block takes besides its own.
        bfloat16: whether its matrix units take bfloat16; copies to shared memory are asynchronous there too.
        fp8: whether its matrix units take e4m3 by `mma`.
        wgmma: whether kernels with instructions of four warps together may be chosen; Hopper alone has these.
    """

    capability: int
    shared_per_block: int
    shared_per_multiprocessor: int
    threads_per_multiprocessor: int
    native_s4: bool
    native_b1: frozenset[str]
    reserved: int = 1024
    bfloat16: bool = True
    fp8: bool = False
    wgmma: bool = False

    @property
    def name(self) -> str:
        """As compilers call it."""
        return f"sm_{self.capability}"

    @property
    def code(self) -> str:
        """What compilers make code for: Hopper's has instructions that no later device runs."""
        return "90a" if self.capability == 90 else str(self.capability)

    @property
    def registers_per_multiprocessor(self) -> int:
        """Registers of 32 bits."""
        return 65536


_BOTH = frozenset({"xor", "and"})
_KIB = 1024
ARCHITECTURES: dict[int, Architecture] = {
    entry.capability: entry
    for entry in (
        Architecture(75, 64 * _KIB, 64 * _KIB, 1024, True, frozenset({"xor"}), reserved=0, bfloat16=False),
        Architecture(80, 163 * _KIB, 164 * _KIB, 2048, True, _BOTH),
        Architecture(86, 99 * _KIB, 100 * _KIB, 1536, True, _BOTH),
        Architecture(87, 163 * _KIB, 164 * _KIB, 1536, True, _BOTH),
        Architecture(89, 99 * _KIB, 100 * _KIB, 1536, True, _BOTH, fp8=True),
        Architecture(90, 227 * _KIB, 228 * _KIB, 2048, False, frozenset({"and"}), fp8=True),
        Architecture(100, 227 * _KIB, 228 * _KIB, 2048, False, frozenset(), fp8=True),
        Architecture(110, 227 * _KIB, 228 * _KIB, 2048, False, frozenset(), fp8=True),
        Architecture(120, 99 * _KIB, 100 * _KIB, 1536, False, frozenset(), fp8=True),
    )
}
"""By capability. Source: CUDA C++ Programming Guide, compute capabilities; what is native was read in compiled code."""


def architecture(capability: int) -> Architecture:
    """The generation of a compute capability such as 87.

    Raises:
        SpecError: when it is not known.
    """
    if capability not in ARCHITECTURES:
        known = ", ".join(map(str, ARCHITECTURES))
        raise SpecError(f"there is no compute capability {capability}", mend=f"capabilities: {known}")
    return ARCHITECTURES[capability]
