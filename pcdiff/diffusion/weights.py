r"""What an error counts at each noise level.

In the preconditioned form of :mod:`pcdiff.diffusion.denoiser` the errors of all predictions are that of the net's own F times a
factor of the level,

    eps - eps_hat = (alpha / r)(F* - F),      x0 - x0_hat = -(sigma / r)(F* - F),      velocity: (d / r)(F* - F), d = alpha sigma' - sigma alpha',

so every loss is ``w |F* - F|^2``, with w finite at each t. With SNR = alpha^2 / sigma^2:

    epsilon        (alpha / r)^2                        |eps - eps_hat|^2 as it is, "simple" in DDPM (arXiv 2006.11239)
    velocity       1                                    |v - v_hat|^2 for r = 1 (arXiv 2202.00512); the weight of EDM (arXiv 2206.00364) whatever r
    x0             (sigma / r)^2                        |x0 - x0_hat|^2
    flow-matching  (d / r)^2                            the error of dx/dt (arXiv 2210.02747)
    likelihood     -log_snr' / 2 (alpha / r)^2          the variational bound in nats (arXiv 2107.00630, 2101.09258)
    min-snr        min(1, 5 / SNR) (alpha / r)^2        Efficient Diffusion Training via Min-SNR (arXiv 2303.09556), gamma = 5
    sigmoid        sigmoid(2 - log_snr) times ``likelihood``   Understanding Diffusion Objectives as the ELBO (arXiv 2303.00848)
    output         -log_snr' / 2                        the error of the net's own output, each unit of log-SNR alike

``likelihood`` counts errors of x0 by the SNR, so what many points have in common, a flow of all halos say, which their mean shows long before any of
them does, counts next to nothing where it is decided. ``output`` counts it fully. Where a head reads the output
(:class:`pcdiff.diffusion.heads.TorusHead`: the noise of positions), its own output is meant, too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pcdiff.diffusion.schedule import Level

__all__ = ["WEIGHTS"]

_MIN_SNR = 5.0
_SIGMOID_SHIFT = 2.0


def _epsilon(level: Level) -> Tensor:
    return (level.alpha / level.r) ** 2


def _likelihood(level: Level) -> Tensor:
    return -level.d_log_snr / 2 * _epsilon(level)


def _flow_matching(level: Level) -> Tensor:
    return ((level.alpha * level.d_sigma - level.sigma * level.d_alpha) / level.r) ** 2


WEIGHTS: dict[str, Callable[[Level], Tensor]] = {
    "epsilon": _epsilon,
    "velocity": lambda level: torch.ones_like(level.alpha),
    "x0": lambda level: (level.sigma / level.r) ** 2,
    "flow-matching": _flow_matching,
    "likelihood": _likelihood,
    "min-snr": lambda level: (_MIN_SNR * (level.sigma / level.alpha) ** 2).clamp(max=1) * _epsilon(level),
    "sigmoid": lambda level: torch.sigmoid(_SIGMOID_SHIFT - level.log_snr) * _likelihood(level),
    "output": lambda level: -level.d_log_snr / 2,
}
"""The weight of |F* - F|^2 at a level, by name."""
