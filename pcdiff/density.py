r"""The likelihood of clouds under a generator, in nats and in physical units.

A cloud of n unordered points has, given its cloud features c,

    log p(cloud | c) = log p(n | c) + log n! + log p(x_1 ... x_n | n, c) + sum log |dx / dphysical|,

the density of a set of points per unit of each of their features: the number of points from the multiplicity model, the points through the
probability-flow ODE (:mod:`pcdiff.diffusion.likelihood`), the last term from the scales of the transform.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pcdiff.bundle import pick_device
from pcdiff.clouds import PointClouds
from pcdiff.diffusion import log_factorial, log_likelihood
from pcdiff.diffusion.divergence import DivergenceKind
from pcdiff.errors import DataError
from pcdiff.generator import Generator
from pcdiff.loader import batch_of
from pcdiff.sampling_loop import pieces
from pcdiff.seeds import Purpose, word
from pcdiff.transforms import cloud_columns

__all__ = ["CloudLikelihood", "cloud_log_likelihood", "require_likelihood"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CloudLikelihood:
    """The log-likelihood of each of n clouds, in nats; all of shape (n,).

    Attributes:
        points: log p of the points in their order, for their number.
        counts: log p of the number of points; -inf for one that the training data never had.
        orders: log n!, for points have no order.
        error: standard error of ``points`` from the scatter of the probes; zero with the exact divergence.
        sizes: number of points of each cloud.
    """

    points: Floats
    counts: Floats
    orders: Floats
    error: Floats
    sizes: npt.NDArray[np.int64]

    @property
    def total(self) -> Floats:
        """log p of each cloud as a set of points."""
        return self.points + self.counts + self.orders

    @property
    def per_point(self) -> Floats:
        """The same for a point of the cloud, in the mean."""
        return self.total / self.sizes


def require_likelihood(generator: Generator) -> None:
    """Refuse a generator whose clouds have no likelihood.

    Raises:
        DataError: it is a Poisson flow.
    """
    if generator.settings.denoiser.dimension is not None:
        raise DataError("a Poisson flow's generator has no likelihood here; expected one with Gaussian noise")


def cloud_log_likelihood(
    generator: Generator,
    clouds: PointClouds,
    *,
    steps: int = 50,
    kind: DivergenceKind = "rademacher",
    probes: int = 8,
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[int], None] | None = None,
) -> CloudLikelihood:
    """How likely clouds are under a generator.

    Args:
        generator: with Gaussian noise.
        clouds: with the features that it was trained on.
        steps: Runge-Kutta steps of the ODE, of four evaluations each.
        kind: the divergence exactly, at a cost that grows with the number of entries of a cloud, or with random probes.
        probes: how many, at least 2; each solves the ODE once.
        seed: of the probes.
        device: see :func:`pcdiff.bundle.pick_device`.
        progress: called now and then with the number of clouds done since the last call.

    Raises:
        DataError: the clouds lack a feature or have no points; a number is out of range; the generator is a Poisson flow; a point
            feature is categorical.
    """
    require_likelihood(generator)
    if steps < 1 or (kind != "exact" and probes < 2):
        raise DataError(f"steps = {steps}, probes = {probes}: expected at least 1 step and 2 probes")
    clouds.validate("clouds")
    transform = generator.transform
    slopes = transform.log_slopes(clouds)
    encoded = transform.encode(clouds)
    sizes = encoded.counts
    where = pick_device(device)
    generator.denoiser.to(where)
    points, error = np.empty(len(sizes)), np.zeros(len(sizes))
    for index in pieces(np.argsort(sizes, kind="stable"), sizes, where):
        batch = batch_of(encoded, index).to(where)
        found = log_likelihood(
            generator.denoiser,
            batch.x,
            batch.mask,
            batch.cond,
            steps=steps,
            kind=kind,
            probes=probes,
            generator=torch.Generator().manual_seed(word(seed, Purpose.PROBES, int(index[0]))),
        )
        points[index], error[index] = found.log_p.double().cpu().numpy(), found.error.double().cpu().numpy()
        if progress is not None:
            progress(len(index))
    columns = cloud_columns(clouds, [scale.name for scale in transform.clouds])
    features = np.stack(list(columns.values()), axis=1) if columns else np.zeros((len(sizes), 0))
    return CloudLikelihood(
        points=points + slopes,
        counts=generator.multiplicity.log_count(sizes, features, transform.type_index(clouds)),
        orders=log_factorial(torch.from_numpy(sizes)).numpy(),
        error=error,
        sizes=sizes,
    )
