"""Time of solving one layer from a given second moment, beside the GPTQ of llm-compressor and GPTQModel on the CPU.

    python -m benchmarks.solve_speed [--columns 4096] [--rounds 3]

4-bit asymmetric weights in groups of 128, static scales that both are given, no act-order, float32, one thread; in
turns in one process, CPU time. The figure is the median over rounds of the ratio within the round. Ours is measured
with and without its guard against layers that come out worse than nearest, which the peers do not have. GPTQModel
finds its own ranges, which is part of its time. Peers that are not installed are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.common import print_table, write_results
from qcompiler.passes.solve.layers import Geometry, Inputs, Layer
from qcompiler.passes.solve.second_order import Switches, prepare, solve_layer
from qcompiler.spec import QuantSpec, choose_qparams

GROUP = 128
SPEC = QuantSpec.parse(f"int4 asym block=(1,{GROUP}) scale=f32")
Solve = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Given(Inputs):
    """Inputs of which only the second moment is known."""

    def __init__(self, moment: Tensor) -> None:
        super().__init__(lambda stream: [], Geometry())
        self.second_moment = moment[None]


def ours(guard: bool, weight: Tensor, moment: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Solves by this library."""
    switches = Switches(act_order=False, guard=guard)
    inputs = Given(moment)
    layer = Layer("layer", weight, 1, SPEC, inputs, (scale, zero_point))
    return solve_layer(layer, prepare(inputs, switches), switches).value()


def llm_compressor(weight: Tensor, moment: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Solves by llm-compressor, which overwrites what it is given."""
    from compressed_tensors.quantization import QuantizationArgs  # pyright: ignore[reportMissingImports]
    from llmcompressor.modifiers.gptq.gptq_quantize import (  # pyright: ignore[reportMissingImports]
        quantize_weight,
    )

    args = QuantizationArgs(num_bits=4, symmetric=False, strategy="group", group_size=GROUP)
    return quantize_weight(weight[None], moment[None], scale[None], zero_point[None].to(torch.int8), None, args)[0][0]


def gptqmodel(weight: Tensor, moment: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Solves by GPTQModel, which overwrites the moment and finds the ranges of its groups itself."""
    from gptqmodel.quantization.config import QuantizeConfig  # pyright: ignore[reportMissingImports]
    from gptqmodel.quantization.gptq import GPTQ  # pyright: ignore[reportMissingImports]

    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight
    config = QuantizeConfig(
        bits=4,
        group_size=GROUP,
        sym=False,
        desc_act=False,
        act_group_aware=False,
        static_groups=True,
        damp_percent=0.01,
    )
    solver = GPTQ(layer, config)
    solver.quantizer.configure(perchannel=True)
    solver.H, solver.nsamples = moment, weight.shape[1]
    return solver.quantize()[0].float()


def problem(columns: int) -> tuple[Tensor, Tensor]:
    """A random square weight and the second moment of correlated inputs of different sizes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(columns + columns // 2, columns, generator=generator)
    x = (x + x.roll(1, 1)) * torch.exp(0.7 * torch.randn(columns, generator=generator))
    return torch.randn(columns, columns, generator=generator) / columns**0.5, x.T @ x * (2 / len(x))


def measure(solvers: dict[str, Solve], columns: int, rounds: int) -> list[dict[str, object]]:
    """Seconds of CPU time and relative error of each solver, the ratio to the last one."""
    weight, moment = problem(columns)
    scale, zero_point = choose_qparams(weight, SPEC)
    assert isinstance(scale, Tensor)
    seconds: dict[str, list[float]] = {name: [] for name in solvers}
    errors: dict[str, float] = {}
    for _ in range(rounds):
        for name, solve in solvers.items():
            own = (weight.clone(), moment.clone())
            started = time.process_time()
            found = solve(*own, scale, zero_point)
            seconds[name].append(time.process_time() - started)
            gap = found - weight
            errors[name] = float(((gap @ moment) * gap).sum() / ((weight @ moment) * weight).sum())
    last = list(solvers)[-1]
    return [
        {
            "solver": name,
            "columns": columns,
            "cpu s": statistics.median(times),
            f"of {last}": statistics.median(own / other for own, other in zip(times, seconds[last], strict=True)),
            "relative error": errors[name],
        }
        for name, times in seconds.items()
    ]


def main() -> None:
    """Measures and writes `results/solve_speed.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--columns", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    solvers: dict[str, Solve] = {"qcompiler": partial(ours, False), "qcompiler, guarded": partial(ours, True)}
    peers: dict[str, Solve] = {"gptqmodel": gptqmodel, "llmcompressor": llm_compressor}
    solvers |= {name: solve for name, solve in peers.items() if importlib.util.find_spec(name)}
    rows = measure(solvers, options.columns, options.rounds)
    print_table(rows)
    print(write_results("solve_speed", rows, "one layer from a given second moment, one thread, CPU seconds"))


if __name__ == "__main__":
    main()
