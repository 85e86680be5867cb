r"""The Yukawa flow: a generative model from the screened Poisson equation, on low-dimensional data.

GenPhys: From Physical Processes to Generative Models (Liu, Luo, Xu, Jaakkola, Tegmark, arXiv 2304.02637) reads a partial differential equation for a
field phi(x, t) as the flow of a density. For a field of mass m whose charges are the data in the plane t = 0,

    (d^2/dt^2 + laplace - m^2) phi = -p_data(x) delta(t),

the choice p = -dphi/dt, p v = -grad phi turns it, for t > 0, into

    dp/dt + div(p v) = -m^2 phi:

charges move along the lines of the field, v = dx/dt = grad phi / (dphi/dt), and die on the way, at the rate m^2 phi / p. Backward in t, from a
distant plane to the data, they are born at that rate: a sample carries a weight, and its end is kept in proportion to it. m = 0 is the
Poisson flow (arXiv 2209.11178), in which none dies.

Of the lines of the field as many leave a charge in each direction, but in the distant plane few charges are left on the long ones. Starts drawn from p there
would leave the result to the few that are drawn on them, with weights of infinite variance. They are drawn evenly over directions instead, as in the Poisson
flow, and p over that density is their first weight: of one charge all final weights are equal.

In N dimensions and t, with nu = (N - 1) / 2 and R^2 = |x - y|^2 + t^2, a charge at y has

    phi ~ R^-nu K_nu(m R),        -dphi/dt ~ m t R^-(nu + 1) K_{nu + 1}(m R),

K the modified Bessel function. So v = (x - E[y | x]) / t with the expectation of :func:`~pcdiff.diffusion.bank.posterior_mean` under the kernel R^-(nu + 1)
K_{nu + 1}(m R): the equation of EDM at sigma = t, with another kernel.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchdiffeq import odeint

from pcdiff.diffusion.bank import LogKernel

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

    They start in the plane t_max, evenly over directions from the bank's mean, and follow the lines of the field by the classical Runge-Kutta
    method in log t.

    Args:
        bank: the data, shape (K, N), N the dimension; float64 is advised.
        count: how many vectors to follow.
        mass: m > 0, in units of the data's inverse.
        t_max, t_min: the distant plane and the last one; spreads of the data stay far between the two.
        steps: Runge-Kutta steps, of four evaluations each.
        generator: of random numbers, on the CPU.

    Returns:
        The ends, shape (count, N), and their weights, shape (count,), of sum 1, the share of the charge on each line.
    """
    dimension = bank.shape[1]

    def slopes(log_t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x, t = state[0], math.exp(float(log_t))
        lower, upper = _logs(torch.cdist(x, bank).square(), t, mass, dimension)
        mean = torch.softmax(upper, 1) @ bank
        # t m^2 phi / p, falling t: the growth of a weight in -log t
        births = mass * torch.exp(torch.logsumexp(lower, 1) - torch.logsumexp(upper, 1))
        return x - mean, -births

    away = torch.randn(count, dimension + 1, generator=generator, dtype=torch.float64).to(bank)
    away = t_max * away[:, :-1] / away[:, -1:].abs()
    start = bank.mean(0) + away
    # log of p, and of the density R^-(N + 1) that the starts were drawn from, both up to a constant
    density = torch.logsumexp(_logs(torch.cdist(start, bank).square(), t_max, mass, dimension)[1], 1)
    drawn = -(dimension + 1) / 2 * torch.log(away.square().sum(1) + t_max**2)
    times = torch.linspace(math.log(t_max), math.log(t_min), steps + 1, dtype=bank.dtype)
    ends, log_weights = odeint(slopes, (start, density - drawn), times, method="rk4")
    return ends[-1], torch.softmax(log_weights[-1], 0)
