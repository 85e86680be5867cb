from __future__ import annotations

import numpy as np
import pytest

from pcdiff.errors import DataError
from pcdiff.loader import Loader, batch_of
from pcdiff.transforms import Encoded


def encoded(n: int = 5000, seed: int = 0) -> Encoded:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 151, n)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    points = rng.normal(size=(int(offsets[-1]), 3)).astype(np.float32)
    return Encoded(points, offsets, np.arange(n, dtype=np.float32)[:, None])


def test_each_cloud_is_in_exactly_one_batch() -> None:
    loader = Loader(encoded(), 2000, seed=1)
    seen = np.concatenate(loader.order(0))
    np.testing.assert_array_equal(np.sort(seen), np.arange(5000))


def test_no_batch_exceeds_its_budget() -> None:
    for batch in Loader(encoded(), 2000, seed=1).epoch(0):
        assert batch.x.shape[0] * batch.x.shape[1] <= 2000


def test_order_depends_on_seed_and_epoch_alone() -> None:
    data = encoded()
    first = Loader(data, 2000, seed=1).order(3)
    again = Loader(data, 2000, seed=1).order(3)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    other = np.concatenate(Loader(data, 2000, seed=1).order(4))
    assert not np.array_equal(np.concatenate(first), other)
    assert not np.array_equal(np.concatenate(first), np.concatenate(Loader(data, 2000, seed=2).order(3)))


def test_an_epoch_can_start_in_the_middle() -> None:
    loader = Loader(encoded(500), 2000, seed=1)
    late = list(loader.epoch(0, start=5))
    for a, b in zip(list(loader.epoch(0))[5:], late, strict=True):
        assert a.x.equal(b.x)


def test_buckets_save_padding() -> None:
    """Sizes uniform in 1..150: padding to the largest of a random batch wastes half, buckets little."""
    data = encoded()
    padded = sum(b.mask.numel() for b in Loader(data, 6000, seed=1).epoch(0))
    assert data.offsets[-1] / padded > 0.9


def test_a_batch_holds_its_clouds_padded_with_zeros() -> None:
    data = encoded(20)
    index = np.array([4, 17, 0])
    batch = batch_of(data, index)
    assert batch.cond[:, 0].tolist() == [4.0, 17.0, 0.0]
    for row, i in enumerate(index):
        points = data.points[data.offsets[i] : data.offsets[i + 1]]
        np.testing.assert_array_equal(batch.x[row][batch.mask[row]].numpy(), points)
    assert bool((batch.x[~batch.mask] == 0).all())


def test_a_cloud_larger_than_the_budget_is_refused() -> None:
    with pytest.raises(DataError, match="points_per_batch = 100"):
        Loader(encoded(), 100, seed=1)


def test_each_cloud_of_an_epoch_weighs_alike() -> None:
    """Batches of small clouds hold more of them; the weights len(batch) / mean_batch average to 1 over an epoch."""
    loader = Loader(encoded(), 2000, seed=1)
    sizes = np.array([len(index) for index in loader.order(0)])
    assert sizes.max() > 1.5 * sizes.min()
    assert np.mean(sizes / loader.mean_batch) == pytest.approx(1)


def sorted_clouds(n: int, smallest: int, largest: int) -> Encoded:
    """Clouds as a file sorted by their size has them; the condition is the place in the file, from 0 to 1."""
    counts = np.linspace(smallest, largest, n).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    place = (np.arange(n, dtype=np.float32) + 0.5) / n
    return Encoded(np.zeros((int(offsets[-1]), 1), np.float32), offsets, place[:, None])


def test_batches_of_a_sorted_file_are_random_samples_of_it() -> None:
    """Clouds of one size in the order of a condition: the mean place of a batch of B scatters as that of B drawn at random, sqrt(1 / 12 B)."""
    data = sorted_clouds(40_000, 20, 20)
    order = Loader(data, 2000, seed=1).order(0)
    scores = np.array([(data.cond[index, 0].mean() - 0.5) * np.sqrt(12 * len(index)) for index in order])
    # Each squared score has a mean of 1 and a variance of about 2.
    assert abs(np.mean(scores**2) - 1) < 5 * np.sqrt(2 / len(scores))
    assert abs(np.mean(scores[1:] * scores[:-1])) < 5 / np.sqrt(len(scores))


def test_an_epoch_of_a_file_sorted_by_size_has_all_sizes_at_any_time() -> None:
    """A batch holds similar sizes, but they follow one another at random: each tenth of the epoch has the file's mean, and neighbours are uncorrelated."""
    data = sorted_clouds(40_000, 5, 40)
    order = Loader(data, 2000, seed=1).order(0)
    places = np.array([data.cond[index, 0].mean() for index in order])
    spread = places.std()
    for tenth in np.array_split(places, 10):
        assert abs(tenth.mean() - places.mean()) < 5 * spread / np.sqrt(len(tenth))
    correlation = np.mean((places[1:] - places.mean()) * (places[:-1] - places.mean())) / spread**2
    assert abs(correlation) < 5 / np.sqrt(len(places))
