r"""How far two samples of clouds are apart as distributions: what a student of a few steps is judged by besides each single trajectory.

The squared distance to a trajectory is least at the mean of what may come, so a student that cannot follow exactly makes clouds that are too much
alike, and jets whose mass is too small. The energy distance of two samples does not care which cloud became which,

    D = 2 E|f(x) - f(y)| - E|f(x) - f(x')| - E|f(y) - f(y')|,

and is zero only where the distributions agree (Szekely and Rizzo, "Energy statistics", J. Stat. Plan. Inference 143 (2013) 1249; as a loss of a
generator arXiv 1705.10743, 1803.05573). It is estimated without bias from a batch: a cloud is not compared with itself. f are energy-flow
moments, of which energy-flow polynomials are products ("Cutting Multiparticle Correlators Down to Size", arXiv 1911.04491),

    M(k, a) = sum_i z_i^k prod_j u_ij^{a_j},        k = 0 (as a mean), 1 and 2,    |a| <= 4,

with z the weight of a point (ptrel) and u its other channels, then energy-flow polynomials of the distances theta of the points in those of u
that are numbers,

    sum_ij z_i z_j t_ij,    sum_i z_i (sum_j z_j t_ij)^p,    sum_ijk z_i z_j z_k t_ij t_jk t_ki,        t = theta^beta,    p = 2, 3,

which see how near points lie where beta is small (arXiv 1712.07124), then the channels of the points in order of their weight, and last the
conditions, so that clouds are also right for what they were asked for. Each of f is standardised, the polynomials by their logarithm, and of
its tails the logarithm is taken.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from pcdiff.encodings import Encoding, Scale, leading_scale
from pcdiff.loader import CloudBatch

__all__ = ["Matching", "Potential", "energy_distance"]

_DEGREE = 4
_POWERS = (0, 1, 2)
_BETAS = (0.25, 0.5, 1.0, 2.0)
# Of clouds, that may have fewer points than are compared one by one.
_SHARE = 0.1


def energy_distance(x: Tensor, y: Tensor, *, joint: bool = True) -> Tensor:
    """The energy distance of two samples: the mean of that of each column, and that of all columns together.

    Estimated without bias, so it may be negative. Row i of one may depend on row i of the other, so they are not compared: clouds of the same
    noise, whose common fluctuation then cancels.

    Args:
        x, y: shape (n, K) each, n at least 2.
        joint: add that of all columns together.
    """
    n, columns = x.shape
    total = x.new_zeros(())
    for p, size in ((1.0, columns), (2.0, columns**0.5)) if joint else ((1.0, columns),):
        apart = partial(torch.cdist, p=p, compute_mode="donot_use_mm_for_euclid_dist")
        between = apart(x, y)
        others = between.sum() - between.diagonal().sum()
        own = apart(x, x).sum() + apart(y, y).sum()
        total = total + (2 * others - own) / (n * (n - 1) * size)
    return total


@dataclass(frozen=True)
class Potential:
    """E|x - y| over a sample y of each column, exact for any x, in the time that it takes to find x among them.

    Attributes:
        values: the sample, rising, shape (K, n).
        sums: of the first i values, i from 0 to n, shape (K, n + 1).
    """

    values: Tensor
    sums: Tensor

    @classmethod
    def of(cls, sample: Tensor) -> Potential:
        """Of a sample of shape (n, K)."""
        values = sample.T.sort(dim=1).values.contiguous()
        # Rounding errors of a long sum in single precision would be as large as what is looked for.
        sums = nn.functional.pad(values.double().cumsum(1), (1, 0))
        return cls(values, sums)

    def __call__(self, x: Tensor) -> Tensor:
        """Shape (B, K) for x of that shape; its derivative is 2 F(x) - 1, F the distribution function of the sample."""
        n = self.values.shape[1]
        place = torch.searchsorted(self.values, x.detach().T.contiguous())
        below, all_of_them = self.sums.gather(1, place).T, self.sums[:, -1]
        return ((2 * place.T / n - 1) * x + (all_of_them - 2 * below) / n).to(x.dtype)


@dataclass(frozen=True)
class Matching:
    """The observables f of clouds of one transform.

    Attributes:
        weight: the channel that weighs points, and its scale; None: all weigh alike.
        shape: the other channels.
        place: those of them that are numbers, not categories.
        leading: number of leading points whose channels are compared; those that a cloud lacks count as zero.
        centre, spread: of each moment and polynomial over the clouds that are matched, shape (K,).
    """

    weight: tuple[int, Scale] | None
    shape: tuple[int, ...]
    place: tuple[int, ...]
    leading: int
    centre: Tensor
    spread: Tensor

    @classmethod
    def of(cls, points: tuple[Encoding, ...], batch: CloudBatch) -> Matching:
        """For clouds such as those of a batch.

        Args:
            points: the encodings of the point features.
            batch: a few thousand clouds, standardised.
        """
        weight = leading_scale(points)
        numbers = [isinstance(encoding, Scale) for encoding in points for _ in range(encoding.width)]
        shape = tuple(k for k in range(len(numbers)) if weight is None or k != weight[0])
        place = tuple(k for k in shape if numbers[k])
        # So many that most clouds have them all, and none is compared by its padding alone.
        leading = int(batch.mask.sum(1).float().quantile(_SHARE))
        plain = cls(weight, shape, place, leading, torch.zeros(()), torch.ones(()))
        found_of_all = plain.observables(batch.x, batch.mask)
        return cls(weight, shape, place, leading, found_of_all.mean(0), found_of_all.std(0).clamp(min=1e-6))

    def to(self, device: torch.device) -> Matching:
        """The same on a device."""
        return replace(self, centre=self.centre.to(device), spread=self.spread.to(device))

    def distance(
        self, clouds: CloudBatch, taught: CloudBatch, mended: tuple[Potential, Potential] | None = None
    ) -> Tensor:
        """The energy distance to the teacher's clouds of the same noise, or to the truth; no gradient flows into either.

        The truth has other noise, and the distance to a batch of it would scatter fifty times as much as that to the teacher. So what is
        added to the latter is how much farther a cloud is from the truth than from the teacher, by large samples of both. Up to a
        constant that is the distance to the truth, of each observable for itself.

        Args:
            clouds, taught: of the student and of the teacher.
            mended: of the truth and of the teacher.
        """
        found = self(clouds)
        with torch.no_grad():
            target = self(taught)
        if mended is None:
            return energy_distance(found, target)
        true, same = mended
        return energy_distance(found, target, joint=False) + 2 * (true(found) - same(found)).mean()

    @torch.no_grad()
    def potential(self, batches: Iterable[CloudBatch]) -> Potential:
        """Of the observables of clouds."""
        return Potential.of(torch.cat([self(batch) for batch in batches]))

    def moments(self, x: Tensor, mask: Tensor) -> Tensor:
        """M(k, a), shape (B, K), of clouds (B, N, F) that are zero where the mask (B, N) is false."""
        u, real = x[..., self.shape], mask.to(x.dtype)
        products = [real]
        for degree in range(1, _DEGREE + 1):
            for chosen in itertools.combinations_with_replacement(range(u.shape[-1]), degree):
                products.append(u[..., chosen].prod(dim=-1))
        stacked = torch.stack(products, dim=-1)
        mean = (real / real.sum(1, keepdim=True).clamp(min=1))[:, None, :]
        if self.weight is None:
            return (mean @ stacked)[:, 0, 1:]
        z = self.weight_of(x) * real
        rows = torch.stack([z**power for power in _POWERS if power], dim=1)
        return torch.cat([(mean @ stacked)[:, 0, 1:], (rows @ stacked).flatten(1)], dim=1)

    def polynomials(self, x: Tensor, mask: Tensor) -> Tensor:
        """Logarithms of the energy-flow polynomials, shape (B, 4 K), K the number of exponents beta; of clouds with a weight."""
        z, u = self.weight_of(x) * mask, x[..., self.place]
        # The derivative of the distance of two points at the same place is bounded.
        square = (u[:, :, None] - u[:, None]).square().sum(-1) + 1e-8
        others = 1 - torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        found = []
        for beta in _BETAS:
            t = square ** (beta / 2) * others
            weighed = t * z[:, None]
            around = weighed.sum(-1)
            triangle = ((weighed @ weighed) * t * z[..., None]).sum((1, 2))
            found += [(z * around).sum(1), (z * around**2).sum(1), (z * around**3).sum(1), triangle]
        return torch.stack(found, dim=1).clamp(min=1e-12).log()

    def observables(self, x: Tensor, mask: Tensor) -> Tensor:
        """Moments, and polynomials where points have a weight; shape (B, K)."""
        found = [self.moments(x, mask)]
        if self.weight is not None:
            found.append(self.polynomials(x, mask))
        return torch.cat(found, dim=1)

    def weight_of(self, x: Tensor) -> Tensor:
        """z of each point, shape (B, N), in physical units."""
        assert self.weight is not None
        k, scale = self.weight
        value = x[..., k] * scale.std + scale.mean
        return value.exp() if scale.function == "log" else value

    def __call__(self, clouds: CloudBatch) -> Tensor:
        """f, shape (B, K): moments and polynomials, the channels of the leading points in their order, and the conditions."""
        x, mask = clouds.x, clouds.mask
        found = [torch.asinh((self.observables(x, mask) - self.centre) / self.spread)]
        if self.weight is not None:
            k = self.weight[0]
            order = x[..., k].detach().masked_fill(~mask, -torch.inf).argsort(dim=1, descending=True)
            leading = order[:, : self.leading, None].expand(-1, -1, x.shape[-1])
            there = x.gather(1, leading)
            found.append(nn.functional.pad(there, (0, 0, 0, self.leading - there.shape[1])).flatten(1))
        return torch.cat([*found, clouds.cond], dim=1)
