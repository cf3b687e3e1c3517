"""What NNCF makes of the exported models; needs only nncf, onnx and numpy, so that it runs where the product does not.

First `python -m benchmarks.peers --export FOLDER` writes float files and calibration inputs; then, with the Python that
has NNCF, `python -m benchmarks.peer_nncf FOLDER` writes `nncf_MODEL.onnx` beside them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx

TRANSFORMERS = ("vit", "lm", "diffusion")


def quantize(source: Path, archive: Path, path: Path, smooth: bool = True) -> None:
    """Writes the 8-bit file of one model: mixed preset, smoothing of transformers, fast bias correction.

    Args:
        source: the float file, opset 18.
        archive: `.npz` of calibration inputs, `NUMBER/INPUT`, and of the `kind` of model.
        path: of the new file.
        smooth: whether transformers are smoothed; some graphs stop it.
    """
    import nncf  # pyright: ignore[reportMissingImports]

    feeds: dict[str, dict[str, np.ndarray]] = {}
    with np.load(archive) as arrays:
        kind = str(arrays["kind"])
        for key in arrays.files:
            number, slash, name = key.partition("/")
            if slash:
                feeds.setdefault(number, {})[name] = arrays[key]
    without = nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
    made = nncf.quantize(
        onnx.load(str(source)),
        nncf.Dataset(list(feeds.values())),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(feeds),
        model_type=nncf.ModelType.TRANSFORMER if kind in TRANSFORMERS else None,
        advanced_parameters=None if smooth else nncf.AdvancedQuantizationParameters(smooth_quant_alphas=without),
    )
    onnx.save(made, str(path))


def main() -> None:
    """Every model of the folder whose file is not there yet."""
    folder = Path(sys.argv[1])
    for archive in sorted(folder.glob("*_calibration.npz")):
        model = archive.stem.removesuffix("_calibration")
        path = folder / f"nncf_{model}.onnx"
        for smooth in (True, False):
            if not path.is_file():
                try:
                    quantize(folder / f"{model}_float.onnx", archive, path, smooth)
                except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
                    print(f"{model}, smoothing {smooth}: {type(error).__name__} {error}", flush=True)


if __name__ == "__main__":
    main()
