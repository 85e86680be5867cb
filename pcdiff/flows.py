r"""Normalizing flows: densities of vectors that are exact and can be sampled.

A flow is an invertible map x = f(z | c) of standard normals z to values x, with a context c such as the type. The
density of x follows from the change of variables,

    log p(x | c) = log N(z; 0, 1) - log|det J|,        J = df/dz,        z = f^-1(x | c).

RealNVP (Density estimation using Real NVP, arXiv 1605.08803) makes f of affine couplings. Each splits the coordinates
in two parts, A and B, by a mask: A stays as it is, and B is scaled and shifted by networks s and t of A,

    x_A = z_A
    x_B = z_B * exp(s(z_A, c)) + t(z_A, c).

J is triangular with diagonal (1, exp(s)), so that

    log|det J| = sum_B s(z_A, c),

and the inverse needs no inverse of s or t, since x_A = z_A:

    z_A = x_A
    z_B = (x_B - t(x_A, c)) * exp(-s(x_A, c)).

The parts swap from one coupling to the next: even coordinates are A in the first, odd ones in the second, and so on.
The log|det J| of f is the sum over its couplings. A single coordinate has no other to depend on, so D >= 2; a single
coupling leaves A standard normal, so two are needed to move all coordinates.

zuko bounds the scale for stability: its network puts out a raw number a and s = a / (1 + |a| / log 1000), so that
|s| < log 1000 and one coupling stretches by less than 1000.

Fitting maximises the mean of log p(x | c) over the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcdiff.errors import DataError
from pcdiff.seeds import Purpose, stream

__all__ = ["RealNVP", "fit_flow", "invert_flow"]

# The most that one coupling stretches or shrinks a coordinate.
_STRETCH = 1000.0


class RealNVP(nn.Module):
    """A density of vectors of D >= 2 values, and a sampler of them, by affine couplings; see the head of this module.

    ``fit`` also stores the mean and the standard deviation of the data, and the flow works on standardised values, so
    that they may have any scale. The weights start from torch's global random state.

    Args:
        features: D, the number of values of a vector.
        context: C, the number of values that the density depends on; 0 for none.
        layers: number of couplings.
        hidden: width of the two hidden layers of each network of s and t.

    Raises:
        DataError: D < 2.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: int, context: int = 0, *, layers: int = 6, hidden: int = 64) -> None:
        super().__init__()
        if features < 2:
            raise DataError(f"affine coupling needs vectors of at least 2 values, found {features}")
        from zuko.distributions import DiagNormal
        from zuko.flows.coupling import GeneralCouplingTransform
        from zuko.lazy import Flow, LazyComposedTransform, UnconditionalDistribution
        from zuko.transforms import MonotonicAffineTransform

        # Said here, since zuko's own bound is another in other versions, and stored weights must keep their meaning.
        affine = partial(MonotonicAffineTransform, slope=1 / _STRETCH)
        couplings = [
            GeneralCouplingTransform(
                features,
                context,
                mask=torch.arange(features) % 2 == layer % 2,
                univariate=affine,
                hidden_features=(hidden, hidden),
            )
            for layer in range(layers)
        ]
        base = UnconditionalDistribution(DiagNormal, torch.zeros(features), torch.ones(features), buffer=True)
        # zuko's flows map values to normals; the couplings are defined the other way.
        self.flow = Flow(LazyComposedTransform(*couplings).inv, base)
        self.context = context
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(x | c), shape (n,), of values ``x`` (n, D) and ``context`` (n, C)."""
        density: Tensor = self.flow(context).log_prob((x - self.mean) / self.std)
        return density - self.std.log().sum()

    def sample(self, noise: Tensor, context: Tensor | None = None) -> Tensor:
        """Values x = f(z | c), shape (n, D), of standard normals ``noise`` (n, D): the same for the same noise."""
        values: Tensor = self.flow(context).transform.inv(noise)
        return self.mean + self.std * values

    def encode(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The inverse of :meth:`sample`: z (n, D) of ``x`` (n, D), and log|det dz/dx| (n,)."""
        z, log_det = self.flow(context).transform.call_and_ladj((x - self.mean) / self.std)
        return z, log_det - self.std.log().sum()

    def fit(
        self,
        x: npt.NDArray[Any],
        context: npt.NDArray[Any] | None = None,
        *,
        seed: int,
        steps: int = 2000,
        batch: int = 1024,
        lr: float = 2e-3,
        progress: Callable[[], None] | None = None,
    ) -> None:
        """Maximise the likelihood of data.

        Args:
            x: vectors, shape (n, D), in any units.
            context: what the density depends on, shape (n, C), of about unit scale.
            seed: of the batches.
            steps, batch, lr: optimiser steps, vectors in each, and the first learning rate.
            progress: called at each step.

        Raises:
            DataError: ``x`` or ``context`` has the wrong shape or values that are not finite, or a column of ``x`` is
                constant, where there is no density.
        """
        _check("x", x, (max(1, len(x)), len(self.mean)))
        _check("context", np.zeros((len(x), 0)) if context is None else context, (len(x), self.context))
        if (np.ptp(x, axis=0) == 0).any():
            raise DataError(f"column {int(np.argmin(np.ptp(x, axis=0)))} of x is constant: it has no density")
        self.mean.copy_(torch.from_numpy(x.mean(axis=0)))
        self.std.copy_(torch.from_numpy(x.std(axis=0)))
        rng = np.random.default_rng(stream(seed, Purpose.STEP))

        def draw_batch() -> tuple[Tensor, Tensor | None]:
            index = rng.integers(0, len(x), min(batch, len(x)))
            values = (torch.from_numpy(x[index]).to(self.mean) - self.mean) / self.std
            return values, None if context is None else torch.from_numpy(context[index]).to(self.mean)

        fit_flow(self.flow, draw_batch, steps, lr, progress)


