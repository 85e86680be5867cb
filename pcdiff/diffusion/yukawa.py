r"""The Yukawa flow: a generative model from the screened Poisson equation, on low-dimensional data.

GenPhys: From Physical Processes to Generative Models (Liu, Luo, Xu, Jaakkola, Tegmark, arXiv 2304.02637) reads a partial differential equation for a
field phi(x, t) as the flow of a density. For a field of mass m whose charges are the data in the plane t = 0,

    (d^2/dt^2 + laplace - m^2) phi = -p_data(x) delta(t),

the choice p = -dphi/dt, p v = -grad phi turns it, for t > 0, into

    dp/dt + div(p v) = -m^2 phi:

charges move along the lines of the field, v = dx/dt = grad phi / (dphi/dt), and die on the way, at the rate m^2 phi / p. Backward in t, from a
distant plane to the data, they are born at that rate: a sample carries a weight, and its end is kept in proportion to it. m = 0 is the
Poisson flow (arXiv 2209.11178), in which none dies.

In N dimensions and t, with nu = (N - 1) / 2 and R^2 = |x - y|^2 + t^2, a charge at y has

    phi ~ R^-nu K_nu(m R),        -dphi/dt ~ m t R^-(nu + 1) K_{nu + 1}(m R),

K the modified Bessel function. So v = (x - E[y | x]) / t with the expectation of :func:`~pcdiff.diffusion.bank.posterior_mean` under the kernel R^-(nu + 1)
K_{nu + 1}(m R): the equation of EDM at sigma = t, with another kernel.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torchdiffeq import odeint

from pcdiff.diffusion.bank import LogKernel, posterior_mean

__all__ = ["sample_yukawa", "yukawa_kernel"]


def _bessel(order2: int, z: Tensor) -> tuple[Tensor, Tensor]:
    """e^z K_nu(z) and e^z K_{nu + 1}(z) for nu = order2 / 2."""
    if order2 % 2:
        # K_{1/2}(z) = K_{-1/2}(z) = sqrt(pi / (2 z)) e^-z
        lower = upper = torch.sqrt(math.pi / (2 * z))
        nu = -0.5
    else:
        lower, upper = torch.special.scaled_modified_bessel_k0(z), torch.special.scaled_modified_bessel_k1(z)
        nu = 0.0
    while nu < order2 / 2:
        # K_{nu + 2} = K_nu + 2 (nu + 1) / z K_{nu + 1}, stable upward
        lower, upper = upper, lower + 2 * (nu + 1) / z * upper
        nu += 1
    return lower, upper


def _logs(distance2: Tensor, t: float, mass: float, entries: int) -> tuple[Tensor, Tensor]:
    """log of R^-nu K_nu(m R) and of R^-(nu + 1) K_{nu + 1}(m R)."""
    radius = (distance2 + t**2).sqrt()
    lower, upper = _bessel(entries - 1, mass * radius)
    nu = (entries - 1) / 2
    return (
        lower.log() - mass * radius - nu * radius.log(),
        upper.log() - mass * radius - (nu + 1) * radius.log(),
    )


def yukawa_kernel(t: float, mass: float, entries: int) -> LogKernel:
    """The kernel R^-(nu + 1) K_{nu + 1}(m R) for vectors of N = ``entries`` dimensions at the distance t."""
    return lambda distance2, _: _logs(distance2, t, mass, entries)[1]


def sample_yukawa(
    bank: Tensor,
    count: int,
    *,
    mass: float,
    t_max: float = 40.0,
    t_min: float = 0.003,
    steps: int = 80,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Vectors from the field of a bank of charges.

    They start in the plane t_max, where the field is nearly that of all the charge at the bank's mean, and follow the lines of the
    field by the classical Runge-Kutta method in log t.

    Args:
        bank: the data, shape (K, N), N the dimension; float64 is advised.
        count: how many vectors to follow.
        mass: m > 0, in units of the data's inverse.
        t_max, t_min: the distant plane and the last one; spreads of the data stay far between the two.
        steps: Runge-Kutta steps, of four evaluations each.
        generator: of random numbers, on the CPU.

    Returns:
        The ends, shape (count, N), and their weights, shape (count,), of sum 1: the share of the births on each line.
    """
    size, dimension = bank.shape
    known = torch.ones(size, 1, dtype=torch.bool)
    mask, alpha = torch.ones(count, 1, dtype=torch.bool), bank.new_ones(count)

    def slopes(log_t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x, t = state[0], math.exp(float(log_t))
        kernel = yukawa_kernel(t, mass, dimension)
        mean = posterior_mean(x[:, None], alpha, mask, bank[:, None], known, kernel)[:, 0]
        lower, upper = _logs(torch.cdist(x, bank).square(), t, mass, dimension)
        # t m^2 phi / p, falling t: the growth of a weight in -log t
        births = mass * torch.exp(torch.logsumexp(lower, 1) - torch.logsumexp(upper, 1))
        return x - mean, -births

    start = bank.mean(0) + _start(count, dimension, t_max, mass, generator).to(bank)
    times = torch.linspace(math.log(t_max), math.log(t_min), steps + 1, dtype=bank.dtype)
    ends, log_weights = odeint(slopes, (start, bank.new_zeros(count)), times, method="rk4")
    return ends[-1], torch.softmax(log_weights[-1], 0)


def _start(count: int, dimension: int, t: float, mass: float, generator: torch.Generator) -> Tensor:
    """Vectors of density R^-(nu + 1) K_{nu + 1}(m R) around the origin, by the quantiles of their length."""
    angle = np.linspace(0, math.pi / 2, 20_001)[1:-1]
    rho = t * np.tan(angle)
    _, upper = _logs(torch.from_numpy(rho**2), t, mass, dimension)
    log_density = (dimension - 1) * np.log(rho) + upper.numpy() - 2 * np.log(np.cos(angle))
    cumulative = np.cumsum(np.exp(log_density - log_density.max()))
    unit = torch.rand(count, generator=generator, dtype=torch.float64).numpy()
    length = np.interp(unit, cumulative / cumulative[-1], rho)
    direction = torch.randn(count, dimension, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(direction) * torch.from_numpy(length)[:, None]
