"""Denoising networks: permutation-equivariant functions of a noisy cloud, its noise level and its conditions.

All keep one contract, that of :class:`pcdiff.nets.base.PointNet`: ``net(x, log_snr, mask, cond)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pcdiff.config import (
    PERIODIC,
    EpicConfig,
    GraphConfig,
    NetConfig,
    PeriodicGraphConfig,
    TransformerConfig,
)
from pcdiff.errors import ConfigError, suggest

if TYPE_CHECKING:
    from torch import nn

    from pcdiff.torus import Torus

__all__ = ["build_net"]


def build_net(
    config: NetConfig,
    features: int,
    conditions: int,
    point_names: Sequence[str],
    torus: Torus | None = None,
) -> nn.Module:
    """Make an untrained net, which returns zeros.

    Args:
        config: kind and size of the net.
        features: number of channels F of a point: one for each feature that is a number.
        conditions: number of conditions a cloud C, possibly 0.
        point_names: the point feature of each of the F channels.
        torus: which of them are what, for clouds in a periodic box.

    Raises:
        ConfigError: a coordinate of the graph net is not among the point features, or a net for periodic boxes is to see others or the
            other way round.
    """
    if torus is not None and not isinstance(config, PERIODIC):
        raise ConfigError(f"net.kind: {config.kind} knows of no periodic box")
    # Each kind imports only what it needs: torch_geometric alone takes seconds.
    if isinstance(config, EpicConfig):
        from pcdiff.nets.epic import EpicNet

        return EpicNet(config, features, conditions)
    if isinstance(config, TransformerConfig):
        from pcdiff.nets.transformer import TransformerNet

        return TransformerNet(config, features, conditions)
    if isinstance(config, GraphConfig):
        from pcdiff.nets.graph import GraphNet

        for name in config.coordinates:
            if name not in point_names:
                raise ConfigError(f"net.coordinates: {name!r} is not a point feature; {suggest(name, point_names)}")
        return GraphNet(config, features, conditions, [list(point_names).index(name) for name in config.coordinates])
    if torus is None:
        raise ConfigError(f"net.kind: {config.kind} is for clouds in a periodic box")
    if isinstance(config, PeriodicGraphConfig):
        from pcdiff.nets.periodic_graph import PeriodicGraphNet

        return PeriodicGraphNet(config, torus, conditions)
    from pcdiff.nets.periodic_transformer import PeriodicTransformerNet

    return PeriodicTransformerNet(config, torus, conditions)