def fit_flow(
    flow: nn.Module,
    draw_batch: Callable[[], tuple[Tensor, Tensor | None]],
    steps: int,
    lr: float,
    progress: Callable[[], None] | None = None,
) -> None:
    """Maximise the likelihood of a flow by Adam: the learning rate falls as a cosine, gradients are clipped to norm 1.

    Args:
        flow: a flow of zuko: ``flow(context)`` is a distribution.
        draw_batch: gives the next values (n, D) and their context (n, C) or none.
        steps: number of batches.
        lr: the first learning rate.
        progress: called at each step.
    """
    optimiser = torch.optim.Adam(flow.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    )
    for _ in range(steps):
        x, context = draw_batch()
        loss = -flow(context).log_prob(x).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if progress is not None:
            progress()


def invert_flow(flow: Any, z: Tensor, context: Tensor | None = None) -> Tensor:
    """Values x = f(z | c), shape (n, D), of standard normals ``z`` (n, D): zuko's ``flow(context).transform.inv(z)``, faster.

    An autoregressive transform is inverted one coordinate after the other. zuko evaluates all D of them D times; here
    each is evaluated once.

    Args:
        flow: a flow of zuko, which maps values to normals.
        z: standard normals.
        context: what the flow is conditioned on, shape (n, C), or none.
    """
    from zuko.flows import MaskedAutoregressiveTransform
    from zuko.lazy import LazyComposedTransform

    whole = flow.transform
    for layer in reversed(whole.transforms if isinstance(whole, LazyComposedTransform) else [whole]):
        if isinstance(layer, MaskedAutoregressiveTransform):
            z = _invert_autoregressive(layer, z, context)
        else:
            z = layer(context).inv(z)
    return z


def _invert_autoregressive(layer: Any, y: Tensor, context: Tensor | None) -> Tensor:
    from zuko.utils import unpack

    *hidden, last = layer.hyper
    weight, bias = last.mask * last.weight, last.bias
    x = torch.zeros_like(y)
    for i in layer.order.argsort().tolist():
        h = x if context is None else torch.cat([x, context], dim=1)
        for part in hidden:
            h = part(h)
        # The network's last layer puts out the parameters of all coordinates, one after the other.
        own = slice(i * layer.total, (i + 1) * layer.total)
        parameters = unpack(F.linear(h, weight[own], bias[own]), layer.shapes)
        x[:, i] = layer.univariate(*parameters).inv(y[:, i])
    return x


def _check(name: str, values: npt.NDArray[Any], shape: tuple[int, int]) -> None:
    if values.shape != shape or not np.isfinite(values).all():
        found = f"shape {values.shape}" if values.shape != shape else "values that are not finite"
        raise DataError(f"{name} has {found}; expected finite values of shape {shape}")
