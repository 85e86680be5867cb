"""Optimisers: what each part moves, and that a stored one goes on as if it had not been."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pcdiff.config import EpicConfig, OptimConfig
from pcdiff.nets import build_net
from pcdiff.optimisers import Muon, Optimiser, build_optimiser


class Model(nn.Module):
    """A net where training has it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = build_net(
            EpicConfig(hidden=16, layers=2, global_size=4, heads=1), 3, 2, ("etarel", "phirel", "ptrel")
        )


def gradients(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def walk(model: nn.Module, optimiser: Optimiser, steps: range) -> None:
    for step in steps:
        gradients(model, step)
        optimiser.step(1 / (1 + step))


def test_adamw_is_that_of_torch() -> None:
    model, other = Model(), Model()
    reference = torch.optim.AdamW(other.parameters(), lr=3e-3, weight_decay=0.1)
    optimiser = build_optimiser(model, OptimConfig(lr=3e-3, weight_decay=0.1))
    for step in range(4):
        gradients(model, step)
        gradients(other, step)
        optimiser.step(0.5)
        reference.param_groups[0]["lr"] = 1.5e-3
        reference.step()
    assert optimiser.lr == 1.5e-3
    for found, expected in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_muon_moves_matrices_of_the_layers_by_nearly_orthogonal_steps() -> None:
    """The singular values of a step are lr sqrt(max(1, rows / columns)) times what five Newton-Schulz steps leave of 1: 0.65 to 1.25."""
    model = Model()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimiser = build_optimiser(model, OptimConfig(kind="muon", lr=1e-3, hidden_lr=0.02))
    gradients(model, 0)
    optimiser.step(1.0)
    inside = 0
    for name, value in model.named_parameters():
        move = value.detach() - before[name]
        if value.ndim == 2 and ".layers." in name:
            inside += 1
            scale = 0.02 * max(1.0, value.shape[0] / value.shape[1]) ** 0.5
            singular = torch.linalg.svdvals(move) / scale
            assert singular.min() > 0.6, name
            assert singular.max() < 1.3, name
        else:
            # The first step of Adam has the size of the learning rate in every entry.
            torch.testing.assert_close(move.abs(), torch.full_like(move, 1e-3), rtol=1e-2, atol=0)
    assert inside == 2 * 8


def test_muon_is_that_of_torch_but_for_its_digits() -> None:
    """torch multiplies in bfloat16, whose rounding is half a percent."""
    model, other = Model(), Model()
    ours, theirs = (
        [value for name, value in one.named_parameters() if value.ndim == 2 and ".layers." in name]
        for one in (model, other)
    )
    reference = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1)
    optimiser = Muon(ours, lr=0.02, weight_decay=0.1)
    for step in range(4):
        gradients(model, step)
        gradients(other, step)
        optimiser.step()
        reference.step()
    start = [value for name, value in Model().named_parameters() if value.ndim == 2 and ".layers." in name]
    for found, expected, before in zip(ours, theirs, start, strict=True):
        assert (found - expected).norm() < 0.02 * (expected - before).norm()


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_stored_moments_go_on_bit_for_bit(kind: str) -> None:
    config = OptimConfig.model_validate({"kind": kind})
    model = Model()
    optimiser = build_optimiser(model, config)
    walk(model, optimiser, range(3))
    again = copy.deepcopy(model)
    resumed = build_optimiser(again, config)
    resumed.load_moments({name: value.clone() for name, value in optimiser.moments().items()})
    walk(model, optimiser, range(3, 6))
    walk(again, resumed, range(3, 6))
    for found, expected in zip(again.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
