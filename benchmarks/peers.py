"""Every real model: our 8-bit files beside those of the best peers, in ONNX Runtime, one thread, default session.

    python -m benchmarks.peers [--models resnet20,silero] [--samples 1000] [--rounds 21] [--peers FOLDER]
    python -m benchmarks.peers --export FOLDER       float files and calibration inputs, for `benchmarks.peer_nncf`

Peers: `quantize_static` of ONNX Runtime (Q/DQ, per channel, u8 activations, s8 weights, preprocessed; ranges by the
extremes and by percentiles) and NNCF, when it imports here or its files `nncf_MODEL.onnx` lie in the folder. All start
from the same float file or module with the same calibration inputs, the peers one sample at a time. Times are CPU time
of the calling thread, files in turns, one sample; a ratio is the median over rounds of float time to file time.

The best peer is the one with the best metric (then SQNR) among those at least as fast as float, within 2 %; if none is,
the one with the best metric of all. `fast`: at least as fast as that peer, within 2 %. `metric`, `SQNR`: at least as
accurate as that peer by it; a metric beyond that of float counts as that of float, else chance has no allowance. `bar`
is `fast` with `metric`.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph

import qcompiler
from benchmarks import peer_nncf
from benchmarks.common import Row, merged, print_table, write_results
from benchmarks.deployed import inputs_of
from benchmarks.models import CASES, Case, cifar, code_lm, stories, tensor
from benchmarks.onnx_models import ONNX_CASES, Inputs
from benchmarks.speed import Candidate, interleaved, kernel_share, quantize_with_runtime, speedups
from qcompiler.measure import output_sqnr_db

NOTE = "onnxruntime, one thread, CPU time, medians of rounds in turns; low-bit: matrix kernels"
RECIPES = ("w8a8", "w8a8_smooth")
OURS = "qcompiler"
REDUCED: Mapping[str, Callable[[int], Case]] = {
    "resnet20": lambda samples: _counted(cifar("resnet20_cifar10_jpeg", 20, images=samples), samples, "images"),
    "resnet56": lambda samples: _counted(cifar("resnet56_cifar10", 56, images=samples), samples, "images"),
    "code_lm": lambda samples: _counted(code_lm(tokens=10 * samples), 10 * samples, "tokens"),
    "stories": lambda samples: _stories(min(40, samples // 25)),
}
"""Models whose metric has a number of samples; the metrics of others look at all there are."""
FREE: Mapping[str, Mapping[int, str]] = {"sr": {0: "batch", 2: "height", 3: "width"}, "lm": {0: "batch", 1: "length"}}
"""Free axes of the inputs, by kind of model; of the others the batch alone."""
HISTOGRAMS: Mapping[str, int] = {"sr": 4, "lm": 16}
"""Most calibration samples for percentiles, by kind: the quantizer keeps all intermediate values of all of them."""
FAST = 0.98
OPSET = 18
"""`quantize_static` writes scales per channel from opset 13 on only, NNCF cannot read opset 21."""
Calls = Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]


@dataclass(frozen=True)
class Subject:
    """One model as all quantizers get it.

    Args:
        name: short.
        kind: as in `Case`, or `onnx`.
        model: what `qcompiler.compile` takes.
        source: the float file.
        calibration: flat inputs.
        samples: flat inputs that calibration has not seen; the first one, cut to one sample, is timed.
        metric: of a file that is called with flat inputs.
        unit: of the metric.
        higher: whether more of it is better.
    """

    name: str
    kind: str
    model: object
    source: Path
    calibration: Sequence[Inputs]
    samples: Sequence[Inputs]
    metric: Callable[[Calls], float]
    unit: str
    higher: bool


def _stories(count: int) -> Case:
    return _counted(stories(stories_used=count), count, "stories")


def _counted(case: Case, count: int, what: str) -> Case:
    return replace(case, unit=f"{case.unit}, {count} {what}")


def subject(name: str, samples: int, folder: Path, calibration: int) -> Subject:
    """The model of that name, its float file written into the folder."""
    if name in ONNX_CASES:
        return onnx_subject(name, samples, folder, calibration)
    case = REDUCED[name](samples) if name in REDUCED else CASES[name]()
    source = folder / f"{name}_float.onnx"
    inputs = case.calibration[0]
    torch.onnx.export(
        case.module,
        inputs,
        str(source),
        dynamo=True,
        external_data=False,
        opset_version=OPSET,
        input_names=[f"x{index}" for index in range(len(inputs))],
        dynamic_shapes=tuple(dict(FREE.get(case.kind, {0: "batch"})) for _ in inputs),
        verbose=False,
    )
    used, held_out = list(_first(case.calibration, calibration)), inputs_of(case, min(samples, 64))

    def metric(call: Calls) -> float:
        return case.metric(lambda *values: call([tensor(value) for value in values])[0])

    higher = case.higher_is_better
    return Subject(name, case.kind, case.module, source, used, held_out, metric, case.unit, higher)


def onnx_subject(name: str, samples: int, folder: Path, calibration: int) -> Subject:
    """A model that came as ONNX, constants no inputs; its metric is how many decisions are those of the float file."""
    case, source = ONNX_CASES[name](), folder / f"{name}_float.onnx"
    file = onnx.load(str(case.path))
    constants = {each.name for each in file.graph.initializer}
    inputs = [value for value in file.graph.input if value.name not in constants]
    del file.graph.input[:]
    file.graph.input.extend(inputs)
    old = file.opset_import[0].version < OPSET
    onnx.save(onnx.version_converter.convert_version(file, OPSET) if old else file, str(source))
    held_out, reference = case.samples[: min(samples, 64)], caller(session_of(source))
    wanted = [case.decisions(reference(sample)) for sample in held_out]

    def metric(call: Calls) -> float:
        equal = [case.decisions(call(sample)) == each for sample, each in zip(held_out, wanted, strict=True)]
        return 100 * float(torch.cat([each.flatten() for each in equal]).float().mean())

    unit = f"equal decisions %, {len(held_out)} inputs"
    return Subject(name, "onnx", case.path, source, case.calibration[:calibration], held_out, metric, unit, True)


def _first(batches: Sequence[Inputs], samples: int) -> Iterator[Inputs]:
    seen = 0
    for batch in batches:
        if seen < samples:
            yield batch
        seen += batch[0].shape[0]


def session_of(path: Path) -> onnxruntime.InferenceSession:
    """One thread, everything else as it comes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feed_of(session: onnxruntime.InferenceSession, sample: Sequence[torch.Tensor]) -> dict[str, np.ndarray]:
    """Inputs by name, in the order of the file."""
    return {value.name: each.numpy() for value, each in zip(session.get_inputs(), sample, strict=True)}


