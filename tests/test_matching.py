"""The energy distance against its closed form, and the moments against sums written out."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from pcdiff.encodings import Categories, Scale
from pcdiff.loader import CloudBatch
from pcdiff.matching import Matching, Potential, energy_distance

from .diffusion.exact import seeded

POINTS = (
    Scale("etarel", "standard", 0.0, 0.1),
    Scale("phirel", "standard", 0.0, 0.2),
    Scale("ptrel", "log", -4.0, 0.5),
)


def clouds(n: int, seed: int) -> CloudBatch:
    mask = torch.arange(6) < torch.randint(3, 7, (n, 1), generator=seeded(seed))
    x = torch.randn(n, 6, 3, dtype=torch.float64, generator=seeded(seed + 1)) * mask[..., None]
    return CloudBatch(x, mask, torch.randn(n, 2, dtype=torch.float64, generator=seeded(seed + 2)))


def absolute(mean: float, std: float) -> float:
    """E|N(mean, std^2)|."""
    return std * math.sqrt(2 / math.pi) * math.exp(-(mean**2) / (2 * std**2)) + mean * math.erf(
        mean / (std * math.sqrt(2))
    )


def test_energy_distance_of_two_normal_samples() -> None:
    """In one column both parts are 2 E|x - y| - E|x - x'| - E|y - y'|; 4 standard errors of 40 batches."""
    shift, wide = 0.7, 1.3
    exact = 2 * (
        2 * absolute(shift, math.hypot(1, wide)) - absolute(0, math.sqrt(2)) - absolute(0, wide * math.sqrt(2))
    )
    found = []
    for seed in range(40):
        x, y = torch.randn(2, 200, 1, dtype=torch.float64, generator=seeded(seed))
        found.append(energy_distance(x, shift + wide * y))
    values = torch.stack(found)
    assert abs(float(values.mean()) - exact) < 4 * float(values.std()) / math.sqrt(40)


@pytest.mark.parametrize("related", [False, True], ids=["independent", "of the same noise"])
def test_it_has_no_bias_between_samples_of_one_distribution(related: bool) -> None:
    """Even where row i of one sample tells of row i of the other."""
    found = []
    for seed in range(100):
        first, second, common = torch.randn(3, 20, 3, dtype=torch.float64, generator=seeded(seed))
        share = math.sqrt(0.9) if related else 0.0
        x, y = (share * common + math.sqrt(1 - share**2) * own for own in (first, second))
        found.append(energy_distance(x, y))
    values = torch.stack(found)
    assert abs(float(values.mean())) < 4 * float(values.std()) / 10


def test_a_potential_is_the_mean_distance_to_its_sample() -> None:
    """And its slope is that of the mean; for x within the sample and beyond it. On its own values, where the slope jumps, the distance agrees."""
    sample = torch.randn(501, 3, dtype=torch.float64, generator=seeded(1))
    x = torch.cat([torch.randn(40, 3, dtype=torch.float64, generator=seeded(2)), torch.tensor([[-9.0, 0.0, 9.0]])])
    x.requires_grad_()
    found, exact = Potential.of(sample)(x), (x[:, None] - sample).abs().mean(1)
    torch.testing.assert_close(found, exact)
    slopes = [torch.autograd.grad(values.sum(), x)[0] for values in (found, exact)]
    torch.testing.assert_close(*slopes)
    torch.testing.assert_close(Potential.of(sample)(sample), (sample[:, None] - sample).abs().mean(1))


def test_a_mended_distance_is_least_at_the_truth() -> None:
    """A student that equals its teacher, which is off the truth by a shift: the slope along shifts of the student is zero where it meets
    the truth and not where it meets the teacher; 4 standard errors of 40 batches.
    """
    large, true = (torch.randn(n, 1, 1, dtype=torch.float64, generator=seeded(n)) for n in (40_000, 40_001))
    shift = 0.3

    def of(x: Tensor) -> CloudBatch:
        return CloudBatch(x, torch.ones(len(x), 1, dtype=torch.bool), torch.zeros(len(x), 0))

    about = Matching.of((Scale("x", "standard", 0.0, 1.0),), of(large))
    mended = about.potential([of(true + shift)]), about.potential([of(large[:15_000]), of(large[15_000:])])

    def slopes(at: float, mended: tuple[Potential, Potential] | None) -> Tensor:
        found = []
        for seed in range(40):
            x = torch.randn(100, 1, 1, dtype=torch.float64, generator=seeded(seed))
            moved = torch.tensor(at, dtype=torch.float64, requires_grad=True)
            about.distance(of(x + moved), of(x), mended).backward()
            found.append(moved.grad)
        return torch.stack(found)

    def pull(values: Tensor) -> float:
        return float(values.mean() / values.std()) * math.sqrt(len(values))

    assert pull(slopes(0.0, mended)) < -20
    assert abs(pull(slopes(shift, mended))) < 4
    assert pull(slopes(shift, None)) > 20


def test_moments_are_sums_over_the_points_that_are_there() -> None:
    batch = clouds(5, 3)
    about = Matching.of(POINTS, batch)
    moments = about.moments(batch.x, batch.mask)
    # 14 products of degree 1 to 4 of two coordinates without weights, 15 with the product of degree 0 for each power.
    assert moments.shape == (5, 14 + 2 * 15)
    for i in range(5):
        x = batch.x[i, batch.mask[i]]
        z = torch.exp(x[:, 2] * 0.5 - 4)
        expected = {
            0: x[:, 0].mean(),
            4: x[:, 1].square().mean(),
            14: z.sum(),
            15: (z * x[:, 0]).sum(),
            29: (z**2).sum(),
        }
        for place, value in expected.items():
            torch.testing.assert_close(moments[i, place], value)


def test_polynomials_are_sums_over_pairs_and_triples() -> None:
    batch = clouds(5, 3)
    about = Matching.of(POINTS, batch)
    found = about.polynomials(batch.x, batch.mask).exp()
    for i in range(5):
        x = batch.x[i, batch.mask[i]]
        z = torch.exp(x[:, 2] * 0.5 - 4)
        theta = torch.cdist(x[:, :2], x[:, :2], compute_mode="donot_use_mm_for_euclid_dist")
        for k, beta in enumerate((0.25, 0.5, 1.0, 2.0)):
            t = theta**beta
            expected = (
                torch.einsum("i,j,ij->", z, z, t),
                torch.einsum("i,j,k,ij,ik->", z, z, z, t, t),
                torch.einsum("i,j,k,l,ij,ik,il->", z, z, z, z, t, t, t),
                torch.einsum("i,j,k,ij,jk,ki->", z, z, z, t, t, t),
            )
            torch.testing.assert_close(found[i, 4 * k : 4 * k + 4], torch.stack(expected), rtol=1e-5, atol=0)


def test_it_is_zero_of_a_sample_and_itself_and_does_not_see_the_order_of_points() -> None:
    batch = clouds(50, 7)
    about = Matching.of(POINTS, batch)
    assert abs(float(about.distance(batch, batch))) < 1e-12
    features = about(batch)
    # Four polynomials of each of four exponents; three leading points are in all clouds, with three features each; two conditions.
    assert features.shape == (50, 44 + 16 + 9 + 2)
    order = torch.randperm(6, generator=seeded(1))
    torch.testing.assert_close(about(CloudBatch(batch.x[:, order], batch.mask[:, order], batch.cond)), features)


def test_its_gradient_moves_a_narrow_sample_apart() -> None:
    """The error that a squared distance leaves: clouds shrunk towards their mean are told from true ones, and pushed back."""
    batch = clouds(400, 11)
    about = Matching.of(POINTS, batch)
    scale = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    about.distance(replace(batch, x=scale * batch.x), batch).backward()
    assert float(scale.grad) < 0


def test_without_a_weight_all_points_count_alike() -> None:
    points = tuple(Scale(name, "standard", 0.0, 1.0) for name in "xyz")
    batch = clouds(5, 3)
    about = Matching.of(points, batch)
    # 3, 6, 10 and 15 products of degree 1 to 4 of three coordinates.
    assert about(batch).shape == (5, 34 + 2)


def test_categories_enter_the_moments_and_leave_the_distances_of_points_as_they_are() -> None:
    batch = clouds(50, 7)
    kinds = Categories.fit("kind", np.array([0, 1, 1]))
    words = torch.from_numpy(kinds.forward(np.arange(50 * 6) % 2)).double().view(50, 6, 2) * batch.mask[..., None]
    more = replace(batch, x=torch.cat([words, batch.x], dim=-1))
    plain, found = Matching.of(POINTS, batch), Matching.of((kinds, *POINTS), more)
    assert found.weight is not None
    assert found.weight[0] == 4
    torch.testing.assert_close(found.polynomials(more.x, more.mask), plain.polynomials(batch.x, batch.mask))
    # 4, 10, 20 and 35 products of degree 1 to 4 of four channels, of each of three powers of z, and z and z^2 by themselves.
    assert found.moments(more.x, more.mask).shape == (50, 3 * 69 + 2)


def test_points_that_a_cloud_lacks_count_as_zero() -> None:
    """Batches are padded to their own largest cloud: what a cloud is compared by must not depend on what is beside it."""
    batch = clouds(50, 7)
    about = replace(Matching.of(POINTS, batch), leading=5)
    counts = batch.mask.sum(1)
    few = CloudBatch(batch.x[counts == 3][:, :3], batch.mask[counts == 3][:, :3], batch.cond[counts == 3])
    torch.testing.assert_close(about(few), about(batch)[counts == 3])
    last = about(few)[:, 44 + 16 : -2].reshape(-1, 5, 3)
    assert (last[:, 3:] == 0).all()
    weights = last[:, :3, 2]
    torch.testing.assert_close(weights, few.x[..., 2].sort(dim=1, descending=True).values)


def test_clouds_that_are_right_only_for_other_conditions_are_told_apart() -> None:
    """The observables of both samples are alike, and so are their conditions; but not the two together."""
    x = torch.randn(600, 4, 1, dtype=torch.float64, generator=seeded(3))
    cond = 5 * x.mean(dim=1)
    true = CloudBatch(x, torch.ones(600, 4, dtype=torch.bool), cond)
    other = CloudBatch(*(v[:300] for v in (true.x, true.mask, true.cond)))
    rest = CloudBatch(*(v[300:] for v in (true.x, true.mask, true.cond)))
    about = Matching.of((Scale("x", "standard", 0.0, 1.0),), true)
    right, wrong = about.distance(other, rest), about.distance(replace(other, cond=other.cond.flip(0)), rest)
    assert float(wrong) > 10 * abs(float(right))
