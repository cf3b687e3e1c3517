"""Memory that was freed goes back to the operating system."""

from __future__ import annotations

import ctypes
import sys


def release_freed_memory() -> None:
    """Hands back what the C library keeps of freed memory; does nothing where it cannot be asked to.

    glibc takes blocks of up to 32 MiB from its heap once some of that size were freed, and a heap only shrinks at its
    end: work that goes through many tensors of such sizes ends with several times the memory that it uses.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
