"""A network of signs that spots spoken words on ARM: executed instructions and bytes beside the same network in floats.

    python -m benchmarks.keyword_spotting [--epochs 3]

Sounds, training and network are made here (benchmarks/spoken_words.py, benchmarks/binary_network.py). The binarized
layers run as qc_pack_bits and qc_gemm_b1; beside them stand the same layers (convolution, batch normalization folded
into it) as qc_gemm_f32 for NEON, and as plain loops compiled at -O3, in the order in which one writes a convolution and
in the order that a compiler vectorizes. Instructions are counted exactly under qemu-user, as
benchmarks/kernels/arm_count.py says: a call with all rows less a call with none. Additions around blocks are the same
everywhere and are not counted. The layers of signs must equal the network that was trained, bit for bit.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.binary_network import BLOCKS, CHANNELS, KERNEL, BinaryConv, Block, Layer, Network, folded, sign, train
from benchmarks.common import print_table, write_results
from benchmarks.kernels.arm_count import instructions
from benchmarks.spoken_words import FRAMES, words
from qcompiler.backends.c.binary_packing import bit_rows, packed_signs, sign_thresholds
from qcompiler.backends.c.isa import LEVELS, Isa
from qcompiler.backends.c.kernels import MICRO_KERNELS
from qcompiler.backends.c.packing import blocked
from qcompiler.backends.c.toolchain import find_compiler, find_emulator
from tests.c_harness import Case, kernel_command, run_kernel

TERMS = CHANNELS * KERNEL
MACS = FRAMES * CHANNELS * TERMS
_REALS_BIASED = 2
_PLAIN = """
#include <stdlib.h>
enum {{ FRAMES = {frames}, CHANNELS = {channels}, KERNEL = {kernel}, WIDTH = FRAMES + KERNEL - 1 }};
/* Not static: the compiler must not know what they hold. */
float x[CHANNELS][WIDTH], w[CHANNELS][CHANNELS][KERNEL], bias[CHANNELS], y[CHANNELS][FRAMES];

__attribute__((noinline)) static void layer(int outputs) {{
    for (int o = 0; o < outputs; ++o) {{
{body}
    }}
}}

