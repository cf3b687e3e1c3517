"""CUDA kernels on a GPU: every instance against its meaning, then speed beside the framework's own kernels.

    python -m benchmarks.kernels_cuda [--cubins FOLDER] [--only TEXT] [--rounds 21] [--quick]
    python -m benchmarks.kernels_cuda --build FOLDER --architectures 90,87    (needs nvcc, no GPU)
    python -m benchmarks.kernels_cuda --emulate                               (no GPU: small cases, checked only)

Data are fresh and random. Without --cubins, nvcc makes the code on the spot. Figures are medians over interleaved
rounds of graphs of launches that go through more memory than any cache holds, the second cache flushed before each.
`of copy` is the share of the bandwidth that a copy of 1 GiB reaches, bytes read and written; `x PEER` says how much
faster we are. With --only, results keep what earlier runs found of other kernels. Where there is no GPU it says so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.common import Row, merged, print_table, write_results
from benchmarks.kernels import cuda_convolutions, cuda_images, cuda_products, cuda_quantizers, cuda_weight_only
from benchmarks.kernels.cuda_common import Call, Case, Place, build, calls_of, checked, compete, driver_of, rotated
from qcompiler.backends.cuda.arch import architecture
from qcompiler.backends.cuda.driver import Driver, missing_device
from qcompiler.backends.cuda.kernels import KERNELS, hopper_weight_only, images, quantizers, weight_only
from qcompiler.errors import QCompilerError

_GIB = 1 << 30
_MATRIX = 8192
_EMULATED = 89
"""The capability with most instructions of its own."""
_QUANTIZERS = {row.name for row in quantizers.ROWS}
_IMAGES = {row.name for row in images.ROWS}
_WEIGHT_ONLY = {row.name for row in (*weight_only.ROWS, *hopper_weight_only.ROWS)}


@dataclass
class Bench:
    """A run of the benchmark.

    Args:
        place: where kernels run.
        rounds: of contests.
        copy: bytes a second of a copy; 0 where nothing is timed.
        drivers: by kernel, as they are needed.
    """

    place: Place
    rounds: int
    copy: float = 0.0
    drivers: dict[str, Driver] = field(default_factory=dict)

    def driver(self, kernel: str) -> Driver:
        """What runs a kernel."""
        if kernel not in self.drivers:
            self.drivers[kernel] = driver_of(self.place, kernel)
        return self.drivers[kernel]

    def row(self, case: Case) -> Row:
        """Checks a case and, on a GPU, times it."""
        driver = self.driver(case.kernel)
        found: Row = {"kernel": case.kernel, "instance": case.instance, "shape": case.shape}
        found["wrong"] = checked(driver, case)
        if self.place.emulated:
            return found
        contestants = {"ours": calls_of(driver, case), **dict(self._peers(case))}
        seconds = compete(contestants, self.rounds)
        ours = seconds.pop("ours")
        found |= {"us": ours * 1e6, "GB/s": case.size / ours / 1e9, "of copy": case.size / ours / self.copy}
        found["TFLOP/s"] = case.operations / ours / 1e12 if case.operations else None
        return found | {f"x {name}": peer / ours for name, peer in seconds.items()}

    def _peers(self, case: Case) -> Iterator[tuple[str, Sequence[Call]]]:
        for name, make in case.peers.items():
            try:
                make()()
                torch.cuda.synchronize()
            except (RuntimeError, NotImplementedError, AttributeError) as error:
                print(f"{name} is left out for {case.shape}: {str(error).splitlines()[0]}", file=sys.stderr)
                continue
            before = torch.cuda.memory_allocated()
            first = make()
            yield name, rotated(make, torch.cuda.memory_allocated() - before)
            del first


def main() -> None:
    parser = argparse.ArgumentParser(description="CUDA kernels on a GPU")
    parser.add_argument("--build", type=Path, help="only compile all kernels into this folder")
    parser.add_argument("--architectures", default="90", help="for --build: capabilities, such as 90,87")
    parser.add_argument("--cubins", type=Path, help="code that --build made")
    parser.add_argument("--emulate", action="store_true", help="small cases on this processor")
    parser.add_argument("--only", default="", help="kernels whose name contains this")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--quick", action="store_true", help="leave out the check of every instance")
    given = parser.parse_args()
    try:
        if given.build:
            build(given.build, [architecture(int(one)) for one in given.architectures.split(",")], given.only)
            return
        if not given.emulate and missing_device():
            print(f"nothing is measured: {missing_device()}")
            return
        with TemporaryDirectory(prefix="qc_cubins_") as folder:
            place = _place(given.emulate, given.cubins or Path(folder))
            if place.cubins and not given.cubins:
                build(place.cubins, [place.architecture], given.only)
            wrong = run(place, given.only, given.rounds, given.quick)
    except QCompilerError as error:
        sys.exit(str(error))
    sys.exit(f"{wrong} cases are wrong" if wrong else 0)


def run(place: Place, only: str, rounds: int, quick: bool) -> int:
    """Checks and times; how many cases are wrong."""
    torch.manual_seed(datetime.now(UTC).microsecond)
    bench = Bench(place, rounds)
    faults = [] if quick else check_instances(bench, only)
    peaks = {} if place.emulated else _peaks(bench)
    rows = [bench.row(case) for case in _timed(place, only)]
    for kernel in dict.fromkeys(str(row["kernel"]) for row in rows):
        _print([row for row in rows if row["kernel"] == kernel])
    faults += [row for row in rows if row["wrong"]]
    if faults:
        print("wrong:")
        _print(faults)
    if not place.emulated:
        name = "cuda-" + "-".join(torch.cuda.get_device_name(place.device).lower().split())
        known = [row for row in merged(name, rows, ("kernel", "shape", "bar")) if not row.get("bar")]
        bars = bars_of(known)
        print_table(bars)
        write_results(name, [*known, *bars], _note(place, peaks))
    return len(faults)


def check_instances(bench: Bench, only: str) -> list[Row]:
    """One small ragged case for every instance that the architecture has; those that are wrong."""
    faults: list[Row] = []
    for kernel, row in KERNELS.items():
        if only not in kernel:
            continue
        instances = row.on(bench.place.architecture)
        taken = instances[:1] if bench.place.emulated else instances
        for seed, instance in enumerate(taken, start=datetime.now(UTC).microsecond):
            case = _small_case(bench.place, kernel, instance.name, seed)
            wrong = checked(bench.driver(kernel), case)
            if wrong:
                faults.append({"kernel": kernel, "instance": instance.name, "shape": case.shape, "wrong": wrong})
        print(f"{kernel}: {len(taken)} of {len(instances)} instances checked", flush=True)
    return faults


def bars_of(rows: Sequence[Row]) -> list[Row]:
    """What the kernels are held to, and whether they reach it; bars whose cases did not run are left out."""
    found: list[Row] = []

    def bar(text: str, wanted: float, value: object) -> None:
        if isinstance(value, float):
            found.append({"bar": text, "wanted": wanted, "found": value, "met": value >= wanted})

    for row in rows:
        shape, kernel = str(row["shape"]), row["kernel"]
        count = int(shape.partition("x")[0])
        if kernel == "gemm_w4" and "g128" in shape and "rank" not in shape:
            if count == 1:
                bar(f"of memory bandwidth, {shape}", 0.75, row.get("of copy"))
                bar(f"x half precision, {shape}", 3, row.get("x f16", row.get("x bf16")))
            elif 16 <= count <= 64:
                bar(f"x half precision, {shape}", 2, row.get("x f16", row.get("x bf16")))
        if shape.startswith("4096x4096x4096 i8"):
            bar(f"of torch._int_mm, 4096^3, {kernel}", 0.6, row.get("x torch._int_mm"))
        if kernel == "hadamard" and shape.endswith("-> int8"):
            bar(f"of copy, Hadamard {shape}", 0.75, row.get("of copy"))
        if "+ rank" in shape:
            plain = next((one for one in rows if one["shape"] == shape.replace(" + rank 32", "")), row)
            bar(f"of the plain product's speed, {shape}", 1 / 1.1, _ratio(plain.get("us"), row.get("us")))
    return found


def _ratio(a: object, b: object) -> float | None:
    return a / b if isinstance(a, float) and isinstance(b, float) else None


def _place(emulate: bool, cubins: Path) -> Place:
    if emulate:
        return Place(torch.device("cpu"), architecture(_EMULATED))
    major, minor = torch.cuda.get_device_capability()
    return Place(torch.device("cuda", torch.cuda.current_device()), architecture(10 * major + minor), cubins)


def _timed(place: Place, only: str) -> Iterator[Case]:
    families = (cuda_quantizers, cuda_weight_only, cuda_products, cuda_convolutions, cuda_images)
    for family in families:
        yield from (case for case in family.timed(place) if only in case.kernel)


def _small_case(place: Place, kernel: str, instance: str, seed: int) -> Case:
    if kernel in _QUANTIZERS:
        return cuda_quantizers.every_instance(place, kernel, instance, seed)
    if kernel in _WEIGHT_ONLY:
        return cuda_weight_only.every_instance(place, kernel, instance, seed)
    if kernel in _IMAGES:
        return cuda_images.every_instance(place, kernel, instance, seed)
    family = cuda_convolutions if kernel.startswith("conv") else cuda_products
    return family.every_instance(place, kernel, instance, seed)


def _peaks(bench: Bench) -> Mapping[str, float]:
    """What the device reaches at its best; sets the bandwidth of copies."""
    source, target = (torch.empty(_GIB, dtype=torch.uint8, device="cuda") for _ in range(2))
    dense = cuda_products.float_product(bench.place.device, torch.bfloat16, _MATRIX, _MATRIX, _MATRIX)
    seconds = compete({"copy": [lambda: target.copy_(source)] * 2, "dense": [dense] * 2}, bench.rounds)
    bench.copy = 2 * _GIB / seconds["copy"]
    found = {"copy GB/s": bench.copy / 1e9, "bf16 TFLOP/s": 2 * _MATRIX**3 / seconds["dense"] / 1e12}
    print(", ".join(f"{name} {value:.0f}" for name, value in found.items()), flush=True)
    return found


def _note(place: Place, peaks: Mapping[str, float]) -> str:
    figures = ", ".join(f"{name} {value:.0f}" for name, value in peaks.items())
    day = datetime.now(UTC).date().isoformat()
    name = torch.cuda.get_device_name(place.device)
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}"
    return f"{name} ({place.architecture.name}), {day}, {versions}; {figures}"


def _print(rows: Sequence[Row]) -> None:
    heads = list(dict.fromkeys(head for row in rows for head in row))
    print_table([{head: row.get(head) for head in heads} for row in rows])
    print()


if __name__ == "__main__":
    main()
