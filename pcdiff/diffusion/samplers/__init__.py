"""Samplers: plain functions ``sampler(denoiser, noise, grid, mask, cond, ...)`` over an explicit time grid.

None knows whether the denoiser is a trained net, a closed form or a guided one. Stochastic ones take ``draw``, which gives fresh noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

from torch import Tensor

from pcdiff.diffusion.denoiser import DenoiserLike
from pcdiff.diffusion.samplers.base import Callback, Draw, Levels, drawer, predict
from pcdiff.diffusion.samplers.exponential import ancestral, ddim, sde_dpm, unipc
from pcdiff.diffusion.samplers.ode import edm_churn, euler, heun, rk45
from pcdiff.diffusion.samplers.stochastic import euler_maruyama, ito, langevin, predictor_corrector, restart

__all__ = [
    "SAMPLERS",
    "Callback",
    "Draw",
    "Levels",
    "Sampler",
    "ancestral",
    "ddim",
    "drawer",
    "edm_churn",
    "euler",
    "euler_maruyama",
    "heun",
    "ito",
    "langevin",
    "predict",
    "predictor_corrector",
    "restart",
    "rk45",
    "sample",
    "sde_dpm",
    "unipc",
]


@dataclass(frozen=True)
class Sampler:
    """A sampler by name.

    Attributes:
        function: what runs.
    """

    function: Callable[..., Tensor]

    @property
    def has_order(self) -> bool:
        """Whether it takes ``order``."""
        return "order" in signature(self.function).parameters

    @property
    def stochastic(self) -> bool:
        """Whether it takes ``draw``."""
        return "draw" in signature(self.function).parameters


SAMPLERS = {
    "ddim": Sampler(ddim),
    "unipc": Sampler(unipc),
    "ancestral": Sampler(ancestral),
    "sde-dpm": Sampler(sde_dpm),
    "euler": Sampler(euler),
    "heun": Sampler(heun),
    "edm-churn": Sampler(edm_churn),
    "rk45": Sampler(rk45),
    "euler-maruyama": Sampler(euler_maruyama),
    "ito": Sampler(ito),
    "predictor-corrector": Sampler(predictor_corrector),
    "langevin": Sampler(langevin),
    "restart": Sampler(restart),
}


def sample(
    name: str,
    denoiser: DenoiserLike,
    noise: Tensor,
    grid: Tensor | Levels,
    mask: Tensor,
    cond: Tensor,
    *,
    order: int | None = None,
    draw: Draw | None = None,
    denoise: bool = False,
    callback: Callback | None = None,
    **options: float,
) -> Tensor:
    """Run a sampler by its name.

    Args:
        name: a key of :data:`SAMPLERS`.
        denoiser, noise, grid, mask, cond, callback: as for :func:`ddim`.
        order: for those that have one; their default when absent.
        draw: fresh noise, for those that are stochastic.
        denoise: end with the expected x0 at the last time instead of x there; one more evaluation.
        options: further arguments of the sampler.

    Returns:
        Clouds, shape (B, N, F), zero where the mask is false.
    """
    sampler = SAMPLERS[name]
    chosen: dict[str, Any] = dict(options)
    if order is not None:
        if not sampler.has_order:
            raise ValueError(f"order is {order}; the sampler {name} has none")
        chosen["order"] = order
    if sampler.stochastic:
        chosen["draw"] = draw
    x = sampler.function(denoiser, noise, grid, mask, cond, callback=callback, **chosen)
    return predict(denoiser, x, Levels.of(denoiser, grid).t[-1], mask, cond).x0 if denoise else x
