"""How long the symmetry analysis takes on deep graphs: a decoder, a vision transformer, a convolutional network.

Prints nodes, groups and the median processor time of five runs, and writes `results/symmetry_speed.json`. Parameters
are seeded fills, of which only gains are made, so that only the graph counts.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

from qcompiler.analysis.symmetry import symmetries
from qcompiler.ir.parse import parse_program
from qcompiler.ir.program import Program

RESULT = Path(__file__).parent / "results" / "symmetry_speed.json"
RUNS = 5


class Text:
    """Lines of a program at stage canonical."""

    def __init__(self, name: str, input_type: str) -> None:
        self.head = ["dim b = 2 in 1..", f"program @{name} stage=canonical {{", f"  input %x : {input_type}"]
        self.params: list[str] = []
        self.body: list[str] = []

    def param(self, *shape: int) -> str:
        name = f"%p{len(self.params)}"
        sizes = ",".join(map(str, shape))
        self.params.append(f"  param {name} : f32[{sizes}] = normal(seed={len(self.params)})")
        return name

    def call(self, text: str, type_: str) -> str:
        name = f"%n{len(self.body)}"
        self.body.append(f"  {name} = {text} : f32[{type_}]")
        return name

    def program(self, result: str) -> Program:
        return parse_program("\n".join([*self.head, *self.params, *self.body, f"  return {result}", "}"]))


def attention(text: Text, x: str, width: int, heads: int, groups: int, rotary: tuple[str, str] | None) -> str:
    """Queries, keys and values of one norm, and the projection behind."""
    size = width // heads

    def head(count: int) -> str:
        y = text.call(f"aten.linear {x}, {text.param(count * size, width)}, none", f"b,16,{count * size}")
        y = text.call(f"aten.reshape {y}, [-1, 16, {count}, {size}]", f"b,16,{count},{size}")
        return text.call(f"aten.permute {y}, [0, 2, 1, 3]", f"b,{count},16,{size}")

    def turned(y: str, count: int) -> str:
        half = f"b,{count},16,{size // 2}"
        first = text.call(f"aten.slice.Tensor {y}, 3, 0, {size // 2}, 1", half)
        second = text.call(f"aten.slice.Tensor {y}, 3, {size // 2}, {size}, 1", half)
        second = text.call(f"aten.neg {second}", half)
        swapped = text.call(f"aten.cat [{second}, {first}], 3", f"b,{count},16,{size}")
        cos, sin = rotary or ("", "")
        left = text.call(f"aten.mul.Tensor {y}, {cos}", f"b,{count},16,{size}")
        right = text.call(f"aten.mul.Tensor {swapped}, {sin}", f"b,{count},16,{size}")
        return text.call(f"aten.add.Tensor {left}, {right}", f"b,{count},16,{size}")

    q, k, v = head(heads), head(groups), head(groups)
    if rotary:
        q, k = turned(q, heads), turned(k, groups)
    shared = "true" if groups < heads else "false"
    y = text.call(
        f"aten.scaled_dot_product_attention {q}, {k}, {v}, none, 0.0, true {{enable_gqa={shared}}}",
        f"b,{heads},16,{size}",
    )
    y = text.call(f"aten.permute {y}, [0, 2, 1, 3]", f"b,16,{heads},{size}")
    y = text.call(f"aten.reshape {y}, [-1, 16, {width}]", f"b,16,{width}")
    return text.call(f"aten.linear {y}, {text.param(width, width)}, none", f"b,16,{width}")


def decoder(layers: int, width: int = 512, heads: int = 8, groups: int = 2, hidden: int = 1376) -> Program:
    """Root-mean-square norms, shared heads, rotary embedding, gates."""
    text = Text("decoder", "i64[b,16]")
    rotary = (text.param(16, width // heads), text.param(16, width // heads))
    x = text.call(f"aten.embedding {text.param(1000, width)}, %x", f"b,16,{width}")
    for _ in range(layers):
        y = text.call(f"aten.rms_norm {x}, [{width}], {text.param(width)}, 1e-05", f"b,16,{width}")
        y = attention(text, y, width, heads, groups, rotary)
        x = text.call(f"aten.add.Tensor {x}, {y}", f"b,16,{width}")
        y = text.call(f"aten.rms_norm {x}, [{width}], {text.param(width)}, 1e-05", f"b,16,{width}")
        gate = text.call(f"aten.linear {y}, {text.param(hidden, width)}, none", f"b,16,{hidden}")
        up = text.call(f"aten.linear {y}, {text.param(hidden, width)}, none", f"b,16,{hidden}")
        gate = text.call(f"aten.silu {gate}", f"b,16,{hidden}")
        y = text.call(f"aten.mul.Tensor {gate}, {up}", f"b,16,{hidden}")
        y = text.call(f"aten.linear {y}, {text.param(width, hidden)}, none", f"b,16,{width}")
        x = text.call(f"aten.add.Tensor {x}, {y}", f"b,16,{width}")
    x = text.call(f"aten.rms_norm {x}, [{width}], {text.param(width)}, 1e-05", f"b,16,{width}")
    return text.program(text.call(f"aten.linear {x}, {text.param(1000, width)}, none", "b,16,1000"))


def vision(layers: int, width: int = 384, heads: int = 6, hidden: int = 1536) -> Program:
    """Layer norms and an elementwise function."""
    text = Text("vision", f"f32[b,16,{width}]")
    x = text.call(f"aten.linear %x, {text.param(width, width)}, {text.param(width)}", f"b,16,{width}")
    for _ in range(layers):
        norm = f"[{width}], {text.param(width)}, {text.param(width)}, 1e-05"
        y = text.call(f"aten.layer_norm {x}, {norm}", f"b,16,{width}")
        y = attention(text, y, width, heads, heads, None)
        x = text.call(f"aten.add.Tensor {x}, {y}", f"b,16,{width}")
        norm = f"[{width}], {text.param(width)}, {text.param(width)}, 1e-05"
        y = text.call(f"aten.layer_norm {x}, {norm}", f"b,16,{width}")
        y = text.call(f"aten.linear {y}, {text.param(hidden, width)}, {text.param(hidden)}", f"b,16,{hidden}")
        y = text.call(f"aten.gelu {y}", f"b,16,{hidden}")
        y = text.call(f"aten.linear {y}, {text.param(width, hidden)}, {text.param(width)}", f"b,16,{width}")
        x = text.call(f"aten.add.Tensor {x}, {y}", f"b,16,{width}")
    norm = f"[{width}], {text.param(width)}, {text.param(width)}, 1e-05"
    x = text.call(f"aten.layer_norm {x}, {norm}", f"b,16,{width}")
    return text.program(text.call(f"aten.linear {x}, {text.param(10, width)}, none", "b,16,10"))


def convolutions(blocks: int, width: int = 256) -> Program:
    """Residual blocks with depthwise filters."""
    text = Text("convolutions", "f32[b,3,16,16]")

    def conv(x: str, inputs: int, outputs: int, kernel: int, groups: int) -> str:
        weight = text.param(outputs, inputs // groups, kernel, kernel)
        pad = kernel // 2
        rest = f"[1, 1], [{pad}, {pad}], [1, 1], {groups}"
        return text.call(f"aten.conv2d {x}, {weight}, {text.param(outputs)}, {rest}", f"b,{outputs},16,16")

    x = conv("%x", 3, width, 3, 1)
    for _ in range(blocks):
        y = text.call(f"aten.relu {x}", f"b,{width},16,16")
        y = conv(y, width, 2 * width, 1, 1)
        y = text.call(f"aten.relu {y}", f"b,{2 * width},16,16")
        y = conv(y, 2 * width, 2 * width, 3, 2 * width)
        y = text.call(f"aten.relu {y}", f"b,{2 * width},16,16")
        y = conv(y, 2 * width, width, 1, 1)
        x = text.call(f"aten.add.Tensor {x}, {y}", f"b,{width},16,16")
    return text.program(conv(x, width, 10, 1, 1))


def measure(program: Program) -> dict[str, object]:
    """Nodes, groups and seconds."""
    seconds = []
    for _ in range(RUNS):
        start = time.process_time()
        symmetries(program)
        seconds.append(time.process_time() - start)
    return {
        "model": program.name,
        "nodes": len(program.nodes),
        "groups": len(symmetries(program).groups),
        "seconds": round(statistics.median(seconds), 3),
    }


def main() -> None:
    """Prints the table and writes it."""
    rows = [measure(program) for program in (decoder(150), vision(270), convolutions(710))]
    for row in rows:
        print("{model:14} {nodes:6} nodes {groups:6} groups {seconds:7.3f} s".format(**row))
    RESULT.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
