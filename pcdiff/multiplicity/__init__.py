"""How many points a cloud has, and its features: p(number of points, cloud features | type).

- :mod:`~pcdiff.multiplicity.flow`: a normalising flow of both, the default
- :mod:`~pcdiff.multiplicity.regression`: the number of points as a polynomial in features that were designed, such as universes
- :mod:`~pcdiff.multiplicity.empirical`: rows of the training data

A model maps standard normals to values, so the same noise gives the same clouds whatever the batching.
"""

from __future__ import annotations

from pcdiff.config import MultiplicityConfig
from pcdiff.multiplicity.base import Draw, Multiplicity
from pcdiff.multiplicity.empirical import EmpiricalMultiplicity
from pcdiff.multiplicity.flow import FlowMultiplicity
from pcdiff.multiplicity.regression import RegressionMultiplicity

__all__ = [
    "Draw",
    "EmpiricalMultiplicity",
    "FlowMultiplicity",
    "Multiplicity",
    "RegressionMultiplicity",
    "build_multiplicity",
]


def build_multiplicity(config: MultiplicityConfig, features: int, types: int) -> Multiplicity:
    """The model that a config names, for K ``features`` and that many ``types``."""
    if config.kind == "flow":
        return FlowMultiplicity(config, features, types)
    if config.kind == "regression":
        return RegressionMultiplicity(features, types)
    return EmpiricalMultiplicity(features)
