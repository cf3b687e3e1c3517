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


def quantize(source: Path, archive: Path, path: Path) -> None:
    """Writes the 8-bit file of one model: mixed preset, smoothing of transformers, fast bias correction.

    Args:
        source: the float file, opset 18.
        archive: `.npz` of calibration inputs, `NUMBER/INPUT`, and of the `kind` of model.
        path: of the new file.
    """
    import nncf  # pyright: ignore[reportMissingImports]

    feeds: dict[str, dict[str, np.ndarray]] = {}
    with np.load(archive) as arrays:
        kind = str(arrays["kind"])
        for key in arrays.files:
            number, slash, name = key.partition("/")
            if slash:
                feeds.setdefault(number, {})[name] = arrays[key]
    transformer = nncf.ModelType.TRANSFORMER if kind in TRANSFORMERS else None
    made = nncf.quantize(
        onnx.load(str(source)),
        nncf.Dataset(list(feeds.values())),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(feeds),
        model_type=transformer,
    )
    onnx.save(made, str(path))


def main() -> None:
    """Every model of the folder whose file is not there yet."""
    folder = Path(sys.argv[1])
    for archive in sorted(folder.glob("*_calibration.npz")):
        model = archive.stem.removesuffix("_calibration")
        path = folder / f"nncf_{model}.onnx"
        if not path.is_file():
            quantize(folder / f"{model}_float.onnx", archive, path)
            print(path, flush=True)


if __name__ == "__main__":
    main()
