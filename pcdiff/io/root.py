"""Read and write pcdiff's own ROOT files: a TTree ``Jets``, ``Halos`` or ``Vectors`` in the style of CMS NanoAOD.

The layout is that of :mod:`pcdiff.io.rootlayout`; such a file opens in ROOT, uproot and coffea without pcdiff.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from pcdiff.clouds import PointClouds
from pcdiff.io import rootlayout
from pcdiff.io.registry import Description, Format
from pcdiff.io.rootlayout import Layout

__all__ = ["FORMAT"]


def _arrays(layout: Layout, piece: PointClouds) -> dict[str, Any]:
    """One array a cloud column, and the points as lists of one record, whose branches then share one counter."""
    columns = layout.point_columns(piece)
    record = ak.contents.RecordArray([ak.contents.NumpyArray(values) for values in columns.values()], list(columns))
    points = ak.Array(ak.contents.ListOffsetArray(ak.index.Index64(piece.offsets), record))
    clouds = {branch: np.ascontiguousarray(piece.feature(name)) for name, branch in layout.clouds.items()}
    return {**clouds, layout.prefix: points}


def _create(file: Any, name: str, types: dict[str, Any]) -> Any:
    # mktree, since assignment makes an RNTuple from uproot 5.7 on.
    return file.mktree(name, types, f"{name}, written by pcdiff")


def _write(pieces: Iterator[PointClouds], path: Path, metadata: Mapping[str, Any]) -> None:
    rootlayout.write(pieces, path, metadata, _arrays, _create)


def _describe(path: Path) -> Description:
    return rootlayout.describe(path, "root")


FORMAT = Format(
    name="root",
    description="pcdiff's ROOT files: a TTree in the style of NanoAOD, one entry a cloud",
    fits=rootlayout.fits("TTree"),
    iterate=rootlayout.iterate,
    describe=_describe,
    kinds=("jets", "halos", "vectors"),
    write=_write,
)
