"""Code words of categories: what is made of them is read back, up to an error in closed form."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from pcdiff.encodings import Categories, Combinations, NormalScore, Periodic, Scale, encoding_of, leading_scale
from pcdiff.errors import DataError

# Categories of unequal shares; numbers that are neither even nor start at 0; one category alone.
SETS = ([0, 0, 0, 0, 1, 1, 2], [-1, 0, 0, 1, 1, 1], [-211, 22, 22, 130, 211], [7, 7], list(range(40)))


def read_back(encoding: Categories, words: np.ndarray) -> np.ndarray:
    """The categories with the nearest code words."""
    alone = Combinations((encoding.name,), tuple((value,) for value in encoding.values), encoding.shares)
    return alone.inverse((encoding,), words)[encoding.name]


@pytest.mark.parametrize("values", SETS)
def test_every_category_comes_back(values: list[int]) -> None:
    encoding = Categories.fit("kind", np.array(values, np.int32))
    known = np.unique(values)
    words = encoding.forward(known)
    assert words.shape == (len(known), encoding.width)
    back = read_back(encoding, words)
    np.testing.assert_array_equal(back, known)
    assert back.dtype == np.int32
    # As stored with a generator.
    again = encoding_of(json.loads(json.dumps(vars(encoding))))
    assert again == encoding
    # Numbers of any type, as files have them.
    for kind in (np.int8 if max(map(abs, values)) < 128 else np.int16, np.float32):
        np.testing.assert_array_equal(encoding.forward(known.astype(kind)), words)


@pytest.mark.parametrize("values", [values for values in SETS if len(set(values)) > 1])
def test_channels_of_the_training_data_are_standardised(values: list[int]) -> None:
    words = Categories.fit("kind", np.array(values)).forward(np.array(values)).astype(np.float64)
    np.testing.assert_allclose(words.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(np.mean(words**2), 1, rtol=1e-6)


@pytest.mark.parametrize("values", [values for values in SETS if len(set(values)) > 1])
def test_errors_below_half_the_distance_of_code_words_do_not_matter(values: list[int]) -> None:
    """s = sqrt(mean of p (1 - p)); e_k / s and e_j / s are told apart for any error below 1 / (2 s) a channel, and not above."""
    encoding = Categories.fit("kind", np.array(values))
    shares = np.unique(values, return_counts=True)[1] / len(values)
    bound = 0.5 / np.sqrt(np.mean(shares * (1 - shares)))
    known = np.unique(values)
    rng = np.random.default_rng(0)
    for _ in range(20):
        error = rng.choice([-1, 1], (len(known), encoding.width)) * 0.999 * bound
        found = read_back(encoding, (encoding.forward(known) + error).astype(np.float32))
        np.testing.assert_array_equal(found, known)
    worst = encoding.forward(known[:1])
    worst[0, :2] += np.float32(1.001 * bound) * np.array([-1, 1], np.float32)
    assert read_back(encoding, worst)[0] == known[1]


def test_no_combination_comes_out_that_was_not_learned() -> None:
    """Between photon, hadron and electron: each feature alone would be a photon and a charge of 1."""
    kind, charge = np.array([2, 2, 2, 0, 0, 3, 3, 1]), np.array([0, 0, 0, 1, -1, 1, -1, 0])
    columns = {"kind": kind, "charge": charge}
    points = tuple(Categories.fit(name, values) for name, values in columns.items())
    combinations = Combinations.fit(points, columns)
    assert combinations is not None
    words = {tuple(value): word for value, word in zip(combinations.values, combinations.words(points), strict=True)}
    mixture = 0.4 * words[2, 0] + 0.3 * words[0, 1] + 0.3 * words[3, 1]
    assert [int(read_back(each, part[None])[0]) for each, part in zip(points, np.split(mixture, [4]), strict=True)] == [
        2,
        1,
    ]
    found = combinations.inverse(points, np.stack([mixture, *words.values()]).astype(np.float32))
    rows = list(zip(found["kind"].tolist(), found["charge"].tolist(), strict=True))
    assert rows[1:] == list(combinations.values)
    assert set(rows) == set(combinations.values)


def test_what_is_no_category_is_refused() -> None:
    with pytest.raises(DataError, match=r"'kind' has 1000010020 among its values; expected at most 16,777,216"):
        Categories.fit("kind", np.array([22, 1000010020]))
    with pytest.raises(DataError, match=r"'kind' is 0.5 in one of its values; expected whole numbers"):
        Categories.fit("kind", np.array([0.0, 0.5]))
    with pytest.raises(DataError, match="'kind' has 200 different values; expected at most 100"):
        Categories.fit("kind", np.arange(200))
    encoding = Categories.fit("charge", np.array([-1, 0, 1]))
    with pytest.raises(
        DataError, match=r"'charge' has values -2, 2, which the training data do not have; expected -1, 0, 1"
    ):
        encoding.forward(np.array([0, 2, -2, 2]))


def test_the_leading_scale_is_found_behind_categories() -> None:
    ptrel = Scale("ptrel", "log", -4.0, 0.5)
    points = (Categories.fit("charge", np.array([-1, 0, 1])), Scale("etarel", "standard", 0.0, 0.1), ptrel)
    assert leading_scale(points) == (4, ptrel)
    assert leading_scale(points[:2]) is None


def test_combinations_are_those_of_the_training_data() -> None:
    """Photons have no charge: of the six products four are there, with code words side by side."""
    columns = {"charge": np.array([0, 1, -1, 0, 0, 1]), "photon": np.array([1, 0, 0, 0, 1, 0])}
    encodings = [Categories.fit(name, values) for name, values in columns.items()]
    points = (encodings[0], Scale("x", "standard", 0.0, 1.0), encodings[1])
    found = Combinations.fit(points, columns)
    assert found is not None
    assert found.names == ("charge", "photon")
    assert found.values == ((-1, 0), (0, 0), (0, 1), (1, 0))
    np.testing.assert_allclose(found.shares, np.array([1, 1, 2, 2]) / 6)
    words = found.words(points)
    np.testing.assert_array_equal(words[:, :3], encodings[0].forward(np.array([-1, 0, 0, 1])))
    np.testing.assert_array_equal(words[:, 3:], encodings[1].forward(np.array([0, 0, 1, 0])))
    # In the mean over them a code word is that of no category, as the noise-free mean of a channel must be.
    np.testing.assert_allclose(np.array(found.shares) @ words, 0, atol=1e-6)
    assert Combinations.fit((points[1],), {}) is None
    with pytest.raises(
        DataError, match="features charge, photon have 101 different combinations; expected at most 100"
    ):
        Combinations.fit(encodings, {"charge": np.arange(101) % 51, "photon": np.arange(101) % 53})


def test_a_normal_score_makes_the_training_data_normal() -> None:
    """What has a sharp edge and a long tail; its values come back, and none lies beyond the training data."""
    rng = np.random.default_rng(1)
    values = (13.3 + rng.exponential(0.3, 50_000)).astype(np.float32)
    encoding = NormalScore.fit("log10_mass", values)
    z = encoding.forward(values)
    assert stats.kstest(z, "norm").pvalue > 1e-3
    np.testing.assert_allclose(encoding.inverse(z), values, rtol=1e-6)
    ends = encoding.inverse(np.array([-9, 9], np.float32))
    np.testing.assert_allclose(ends, [values.min(), values.max()], rtol=1e-6)
    assert encoding_of(json.loads(json.dumps(vars(encoding)))) == encoding


def test_the_slope_of_a_normal_score_is_the_density_over_the_normal_density() -> None:
    """z = Phi^-1(F(x)), so dz/dx = p(x) / phi(z); here of an exponential distribution."""
    values = stats.expon.ppf((np.arange(400_000) + 0.5) / 400_000)
    encoding = NormalScore.fit("x", values)
    x = np.linspace(0.1, 5, 50)
    z = stats.norm.ppf(stats.expon.cdf(x))
    expected = stats.expon.logpdf(x) - stats.norm.logpdf(z)
    np.testing.assert_allclose(encoding.log_slope(x), expected, atol=0.03)
    step = 1e-3
    slopes = (encoding.forward(x + step).astype(float) - encoding.forward(x - step)) / (2 * step)
    np.testing.assert_allclose(np.log(slopes), encoding.log_slope(x), atol=0.03)


def test_repeated_values_have_strictly_rising_knots() -> None:
    encoding = NormalScore.fit("x", np.array([1.0] * 90 + [2.0] * 10))
    assert np.all(np.diff(encoding.knots) > 0)
    np.testing.assert_allclose(encoding.inverse(np.array([-1.0, 3.0], np.float32)), [1, 2], atol=1e-6)


@pytest.mark.parametrize("size", [1.0, 32.0, 125.0, 1000.0])
def test_a_position_comes_back_from_any_image_of_the_box(size: float) -> None:
    encoding = Periodic("x", size)
    values = (size * np.random.default_rng(2).random(1000)).astype(np.float32)
    values = values[values < size]
    units = encoding.forward(values)
    assert units.min() >= 0
    assert units.max() <= encoding.period
    for turns in (-2, 0, 3):
        back = encoding.inverse(units.astype(np.float64) + turns * encoding.period)
        assert back.min() >= 0
        assert back.max() < size
        difference = np.abs(back - values)
        assert np.minimum(difference, size - difference).max() < 1e-5 * size
    np.testing.assert_allclose(np.exp(encoding.log_slope(values)), encoding.period / size)
    assert encoding_of(json.loads(json.dumps(vars(encoding)))) == encoding
    # Just below the box, where rounding would give the size itself.
    assert encoding.inverse(np.array([np.nextafter(encoding.period, 0)]))[0] < size
