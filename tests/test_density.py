"""Likelihoods in physical units, against closed forms: an untrained net is the exact denoiser of Gaussian data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import gammaln
from scipy.stats import norm

from pcdiff.bundle import Settings, build_denoiser
from pcdiff.clouds import PointClouds
from pcdiff.config import DenoiserConfig, EpicConfig, MultiplicityConfig, SamplingConfig, ScheduleConfig
from pcdiff.density import cloud_log_likelihood
from pcdiff.errors import DataError
from pcdiff.generator import Generator
from pcdiff.multiplicity import build_multiplicity
from pcdiff.transforms import Transform, cloud_columns

from .test_transforms import CLOUDS, LABELLED, POINTS, jets, labelled


def make(
    clouds: PointClouds, denoiser: DenoiserConfig | None = None, *, spread: float = 0.0, points: dict[str, Any] = POINTS
) -> Generator:
    transform = Transform.fit(clouds, points, CLOUDS)
    settings = Settings(
        EpicConfig(hidden=16, layers=2, global_size=4),
        ScheduleConfig(),
        MultiplicityConfig(kind="empirical"),
        SamplingConfig(steps=4),
        denoiser or DenoiserConfig(),
    )
    torch.manual_seed(0)
    model = build_denoiser(settings, transform)
    torch.nn.init.normal_(model.net.exit.weight, std=spread)
    multiplicity = build_multiplicity(settings.multiplicity, len(CLOUDS), 2)
    features = np.stack(list(cloud_columns(clouds, list(CLOUDS)).values()), 1)
    multiplicity.fit(clouds.counts, features, transform.type_index(clouds), 0)
    return Generator(model, multiplicity, transform, settings, (0.5, 0.5))


def test_gaussian_points_in_closed_form() -> None:
    """Normal and log-normal densities of the columns, the table of counts of each type, and log n!, to 1e-3 nats a cloud."""
    clouds = jets(60)
    found = cloud_log_likelihood(make(clouds), clouds, kind="exact", steps=30)
    owner = np.repeat(np.arange(len(clouds)), clouds.counts)
    expected = np.zeros(len(clouds))
    for name, function in POINTS.items():
        values = clouds.column(name).astype(np.float64)
        x = np.log(values) if function == "log" else values
        # Features that flip under a reflection are scaled about zero.
        mean = x.mean() if function == "log" else 0.0
        std = np.sqrt(np.mean((x - mean) ** 2))
        expected += np.bincount(owner, norm.logpdf(x, mean, std) - (x if function == "log" else 0))
    np.testing.assert_allclose(found.points, expected, atol=1e-3)
    types = clouds.feature("type")
    share = [np.mean(clouds.counts[types == t] == n) for n, t in zip(clouds.counts, types, strict=True)]
    np.testing.assert_allclose(found.counts, np.log(share))
    np.testing.assert_allclose(found.orders, gammaln(clouds.counts + 1))
    np.testing.assert_allclose(found.total, found.points + found.counts + found.orders)
    np.testing.assert_allclose(found.per_point * clouds.counts, found.total)


def test_probes_agree_with_the_exact_divergence() -> None:
    """80 clouds, 16 probes of signs: the mean within 4 of its standard errors, and the errors not idle."""
    clouds = jets(80, seed=4)
    generator = make(clouds, spread=0.1)
    exact = cloud_log_likelihood(generator, clouds, kind="exact", steps=20)
    probed = cloud_log_likelihood(generator, clouds, steps=20, probes=16, seed=3)
    difference = probed.points - exact.points
    assert (exact.error == 0).all()
    assert probed.error.mean() > 1e-3
    assert abs(difference.mean()) < 4 * math.sqrt((probed.error**2).sum()) / len(clouds)


def test_the_order_of_points_changes_nothing() -> None:
    clouds = jets(30, seed=2)
    generator = make(clouds, spread=0.1)
    rng = np.random.default_rng(0)
    order = np.concatenate(
        [first + rng.permutation(n) for first, n in zip(clouds.offsets[:-1], clouds.counts, strict=True)]
    )
    features = {name: clouds.feature(name) for name in clouds.schema.cloud_names}
    columns = {name: clouds.column(name)[order] for name in clouds.schema.point_names}
    turned = PointClouds.from_flat(columns, clouds.offsets, features, clouds.schema)
    a, b = (cloud_log_likelihood(generator, part, kind="exact", steps=10).total for part in (clouds, turned))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


def test_a_number_of_points_that_was_never_seen_has_no_likelihood() -> None:
    clouds = jets(60)
    generator = make(clouds)
    odd = jets(5, seed=9)
    repeated = PointClouds.concatenate([odd, odd])
    lengths = repeated.counts.sum()
    one = PointClouds.from_flat(
        {name: repeated.column(name) for name in repeated.schema.point_names},
        [0, lengths],
        {name: repeated.feature(name)[:1] for name in repeated.schema.cloud_names},
        repeated.schema,
    )
    found = cloud_log_likelihood(generator, one, kind="exact", steps=5)
    assert found.counts[0] == -np.inf
    assert np.isfinite(found.points[0])


def test_bad_requests_give_one_line() -> None:
    clouds = jets(20)
    with pytest.raises(DataError, match="Poisson flow"):
        cloud_log_likelihood(make(clouds, DenoiserConfig(dimension=8.0)), clouds)
    with pytest.raises(DataError, match="steps = 0"):
        cloud_log_likelihood(make(clouds), clouds, steps=0)
    with pytest.raises(DataError, match="probes = 1"):
        cloud_log_likelihood(make(clouds), clouds, probes=1)
    with pytest.raises(DataError, match="seed is -1; expected a whole number from 0"):
        cloud_log_likelihood(make(clouds), clouds, seed=-1)


def test_categories_have_no_density() -> None:
    clouds = labelled(20)
    with pytest.raises(DataError, match=r"'particle_class' is categorical, so its .* values have no density"):
        cloud_log_likelihood(make(clouds, points=LABELLED), clouds)
