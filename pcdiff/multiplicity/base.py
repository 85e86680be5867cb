"""What each model of the number of points is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

__all__ = ["KNOTS", "ROWS", "Draw", "Multiplicity", "quiet"]

# Knots of a stored quantile function.
KNOTS = 1025
# Most rows of a type that a model keeps: more add megabytes to the generator and nothing that can be seen.
ROWS = 20_000

Draw = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
"""Number of points (n,) and cloud features (n, K) in physical units."""


def quiet() -> None:
    """No progress to show."""


class Multiplicity(nn.Module, ABC):
    """A model of (number of points, K cloud features | type); its tensors are stored with the generator.

    ``draw`` takes ``normals`` of shape (n, 1 + K) and type positions (n,).
    """

    features: int
    conditional = False
    """Whether features can be given to :meth:`draw`, which then draws all else as it is for these."""

    @abstractmethod
    def fit(
        self,
        counts: npt.NDArray[np.int64],
        features: npt.NDArray[Any],
        types: npt.NDArray[np.int64],
        seed: int,
        progress: Callable[[], None] = quiet,
    ) -> None:
        """Learn from clouds: ``counts`` (n,), ``features`` (n, K), ``types`` (n,); ``progress`` is called at each step."""

    @abstractmethod
    def draw(
        self, normals: npt.NDArray[Any], types: npt.NDArray[np.int64], given: Mapping[int, float] | None = None
    ) -> Draw:
        """Values for standard normal noise.

        Args:
            given: values of some features, by their number; only where the model is :attr:`conditional`.
        """

    @abstractmethod
    def quantiles(self, column: int) -> npt.NDArray[np.float64]:
        """Values of the training data at even levels from 0 to 1, shape (m,): of the number of points, whose column is 0, or of feature
        column - 1. Whole numbers all through where the column holds no others."""

    @abstractmethod
    def log_count(
        self, counts: npt.NDArray[np.int64], features: npt.NDArray[Any], types: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        """Natural logarithm of p(number of points | cloud features, type), shape (n,), for the likelihood of a cloud.

        ``counts`` (n,), ``features`` (n, K) in physical units, ``types`` (n,). Minus infinity for a number of points
        that no cloud of the training data had.
        """

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take stored tensors; tables are as long as the data they were fitted to, so their shapes come from the file."""
        for name, buffer in list(self.named_buffers()):
            if name in tensors and tensors[name].ndim == buffer.ndim:
                owner, _, attribute = name.rpartition(".")
                setattr(self.get_submodule(owner), attribute, tensors[name].clone())
        self.load_state_dict(dict(tensors))
