r"""What universe a catalogue is from: the posterior of cloud features under a generator.

With a flat prior over what the training data cover,

    log p(theta | catalogue) = log p(n | theta) + log p(x_1 ... x_n | n, theta) + constant,

the first term from the multiplicity model, the second from the variational bound of the diffusion (:mod:`pcdiff.diffusion.likelihood`), of which
only the diffusion term depends on theta,

    D(theta) = 1/2 int E |eps - eps_hat(x_t, theta)|^2 d log_snr.

The levels are even in log-SNR, but fewer where the noise is far larger than the scatter of the points, which tells theta hardly apart; at each there are
two draws of noise, a and b. All theta see the same levels and draws, so D is as smooth in
theta as the net, and a cubic spline through few theta gives it: first on a coarse grid over the prior, then on one of as many theta where the posterior
is. The noise of the draws is an error like any other. With the surfaces a and b of each level, (a + b) / 2 is known up to (a - b) / 2; the posterior is the
mean of those of many surfaces (a + b) / 2 + z (a - b) / 2, z standard normal for each level.

Cuesta-Lazaro and Mishra-Sharma, "A point cloud approach to generative modeling for galaxy surveys at the field level", arXiv 2311.17141, take
the same bound along each parameter by itself; Kingma et al., "Variational Diffusion Models", arXiv 2107.00630.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.interpolate import RegularGridInterpolator
from torch import Tensor

from pcdiff.bundle import pick_device
from pcdiff.clouds import PointClouds
from pcdiff.density import require_likelihood
from pcdiff.diffusion.likelihood import squared_error
from pcdiff.errors import DataError, suggest
from pcdiff.generator import Generator
from pcdiff.loader import batch_of
from pcdiff.sampling_loop import pieces
from pcdiff.seeds import Purpose, word

__all__ = ["Posterior", "posteriors"]

Floats = npt.NDArray[np.float64]

# Theta a feature of the coarse grid and of the fine one, and points a feature on which the posterior is tabulated.
_COARSE, _FINE, _TABLE = 4, 4, 121
# Of the fine grid: how many standard deviations it reaches, and its least size as a part of the prior.
_REACH, _LEAST = 4.0, 0.2
# Levels of the coarse surface, and surfaces that the noise of the draws is averaged over.
_COARSE_LEVELS, _SURFACES = 6, 128
# Below this log-SNR levels are so many times farther apart.
_NOISY, _FARTHER = -4.0, 4.0
# Probability at the edge of a grid, away from that of the prior, at which the grid was too small; and how often it is moved.
_CUT, _MOVES = 0.01, 2


@dataclass(frozen=True)
class Posterior:
    """The posterior of one catalogue.

    Attributes:
        names: the cloud features.
        axes: the values of each at which it is tabulated, rising, shape (m,) each.
        probability: of each cell, of sum 1, shape (m, m) for two features.
    """

    names: tuple[str, ...]
    axes: tuple[Floats, ...]
    probability: Floats

    def marginal(self, name: str) -> Floats:
        """The probability of each cell of one feature, shape (m,)."""
        axis = self.names.index(name)
        return np.asarray(self.probability.sum(axis=tuple(i for i in range(len(self.names)) if i != axis)))

    def mean(self, name: str) -> float:
        """The posterior mean of a feature."""
        return float(self.marginal(name) @ self.axes[self.names.index(name)])

    def std(self, name: str) -> float:
        """The posterior standard deviation of a feature."""
        values = self.axes[self.names.index(name)]
        return float(np.sqrt(self.marginal(name) @ (values - self.mean(name)) ** 2))

    def rank(self, name: str, value: float) -> float:
        """The posterior probability that a feature is below a value: of a true value evenly spread where posteriors are right."""
        values = self.axes[self.names.index(name)]
        half = (values[1] - values[0]) / 2
        return float(np.interp(value, [values[0] - half, *(values + half)], [0, *np.cumsum(self.marginal(name))]))

    def credibility(self, values: Sequence[float]) -> float:
        """The probability of the smallest region that holds a point: of a true one evenly spread where posteriors are right."""
        index = tuple(int(np.abs(axis - value).argmin()) for axis, value in zip(self.axes, values, strict=True))
        outside = any(
            not axis[0] - (axis[1] - axis[0]) / 2 <= value <= axis[-1] + (axis[1] - axis[0]) / 2
            for axis, value in zip(self.axes, values, strict=True)
        )
        return 1.0 if outside else float(self.probability[self.probability > self.probability[index]].sum())


def posteriors(
    generator: Generator,
    clouds: PointClouds,
    *,
    features: Sequence[str] | None = None,
    levels: int = 12,
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[int], None] | None = None,
) -> list[Posterior]:
    """The posterior of one or two cloud features for each catalogue, the others being those of the catalogue.

    Args:
        generator: with Gaussian noise, conditioned on the features.
        clouds: catalogues; columns of ``features`` are not looked at, and need not be there.
        features: names of cloud features that the generator is conditioned on; all of them when absent.
        levels: of noise, with two draws each, at least 2.
        seed: of the noise.
        device: see :func:`pcdiff.bundle.pick_device`.
        progress: called with 1 after each catalogue.

    Raises:
        DataError: a feature that the generator does not know, more than two, a generator without a likelihood, or catalogues that
            are not such as it has learned from (see :meth:`pcdiff.transforms.Transform.encode`).
    """
    clouds.validate("posterior")
    known = [scale.name for scale in generator.transform.clouds]
    names = tuple(known if features is None else features)
    for name in names:
        if name not in known:
            raise DataError(f"the generator is not conditioned on {name!r}: {suggest(name, known)}")
    if not 1 <= len(names) <= 2:
        raise DataError(f"posterior of {', '.join(names) or 'no features'}: expected one or two features")
    if levels < 2:
        raise DataError(f"levels = {levels}: expected at least 2")
    require_likelihood(generator)
    surface = _Surface(generator, names, pick_device(device))
    found = []
    for number in range(len(clouds)):
        found.append(_posterior(surface, clouds[number : number + 1], levels, seed, number))
        if progress is not None:
            progress(1)
    return found


class _Surface:
    """Log-likelihoods of a catalogue on grids of theta."""

    def __init__(self, generator: Generator, names: tuple[str, ...], device: torch.device) -> None:
        self.generator = generator
        self.names = names
        self.device = device
        self.denoiser = generator.denoiser.to(device)
        known = [scale.name for scale in generator.transform.clouds]
        ends = [generator.multiplicity.quantiles(1 + known.index(name)) for name in names]
        self.prior = [(float(values[0]), float(values[-1])) for values in ends]

    def features(self, cloud: PointClouds, theta: Floats) -> dict[str, Floats]:
        """All cloud features, each as long as theta (T, K)."""
        columns: dict[str, Floats] = {}
        for scale in self.generator.transform.clouds:
            if scale.name in self.names:
                columns[scale.name] = theta[:, self.names.index(scale.name)]
            else:
                columns[scale.name] = np.full(len(theta), float(cloud.feature(scale.name)[0]))
        return columns

    def counts(self, cloud: PointClouds, theta: Floats) -> Floats:
        """log p(n | theta), shape (T,)."""
        columns = self.features(cloud, theta)
        types = np.repeat(self.generator.transform.type_index(cloud), len(theta))
        values = np.stack(list(columns.values()), axis=1)
        return self.generator.multiplicity.log_count(np.repeat(cloud.counts, len(theta)), values, types)

    @torch.inference_mode()
    def points(self, cloud: PointClouds, theta: Floats, levels: int, seed: int) -> Floats:
        """-D(theta) at each level and draw, whose sum over levels is the log-likelihood, shape (levels, 2, T)."""
        transform = self.generator.transform
        # Any theta will do for the points, which do not depend on it.
        columns = self.features(cloud, theta)
        given = {name: values[:1].astype(np.float32) for name, values in columns.items()}
        encoded = transform.encode(cloud.with_features(given))
        batch = batch_of(encoded, np.array([0])).to(self.device)
        cond = transform.encode_conditions(
            np.repeat(cloud.counts, len(theta)),
            columns,
            np.repeat(transform.type_index(cloud), len(theta)),
        )
        rows = torch.from_numpy(cond).to(self.device)
        # As many theta at a time as the sampler has clouds.
        parts = [rows[part] for part in pieces(np.arange(len(theta)), np.repeat(cloud.counts, len(theta)), self.device)]
        schedule = self.denoiser.schedule
        high, low = schedule.log_snr_ends
        rng = torch.Generator().manual_seed(seed)
        shift = torch.rand(2, generator=rng, dtype=torch.float64)
        out = np.empty((levels, 2, len(theta)))
        for level in range(levels):
            for draw in range(2):
                log_snr, spacing = _level((level + shift[draw]) / levels, high, low)
                t = schedule.time(log_snr).clamp(schedule.t_min, schedule.t_max).float()
                noise = torch.randn(batch.x.shape, generator=rng).to(self.device) * batch.mask[..., None]
                errors = [
                    squared_error(
                        self.denoiser,
                        batch.x.expand(len(part), -1, -1),
                        batch.mask.expand(len(part), -1),
                        part,
                        t.expand(len(part)).to(self.device),
                        noise.expand(len(part), -1, -1),
                    )
                    for part in parts
                ]
                out[level, draw] = -spacing / (2 * levels) * torch.cat(errors).double().cpu().numpy()
        return out


def _level(unit: Tensor, high: float, low: float) -> tuple[Tensor, float]:
    """The log-SNR at a unit of the way from the highest to the lowest, and how fast it falls there a unit."""
    middle = min(max(_NOISY, low), high)
    length = (high - middle) + (middle - low) / _FARTHER
    at = high - length * unit
    if at >= middle:
        return at, length
    return middle - _FARTHER * (middle - at), _FARTHER * length


def _posterior(surface: _Surface, cloud: PointClouds, levels: int, seed: int, number: int) -> Posterior:
    """First where it is, then what it is."""
    box = surface.prior
    theta, axes = _grid(box, _COARSE)
    points = (
        surface.points(cloud, theta, _COARSE_LEVELS, word(seed, Purpose.PROBES, number, 0)).mean(axis=1).sum(axis=0)
    )
    table, _ = _grid(box, _TABLE)
    total = _spline(axes, points[:, None], table)[:, 0] + surface.counts(cloud, table)
    probability = np.exp(total - total.max())
    z = np.random.default_rng(word(seed, Purpose.PROBES, number, 100)).standard_normal((_SURFACES, levels))
    for move in range(1 + _MOVES):
        box = _around(surface.prior, table, probability / probability.sum())
        theta, axes = _grid(box, _FINE)
        drawn = surface.points(cloud, theta, levels, word(seed, Purpose.PROBES, number, 1 + move))
        mean, half = drawn.mean(axis=1), (drawn[:, 0] - drawn[:, 1]) / 2
        table, fine = _grid(box, _TABLE)
        total = _spline(axes, (mean.sum(axis=0) + z @ half).T, table) + surface.counts(cloud, table)[:, None]
        each = np.exp(total - total.max(axis=0))
        probability = (each / each.sum(axis=0)).mean(axis=1)
        found = Posterior(surface.names, tuple(fine), probability.reshape([_TABLE] * len(axes)))
        if _edge(found, surface.prior) < _CUT:
            break
    return found


def _grid(box: Sequence[tuple[float, float]], size: int) -> tuple[Floats, list[Floats]]:
    """All points (size^K, K) of an even grid over a box, and its axes."""
    axes = [np.linspace(low, high, size) for low, high in box]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes)), axes


def _spline(axes: list[Floats], values: Floats, at: Floats) -> Floats:
    """The cubic spline through surfaces (T, S) on a grid, at points (m, K): shape (m, S)."""
    shape = [len(axis) for axis in axes]
    found: Floats = RegularGridInterpolator(axes, values.reshape(*shape, -1), method="cubic")(at)
    return found


def _around(prior: Sequence[tuple[float, float]], table: Floats, probability: Floats) -> list[tuple[float, float]]:
    """The box of the posterior, within the prior."""
    out = []
    for k, (first, last) in enumerate(prior):
        centre = float(probability @ table[:, k])
        spread = float(np.sqrt(probability @ (table[:, k] - centre) ** 2))
        half = max(_REACH * spread, _LEAST * (last - first) / 2)
        out.append((max(first, centre - half), min(last, centre + half)))
    return out


def _edge(found: Posterior, prior: Sequence[tuple[float, float]]) -> float:
    """The largest probability in the outermost twentieth of the grid on a side that is not one of the prior."""
    strip = _TABLE // 20
    worst = 0.0
    for name, axis, (first, last) in zip(found.names, found.axes, prior, strict=True):
        marginal = found.marginal(name)
        if axis[0] > first:
            worst = max(worst, float(marginal[:strip].sum()))
        if axis[-1] < last:
            worst = max(worst, float(marginal[-strip:].sum()))
    return worst
