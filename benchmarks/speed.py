"""Speed of our ONNX files beside fp32 and the quantizer of ONNX Runtime, in ONNX Runtime, one thread.

    python -m benchmarks.speed [--models cnn,vit,llama] [--rounds 21] [--peers FOLDER]

All files of one model are timed in turns in one process, so that a busy machine hurts them alike; a ratio is the median
over rounds of fp32 time to file time within the round, both as CPU time of the calling thread. `--peers` adds every
`*_MODEL_*.onnx` of a folder. Errors are measured on inputs that calibration has not seen.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph

import qcompiler
from benchmarks.common import print_table, shared_folder, write_results

RECIPES: Mapping[str, tuple[str, ...]] = {
    "cnn": ("w8a8", "w8a8_smooth", "w8a8_rotated"),
    "vit": ("w8a8", "w8a8_smooth", "w8a8_rotated", "w8a8_dynamic"),
    "llama": ("w8a8", "w8a8_smooth", "w8a8_rotated", "w8a8_dynamic", "w4a16g128"),
}
MATRIX_OPS = ("aten.conv", "aten.linear")
INTEGER_KERNELS = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "QGemm",
        "QLinearConv",
        "QLinearMatMul",
    }
)
FLOAT_KERNELS = frozenset({"Conv", "FusedConv", "FusedGemm", "FusedMatMul", "Gemm", "MatMul"})


Feed = Mapping[str, np.ndarray]
Call = tuple[onnxruntime.InferenceSession, Feed]


@dataclass(frozen=True)
class Candidate:
    """One file to time.

    Args:
        name: who made it.
        scheme: with which numbers.
        path: of the file.
        share: of the layers with weights that run as low-bit kernels, as `n/all`; by our audit for our files, by the
            matrix kernels in the optimized graph for others (products of two activations count there too).
    """

    name: str
    scheme: str
    path: Path
    share: str


def ours(model: str, peers: ModuleType, folder: Path) -> Iterator[Candidate]:
    """Our artefacts, one per recipe; from the module, calibrated one sample at a time as the peers are."""
    module, calibration, _ = peers.load(model)
    samples = [(sample,) for sample in calibration.split(1)]
    for recipe in RECIPES[model]:
        static = recipe in ("w8a8", "w8a8_smooth", "w8a8_rotated")
        artifact = qcompiler.compile(
            module,
            inputs=samples[0],
            calibration=samples if static else None,
            recipe=recipe,
            output=folder / f"{model}_{recipe}",
        )
        layers = [layer for layer in artifact.report.layers if layer.op.startswith(MATRIX_OPS)]
        low = [layer for layer in layers if layer.requested != "float" and not layer.reason]
        yield Candidate("qcompiler", recipe, artifact.onnx, f"{len(low)}/{len(layers)}")


def runtime_quantizer(model: str, peers: ModuleType, folder: Path) -> Candidate:
    """The static quantizer of ONNX Runtime on one of the peers' models, calibrated one sample at a time."""
    _, calibration, _ = peers.load(model)
    path = folder / f"{model}_quantize_static.onnx"
    quantize_with_runtime(
        Path(peers.fp32_onnx(model)), [{"x": sample.numpy()} for sample in calibration.split(1)], path
    )
    return Candidate("onnxruntime quantize_static", "w8a8", path, kernel_share(path))


def quantize_with_runtime(source: Path, feeds: Sequence[Feed], path: Path, percentile: bool = False) -> None:
    """Writes what `quantize_static` makes of a file, with the settings its documentation gives for this processor.

    Args:
        source: the float file.
        feeds: calibration inputs by name.
        path: of the new file; the preprocessed one lies beside it.
        percentile: ranges that leave out 0.001 % of the values, not all of them.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds: Iterator[Feed] = iter(feeds)

        def get_next(self) -> Feed | None:  # pyright: ignore[reportIncompatibleMethodOverride]
            return next(self.feeds, None)

    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(path),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.Percentile if percentile else CalibrationMethod.MinMax,
    )


def kernel_share(path: Path) -> str:
    """Integer matrix kernels among all matrix kernels of the graph that really runs, as `n/all`."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        onnxruntime.InferenceSession(str(path), options)
        graph = onnx.load(options.optimized_model_filepath, load_external_data=False).graph
    return share_of(Counter(node.op_type for node in graph.node))


