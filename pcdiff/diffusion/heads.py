"""How a net's output for some channels is read, where it is not one of the usual predictions of a number."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from pcdiff.diffusion.schedule import Level

__all__ = ["Head", "TorusHead", "torus_head"]


class Head(nn.Module, ABC):
    """Reads the output for its channels.

    Attributes:
        channels: which ones among those of a point, shape (C,).
        parametrisation: what it makes of the output, a key of :data:`pcdiff.diffusion.PARAMETRISATIONS`.
    """

    channels: Tensor
    parametrisation: str

    @abstractmethod
    def forward(self, x_t: Tensor, output: Tensor, level: Level) -> Tensor:
        """The prediction for these channels, shape (B, N, C), from theirs of the noisy clouds and of the net's output, likewise."""


class TorusHead(Head):
    """Positions in a periodic box, whose noise the net puts out as it is.

    The preconditioned output would depend on where the origin is: on a torus there is no Gaussian to start from. At an output of 0, where an
    untrained net starts, it is the exact denoiser of points that are spread evenly and independently.

    Args:
        channels: of x, y and z.
        period: of these channels (:class:`pcdiff.torus.Torus`).
    """

    parametrisation = "epsilon"

    def __init__(self, channels: Tensor, period: float) -> None:
        super().__init__()
        self.register_buffer("channels", channels, persistent=False)
        self.period = period

    def forward(self, x_t: Tensor, output: Tensor, level: Level) -> Tensor:  # noqa: ARG002
        """The output."""
        return output.to(x_t.dtype)


def torus_head(heads: Sequence[Head]) -> TorusHead | None:
    """The one of positions; None without any."""
    return next((head for head in heads if isinstance(head, TorusHead)), None)
