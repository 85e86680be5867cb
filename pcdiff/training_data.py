"""What a config's data section names, encoded for training: read in pieces and kept on a disk, so of any size.

The files are read once into columns on the disk (:mod:`pcdiff.mapped`). The scales are fitted to a random part of the clouds where there are many,
and then all are encoded, piece by piece, into arrays on the disk, of which a batch takes the rows of its clouds. All of it goes with the
process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds
from pcdiff.config import Config
from pcdiff.errors import ConfigError, DataError
from pcdiff.io import iterate
from pcdiff.mapped import GrowingArray, in_pieces, mapped_clouds
from pcdiff.resources import find
from pcdiff.seeds import Purpose, stream
from pcdiff.transforms import Encoded, Transform, cloud_columns

__all__ = ["TrainingData", "read_clouds"]

# Most clouds that the multiplicity model is fitted to.
_FITTED = 1 << 19
# Clouds that are read at once, fewer where they are large: as many as have this many points.
_CLOUDS, _POINTS = 1 << 14, 1 << 19
# Clouds that tell how large they are.
_LOOKED_AT = 64


@dataclass(frozen=True)
class TrainingData:
    """Both data sets encoded, and what the multiplicity model is fitted to. Arrays are on a disk, and read-only.

    Attributes:
        transform: fitted on the training clouds.
        train, validation: the clouds as the denoiser sees them.
        validation_clouds: the validation clouds in physical units.
        counts: numbers of points of the m training clouds that the multiplicity model is fitted to, shape (m,): of all, or of a random part of each
            type where there are more than 524,288.
        features: their cloud features in physical units, shape (m, K).
        type_index: positions of their types in ``transform.types``, shape (m,).
        types: fraction of each of these types in all training clouds.
        fingerprint: of both sets of clouds.
    """

    transform: Transform
    train: Encoded
    validation: Encoded
    validation_clouds: PointClouds
    counts: npt.NDArray[np.int64]
    features: npt.NDArray[Any]
    type_index: npt.NDArray[np.int64]
    types: tuple[float, ...]
    fingerprint: dict[str, str]

    @classmethod
    def load(cls, config: Config, transform: Transform | None = None, *, folder: Path | None = None) -> TrainingData:
        """Read and encode.

        Args:
            config: names the files and the features.
            transform: that of the generator that training begins from; fitted to the training clouds when absent.
            folder: on the disk that holds the arrays; the system's folder for temporary files when absent.

        Raises:
            DataError: a file is missing, broken or holds values that are not physical.
            PcdiffError: the disk is full.
            ConfigError: the data lack a feature that the config names, or it cannot be used as it says.
        """
        folder = folder or Path(tempfile.gettempdir())
        train = read_clouds(config, config.data.train, folder)
        validation = read_clouds(config, config.data.validation, folder)
        try:
            if transform is None:
                transform = Transform.fit(
                    train, config.features.points, config.features.clouds, use_type=config.features.type
                )
            encoded = _encoded(train, transform, folder), _encoded(validation, transform, folder)
        except DataError as error:
            raise ConfigError(f"{config.name}: the features of the config do not fit the data: {error}") from error
        index = transform.type_index(train)
        part = _part(index, config.seed)
        columns = [values[part] for values in cloud_columns(train, list(config.features.clouds)).values()]
        counts = np.diff(train.offsets)[part]
        return cls(
            transform=transform,
            train=encoded[0],
            validation=encoded[1],
            validation_clouds=validation,
            counts=counts,
            features=np.stack(columns, axis=1) if columns else np.zeros((len(counts), 0)),
            type_index=index[part],
            types=tuple((np.bincount(index) / len(index)).tolist()) if transform.types else (),
            fingerprint={"train": train.fingerprint(), "validation": validation.fingerprint()},
        )


def read_clouds(config: Config, names: tuple[str, ...], folder: Path) -> PointClouds:
    """The clouds of files, as the data section of a config says, on a disk.

    Args:
        config: how they are read.
        names: the files.
        folder: on the disk that holds them.
    """
    files = [find(name) for name in names]

    def read(size: int) -> Iterator[PointClouds]:
        about = config.data
        pieces = iterate(files, step_size=size, format=about.format, drop_empty=about.drop_empty, **about.options)
        return pieces if about.max_points is None else (piece.leading(about.max_points) for piece in pieces)

    first = next(read(_LOOKED_AT), None)
    if first is None:
        raise DataError(f"{', '.join(map(str, files))}: there are no clouds in it")
    size = max(1, _POINTS * len(first) // first.num_points) if first.num_points else _CLOUDS
    return mapped_clouds(read(min(size, _CLOUDS)), folder)


def _encoded(clouds: PointClouds, transform: Transform, folder: Path) -> Encoded:
    """Clouds as the denoiser sees them, on a disk."""
    points, cond = GrowingArray(folder), GrowingArray(folder)
    for piece in in_pieces(clouds):
        found = transform.encode(piece)
        points.append(found.points)
        cond.append(found.cond)
    return Encoded(points.mapped(), clouds.offsets, cond.mapped())


def _part(types: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64] | slice:
    """Which clouds the multiplicity model is fitted to: of each type alike, so that a rare one keeps its clouds."""
    if len(types) <= _FITTED:
        return slice(None)
    rng = np.random.default_rng(stream(seed, Purpose.PART))
    kinds = np.unique(types)
    chosen = [np.flatnonzero(types == kind) for kind in kinds]
    most = _FITTED // len(kinds)
    return np.sort(
        np.concatenate([rng.choice(part, most, replace=False) if len(part) > most else part for part in chosen])
    )
