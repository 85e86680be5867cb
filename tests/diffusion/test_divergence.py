"""Divergences against the trace of the Jacobian."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from pcdiff.config import EpicConfig, GraphConfig, TransformerConfig
from pcdiff.diffusion import CosineSchedule, Denoiser, divergence, probe
from pcdiff.nets import build_net

from .exact import normal, seeded

SIZES = torch.tensor([7, 1, 4, 20])
MASK = torch.arange(20) < SIZES[:, None]
CONFIGS = {
    "epic": EpicConfig(hidden=8, layers=2, global_size=4),
    "transformer": TransformerConfig(hidden=8, layers=2, heads=2),
    "graph": GraphConfig(hidden=8, layers=2, neighbours=3, coordinates=("a", "b")),
}


def field(kind: str) -> Denoiser:
    net = build_net(CONFIGS[kind], 2, 0, ["a", "b"]).double()
    generator = seeded(0)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.4, generator=generator)
    return Denoiser(net, CosineSchedule())


def eps(denoiser: Denoiser, x: Tensor, rows: slice = slice(None)) -> Tensor:
    mask = MASK[rows]
    t = torch.linspace(0.2, 0.8, 4, dtype=torch.float64)[rows]
    return denoiser(x, t, mask, x.new_zeros(len(x), 0)).eps * mask[..., None]


@pytest.mark.parametrize("kind", list(CONFIGS))
def test_exact_divergence_is_the_trace_of_the_jacobian(kind: str) -> None:
    """Of clouds of 1 to 20 points (more entries than pass backward together), by autograd's Jacobian of each cloud."""
    denoiser, x = field(kind), normal(4, 20, 2, seed=1) * MASK[..., None]
    value, div = divergence(lambda y: eps(denoiser, y), x, MASK)
    torch.testing.assert_close(value, eps(denoiser, x).detach())
    for i in range(4):
        rows = slice(i, i + 1)
        jacobian = torch.autograd.functional.jacobian(lambda y, r=rows: eps(denoiser, y, r), x[rows])
        valid = MASK[i].repeat_interleave(2)
        diagonal = jacobian.reshape(40, 40).diagonal()
        torch.testing.assert_close(div[i], diagonal[valid].sum())


@pytest.mark.parametrize("kind", list(CONFIGS))
@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
def test_probes_are_unbiased(kind: str, law: Literal["rademacher", "gaussian"]) -> None:
    """The mean of 2,000 probes is within 4 standard errors of the exact divergence, for each of four clouds."""
    denoiser, x = field(kind), normal(4, 20, 2, seed=2) * MASK[..., None]
    _, exact = divergence(lambda y: eps(denoiser, y), x, MASK)
    # The field is linearised once: v^T J v for many v of one Jacobian.
    jacobian = []
    for i in range(4):
        rows = slice(i, i + 1)
        full = torch.autograd.functional.jacobian(lambda y, r=rows: eps(denoiser, y, r), x[rows])
        jacobian.append(full.reshape(40, 40))
    generator = seeded(3)
    v = torch.stack([probe(x, MASK, law, generator) for _ in range(2000)]).flatten(2)
    values = torch.einsum("kbi,bij,kbj->kb", v, torch.stack(jacobian), v)
    pull = (values.mean(0) - exact) / (values.std(0) / 2000**0.5)
    assert float(pull.abs().max()) < 4


def test_an_estimate_is_the_product_of_the_jacobian_with_its_probe() -> None:
    denoiser, x = field("epic"), normal(4, 20, 2, seed=4) * MASK[..., None]
    v = probe(x, MASK, "gaussian", seeded(5))
    _, div = divergence(lambda y: eps(denoiser, y), x, MASK, v)
    _, product = torch.autograd.functional.jvp(lambda y: eps(denoiser, y), x, v)
    torch.testing.assert_close(div, (v * product).sum((1, 2)))


def test_signs_are_exact_where_the_jacobian_is_diagonal() -> None:
    """div sin(3 x) = sum 3 cos(3 x), by a single Rademacher probe, since each v^2 = 1."""
    x = normal(4, 20, 2, seed=6) * MASK[..., None]
    expected = (3 * torch.cos(3 * x) * MASK[..., None]).sum((1, 2))
    v = probe(x, MASK, "rademacher", seeded(7))
    _, div = divergence(lambda y: torch.sin(3 * y), x, MASK, v)
    torch.testing.assert_close(div, expected)
    _, div = divergence(lambda y: torch.sin(3 * y), x, MASK)
    torch.testing.assert_close(div, expected)


@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
def test_probes_have_unit_covariance_and_none_in_the_padding(law: Literal["rademacher", "gaussian"]) -> None:
    """4,000 probes of a cloud of 3 of 4 points, 2 features: each mean and product within 5 standard errors."""
    mask = torch.tensor([[True, True, True, False]])
    generator = seeded(8)
    v = torch.stack([probe(torch.zeros(1, 4, 2).double(), mask, law, generator) for _ in range(4000)]).flatten(1)
    assert bool((v[:, 6:] == 0).all())
    v = v[:, :6]
    if law == "rademacher":
        assert bool((v.abs() == 1).all())
    assert float(v.mean(0).abs().max()) < 5 / 4000**0.5
    # products have variance 1, squares of normals 2
    assert float((v.T @ v / 4000 - torch.eye(6)).abs().max()) < 5 * (2 / 4000) ** 0.5


def test_a_divergence_can_be_differentiated_when_asked() -> None:
    """The gradient of div sum x^3 = sum 3 x^2 is 6 x."""
    x = (normal(4, 20, 2, seed=9) * MASK[..., None]).requires_grad_()
    _, div = divergence(lambda y: y**3, x, MASK, create_graph=True)
    (gradient,) = torch.autograd.grad(div.sum(), x)
    torch.testing.assert_close(gradient, (6 * x * MASK[..., None]).detach())
    assert not divergence(lambda y: y**3, x, MASK)[1].requires_grad
