"""Toys: moments in closed form, draws that a seed names, and the embedded sample against its card."""

from __future__ import annotations

import hashlib
import re
import shlex
from math import pi
from pathlib import Path

import numpy as np
import pytest

import pcdiff
from pcdiff.cli.parser import parse
from pcdiff.config import load_config
from pcdiff.data import toy
from pcdiff.data.toys import CURVE_NOISE, MIXTURES, TOYS, spiral, swiss_roll
from pcdiff.errors import DataError
from pcdiff.resources import find

ROOT = Path(__file__).parents[2]
CARD = (ROOT / "datasets" / "toys" / "README.md").read_text(encoding="utf-8")
N = 100_000

# E x, E y, E x^2, E y^2, E x y; of the curves without their noise.
MOMENTS = {
    "gaussian": (0.0, 0.0, 1.0, 1.0, 0.8),
    "two-gaussians": (0.0, 0.0, 1.0, 1.0, 0.96),
    "spiral": (0.0, 0.0, 1 + 1 / (3 * pi**2), 1 - 1 / (3 * pi**2), 1 / (9 * pi**3) - 2 / (3 * pi)),
    "swiss-roll": (
        2 / 7,
        2 / (21 * pi),
        (39 * pi**2 / 8 - 1 / 4) / 49,
        (39 * pi**2 / 8 + 1 / 4) / 49,
        3 * pi / 2 / 49,
    ),
    "eight-gaussians": (0.0, 0.0, 1.0, 1.0, 0.0),
}


def drawn(name: str, n: int = N, seed: int = 0) -> np.ndarray:
    """Points (n, 2) in float64."""
    clouds = toy(name, n, seed)
    return np.stack([clouds.column("x"), clouds.column("y")], axis=1).astype(np.float64)


def monomials(points: np.ndarray) -> np.ndarray:
    """x, y, x^2, y^2 and x y of each point, shape (n, 5)."""
    x, y = points.T
    return np.stack([x, y, x**2, y**2, x * y], axis=1)


@pytest.mark.parametrize("name", TOYS)
def test_moments_are_those_of_the_closed_form(name: str) -> None:
    """Within 5 standard errors, estimated from the draws themselves."""
    found = monomials(drawn(name))
    expected = np.array(MOMENTS[name])
    if name not in MIXTURES:
        expected[2:4] += CURVE_NOISE**2
    error = found.std(axis=0) / np.sqrt(N)
    assert (np.abs(found.mean(axis=0) - expected) < 5 * error).all()


@pytest.mark.parametrize("name", MIXTURES)
def test_the_moments_of_a_mixture_follow_from_its_data(name: str) -> None:
    mixture = MIXTURES[name]
    weights, means, covariances = (np.array(v) for v in (mixture.weights, mixture.means, mixture.covariances))
    assert np.isclose(weights.sum(), 1)
    second = np.einsum("k,kij->ij", weights, covariances + means[:, :, None] * means[:, None, :])
    moments = (*(weights @ means), second[0, 0], second[1, 1], second[0, 1])
    np.testing.assert_allclose(moments, MOMENTS[name], atol=1e-12)


@pytest.mark.parametrize("name", ["spiral", "swiss-roll"])
def test_the_moments_of_a_curve_are_its_integrals(name: str) -> None:
    """Gauss-Legendre quadrature over the arms; u = v^2 makes the square root in the spiral's radius smooth."""
    nodes, weights = np.polynomial.legendre.leggauss(80)
    v = (nodes + 1) / 2
    moments = np.zeros(5)
    for arm in (0.25, 0.75):
        u = np.stack([v**2, np.full_like(v, arm)], axis=1)
        moments += weights / 4 * 2 * v @ monomials(TOYS[name](u, np.zeros_like(u)))
    np.testing.assert_allclose(moments, MOMENTS[name], atol=1e-12)


@pytest.mark.parametrize("name", ["two-gaussians", "eight-gaussians"])
def test_each_mode_has_its_share_mean_and_covariance(name: str) -> None:
    """Within 5 standard errors. A mode is 3.5 standard deviations or more from the border to the next one, so that taking the
    nearest mean for the mode is right but for one point in 2,000, which changes a covariance by less than 1 %.
    """
    mixture, points = MIXTURES[name], drawn(name)
    mode = np.linalg.norm(points[:, None] - np.array(mixture.means), axis=2).argmin(axis=1)
    for k, (weight, mean, covariance) in enumerate(
        zip(mixture.weights, mixture.means, mixture.covariances, strict=True)
    ):
        own = points[mode == k]
        assert abs(len(own) / N - weight) < 5 * np.sqrt(weight * (1 - weight) / N)
        variance = covariance[0][0]
        assert (np.abs(own.mean(axis=0) - mean) < 5 * np.sqrt(variance / len(own))).all()
        spread = np.abs(np.cov(own.T) - covariance) / variance
        assert (spread < 0.01 + 5 * np.sqrt(2 / len(own))).all()


