"""What a config's data section names, read and encoded for training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds
from pcdiff.config import Config
from pcdiff.errors import ConfigError, DataError
from pcdiff.io import read
from pcdiff.resources import find
from pcdiff.transforms import Encoded, Transform, cloud_columns

__all__ = ["TrainingData"]


@dataclass(frozen=True)
class TrainingData:
    """Both data sets encoded, and what the multiplicity model is fitted to.

    Attributes:
        transform: fitted on the training clouds.
        train, validation: the clouds as the denoiser sees them.
        validation_clouds: the validation clouds in physical units.
        features: cloud features of the training clouds in physical units, shape (n, K).
        type_index: positions of their types in ``transform.types``, shape (n,).
        types: fraction of each of these types.
        fingerprint: of both sets of clouds.
    """

    transform: Transform
    train: Encoded
    validation: Encoded
    validation_clouds: PointClouds
    features: npt.NDArray[Any]
    type_index: npt.NDArray[np.int64]
    types: tuple[float, ...]
    fingerprint: dict[str, str]

    @classmethod
    def load(cls, config: Config, transform: Transform | None = None) -> TrainingData:
        """Read and encode.

        Args:
            config: names the files and the features.
            transform: that of the generator that training begins from; fitted to the training clouds when absent.

        Raises:
            DataError: a file is missing, broken or holds values that are not physical.
            ConfigError: the data lack a feature that the config names, or it cannot be used as it says.
        """
        train, validation = read_clouds(config, config.data.train), read_clouds(config, config.data.validation)
        try:
            if transform is None:
                transform = Transform.fit(
                    train, config.features.points, config.features.clouds, use_type=config.features.type
                )
            encoded = transform.encode(train), transform.encode(validation)
        except DataError as error:
            raise ConfigError(f"{config.name}: the features of the config do not fit the data: {error}") from error
        index = transform.type_index(train)
        columns = cloud_columns(train, list(config.features.clouds))
        return cls(
            transform=transform,
            train=encoded[0],
            validation=encoded[1],
            validation_clouds=validation,
            features=np.stack(list(columns.values()), axis=1) if columns else np.zeros((len(train), 0)),
            type_index=index,
            types=tuple((np.bincount(index) / len(index)).tolist()) if transform.types else (),
            fingerprint={"train": train.fingerprint(), "validation": validation.fingerprint()},
        )


def read_clouds(config: Config, names: tuple[str, ...]) -> PointClouds:
    clouds = read(
        [find(name) for name in names],
        format=config.data.format,
        drop_empty=config.data.drop_empty,
        **config.data.options,
    )
    return clouds if config.data.max_points is None else clouds.leading(config.data.max_points)
