"""The reducers of the statistics sweep, against the same arithmetic on all data at once."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.histogram import FINEST, Histogram, Histograms, spread_step
from qcompiler.reducers import Extremes, Mean, MovingExtremes, Samples, SecondMoment, split_blocks
from qcompiler.spec import block_reduce
from qcompiler.stats import Reducer


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reduced(reducer: Reducer, *batches: torch.Tensor) -> torch.Tensor:
    accumulator = reducer.start()
    for batch in batches:
        accumulator.update(batch)
    return accumulator.result()


def histogram(*batches: torch.Tensor, bins: int = 4096) -> Histogram:
    block = (-1,) * batches[0].dim()
    return Histogram.unpack(reduced(Histograms(block, bins), *batches)[0])


BLOCKS = st.sampled_from([(-1, -1), (1, -1), (-1, 1), (1, 1), (2, 3), (4, -1), (-1, 5), (3, 1)])


@given(BLOCKS, st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_extremes_of_batches_are_those_of_all_data(block: tuple[int, int], seed: int) -> None:
    batches = [noise(4, 7, seed=seed + i) for i in range(3)]
    low, high = reduced(Extremes(block), *batches)
    lows = torch.stack([block_reduce(batch, block, "amin") for batch in batches])
    highs = torch.stack([block_reduce(batch, block, "amax") for batch in batches])
    assert torch.equal(low, lows.amin(0).flatten())
    assert torch.equal(high, highs.amax(0).flatten())


def test_a_moving_average_starts_at_the_first_batch_and_follows() -> None:
    batches = [torch.tensor([-1.0, 3.0]), torch.tensor([-2.0, 13.0]), torch.tensor([0.0, 3.0])]
    low, high = reduced(MovingExtremes((-1,), momentum=0.9), *batches)
    assert low.item() == pytest.approx(0.9 * -1.1)
    assert high.item() == pytest.approx(0.9 * 4.0 + 0.1 * 3.0)


@given(BLOCKS)
@settings(deadline=None, max_examples=20)
def test_blocks_are_split_without_loss(block: tuple[int, int]) -> None:
    value = torch.arange(28.0).reshape(4, 7)
    parts = list(split_blocks(value, block))
    assert sorted(torch.cat([part.flatten() for _, part in parts]).tolist()) == value.flatten().tolist()
    assert all(value[corner] == part.flatten()[0] for corner, part in parts)
    assert [part.max().item() for _, part in parts] == block_reduce(value, block, "amax").flatten().tolist()


def test_a_mean_is_one_number_per_channel() -> None:
    batches = [noise(3, 6, 4), noise(2, 6, 4, seed=1)]
    expected = torch.cat(batches).double().mean((0, 1))
    torch.testing.assert_close(reduced(Mean(2), *batches), expected)


@given(st.floats(-12, 12), st.integers(0, 99), st.booleans())
@settings(deadline=None, max_examples=50)
def test_a_histogram_counts_every_value_in_its_bin(magnitude: float, seed: int, rectified: bool) -> None:
    data = noise(2000, seed=seed) * 10.0**magnitude
    data = data.relu() if rectified else data
    found = histogram(data)
    assert found.counts.sum() == 2000
    assert len(found.counts) <= 4096 + 2
    assert found.low == min(data.min().item(), 0.0)
    assert found.high == max(data.max().item(), 0.0)
    edges = (np.arange(found.first, found.first + len(found.counts) + 1) - 0.5) * found.width
    expected, _ = np.histogram(data.double().numpy(), edges)
    # Values on an edge may fall to either side; they are rare.
    assert np.abs(found.counts.numpy().cumsum() - expected.cumsum()).max() <= 2
    assert found.counts[-found.first] >= (data == 0).sum()


@given(st.permutations(range(4)), st.integers(0, 20))
@settings(deadline=None, max_examples=30)
def test_a_histogram_does_not_depend_on_how_data_came(order: list[int], seed: int) -> None:
    parts = [noise(500, seed=seed + i) * 10.0**i for i in range(4)]
    one, other = histogram(torch.cat(parts)), histogram(*(parts[i] for i in order))
    assert (one.exponent, one.low, one.high) == (other.exponent, other.low, other.high)
    length = min(len(one.counts), len(other.counts))
    assert one.first == other.first
    assert (one.counts[:length].cumsum(0) - other.counts[:length].cumsum(0)).abs().max() <= 4


def test_merging_keeps_zero_on_its_bin() -> None:
    found = histogram(torch.zeros(1000), torch.tensor([7e4]), torch.zeros(10))
    assert found.counts[-found.first] == 1010
    assert found.centers[-found.first] == 0.0


def test_merged_histograms_are_the_histogram_of_both() -> None:
    small, large = noise(3000), noise(3000, seed=1) * 50
    merged = histogram(small, bins=512).merge(histogram(large, bins=512), 512)
    whole = histogram(torch.cat([small, large]), bins=512)
    assert merged.exponent == whole.exponent
    assert torch.equal(merged.counts[merged.counts > 0], whole.counts[whole.counts > 0])


def test_a_histogram_does_not_grow_with_the_data() -> None:
    accumulator = Histograms((-1,), bins=256).start()
    for scale in range(40):
        accumulator.update(noise(1000, seed=scale) * 1.5**scale)
        assert accumulator.result().shape[1] <= 256 + 2 + 4


def test_an_empty_value_and_all_zeros_are_histograms() -> None:
    assert histogram(torch.zeros(0)).counts.sum() == 0
    zeros = histogram(torch.zeros(5))
    assert (zeros.exponent, zeros.low, zeros.high, zeros.counts.sum()) == (FINEST, 0.0, 0.0, 5)


def test_every_block_has_its_own_histogram() -> None:
    data = noise(4, 3, 100) * torch.tensor([1.0, 10.0, 100.0])[:, None]
    rows = reduced(Histograms((-1, 1, -1)), data)
    found = [Histogram.unpack(row) for row in rows]
    assert [one.high for one in found] == data.amax((0, 2)).tolist()
    assert [one.counts.sum().item() for one in found] == [400.0] * 3


def test_weights_count_channels() -> None:
    data = torch.stack([torch.full((6,), 1.0), torch.full((6,), 2.0), torch.full((6,), 3.0)], dim=1)
    found = Histogram.unpack(reduced(Histograms((-1, -1), axis=1, weights=(1.0, 0.25, 0.0)), data)[0])
    counts = [found.counts[round(value / found.width) - found.first].item() for value in (1.0, 2.0, 3.0)]
    assert counts == [6.0, 1.5, 0.0]
    assert found.high == 3.0


def test_weights_follow_their_block() -> None:
    rows = reduced(Histograms((-1, 2), axis=1, weights=(1.0, 2.0, 3.0)), torch.ones(5, 3))
    assert [Histogram.unpack(row).counts.sum().item() for row in rows] == [15.0, 15.0]


def test_a_limited_histogram_samples_every_channel_and_keeps_the_extremes() -> None:
    data = torch.arange(64.0).expand(512, 64).clone()
    data[100, 5] = -400.0
    found = Histogram.unpack(reduced(Histograms((-1, -1), limit=4096), data)[0])
    assert (found.low, found.high) == (-400.0, 63.0)
    assert found.counts.sum() <= 4096
    assert int((found.counts > 0).sum()) >= 64


@given(st.integers(1, 10**7), st.integers(1, 10**5))
@settings(deadline=None, max_examples=50)
def test_the_sampling_step_shares_no_factor_with_the_size(count: int, limit: int) -> None:
    step = spread_step(count, limit)
    assert np.gcd(step, count) == 1
    assert len(range(0, count, step)) <= limit


def test_reducers_are_values() -> None:
    reducers = [Extremes((-1,)), MovingExtremes((-1,)), Mean(1), Histograms((-1,)), Histograms((-1,), weights=(1.0,))]
    assert all(one != other for one, other in itertools.combinations(reducers, 2))
    assert len({*reducers, Extremes((-1,))}) == len(reducers)


def test_samples_are_rows_of_all_batches() -> None:
    batches = [noise(3, 10, 4, seed=seed) for seed in range(4)]
    kept = reduced(Samples(2, limit=16), *batches)
    assert kept.shape == (16, 4)
    every = [batch.reshape(-1, 4) for batch in batches]
    origins = {number for row in kept for number, rows in enumerate(every) if bool((rows == row).all(1).any())}
    assert origins == {0, 1, 2, 3}
    assert len(kept.unique(dim=0)) == 16


def test_samples_of_images_stay_whole() -> None:
    batches = [noise(6, 3, 2, 2, seed=seed) for seed in range(3)]
    kept = reduced(Samples(1, limit=99), *batches).flatten(1)
    assert {tuple(row) for row in kept.tolist()} == {tuple(row) for row in torch.cat(batches).flatten(1).tolist()}
    assert reduced(Samples(1, limit=5), *batches).shape == (5, 3, 2, 2)


@given(st.integers(0, 9), st.sampled_from([0, 1, 2]))
@settings(deadline=None, max_examples=15)
def test_second_moments_add_up(seed: int, axis: int) -> None:
    batches = [noise(3, 4, 5, seed=seed + i).double() for i in range(2)]
    rows = torch.cat([batch.movedim(axis, -1).flatten(0, 1) for batch in batches])
    torch.testing.assert_close(reduced(SecondMoment(axis), *batches), rows.T @ rows / len(rows))
