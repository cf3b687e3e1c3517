"""One peer on the files of one architecture. Needs numpy, onnx, onnxruntime and the peer, nothing of this package.

    python peer_quantize.py none|onnxruntime|nncf FOLDER

Quantizes FOLDER/model.onnx to 8 bits with the peer's own defaults for accuracy, runs the result in ONNX Runtime and
prints its output SQNR against eager torch as JSON. `none` runs the float file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

Call = dict[str, np.ndarray]
CALIBRATION = 8
LIMIT_DB = 300.0


def read_calls(path: Path) -> list[Call]:
    """Calls of `write_arrays`, in order."""
    arrays = np.load(path)
    calls: dict[int, Call] = {}
    for key in arrays.files:
        number, _, name = key.partition("/")
        calls.setdefault(int(number), {})[name] = arrays[key]
    return [calls[number] for number in sorted(calls)]


def quantize_onnxruntime(folder: Path, calls: list[Call]) -> Path:
    """`onnxruntime.quantization`: explicit quantization nodes, int8 weights per channel, uint8 activations."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.calls: Iterator[Call] = iter(calls)

        def get_next(self) -> Call:
            return next(self.calls, None)  # pyright: ignore[reportReturnType]

    source, prepared, result = folder / "model.onnx", folder / "prepared.onnx", folder / "onnxruntime.onnx"
    try:
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        source = prepared
    except Exception as error:
        print(f"quant_pre_process: {error}", file=sys.stderr)
    quantize_static(
        str(source),
        str(result),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return result


def quantize_nncf(folder: Path, calls: list[Call]) -> Path:
    """NNCF on ONNX; for transformers with its setting for these, and without where that fails."""
    import nncf  # pyright: ignore[reportMissingImports]

    model = onnx.load(folder / "model.onnx")
    kinds = {node.op_type for node in model.graph.node}
    settings = [nncf.ModelType.TRANSFORMER, None] if kinds & {"Softmax", "LayerNormalization"} else [None]
    for kind in settings:
        try:
            quantized = nncf.quantize(model, nncf.Dataset(calls), subset_size=len(calls), model_type=kind)
        except Exception as error:
            if kind is settings[-1]:
                raise
            print(f"nncf with {kind}: {error}", file=sys.stderr)
        else:
            onnx.save(quantized, folder / "nncf.onnx")
            break
    return folder / "nncf.onnx"


def run(path: Path, calls: list[Call]) -> list[list[np.ndarray]]:
    """Results of each call, in the order of the file's outputs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [[np.asarray(value) for value in session.run(None, call)] for call in calls]


def given(path: Path, calls: list[Call]) -> list[Call]:
    """The calls, without inputs that the file does not have."""
    names = {value.name for value in onnx.load(path, load_external_data=False).graph.input}
    return [{name: value for name, value in call.items() if name in names} for call in calls]


def worst_sqnr(wanted: list[Call], found: list[list[np.ndarray]]) -> float:
    """The lowest SQNR in dB among the floating-point results, each taken over all calls.

    Raises:
        ValueError: when the results differ in number or shape.
    """
    figures: list[float] = []
    for index, key in enumerate(sorted(wanted[0], key=int)):
        ours = np.stack([call[key] for call in wanted])
        if any(len(values) != len(wanted[0]) for values in found):
            raise ValueError(f"{len(found[0])} results instead of {len(wanted[0])}")
        theirs = np.stack([values[index] for values in found])
        if theirs.shape != ours.shape:
            raise ValueError(f"result {index} has shape {theirs.shape[1:]} instead of {ours.shape[1:]}")
        if np.issubdtype(ours.dtype, np.floating):
            figures.append(sqnr(ours.astype(np.float64), theirs.astype(np.float64)))
    return min(figures)


def sqnr(wanted: np.ndarray, found: np.ndarray) -> float:
    """SQNR in dB, at most `LIMIT_DB`; what is not finite in both, such as masks, counts as right, in one as nothing."""
    both = ~np.isfinite(wanted) & ((wanted == found) | (np.isnan(wanted) & np.isnan(found)))
    wanted, found = wanted[~both], found[~both]
    noise = float(np.square(wanted - found).sum())
    signal = float(np.square(wanted).sum())
    if not np.isfinite(noise) or not signal:
        return -LIMIT_DB if noise else LIMIT_DB
    return min(LIMIT_DB, float(10 * np.log10(signal / noise))) if noise else LIMIT_DB


def main() -> None:
    """Prints `{"dB": ...}` or `{"error": ..., "ran": ...}`."""
    peer, folder = sys.argv[1], Path(sys.argv[2])
    calls = given(folder / "model.onnx", read_calls(folder / "samples.npz"))
    methods = {"none": lambda: folder / "model.onnx"}
    methods["onnxruntime"] = lambda: quantize_onnxruntime(folder, calls[:CALIBRATION])
    methods["nncf"] = lambda: quantize_nncf(folder, calls[:CALIBRATION])
    try:
        found = run(methods[peer](), calls[CALIBRATION:])
        row: dict[str, object] = {"dB": worst_sqnr(read_calls(folder / "wanted.npz"), found)}
    except Exception as error:
        row = {"error": f"{type(error).__name__}: {error}".strip()[:400]}
    print(json.dumps(row))


if __name__ == "__main__":
    main()
