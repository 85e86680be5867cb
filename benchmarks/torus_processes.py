r"""Ways to make noise of halos in a periodic box that torus.py compares, each with the same net, loss of each cloud, and sampler.

Positions are in units of which the box has P = 100 (:class:`pcdiff.encodings.Periodic`), all other channels of unit variance.

- **wrapped**: the diffusion of pcdiff. x_t = alpha x + sigma eps in all of space, of which the net sees x_t / alpha modulo P.
- **flow**: flow matching on the torus ("Flow Matching on General Geometries", arXiv 2302.03660). From x_0 uniform in the box the path to the data x_1 is the
  geodesic x_s = x_0 + s d, d the shortest step from x_0 to x_1; other channels take straight lines from a standard normal ("Flow Matching for
  Generative Modeling", arXiv 2210.02747). The net learns the velocity d, in units of its standard deviation P / sqrt(12). Times are even in s.
- **flow, late**: the same with times and steps denser near the data: s = 1 - (1 - u)^3 with u even.
- **plain**: variance-preserving diffusion in R^3, as in "A point cloud approach to generative modeling for galaxy surveys at the field level", arXiv
  2311.17141: positions standardised, a Gaussian prior, neighbours by the shortest steps between x_t, absolute positions shown to the net as one more
  vector, and random translations and symmetries of the cube in training. Its last noise is 0.09 Mpc/h in a box of 125 Mpc/h.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from references import midpoint
from torch import Tensor, nn

from pcdiff.bundle import Settings, build_denoiser
from pcdiff.diffusion import Denoiser, ddim, denoising_loss, draw_times, log_snr_grid, noised
from pcdiff.diffusion.heads import placed
from pcdiff.diffusion.losses import per_cloud
from pcdiff.diffusion.schedule import build_schedule
from pcdiff.errors import DataError
from pcdiff.loader import CloudBatch, Drawn
from pcdiff.nets import build_net
from pcdiff.torus import AXES, Torus
from pcdiff.transforms import Transform

__all__ = ["PROCESSES", "Absolute", "Process"]

# Of the log-SNR that a net of a flow is told.
_MOST = 12.0


class Process(ABC):
    """One way; its net is held by a denoiser, as a training run wants it.

    Args:
        settings: of net and schedule.
        transform: of the halos.
    """

    def __init__(self, settings: Settings, transform: Transform) -> None:
        torus = transform.torus
        if torus is None:
            raise DataError("torus.py: the data are in no periodic box; expected features.points with x: periodic")
        self.settings, self.transform, self.torus = settings, transform, torus
        self.where = list(torus.positions)

    def build(self) -> Denoiser:
        """The untrained net."""
        return build_denoiser(self.settings, self.transform)

    @abstractmethod
    def draw(self, model: Denoiser, batch: CloudBatch, rng: torch.Generator) -> Drawn:
        """Times and noise for a batch."""

    @abstractmethod
    def losses(self, model: Denoiser, drawn: Drawn) -> Tensor:
        """The loss of each cloud, shape (B,)."""

    @abstractmethod
    def sample(self, model: Denoiser, batch: CloudBatch, evaluations: int, rng: torch.Generator) -> Tensor:
        """Clouds of the sizes and conditions of a batch, shape (B, N, F), positions in any image of the box."""

    @abstractmethod
    def pull(self, model: Denoiser, batch: CloudBatch, noise: Tensor, log_snr: float) -> Tensor:
        """What is said of the positions of noisy clouds at a log-SNR of standardised positions, shape (B, N, 3)."""

    def translated(self, batch: CloudBatch, shift: Tensor) -> CloudBatch:
        """The clouds moved by (B, 3) in their boxes."""
        place = torch.remainder(batch.x[..., self.where] + shift[:, None], self.torus.period)
        x = batch.x.clone()
        x[..., self.where] = place * batch.mask[..., None]
        return replace(batch, x=x)


class Wrapped(Process):
    """See the head of this module."""

    def draw(self, model: Denoiser, batch: CloudBatch, rng: torch.Generator) -> Drawn:
        return _diffusion_draw(model, batch, rng)

    def losses(self, model: Denoiser, drawn: Drawn) -> Tensor:
        return _diffusion_losses(model, drawn)

    def sample(self, model: Denoiser, batch: CloudBatch, evaluations: int, rng: torch.Generator) -> Tensor:
        x = _diffused(model, batch, evaluations, rng)
        alpha = float(model.schedule.alpha(torch.tensor([model.schedule.t_min], dtype=torch.float64)))
        return placed(x, model.heads, alpha)

    def pull(self, model: Denoiser, batch: CloudBatch, noise: Tensor, log_snr: float) -> Tensor:
        # Of positions in units of their standard deviation the same noise has another log-SNR.
        return _eps(model, batch, noise, log_snr - 2 * math.log(_spread(self.torus)))[..., self.where]


class Flow(Process):
    """See the head of this module.

    Args:
        power: s = 1 - (1 - u)^power with u even.
    """

    power = 1.0

    def time(self, u: Tensor) -> Tensor:
        """s of u."""
        return 1 - (1 - u) ** self.power

    def between(self, batch: CloudBatch, start: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """x_s and the velocity there, in the units of the net, shape (B, N, F) each."""
        target = (batch.x - start) * batch.mask[..., None]
        steps = target[..., self.where]
        period = self.torus.period
        target[..., self.where] = steps - period * torch.round(steps / period)
        x = (start + s[:, None, None] * target) * batch.mask[..., None]
        target[..., self.where] /= _spread(self.torus)
        return x, target

    def start(self, batch: CloudBatch, rng: torch.Generator) -> Tensor:
        """Uniform positions, all else normal."""
        noise = torch.randn(batch.x.shape, generator=rng)
        noise[..., self.where] = self.torus.period * torch.rand((*batch.mask.shape, 3), generator=rng)
        return noise * batch.mask[..., None]

    def velocity(self, model: Denoiser, x: Tensor, s: Tensor, batch: CloudBatch) -> Tensor:
        """In the units of the net."""
        log_snr = 2 * (torch.log(s) - torch.log1p(-s)).clamp(-_MOST / 2, _MOST / 2)
        # The net divides positions by the alpha of a diffusion; other channels are to have unit variance.
        shown = x / torch.hypot(s, 1 - s)[:, None, None]
        shown[..., self.where] = x[..., self.where] * log_snr.sigmoid().sqrt()[:, None, None]
        found: Tensor = model.net(shown, log_snr, batch.mask, batch.cond)
        return found

    def draw(self, model: Denoiser, batch: CloudBatch, rng: torch.Generator) -> Drawn:  # noqa: ARG002
        u = (torch.rand(1, generator=rng) + torch.arange(len(batch)) / len(batch)) % 1
        return Drawn(batch, {"s": self.time(u).clamp(1e-5, 1 - 1e-5), "start": self.start(batch, rng)})

    def losses(self, model: Denoiser, drawn: Drawn) -> Tensor:
        batch, s = drawn.batch, drawn.numbers["s"]
        x, target = self.between(batch, drawn.numbers["start"], s)
        return per_cloud((self.velocity(model, x, s, batch) - target).square(), batch.mask)

    def sample(self, model: Denoiser, batch: CloudBatch, evaluations: int, rng: torch.Generator) -> Tensor:
        scale = torch.ones(batch.x.shape[-1])
        scale[self.where] = _spread(self.torus)

        def slope(x: Tensor, u: Tensor) -> Tensor:
            """dx / du = velocity ds / du."""
            s = self.time(u).clamp(1e-5, 1 - 1e-5)
            rate = self.power * (1 - u) ** (self.power - 1)
            return rate[:, None, None] * scale * self.velocity(model, x, s, batch)

        return midpoint(slope, self.start(batch, rng), evaluations // 2)

    def pull(self, model: Denoiser, batch: CloudBatch, noise: Tensor, log_snr: float) -> Tensor:
        # Where the mean step that is left, (1 - s) P / sqrt(12), is the noise.
        s = torch.full((len(batch),), 1 - min(1 - 1e-5, math.exp(-log_snr / 2)), dtype=batch.x.dtype)
        x = batch.x.clone()
        left = (1 - s)[:, None, None] * _spread(self.torus) * noise[..., self.where]
        x[..., self.where] += left * batch.mask[..., None]
        return self.velocity(model, x, s, batch)[..., self.where]


class LateFlow(Flow):
    """See the head of this module."""

    power = 3.0


class Absolute(nn.Module):
    """The net with absolute positions: standardised ones come in, are the box for neighbours and waves, and one more vector.

    Args:
        net: of positions, vectors, scalars and absolute positions.
        torus: of the channels without the last.
    """

    def __init__(self, net: nn.Module, torus: Torus) -> None:
        super().__init__()
        self.net, self.where, self.torus = net, list(torus.positions), torus

    def forward(self, x: Tensor, log_snr: Tensor, mask: Tensor, cond: Tensor) -> Tensor:
        """As for :meth:`pcdiff.nets.base.PointNet.forward`."""
        shown = torch.cat([x, x[..., self.where]], dim=-1)
        place = x[..., self.where] * _spread(self.torus) + self.torus.period / 2
        # The net divides positions by alpha, which here is in them.
        shown[..., self.where] = place * log_snr.sigmoid().sqrt()[:, None, None]
        found: Tensor = self.net(shown, log_snr, mask, cond)
        pulled = found[..., self.where] + found[..., -3:]
        return found[..., :-3].index_copy(-1, torch.tensor(self.where), pulled)


class Plain(Process):
    """See the head of this module."""

    def build(self) -> Denoiser:
        channels = self.transform.channels
        last = len(channels)
        torus = replace(self.torus, vectors=(*self.torus.vectors, (last, last + 1, last + 2)))
        net = build_net(
            self.settings.net, last + 3, self.transform.conditions, [*channels, "at_x", "at_y", "at_z"], torus
        )
        schedule = build_schedule(self.settings.schedule.model_copy(update={"log_snr_max": 12.0}))
        return Denoiser(Absolute(net, self.torus), schedule)

    def standardised(self, batch: CloudBatch) -> CloudBatch:
        """Positions of mean 0 and variance 1."""
        x = batch.x.clone()
        x[..., self.where] = (x[..., self.where] - self.torus.period / 2) / _spread(self.torus)
        return replace(batch, x=x * batch.mask[..., None])

    def turned(self, batch: CloudBatch, rng: torch.Generator) -> CloudBatch:
        """Each cloud moved, turned and mirrored at random."""
        count = len(batch)
        batch = self.standardised(self.translated(batch, self.torus.period * torch.rand(count, 3, generator=rng)))
        signs = 1.0 - 2 * torch.randint(2, (count, 1, 3), generator=rng)
        order = torch.tensor(AXES)[torch.randint(len(AXES), (count,), generator=rng)]
        x = batch.x.clone()
        for vector in (self.torus.positions, *self.torus.vectors):
            value = batch.x[..., list(vector)] * signs
            x[..., list(vector)] = value.gather(2, order[:, None, :].expand_as(value))
        return replace(batch, x=x)

    def draw(self, model: Denoiser, batch: CloudBatch, rng: torch.Generator) -> Drawn:
        return _diffusion_draw(model, self.turned(batch, rng), rng)

    def losses(self, model: Denoiser, drawn: Drawn) -> Tensor:
        return _diffusion_losses(model, drawn)

    def sample(self, model: Denoiser, batch: CloudBatch, evaluations: int, rng: torch.Generator) -> Tensor:
        x = _diffused(model, batch, evaluations, rng)
        x[..., self.where] = x[..., self.where] * _spread(self.torus) + self.torus.period / 2
        return x

    def pull(self, model: Denoiser, batch: CloudBatch, noise: Tensor, log_snr: float) -> Tensor:
        return _eps(model, self.standardised(batch), noise, log_snr)[..., self.where]


PROCESSES: dict[str, type[Process]] = {"wrapped": Wrapped, "flow": Flow, "flow, late": LateFlow, "plain": Plain}


def _spread(torus: Torus) -> float:
    """The standard deviation of even positions."""
    return torus.period / math.sqrt(12)


def _diffusion_draw(model: Denoiser, batch: CloudBatch, rng: torch.Generator) -> Drawn:
    """Times even in log-SNR, as configs/halos.yaml has them, and noise."""
    t, factor = draw_times(model.schedule, len(batch), "log-snr", rng, weight="output")
    return Drawn(batch, {"t": t, "factor": factor, "noise": torch.randn(batch.x.shape, generator=rng)})


def _diffusion_losses(model: Denoiser, drawn: Drawn) -> Tensor:
    """As configs/halos.yaml has it."""
    batch, numbers = drawn.batch, drawn.numbers
    clouds, t, noise = (model, batch.x, batch.mask, batch.cond), numbers["t"], numbers["noise"]
    return numbers["factor"] * denoising_loss(*clouds, t=t, noise=noise, weight="output")


def _diffused(model: Denoiser, batch: CloudBatch, evaluations: int, rng: torch.Generator) -> Tensor:
    noise = torch.randn(batch.x.shape, generator=rng)
    grid = log_snr_grid(model.schedule, evaluations)
    return ddim(model, noise, grid, batch.mask, batch.cond, order=2)


def _eps(model: Denoiser, batch: CloudBatch, noise: Tensor, log_snr: float) -> Tensor:
    """The predicted noise of clouds with this noise."""
    t = model.schedule.time(torch.tensor([log_snr], dtype=torch.float64)).to(batch.x.dtype).expand(len(batch))
    return model(noised(model, batch.x, batch.mask, t, noise), t, batch.mask, batch.cond).eps
