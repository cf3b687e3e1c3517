"""The shipped digit models and their data: they load, and they are as good as their README says."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from benchmarks.zoo.data import FOLDER, load_calibration, load_test, split_digits
from benchmarks.zoo.models import CNN_WEIGHTS, VIT_WEIGHTS, digits_cnn, digits_vit

FACTORIES = {"digits_cnn": digits_cnn, "digits_vit": digits_vit}
ALLOWED_LOSS = 0.5


def claims(name: str) -> tuple[int, float]:
    """Parameter count and test accuracy in percent that the README states for a model."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| `{name}` \|.*\| ([\d,]+) \|[^|]*\| ([\d.]+) % \|", text, re.MULTILINE)
    assert row is not None
    return int(row[1].replace(",", "")), float(row[2])


@pytest.mark.parametrize("name", FACTORIES)
def test_accuracy_is_what_the_readme_says(name: str) -> None:
    test = load_test()
    with torch.inference_mode():
        guesses = FACTORIES[name]()(torch.from_numpy(test.x)).argmax(1).numpy()
    assert 100 * np.mean(guesses == test.y) >= claims(name)[1] - ALLOWED_LOSS


@pytest.mark.parametrize("name", FACTORIES)
def test_parameter_count_is_what_the_readme_says(name: str) -> None:
    assert sum(parameter.numel() for parameter in FACTORIES[name]().parameters()) == claims(name)[0]


@pytest.mark.parametrize("name", FACTORIES)
def test_models_come_in_eval_mode(name: str) -> None:
    assert not any(module.training for module in FACTORIES[name]().modules())


@pytest.mark.parametrize("name", FACTORIES)
def test_a_sample_does_not_depend_on_its_batch(name: str) -> None:
    model, x = FACTORIES[name](), torch.from_numpy(load_calibration()[:4])
    with torch.inference_mode():
        alone = torch.cat([model(sample[None]) for sample in x])
        torch.testing.assert_close(model(x), alone, rtol=1e-4, atol=1e-4)


def test_shipped_data_is_the_stated_split() -> None:
    train, test = split_digits()
    shipped = load_test()
    assert (len(train.y), len(test.y)) == (1297, 500)
    np.testing.assert_array_equal(shipped.x, test.x)
    np.testing.assert_array_equal(shipped.y, test.y)
    np.testing.assert_array_equal(load_calibration(), train.x[:128])


def test_calibration_images_are_not_test_images() -> None:
    test_images = {image.tobytes() for image in load_test().x}
    assert not any(image.tobytes() in test_images for image in load_calibration())


def test_images_are_float32_between_zero_and_one() -> None:
    for x in (load_calibration(), load_test().x):
        assert x.dtype == np.float32
        assert x.shape[1:] == (1, 8, 8)
        assert (x.min(), x.max()) == (0.0, 1.0)


def test_weights_stay_under_a_megabyte() -> None:
    assert CNN_WEIGHTS.stat().st_size + VIT_WEIGHTS.stat().st_size < 1_000_000