def test_the_correlation_of_a_component_comes_from_its_covariance() -> None:
    """Whitened with the inverse Cholesky factor the Gaussian toy gives back the normal numbers it was made of."""
    z = np.random.default_rng(3).standard_normal((50, 2))
    points = MIXTURES["gaussian"](np.zeros((50, 2)), z)
    factor = np.array([[1.0, 0.0], [0.8, 0.6]])
    np.testing.assert_allclose(np.linalg.solve(factor, points.T).T, z, atol=1e-14)


def test_the_spiral_is_two_arms_of_one_and_a_half_turns() -> None:
    u = np.random.default_rng(0).random((200, 2))
    curve = spiral(u, np.zeros_like(u))
    radius = np.hypot(*curve.T)
    np.testing.assert_allclose(radius**2 / 4, u[:, 0], atol=1e-14)
    turned = curve @ np.array([[-1, 0], [0, -1]])
    np.testing.assert_allclose(spiral(np.stack([u[:, 0], 1 - u[:, 1]], axis=1), np.zeros_like(u)), turned, atol=1e-14)
    # Turned back by 3 pi r / 2, both arms lie on the x axis.
    across = curve[:, 1] * np.cos(1.5 * pi * radius) - curve[:, 0] * np.sin(1.5 * pi * radius)
    np.testing.assert_allclose(across, 0, atol=1e-13)


def test_the_swiss_roll_begins_away_from_the_centre() -> None:
    u = np.random.default_rng(0).random((200, 2))
    radius = np.hypot(*swiss_roll(u, np.zeros_like(u)).T)
    np.testing.assert_allclose(7 * radius, 1.5 * pi * (1 + 2 * u[:, 0]), rtol=1e-14)


@pytest.mark.parametrize("name", TOYS)
def test_a_seed_names_its_points_and_fewer_are_the_first_of_more(name: str) -> None:
    many = toy(name, 5000, seed=7)
    assert toy(name, 700, seed=7).equals(many[:700])
    assert not toy(name, 5000, seed=8).equals(many)
    assert (many.counts == 1).all()
    assert many.column("x").dtype == np.float32
    assert (many.schema.kind, many.schema.point_names, many.schema.cloud_names) == ("vectors", ("x", "y"), ())
    assert many.provenance == {"recipe": "pcdiff.data.toy", "shape": name, "count": 5000, "seed": 7}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("spirel", 5), "make toy: no shape 'spirel': did you mean 'spiral'"),
        (("spiral", 0), "make toy: n is 0; expected a whole number from 1"),
        (("spiral", 5, -1), "make toy: seed is -1; expected a whole number from 0"),
    ],
)
def test_refusals_are_one_line(arguments: tuple, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        toy(*arguments)
    assert "\n" not in str(caught.value)


def test_the_embedded_files_are_those_of_the_card() -> None:
    listed = dict(re.findall(r"^\| `(\w+\.parquet)` \| [\d,]+ \| \d+ \| `(\w{64})` \|$", CARD, re.MULTILINE))
    folder = ROOT / "datasets" / "toys"
    assert set(listed) == {path.name for path in folder.glob("*.parquet")}
    for name, digest in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name


def test_the_commands_of_the_card_make_the_embedded_points() -> None:
    commands = [shlex.split(line)[1:] for line in CARD.splitlines() if "data make toy" in line]
    made = {args.output.name: args for args in map(parse, commands)}
    assert set(made) == {path.name for path in (ROOT / "datasets" / "toys").glob("*.parquet")}
    for args in made.values():
        stored, again = pcdiff.read(ROOT / args.output), toy(args.shape, args.count, args.seed)
        assert stored.provenance == again.provenance
        # Another machine's sine and cosine may differ in the last bit of float64, which can change that of float32.
        for column in ("x", "y"):
            np.testing.assert_allclose(stored.column(column), again.column(column), rtol=0, atol=2**-22)


@pytest.mark.parametrize("name", TOYS)
def test_each_toy_has_a_config_that_finds_its_data_from_anywhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = (ROOT / "configs" / "toys" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert head == "# yaml-language-server: $schema=../schema.json"
    monkeypatch.chdir(tmp_path)
    config = load_config(f"toys/{name}")
    assert config == load_config(f"configs/toys/{name}.yaml")
    assert config.name == name
    for split in (config.data.train, config.data.validation):
        (file,) = split
        assert pcdiff.read(find(file)).provenance["shape"] == name
