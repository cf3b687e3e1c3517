"""Mean inputs of convolution taps, against the mean output of torch's convolutions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.taps import TapMeans, Window


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tap_means(windows: tuple[Window, ...], *batches: torch.Tensor) -> torch.Tensor:
    accumulator = TapMeans(windows).start()
    for batch in batches:
        accumulator.update(batch)
    return accumulator.result()


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 4), st.integers(1, 3), st.integers(10, 13))
@settings(deadline=None, max_examples=50)
def test_taps_give_the_mean_output_of_a_convolution(
    taps: int, stride: int, padding: int, dilation: int, size: int
) -> None:
    windows = (Window(taps, stride, padding, dilation), Window(2, 1, 0, 3))
    weight, batches = noise(5, 3, taps, 2), [noise(2, 3, size, 7, seed=1), noise(1, 3, size + 2, 6, seed=2)]
    outputs = [
        torch.conv2d(image[None].double(), weight.double(), None, (stride, 1), (padding, 0), (dilation, 3)).mean(
            (0, 2, 3)
        )
        for batch in batches
        for image in batch
    ]
    found = torch.einsum("oihw,ihw->o", weight.double(), tap_means(windows, *batches))
    torch.testing.assert_close(found, torch.stack(outputs).mean(0), rtol=1e-5, atol=1e-6)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2), st.integers(0, 1))
@settings(deadline=None, max_examples=50)
def test_taps_give_the_mean_output_of_a_transposed_convolution(
    taps: int, stride: int, padding: int, dilation: int, extra: int
) -> None:
    if extra >= max(stride, dilation) or 2 * padding > 4 * stride:
        return
    window = Window(taps, stride, padding, dilation, transposed=True, extra=extra)
    weight, images = noise(3, 5, taps), noise(4, 3, 8, seed=1)
    wanted = torch.conv_transpose1d(images.double(), weight.double(), None, stride, padding, extra, 1, dilation)
    found = torch.einsum("iok,ik->o", weight.double(), tap_means((window,), images))
    torch.testing.assert_close(found, wanted.mean((0, 2)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_order_in_memory_does_not_matter(layout: torch.memory_format) -> None:
    images, windows = noise(2, 3, 6, 6), (Window(3, 2, 1), Window(3, 2, 1))
    found = tap_means(windows, images.contiguous(memory_format=layout))
    torch.testing.assert_close(found, tap_means(windows, images), rtol=1e-6, atol=1e-6)
    assert found.shape == (3, 3, 3)
    assert found.dtype == torch.float64
