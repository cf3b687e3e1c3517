"""What a kernel can reach on a device, by counting resident blocks, waves, bytes and products; nothing is measured.

Formula   share = blocks / (multiprocessors * ceil(blocks / multiprocessors)): the last round leaves some without work
          seconds = overhead + max(bytes / bandwidth, operations / (peak * share))
Source    Williams et al. 2009, "Roofline: an insightful visual performance model"; what is resident by the CUDA
          Occupancy Calculator, registers are given out by 256 to a warp
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qcompiler.backends.cuda.arch import Architecture
from qcompiler.backends.cuda.kernels.row import Instance
from qcompiler.backends.cuda.toolchain import Usage
from qcompiler.cost import Roofline

_WARP = 32
_REGISTER_UNIT = 256
_MOST_BLOCKS = 16


@dataclass(frozen=True)
class Work:
    """What one launch has to do.

    Args:
        blocks: of its grid.
        size: bytes that it must read and write at least once.
        operations: multiplications and additions, those on padding included.
        bits: of the widest operand of the products.
    """

    blocks: int
    size: int
    operations: int
    bits: int


@dataclass(frozen=True)
class Estimate:
    """How a launch stands to the device.

    Args:
        resident: blocks that a multiprocessor holds at once.
        occupancy: share of the threads that it could hold.
        waves: rounds of blocks over the device, the last one perhaps in part.
        seconds: at best.
        bound: what it waits for.
    """

    resident: int
    occupancy: float
    waves: float
    seconds: float
    bound: Literal["memory", "products", "launch"]


def resident_blocks(instance: Instance, usage: Usage, target: Architecture) -> int:
    """How many blocks of a kernel a multiprocessor holds at once; 0 when it cannot hold one."""
    warps = instance.threads // _WARP
    registers = -(-usage.registers * _WARP // _REGISTER_UNIT) * _REGISTER_UNIT * warps
    return min(_room(instance, target), target.registers_per_multiprocessor // registers)


def promised_blocks(instance: Instance, target: Architecture) -> int:
    """For how many blocks the compiler must leave registers: no more than there are threads and shared memory for."""
    return min(instance.blocks, _room(instance, target))


def _room(instance: Instance, target: Architecture) -> int:
    """Blocks for which a multiprocessor has threads and shared memory."""
    return min(
        _MOST_BLOCKS,
        target.threads_per_multiprocessor // instance.threads,
        target.shared_per_multiprocessor // max(1, instance.shared + target.reserved),
    )


def estimate(
    instance: Instance, usage: Usage, target: Architecture, work: Work, device: Roofline, multiprocessors: int
) -> Estimate:
    """The least time of a launch and what decides it.

    Args:
        instance: the kernel.
        usage: what the assembler said of it for this architecture.
        target: the architecture.
        work: of the launch.
        device: peaks; operations by the widest operand's bits.
        multiprocessors: of the device.
    """
    resident = resident_blocks(instance, usage, target)
    at_once = max(1, resident) * multiprocessors
    waves = work.blocks / at_once
    share = work.blocks / (multiprocessors * -(-work.blocks // multiprocessors))
    memory = device.seconds(0, work.bits, work.size) - device.overhead
    products = (device.seconds(work.operations, work.bits, 0) - device.overhead) / share
    longest = max(memory, products)
    bound = "launch" if longest < device.overhead else "memory" if memory >= products else "products"
    return Estimate(
        resident,
        resident * instance.threads / target.threads_per_multiprocessor,
        waves,
        device.overhead + longest,
        bound,
    )