def caller(session: onnxruntime.InferenceSession) -> Calls:
    """The file as a function of flat inputs."""
    return lambda sample: [torch.from_numpy(np.asarray(v)) for v in session.run(None, feed_of(session, sample))]


def feeds_of(model: Subject) -> list[dict[str, np.ndarray]]:
    """Calibration inputs by the names of the float file; one sample each, as some calibrators want equal shapes."""
    session = session_of(model.source)
    if model.kind == "onnx":
        return [feed_of(session, batch) for batch in model.calibration]
    split = (zip(*(value.split(1) for value in batch), strict=True) for batch in model.calibration)
    return [feed_of(session, sample) for samples in split for sample in samples]


def export(model: Subject, folder: Path) -> None:
    """Writes what `benchmarks.peer_nncf` reads."""
    numbered = enumerate(feeds_of(model))
    arrays = {f"{number:04}/{name}": value for number, feed in numbered for name, value in feed.items()}
    arrays["kind"] = np.array(model.kind)
    np.savez(folder / f"{model.name}_calibration.npz", allow_pickle=False, **arrays)


def peer_files(model: Subject, folder: Path, others: Path | None) -> Iterator[tuple[str, str, Path]]:
    """Who wrote which file how; a quantizer that fails is named and left out."""
    for scheme in ("minmax", "percentile"):
        path = folder / f"{model.name}_{scheme}.onnx"
        try:
            count = HISTOGRAMS.get(model.kind) if scheme == "percentile" else None
            quantize_with_runtime(model.source, feeds_of(model)[:count], path, scheme == "percentile")
            yield "quantize_static", scheme, path
        except (ValueError, KeyError, RuntimeError) as error:
            print(f"{model.name}: quantize_static {scheme} fails: {type(error).__name__} {error}", flush=True)
    path = (others or folder) / f"nncf_{model.name}.onnx"
    if not path.is_file() and importlib.util.find_spec("nncf") is not None:
        export(model, folder)
        peer_nncf.quantize(model.source, folder / f"{model.name}_calibration.npz", path)
    if path.is_file():
        yield "nncf", "mixed", path


