"""Nets for a periodic box: no translation, no image of the box and no symmetry of the cube changes what they say."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from pcdiff.config import EpicConfig, NetConfig, PeriodicGraphConfig, PeriodicTransformerConfig
from pcdiff.errors import ConfigError
from pcdiff.nets import build_net
from pcdiff.nets.periodic_graph import _Far, _Waves
from pcdiff.torus import AXES, Torus

PERIOD = 100.0
NAMES = ("x", "y", "z", "log10_mass", "vx", "vy", "vz")
TORUS = Torus((0, 1, 2), ((4, 5, 6),), (3,), PERIOD)
BARE = Torus((0, 1, 2), (), (), PERIOD)
CONFIGS: dict[str, NetConfig] = {
    "graph": PeriodicGraphConfig(hidden=12, vectors=5, layers=2, neighbours=6, waves=3),
    "graph without waves": PeriodicGraphConfig(hidden=12, vectors=5, layers=2, neighbours=6, waves=0),
    "transformer": PeriodicTransformerConfig(hidden=24, layers=2, heads=2, waves=8),
}
SIZES = (0, 1, 2, 6, 7, 30)
every_net = pytest.mark.parametrize("kind", CONFIGS)


def make(kind: str, torus: Torus = TORUS) -> nn.Module:
    """A net in double precision with no parameter at zero, as after training."""
    names = NAMES if torus is TORUS else NAMES[:3]
    net = build_net(CONFIGS[kind], len(names), 2, names, torus).double()
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return net


def batch(sizes: tuple[int, ...] = SIZES, channels: int = 7) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
    x = torch.randn(*mask.shape, channels, generator=generator, dtype=torch.float64)
    log_snr = torch.linspace(-8, 8, len(sizes), dtype=torch.float64)
    x[..., :3] = PERIOD * torch.rand(*mask.shape, 3, generator=generator, dtype=torch.float64) * alpha(log_snr)
    cond = torch.randn(len(sizes), 2, generator=generator, dtype=torch.float64)
    return x * mask[..., None], log_snr, mask, cond


def alpha(log_snr: Tensor) -> Tensor:
    return log_snr.sigmoid().sqrt()[:, None, None]


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@every_net
def test_untrained_net_returns_zero(kind: str) -> None:
    net = build_net(CONFIGS[kind], 7, 2, NAMES, TORUS).double()
    assert torch.count_nonzero(net(*batch())) == 0


@every_net
def test_output_is_finite_and_exactly_zero_at_padding(kind: str) -> None:
    x, log_snr, mask, cond = batch()
    y = make(kind)(x, log_snr, mask, cond)
    assert y.shape == x.shape
    assert y.isfinite().all()
    assert torch.count_nonzero(y[~mask]) == 0
    assert torch.count_nonzero(y[-1]) == y[-1].numel()


@every_net
def test_permuting_points_permutes_the_output(kind: str) -> None:
    x, log_snr, mask, cond = batch((30, 30))
    order = torch.randperm(30, generator=torch.Generator().manual_seed(2))
    net = make(kind)
    assert_close(net(x[:, order], log_snr, mask, cond), net(x, log_snr, mask, cond)[:, order])


@every_net
def test_padding_changes_nothing(kind: str) -> None:
    x, log_snr, mask, cond = batch()
    net = make(kind)
    wider = torch.cat([x, torch.full_like(x[:, :3], torch.nan)], dim=1)
    found = net(wider, log_snr, torch.cat([mask, torch.zeros_like(mask[:, :3])], dim=1), cond)
    assert_close(found[:, : x.shape[1]], net(x, log_snr, mask, cond))


@every_net
@pytest.mark.parametrize("torus", [TORUS, BARE], ids=["all features", "positions only"])
@pytest.mark.parametrize("shift", [(0.3, 0.0, 0.0), (47.1, -13.2, 99.9), (700.0, -300.0, 100.0)])
def test_no_translation_changes_the_output(kind: str, torus: Torus, shift: tuple[float, float, float]) -> None:
    """Of all points together, by any vector: by whole turns of the box, too."""
    x, log_snr, mask, cond = batch(channels=7 if torus is TORUS else 3)
    moved = x.clone()
    moved[..., :3] += torch.tensor(shift, dtype=torch.float64) * alpha(log_snr)
    net = make(kind, torus)
    assert_close(net(moved, log_snr, mask, cond), net(x, log_snr, mask, cond))


@every_net
def test_each_point_may_be_given_in_any_image_of_the_box(kind: str) -> None:
    x, log_snr, mask, cond = batch()
    turns = torch.randint(-3, 4, (*mask.shape, 3), generator=torch.Generator().manual_seed(3))
    moved = x.clone()
    moved[..., :3] += PERIOD * turns * alpha(log_snr)
    net = make(kind)
    assert_close(net(moved, log_snr, mask, cond), net(x, log_snr, mask, cond))


def turned(x: Tensor, order: tuple[int, int, int], signs: tuple[int, int, int]) -> Tensor:
    """One of the 48 symmetries of the cube, of positions and vectors."""
    out = x.clone()
    for vector in ((0, 1, 2), (4, 5, 6)):
        out[..., list(vector)] = x[..., [vector[axis] for axis in order]] * torch.tensor(signs, dtype=x.dtype)
    return out


@pytest.mark.parametrize("kind", [name for name in CONFIGS if name.startswith("graph")])
def test_graph_has_the_48_symmetries_of_the_cube(kind: str) -> None:
    """To rounding, without training. Signs and orders of axes: 6 x 8."""
    x, log_snr, mask, cond = batch((30, 12))
    net = make(kind)
    y = net(x, log_snr, mask, cond)
    for order, signs in product(AXES, product((1, -1), repeat=3)):
        assert_close(net(turned(x, order, signs), log_snr, mask, cond), turned(y, order, signs))


def test_transformer_must_learn_the_symmetries_of_the_cube() -> None:
    x, log_snr, mask, cond = batch((30, 12))
    net = make("transformer")
    other = net(turned(x, (1, 0, 2), (1, 1, 1)), log_snr, mask, cond)
    assert not torch.allclose(other, turned(net(x, log_snr, mask, cond), (1, 0, 2), (1, 1, 1)), atol=1e-2)


@pytest.mark.parametrize("kind", ["graph", "graph without waves"])
def test_local_net_does_not_know_the_size_of_the_cloud(kind: str) -> None:
    """Two far groups beside each other: without waves what one says is not changed by the other."""
    generator = torch.Generator().manual_seed(5)
    near = 5 * torch.rand(1, 8, 7, generator=generator, dtype=torch.float64)
    far = near.clone()
    far[..., :3] += 50
    log_snr, cond = torch.tensor([8.0], dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    scale = torch.ones(7, dtype=torch.float64)
    scale[:3] = float(alpha(log_snr))
    net = make(kind)
    alone = net(near * scale, log_snr, torch.ones(1, 8, dtype=torch.bool), cond)
    both = net(torch.cat([near, far], dim=1) * scale, log_snr, torch.ones(1, 16, dtype=torch.bool), cond)
    same = torch.allclose(both[:, :8], alone, atol=1e-9)
    assert same == (kind == "graph without waves")


def test_waves_are_the_sums_of_their_formula() -> None:
    """Along and across each wave, and without any: as complex sums over all pairs of opposite waves."""
    generator = torch.Generator().manual_seed(6)
    mask = torch.arange(9) < torch.tensor([9, 5])[:, None]
    place = PERIOD * torch.rand(2, 9, 3, generator=generator, dtype=torch.float64)
    waves = _Waves(2, PERIOD)
    far = _Far(4, 3, 2, waves.shells).double()
    for parameter in far.parameters():
        nn.init.normal_(parameter, generator=generator)
    count = int(mask.sum())
    s, v = (torch.randn(count, *shape, generator=generator, dtype=torch.float64) for shape in ((4,), (3, 3)))
    context = torch.randn(2, 2, generator=generator, dtype=torch.float64)
    number, vector = far(s, v, context, mask, waves(place, mask))

    u, w = far.numbers(s), far.vectors(v)
    parts = far.weights(context).view(2, 3, waves.shells, 3)
    heard, pulled = torch.zeros_like(u), torch.zeros_like(w)
    for cloud, here in enumerate(mask.nonzero()[:, 0] == torch.arange(2)[:, None]):
        for whole, unit, shell in zip(waves.whole.double(), waves.directions.double(), waves.shell, strict=True):
            phase = torch.exp(-2j * torch.pi / PERIOD * (place[cloud][mask[cloud]] @ whole))
            a, b, c = parts[cloud, :, shell] / (len(waves.whole) * int(mask[cloud].sum())) ** 0.5
            along = torch.einsum("p,pas,a->s", phase, w[here].cdouble(), unit.cdouble())
            total = torch.einsum("p,ps->s", phase, u[here].cdouble()) + 1j * along
            across = torch.einsum("p,pas->as", phase, w[here].cdouble()) - unit[:, None] * along
            back = phase.conj()[:, None]
            heard[here] += (back * a * total).real
            pulled[here] += (back[..., None] * (1j * unit[:, None] * b * total + c * across)).real
    assert_close(number, far.merge(heard))
    assert_close(vector, far.vector_merge(pulled))


def test_nets_fit_the_clouds_that_they_are_for() -> None:
    with pytest.raises(ConfigError, match=r"net.kind: epic knows of no periodic box"):
        build_net(EpicConfig(), 7, 2, NAMES, TORUS)
    with pytest.raises(ConfigError, match=r"net.kind: periodic-graph is for clouds in a periodic box"):
        build_net(PeriodicGraphConfig(), 7, 2, NAMES)
    with pytest.raises(ValidationError, match="whose double divides"):
        PeriodicTransformerConfig(hidden=12, heads=4)
