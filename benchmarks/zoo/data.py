"""The digits of scikit-learn: the fixed split, and the two small files that ship with the repository.

`python -m benchmarks.zoo.data` writes both files again (needs scikit-learn; reading them does not):

* `digits_calibration.npz`: `x` float32 [128, 1, 8, 8] in [0, 1], training images, ready for the compiler.
* `digits_test.npz`: `x` uint8 [500, 1, 8, 8] with the original grey levels 0..16, `y` uint8 [500].
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).resolve().parent
CALIBRATION_FILE = FOLDER / "digits_calibration.npz"
TEST_FILE = FOLDER / "digits_test.npz"
CALIBRATION_COUNT = 128
TEST_COUNT = 500
SPLIT_SEED = 0
GREY_LEVELS = 16


@dataclass(frozen=True)
class Labelled:
    """Images `x` float32 [N, 1, 8, 8] in [0, 1] and their digits `y` int64 [N]."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]


def split_digits() -> tuple[Labelled, Labelled]:
    """The training (1,297 images) and test (500 images) parts, stratified by digit; always the same ones."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, digits = load_digits(return_X_y=True)
    everything = _labelled(np.asarray(pixels), np.asarray(digits))
    train, test = train_test_split(
        np.arange(len(everything.y)), test_size=TEST_COUNT, stratify=everything.y, random_state=SPLIT_SEED
    )
    return (
        Labelled(everything.x[train], everything.y[train]),
        Labelled(everything.x[test], everything.y[test]),
    )


def load_calibration() -> NDArray[np.float32]:
    """The shipped calibration images, float32 [128, 1, 8, 8] in [0, 1]."""
    with np.load(CALIBRATION_FILE) as file:
        return file["x"]


def load_test() -> Labelled:
    """The shipped test images and their digits."""
    with np.load(TEST_FILE) as file:
        return _labelled(file["x"], file["y"])


def write_files() -> None:
    """Write the calibration and the test file beside this one, from scikit-learn's digits."""
    train, test = split_digits()
    np.savez_compressed(CALIBRATION_FILE, x=train.x[:CALIBRATION_COUNT])
    grey = (test.x * GREY_LEVELS).astype(np.uint8)
    np.savez_compressed(TEST_FILE, x=grey, y=test.y.astype(np.uint8))


def _labelled(pixels: NDArray[np.generic], digits: NDArray[np.generic]) -> Labelled:
    x = (pixels.reshape(-1, 1, 8, 8).astype(np.float32)) / np.float32(GREY_LEVELS)
    return Labelled(x, digits.astype(np.int64))


if __name__ == "__main__":
    write_files()
    for path in (CALIBRATION_FILE, TEST_FILE):
        print(f"{path.name}: {path.stat().st_size:,} bytes")