int main(int count, char **given) {{
    layer(count > 1 ? atoi(given[1]) : 0);
    return y[0][0] != 0.0f;
}}
"""
_AS_WRITTEN = """
        for (int t = 0; t < FRAMES; ++t) {
            float sum = bias[o];
            for (int c = 0; c < CHANNELS; ++c)
                for (int k = 0; k < KERNEL; ++k) sum += x[c][t + k] * w[o][c][k];
            y[o][t] = sum;
        }"""
_VECTORIZED = """
        for (int t = 0; t < FRAMES; ++t) y[o][t] = bias[o];
        for (int c = 0; c < CHANNELS; ++c)
            for (int k = 0; k < KERNEL; ++k)
                for (int t = 0; t < FRAMES; ++t) y[o][t] += x[c][t + k] * w[o][c][k];"""


def signs_with_border(x: np.ndarray) -> np.ndarray:
    """[FRAMES, CHANNELS] of 0 and 1 -> rows of words, a border of the sign 1 above and below."""
    return np.pad(bit_rows(x), [(KERNEL // 2, KERNEL // 2), (0, 0)])


def pack_case(x: np.ndarray, threshold: np.ndarray) -> Case:
    """Floats [FRAMES, CHANNELS] to signs."""
    bytes_ = CHANNELS // 8
    out = np.zeros((FRAMES, bytes_), np.uint8)
    return {
        "reals": x,
        "stride": CHANNELS,
        "channels": CHANNELS,
        "threshold": threshold,
        "out": out,
        "out_stride": bytes_,
    }


def product_case(signs: np.ndarray, layer: Layer, isa: Isa) -> dict[str, object]:
    """What both layers of a block share: windows lie in a row, and are one tap."""
    layout = MICRO_KERNELS["gemm_b1"].layout(isa)
    return {
        "input": signs,
        "width": FRAMES,
        "inner_stride": CHANNELS // 8,
        "weight": packed_signs(layer.bits, layout),
        "columns": CHANNELS,
        "taps": 1,
        "depth": TERMS,
        "block_columns": layout.columns,
        "block_depth": layout.depth,
    }


def first_case(signs: np.ndarray, layer: Layer, isa: Isa) -> Case:
    """Signs to signs."""
    threshold, flip = sign_thresholds(layer.factor, layer.bias, TERMS)
    out = np.zeros((FRAMES, CHANNELS // 8), np.uint8)
    more = {"threshold": threshold, "flip": bit_rows(flip), "out": out, "out_stride": CHANNELS // 8}
    return product_case(signs, layer, isa) | more  # pyright: ignore[reportReturnType]


def second_case(signs: np.ndarray, layer: Layer, isa: Isa) -> Case:
    """Signs to floats."""
    more = {
        "out": np.zeros((FRAMES, CHANNELS), np.float32),
        "out_stride": CHANNELS,
        "epilogue.finish": _REALS_BIASED,
        "epilogue.bias": np.zeros(CHANNELS, np.int32),
        "epilogue.factor": layer.factor,
        "epilogue.float_bias": layer.bias,
    }
    return product_case(signs, layer, isa) | more  # pyright: ignore[reportReturnType]


def float_case() -> Case:
    """The same layer in floats: overlapping rows of an image with its border."""
    random = np.random.default_rng(0)
    weight = random.standard_normal((CHANNELS, 1, TERMS)).astype(np.float32)
    return {
        "input": random.standard_normal((FRAMES + KERNEL - 1, CHANNELS)).astype(np.float32),
        "width": FRAMES,
        "inner_stride": CHANNELS,
        "weight": blocked(weight, MICRO_KERNELS["gemm_f32"].layout(Isa.NEON)),
        "columns": CHANNELS,
        "taps": 1,
        "depth": TERMS,
        "bias": np.zeros(CHANNELS, np.float32),
        "out": np.zeros((FRAMES, CHANNELS), np.float32),
        "out_stride": CHANNELS,
        "low": 0.0,
        "high": float("inf"),
    }


def block_on_bits(block: Block, x: np.ndarray, isa: Isa) -> np.ndarray:
    """[FRAMES, CHANNELS] floats through the kernels of a level."""
    everything = [(0, FRAMES)]
    (bits,) = run_kernel("pack_bits", isa, [pack_case(x, block.threshold.detach().numpy())], everything)
    border = [(KERNEL // 2, KERNEL // 2), (0, 0)]
    (bits,) = run_kernel("gemm_b1", isa, [first_case(np.pad(bits, border), folded(block.first), isa)], everything)
    (reals,) = run_kernel("gemm_b1", isa, [second_case(np.pad(bits, border), folded(block.second), isa)], everything)
    return x + reals


def block_in_torch(block: Block, x: Tensor) -> Tensor:
    """[CHANNELS, FRAMES] through the layers that were trained, the batch normalization as a product and a sum."""

    def affine(conv: BinaryConv, signs: Tensor) -> Tensor:
        layer = folded(conv)
        sums = functional.conv1d(functional.pad(signs, (KERNEL // 2, KERNEL // 2), value=1.0), sign(conv.weight))
        return sums * torch.from_numpy(layer.factor)[:, None] + torch.from_numpy(layer.bias)[:, None]

    signs = sign(affine(block.first, sign(x - block.threshold[:, None])))
    return x + affine(block.second, signs)


def check(model: Network, x: Tensor) -> None:
    """Compares all blocks, emulated, with what was trained; ends the program at a difference."""
    with torch.no_grad():
        expected = model.norm(model.stem(x[None]))[0]
        found = expected.t().contiguous().numpy()
        for block in model.blocks:
            assert isinstance(block, Block)
            found, expected = block_on_bits(block, found, Isa.NEON), block_in_torch(block, expected)
            if not np.array_equal(found, expected.t().numpy()):
                raise SystemExit("the kernels of signs differ from the network")


def executed(name: str, case: Case, folder: Path) -> int:
    """Instructions of a NEON kernel on all rows."""
    found = [instructions(kernel_command(name, Isa.NEON, [case], [(0, rows)], folder)) for rows in (FRAMES, 0)]
    return found[0] - found[1]


def executed_plainly(body: str, folder: Path) -> int:
    """Instructions of a layer in plain loops."""
    compiler, program = find_compiler(LEVELS[Isa.NEON].architecture), folder / "plain"
    text = _PLAIN.format(frames=FRAMES, channels=CHANNELS, kernel=KERNEL, body=body)
    (folder / "plain.c").write_text(text)
    compiler.compile(folder / "plain.c", folder / "plain.o", Isa.NEON)
    compiler.link([folder / "plain.o"], program, ("-static",))
    # Outputs are alike: an eighth of them is counted.
    command = [*find_emulator(LEVELS[Isa.NEON].architecture), str(program)]
    part = CHANNELS // 8
    return 8 * (instructions([*command, str(part)]) - instructions([*command, "0"]))


def stored(model: Network) -> tuple[int, int]:
    """Bytes of all parameters: as floats with batch normalization folded, and with layers of signs as bits."""
    outside = model.stem.weight.numel() + CHANNELS + sum(given.numel() for given in model.head.parameters())
    layers = 2 * BLOCKS
    floats = 4 * (outside + layers * (CHANNELS * TERMS + CHANNELS))
    thresholds = BLOCKS * (CHANNELS * 4 + CHANNELS * 4 + CHANNELS // 8)
    affine = BLOCKS * 2 * CHANNELS * 4
    return floats, 4 * outside + layers * CHANNELS * TERMS // 8 + thresholds + affine


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    torch.set_num_threads(1)
    model = train(*words(1536, 0), parser.parse_args().epochs)
    sounds, labels = words(384, 1)
    with torch.no_grad():
        accuracy = float((model(sounds).argmax(1) == labels).float().mean())
    print(f"{100 * accuracy:.1f} % of {len(labels)} new utterances are recognized")
    check(model, sounds[0])
    print("the kernels of signs equal the network bit for bit")
    rows = layers(model)
    print_table(rows)
    floats, bits = stored(model)
    print(f"{floats} bytes of floats, {bits} bytes with signs: {floats / bits:.1f} times fewer")
    note = f"accuracy {accuracy:.4f}; bytes {floats} in floats, {bits} with signs"
    write_results("keyword_spotting", rows, note)


def layers(model: Network) -> list[dict[str, object]]:
    """Instructions of all layers of signs, done in each way."""
    block = model.blocks[0]
    assert isinstance(block, Block)
    random = np.random.default_rng(0)
    x = random.standard_normal((FRAMES, CHANNELS)).astype(np.float32)
    signs = signs_with_border(random.integers(0, 2, (FRAMES, CHANNELS)))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        parts = {
            "pack_bits": executed("pack_bits", pack_case(x, block.threshold.detach().numpy()), folder),
            "signs to signs": executed("gemm_b1", first_case(signs, folded(block.first), Isa.NEON), folder),
            "signs to floats": executed("gemm_b1", second_case(signs, folded(block.second), Isa.NEON), folder),
        }
        ways = {
            "signs (NEON)": BLOCKS * sum(parts.values()),
            "floats (NEON)": 2 * BLOCKS * executed("gemm_f32", float_case(), folder),
            "plain loops, vectorized": 2 * BLOCKS * executed_plainly(_VECTORIZED, folder),
            "plain loops": 2 * BLOCKS * executed_plainly(_AS_WRITTEN, folder),
        }
    print("per block: " + ", ".join(f"{name} {number}" for name, number in parts.items()))
    best = ways["signs (NEON)"]
    return [
        {
            "layers as": name,
            "instructions": number,
            "MAC/instruction": 2 * BLOCKS * MACS / number,
            "times those of signs": number / best,
        }
        for name, number in ways.items()
    ]


if __name__ == "__main__":
    main()