def candidates(model: Subject, folder: Path, others: Path | None) -> Iterator[Candidate]:
    """Float, peers, ours; a file that does not load is named and left out."""
    yield Candidate("onnxruntime", "float", model.source, "")
    for by, scheme, path in peer_files(model, folder, others):
        try:
            yield Candidate(by, scheme, path, kernel_share(path))
        except (Fail, InvalidArgument, InvalidGraph) as error:
            print(f"{model.name}: {by} {scheme} does not load: {str(error)[:160]}", flush=True)
    for recipe in RECIPES:
        used, output = list(model.calibration), folder / f"{model.name}_{recipe}"
        artifact = qcompiler.compile(model.model, "onnxruntime", calibration=used, recipe=recipe, output=output)
        yield Candidate(OURS, recipe, artifact.onnx, kernel_share(artifact.onnx))


def measure(model: Subject, rounds: int, folder: Path, others: Path | None) -> list[Row]:
    """All rows of one model, float first."""
    found = list(candidates(model, folder, others))
    sessions = [session_of(candidate.path) for candidate in found]
    one = [value[:1] if model.kind != "onnx" else value for value in model.samples[0]]
    seconds = interleaved([(session, feed_of(session, one)) for session in sessions], rounds)
    calls = [caller(session) for session in sessions]
    wanted = [value for sample in model.samples for value in calls[0](sample)]
    rows: list[Row] = []
    for index, (candidate, call, ratio) in enumerate(zip(found, calls, speedups(seconds), strict=True)):
        outputs = [value for sample in model.samples for value in call(sample)]
        pairs = [(a, b) for a, b in zip(wanted, outputs, strict=True) if a.is_floating_point()]
        rows.append(
            {
                "model": model.name,
                "by": candidate.name,
                "scheme": candidate.scheme,
                "of": model.unit,
                "value": model.metric(call),
                "SQNR dB": output_sqnr_db([a for a, _ in pairs], [b for _, b in pairs]) if index else None,
                "ms": 1e3 * float(np.median(seconds[:, index])),
                "x float": ratio,
                "low-bit": candidate.share,
            }
        )
        print(rows[-1], flush=True)
    return judged(rows, model.higher)


def judged(rows: Sequence[Row], higher: bool) -> list[Row]:
    """The rows with verdicts of ours against the best peer."""
    peers = [row for row in rows[1:] if row["by"] != OURS]
    quick = [row for row in peers if _number(row, "x float") >= FAST]

    sign = 1 if higher else -1

    def accuracy(row: Row) -> tuple[float, float]:
        return min(sign * _number(row, "value"), sign * _number(rows[0], "value")), _number(row, "SQNR dB")

    best = max(quick or peers, key=accuracy, default=None)
    verdicts: list[Row] = []
    for row in rows:
        verdict: Row = {"best peer": (row is best) or None, "fast": None, "metric": None, "SQNR": None, "bar": None}
        if best is not None and row["by"] == OURS:
            fast = _number(row, "x float") >= FAST * _number(best, "x float")
            metric, sqnr = (mine >= its for mine, its in zip(accuracy(row), accuracy(best), strict=True))
            verdict.update({"fast": fast, "metric": metric, "SQNR": sqnr, "bar": fast and metric})
        verdicts.append({**row, **verdict})
    return verdicts


def _number(row: Row, key: str) -> float:
    return float(str(row[key]))


def main() -> None:
    """Compares the models asked for; rows of `results/peers.json` replace those of the same model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join([*CASES, *ONNX_CASES]))
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--calibration", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--export", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    everything: list[Row] = []
    for name in options.models.split(","):
        with tempfile.TemporaryDirectory() as temporary:
            folder = options.export or Path(temporary)
            model = subject(name, options.samples, folder, options.calibration)
            if options.export:
                export(model, folder)
            else:
                everything += measure(model, options.rounds, folder, options.peers)
                write_results("peers", merged("peers", everything, ("model",)), NOTE)
    print_table(everything)


if __name__ == "__main__":
    main()
