"""Images read at positions that other layers compute."""

from __future__ import annotations

from qcompiler.backends.c.emit.nest import block, declared, nested, place
from qcompiler.backends.c.generator import Emitted, Emitter, Generator
from qcompiler.backends.c.value import channels_last
from qcompiler.backends.lowering.call import Call

_BICUBIC = 2


def sample(generator: Generator, call: Call) -> Emitted:
    """The mixture of the four pixels around every position of the grid, or the nearest one; -1 to 1 is the image."""
    mode = call.integer("interpolation_mode")
    if mode == _BICUBIC:
        raise call.unsupported("cubic mixtures")
    source = generator.settled(generator.operand(call.node_at("input")))
    if source.strides[1] != 1:
        source = generator.copied(source, channels_last(4))
    grid = generator.settled(generator.operand(call.node_at("grid")))
    out = generator.new(generator.shape(call.node), "float", channels_last(4))
    channels, height, width = source.shape[1:]
    options = f"{call.integer('padding_mode')}, {int(call.flag('align_corners'))}"
    at = [f"grid[{place(grid, ['n', 'i', 'j', axis])}]" for axis in ("0", "1")]
    body = [
        f"const float x = qc_grid_place({at[0]}, {width}, {options});",
        f"const float y = qc_grid_place({at[1]}, {height}, {options});",
        f"float *target = out + {place(out, ['n', '0', 'i', 'j'])};",
        *nested([("c", channels)], ["target[c] = 0.0f;"]),
    ]
    corner = [
        *_corner(mode),
        f"if (row < 0 || row >= {height} || column < 0 || column >= {width}) continue;",
        f"const float *pixel = in + {place(source, ['n', '0', 'row', 'column'])};",
        *nested([("c", channels)], ["target[c] = fmaf(share, pixel[c], target[c]);"]),
    ]
    body += nested([("corner", 1 if mode else 4)], corner)
    loops = [("n", out.shape[0]), ("i", out.shape[2]), ("j", out.shape[3])]
    block(generator, [*declared(generator, out, {"in": source, "grid": grid}), *nested(loops, body)])
    return out


def _corner(mode: int) -> list[str]:
    """Row, column and share of a pixel."""
    if mode:
        return [
            "const ptrdiff_t row = (ptrdiff_t)rintf(y), column = (ptrdiff_t)rintf(x) + corner;",
            "const float share = 1.0f;",
        ]
    return [
        "const ptrdiff_t row = (ptrdiff_t)floorf(y) + corner / 2, column = (ptrdiff_t)floorf(x) + corner % 2;",
        "const float share = (1.0f - qc_abs(y - (float)row)) * (1.0f - qc_abs(x - (float)column));",
    ]


EMITTERS: dict[str, Emitter] = {"aten.grid_sampler_2d": sample}
