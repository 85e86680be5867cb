"""Every net keeps the contract of `PointNet`."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from pcdiff.config import EpicConfig, GraphConfig, TransformerConfig
from pcdiff.errors import ConfigError
from pcdiff.nets import build_net

NAMES = ("etarel", "phirel", "ptrel")
CONDITIONS = 2
NEIGHBOURS = 4
CONFIGS = {
    "epic": EpicConfig(hidden=16, layers=2, global_size=4),
    "epic with attention": EpicConfig(hidden=16, layers=2, global_size=4, heads=2),
    "epic with narrow values": EpicConfig(hidden=16, layers=2, global_size=4, heads=2, value_size=6),
    "epic with attention in one layer": EpicConfig(hidden=16, layers=2, global_size=4, heads=2, attending=(1,)),
    "transformer": TransformerConfig(hidden=16, layers=2, heads=2),
    "graph": GraphConfig(hidden=16, layers=2, neighbours=NEIGHBOURS),
}
# Clouds with no point, one point (no neighbours), fewer points than neighbours, and more.
SIZES = (0, 1, NEIGHBOURS - 1, NEIGHBOURS + 1, 12)


def make(kind: str, conditions: int = CONDITIONS) -> nn.Module:
    """A net in double precision with no parameter at zero, as after training."""
    net = build_net(CONFIGS[kind], len(NAMES), conditions, NAMES).double()
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return net


def batch(sizes: tuple[int, ...] = SIZES, conditions: int = CONDITIONS) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points of unit variance, log-SNR, mask and conditions of clouds of the given sizes."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
    x = torch.randn(*mask.shape, len(NAMES), generator=generator, dtype=torch.float64) * mask[..., None]
    log_snr = torch.linspace(-8, 8, len(sizes), dtype=torch.float64)
    cond = torch.randn(len(sizes), conditions, generator=generator, dtype=torch.float64)
    return x, log_snr, mask, cond


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


every_net = pytest.mark.parametrize("kind", CONFIGS)


@every_net
def test_untrained_net_returns_zero(kind: str) -> None:
    net = build_net(CONFIGS[kind], len(NAMES), CONDITIONS, NAMES).double()
    y = net(*batch())
    assert y.shape == batch()[0].shape
    assert torch.count_nonzero(y) == 0


@every_net
def test_output_is_finite_and_exactly_zero_at_padding(kind: str) -> None:
    x, log_snr, mask, cond = batch()
    y = make(kind)(x, log_snr, mask, cond)
    assert y.isfinite().all()
    assert torch.count_nonzero(y[~mask]) == 0
    assert torch.count_nonzero(y[mask]) == y[mask].numel()


@every_net
def test_permuting_points_permutes_the_output(kind: str) -> None:
    net = make(kind)
    x, log_snr, mask, cond = batch()
    order = torch.rand(mask.shape, generator=torch.Generator().manual_seed(2)).argsort(dim=1)
    y = net(x, log_snr, mask, cond)
    rows = order[..., None].expand_as(x)
    assert_close(net(x.gather(1, rows), log_snr, mask.gather(1, order), cond), y.gather(1, rows))


@every_net
@pytest.mark.parametrize("filling", [0.0, 1e6, torch.nan])
def test_padding_changes_nothing(kind: str, filling: float) -> None:
    net = make(kind)
    x, log_snr, mask, cond = batch()
    more = 9
    wide_mask = nn.functional.pad(mask, (0, more))
    wide_x = nn.functional.pad(x, (0, 0, 0, more)).masked_fill(~wide_mask[..., None], filling)
    wide = net(wide_x, log_snr, wide_mask, cond)
    assert_close(wide[:, : mask.shape[1]], net(x, log_snr, mask, cond))
    assert torch.count_nonzero(wide[:, mask.shape[1] :]) == 0


@every_net
def test_clouds_of_a_batch_do_not_see_each_other(kind: str) -> None:
    net = make(kind)
    x, log_snr, mask, cond = batch()
    y = net(x, log_snr, mask, cond)
    for i, size in enumerate(SIZES):
        alone = net(x[i : i + 1, :size], log_snr[i : i + 1], mask[i : i + 1, :size], cond[i : i + 1])
        assert_close(alone[0], y[i, :size])


@every_net
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_batch_without_points(kind: str, shape: tuple[int, int]) -> None:
    clouds, points = shape
    x, cond = torch.zeros(clouds, points, len(NAMES)), torch.zeros(clouds, CONDITIONS)
    y = make(kind).float()(x, torch.zeros(clouds), torch.zeros(shape, dtype=torch.bool), cond)
    assert y.shape == x.shape


@every_net
def test_points_of_a_cloud_see_each_other(kind: str) -> None:
    net = make(kind)
    x, log_snr, mask, cond = batch((NEIGHBOURS + 1,))
    moved = x.clone()
    moved[0, 0] += 0.1
    change = net(moved, log_snr, mask, cond) - net(x, log_snr, mask, cond)
    assert (change.abs().amax(dim=-1) > 1e-6).all()


@every_net
def test_output_depends_on_noise_level_and_conditions(kind: str) -> None:
    net = make(kind)
    x, log_snr, mask, cond = batch((3, 12))
    y = net(x, log_snr, mask, cond)
    for other in (net(x, log_snr + 0.5, mask, cond), net(x, log_snr, mask, cond + 0.5)):
        assert ((other - y).abs()[mask] > 1e-6).any(dim=-1).all()


@every_net
def test_no_conditions(kind: str) -> None:
    y = make(kind, conditions=0)(*batch(conditions=0))
    assert y.isfinite().all()


@every_net
def test_gradient_reaches_every_parameter_and_every_point(kind: str) -> None:
    net = make(kind)
    x, log_snr, mask, cond = batch()
    inputs = [x.requires_grad_(), log_snr.requires_grad_(), cond.requires_grad_()]
    net(x, log_snr, mask, cond).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 1e-8, name
    for gradient in (tensor.grad for tensor in inputs):
        assert gradient is not None
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0
    assert torch.count_nonzero(x.grad[~mask]) == 0


@every_net
def test_coinciding_points_have_finite_gradients(kind: str) -> None:
    x, log_snr, mask, cond = batch((5,))
    x = torch.zeros_like(x).requires_grad_()
    make(kind)(x, log_snr, mask, cond).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@every_net
def test_single_precision_agrees_with_double(kind: str) -> None:
    net = make(kind)
    x, log_snr, mask, cond = batch()
    double = net(x, log_snr, mask, cond)
    single = net.float()(x.float(), log_snr.float(), mask, cond.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-3)


@every_net
def test_bfloat16_agrees_to_its_rounding_and_keeps_the_ends_in_full_precision(kind: str) -> None:
    """bfloat16 rounds to 2^-9; some ten roundings follow each other, and the entry and exit layers must not be among them."""
    net = make(kind).float()
    x, log_snr, mask, cond = (v.float() if v.is_floating_point() else v for v in batch())
    expected = net(x, log_snr, mask, cond)
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x, log_snr, mask, cond)
    assert y.dtype == torch.float32
    assert torch.count_nonzero(y[~mask]) == 0
    error = (y - expected)[mask].square().mean().sqrt() / expected[mask].square().mean().sqrt()
    assert 0 < error < 10 * 2**-9


@every_net
def test_weights_survive_a_state_dict(kind: str) -> None:
    net = make(kind)
    fresh = build_net(CONFIGS[kind], len(NAMES), CONDITIONS, NAMES).double()
    fresh.load_state_dict(net.state_dict())
    assert torch.equal(fresh(*batch()), net(*batch()))


@every_net
def test_forward_mode_derivative_agrees_with_finite_difference(kind: str) -> None:
    net = make(kind)
    x, log_snr, mask, cond = batch()
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype) * mask[..., None]
    with sdpa_kernel(SDPBackend.MATH):
        _, derivative = jvp(lambda x, log_snr: net(x, log_snr, mask, cond), (x, log_snr), (direction, log_snr))
        step = 1e-6
        ahead = net(x + step * direction, log_snr * (1 + step), mask, cond)
        behind = net(x - step * direction, log_snr * (1 - step), mask, cond)
    torch.testing.assert_close(derivative, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-5)


@every_net
def test_second_derivative_agrees_with_finite_difference(kind: str) -> None:
    net = make(kind)
    x, log_snr, mask, cond = batch()
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype) * mask[..., None]

    def slope(at: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(net(at, log_snr, mask, cond).sum(), at, create_graph=True)
        return gradient

    with sdpa_kernel(SDPBackend.MATH):
        at = x.clone().requires_grad_()
        (second,) = torch.autograd.grad((slope(at) * direction).sum(), at)
        step = 1e-6
        ahead = slope((x + step * direction).requires_grad_())
        behind = slope((x - step * direction).requires_grad_())
    torch.testing.assert_close(second, (ahead - behind).detach() / (2 * step), rtol=1e-5, atol=1e-5)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValidationError, match="heads"):
        TransformerConfig(hidden=16, heads=3)


def test_coordinates_must_be_point_features() -> None:
    with pytest.raises(ConfigError, match=r"net\.coordinates: 'eta' is not a point feature; .*etarel"):
        build_net(GraphConfig(coordinates=("eta", "phirel")), len(NAMES), CONDITIONS, NAMES)


def test_default_epic_net_has_the_documented_size() -> None:
    net = build_net(EpicConfig(), 3, 8, NAMES)
    assert 350_000 < sum(parameter.numel() for parameter in net.parameters()) < 380_000
