"""What NVIDIA's compiler makes of every CUDA kernel, on every architecture, without a GPU.

    python -m benchmarks.kernels_cuda_static [--kernels gemm_i8,...] [--architectures 87,90]

`resident` is how many blocks a multiprocessor holds, `loop` the instructions of the main loop, `products`, `shared` and
`global` how many of them are matrix products, reads of shared memory, and reads and copies of global memory. It exits
with 1 where a kernel does not build without a warning, spills registers, or holds fewer blocks than it promises.
Needs the extra `cuda`, or NVIDIA's toolkit on PATH.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from benchmarks.common import merged, print_table, write_results
from qcompiler.backends.cuda.arch import ARCHITECTURES, Architecture
from qcompiler.backends.cuda.kernels import KERNELS
from qcompiler.backends.cuda.kernels.row import CudaKernel
from qcompiler.backends.cuda.roofline import promised_blocks, resident_blocks
from qcompiler.backends.cuda.sass import disassemble
from qcompiler.backends.cuda.toolchain import compile_cubin
from qcompiler.errors import InputError

_KINDS: Mapping[str, tuple[str, ...]] = {
    "products": ("HMMA", "IMMA", "BMMA", "QMMA", "HGMMA", "IGMMA", "QGMMA"),
    "shared": ("LDS", "LDSM"),
    "global": ("LDG", "LDGSTS"),
}


def rows_of(kernel: CudaKernel, target: Architecture) -> list[dict[str, object]]:
    """One row for each instance that is made for an architecture."""
    instances = kernel.on(target)
    if not instances:
        return []
    compiled = compile_cubin([(kernel, instance) for instance in instances], target)
    listings = disassemble(compiled.cubin)
    rows: list[dict[str, object]] = []
    for instance in instances:
        usage, listing = compiled.usage[instance.name], listings[instance.name]
        loop = listing.main_loop()
        resident = resident_blocks(instance, usage, target)
        rows.append(
            {
                "kernel": kernel.name,
                "instance": instance.name,
                "architecture": target.name,
                "registers": usage.registers,
                "spilled": usage.spilled + usage.stack,
                "shared bytes": instance.shared,
                "resident": resident,
                "promised": promised_blocks(instance, target),
                "instructions": len(listing.opcodes),
                "loop": sum(loop.values()),
                **{kind: sum(loop[opcode] for opcode in opcodes) for kind, opcodes in _KINDS.items()},
            }
        )
    return rows


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", default=",".join(KERNELS), help="which, separated by commas")
    parser.add_argument("--architectures", default=",".join(map(str, ARCHITECTURES)), help="compute capabilities")
    options = parser.parse_args()
    targets = [ARCHITECTURES[int(text)] for text in options.architectures.split(",")]
    names = options.kernels.split(",")
    rows: list[dict[str, object]] = []
    failed: list[str] = []
    # The compiler is the work, and runs in processes of its own.
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        wanted = [(KERNELS[name], target) for target in targets for name in names]
        jobs = [pool.submit(rows_of, kernel, target) for kernel, target in wanted]
        for (kernel, target), job in zip(wanted, jobs, strict=True):
            try:
                made = job.result()
            except InputError as error:
                failed.append(f"{kernel.name} on {target.name}: {error.what}")
                continue
            rows += made
            write_results("kernels_cuda_static", merged("kernels_cuda_static", made, ("instance", "architecture")))
    print_table(rows)
    faulty = [row for row in rows if row["spilled"] or int(str(row["resident"])) < int(str(row["promised"]))]
    for told in failed:
        print(told)
    print(
        f"{len(rows)} instances built without a warning, {len(faulty)} spill or hold fewer blocks than promised, "
        f"{len(failed)} kernels did not build"
    )
    sys.exit(bool(faulty or failed))


if __name__ == "__main__":
    main()
