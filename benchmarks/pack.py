"""Speed of the number formats: packing and unpacking at every width, rounding, encoding and decoding, beside a copy.

Run `python -m benchmarks.pack`; one thread, the best CPU time of several rounds, all in one run. `--gigabytes 1` adds
the time of one gigabyte of 4-bit codes both ways, by the clock too, where other work on the machine shows.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import click
import torch

from benchmarks.common import print_table, write_results
from qcompiler.formats import Format, parse_format
from qcompiler.formats.pack import pack, unpack

WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8)
ROUNDED = ("int4", "int8", "fp8e4m3", "fp8e5m2", "fp6e2m3", "fp4e2m1", "fp4e3m0", "nf4", "ulog2_4", "ulogsqrt2_4")
ROUNDED += ("pow4c0.5", "twinlog4c10.0", "ternary", "e8m0")
GIGABYTE = 1e9


@click.command()
@click.option("--codes", default=1 << 26, help="Codes per measurement.")
@click.option("--rounds", default=5, help="The best of so many rounds counts.")
@click.option("--gigabytes", default=0.0, help="Also time so many gigabytes of packed 4-bit codes.")
def main(codes: int, rounds: int, gigabytes: float) -> None:
    """Measures, prints tables and writes results/pack.json."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(0, 256, (codes,), dtype=torch.uint8, generator=generator)
    target = torch.empty_like(source)
    copy = codes / best_seconds(lambda: target.copy_(source), rounds) / GIGABYTE
    fresh = codes / best_seconds(source.clone, rounds) / GIGABYTE
    print(f"copy into memory in use {copy:.2f} GB/s, into fresh memory {fresh:.2f} GB/s")
    packed_rows = [packing(source & ((1 << bits) - 1), bits, rounds) for bits in WIDTHS]
    print_table(packed_rows)
    reals = torch.randn(codes // 16, generator=generator) * 3
    rounded_rows = [rounding(reals, parse_format(name), rounds) for name in ROUNDED]
    print_table(rounded_rows)
    rows = [{"copy GB/s": copy, "copy into fresh memory GB/s": fresh}, *packed_rows, *rounded_rows]
    if gigabytes:
        rows.append(whole(gigabytes))
        print_table(rows[-1:])
    write_results("pack", rows, "bytes read plus bytes written per second of CPU time; codes are uint8")


def packing(codes: torch.Tensor, bits: int, rounds: int) -> dict[str, object]:
    """One width: both ways, in codes and in bytes moved; unpacking gives uint8 codes."""
    stored = pack(codes, bits)
    moved = codes.numel() + stored.numel()
    packing_time = best_seconds(lambda: pack(codes, bits), rounds)
    unpacking_time = best_seconds(lambda: unpack(stored, bits, codes.numel(), "uint8"), rounds)
    return {
        "bits": bits,
        "pack Gcodes/s": codes.numel() / packing_time / GIGABYTE,
        "pack GB/s": moved / packing_time / GIGABYTE,
        "unpack Gcodes/s": codes.numel() / unpacking_time / GIGABYTE,
        "unpack GB/s": moved / unpacking_time / GIGABYTE,
    }


def rounding(reals: torch.Tensor, number: Format, rounds: int) -> dict[str, object]:
    """One format: rounding, encoding and decoding beside the search that they replace (float32 in, float32 out)."""
    values = number.round(reals)
    codes = number.encode(values)
    count = reals.numel()
    grid = number.grid()
    searched = best_seconds(lambda: grid.values[grid.index(reals)].float(), 2)
    return {
        "format": number.name,
        "round Gvalues/s": count / best_seconds(lambda: number.round(reals), rounds) / GIGABYTE,
        "by search Gvalues/s": count / searched / GIGABYTE,
        "encode Gvalues/s": count / best_seconds(lambda: number.encode(values), rounds) / GIGABYTE,
        "decode Gvalues/s": count / best_seconds(lambda: number.decode(codes), rounds) / GIGABYTE,
    }


def whole(gigabytes: float) -> dict[str, object]:
    """Seconds for so many gigabytes of packed 4-bit codes, both ways: of CPU time, and by the clock."""
    count = round(2 * gigabytes * GIGABYTE)
    codes = torch.randint(0, 16, (count,), dtype=torch.uint8)
    started, wall = time.process_time(), time.perf_counter()
    stored = pack(codes, 4)
    between, wall_between = time.process_time(), time.perf_counter()
    unpacked = unpack(stored, 4, count, "uint8")
    ended, wall_ended = time.process_time(), time.perf_counter()
    if not torch.equal(unpacked, codes):
        raise SystemExit("unpacking did not give the codes back")
    return {
        "gigabytes of int4": gigabytes,
        "pack s": between - started,
        "unpack s": ended - between,
        "pack s by the clock": wall_between - wall,
        "unpack s by the clock": wall_ended - wall_between,
    }


def best_seconds(action: Callable[[], object], rounds: int) -> float:
    """The least CPU time of one call."""
    best = float("inf")
    for _ in range(rounds):
        started = time.process_time()
        action()
        best = min(best, time.process_time() - started)
    return best


if __name__ == "__main__":
    main()