def share_of(kinds: Mapping[str, int]) -> str:
    """`n/all` from how often each kernel occurs."""
    integer = sum(count for kind, count in kinds.items() if kind in INTEGER_KERNELS)
    return f"{integer}/{integer + sum(count for kind, count in kinds.items() if kind in FLOAT_KERNELS)}"


def peer_files(model: str, folder: Path | None) -> Iterator[Candidate]:
    """Files of other quantizers, by name `PEER_MODEL_SCHEME.onnx`."""
    for path in sorted(folder.glob(f"*_{model}_*.onnx")) if folder is not None else ():
        peer, _, scheme = path.stem.partition(f"_{model}_")
        try:
            yield Candidate(peer, scheme, path, kernel_share(path))
        except (Fail, InvalidGraph) as error:
            print(f"left out {path.name}: {str(error).splitlines()[0]}")


def interleaved(calls: Sequence[Call], rounds: int) -> np.ndarray:
    """CPU seconds of the calling thread, [rounds, calls]; two runs of each before the first round."""
    seconds = np.zeros((rounds + 2, len(calls)))
    for row in seconds:
        for index, (session, feed) in enumerate(calls):
            started = time.thread_time()
            session.run(None, feed)
            row[index] = time.thread_time() - started
    return seconds[2:]


def speedups(seconds: np.ndarray) -> list[float]:
    """Median over rounds of first column to each column: [rounds, calls] -> [calls]."""
    return [float(median(seconds[:, 0] / seconds[:, column])) for column in range(seconds.shape[1])]


def output_sqnr(session: onnxruntime.InferenceSession, samples: torch.Tensor, wanted: np.ndarray) -> float:
    """Output SQNR in dB against the float module, sample by sample."""
    name = session.get_inputs()[0].name
    found = np.concatenate([np.asarray(session.run(None, {name: sample.numpy()})[0]) for sample in samples.split(1)])
    noise = np.square(wanted.astype(np.float64) - found).sum()
    return float(10 * np.log10(np.square(wanted, dtype=np.float64).sum() / max(noise, 1e-30)))


def measure(model: str, peers: ModuleType, rounds: int, folder: Path, others: Path | None) -> list[dict[str, object]]:
    """All rows of one model, fp32 first."""
    module, _, held_out = peers.load(model)
    fp32 = Path(peers.fp32_onnx(model))
    candidates = [
        Candidate("onnxruntime", "fp32", fp32, ""),
        runtime_quantizer(model, peers, folder),
        *peer_files(model, others),
        *ours(model, peers, folder),
    ]
    sessions = [peers.ort_session(str(candidate.path)) for candidate in candidates]
    sample = held_out[:1].numpy()
    seconds = interleaved([(session, {session.get_inputs()[0].name: sample}) for session in sessions], rounds)
    wanted = peers.run(module, held_out)
    return [
        {
            "model": model,
            "by": candidate.name,
            "scheme": candidate.scheme,
            "ms": 1e3 * float(median(seconds[:, index])),
            "x fp32": ratio,
            "SQNR dB": output_sqnr(session, held_out, wanted) if index else None,
            "low-bit": candidate.share,
            "MB": candidate.path.stat().st_size / 1e6,
        }
        for index, (candidate, session, ratio) in enumerate(zip(candidates, sessions, speedups(seconds), strict=True))
    ]


def main() -> None:
    """Measures the models asked for and writes `results/speed.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(RECIPES))
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--peers", type=Path)
    options = parser.parse_args()
    shared_folder()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PEER_WORK"] = folder
        import common as peers  # pyright: ignore[reportMissingImports]

        torch.set_num_threads(1)
        rows: list[dict[str, object]] = []
        for model in options.models.split(","):
            rows += measure(model, peers, options.rounds, Path(folder), options.peers)
    print_table(rows)
    if set(options.models.split(",")) == set(RECIPES):
        print(write_results("speed", rows, f"one thread, median of {options.rounds} rounds in turns; low-bit: kernels"))


if __name__ == "__main__":
    main()
