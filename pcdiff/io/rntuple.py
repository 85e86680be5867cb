"""Read and write pcdiff's own ROOT files with an RNTuple, the successor of the TTree, under the same names.

The layout is that of :mod:`pcdiff.io.rootlayout`. ROOT reads such files from version 6.34 on.
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
from pcdiff.io.rootfile import RNTUPLE
from pcdiff.io.rootlayout import Layout

__all__ = ["FORMAT"]


def _arrays(layout: Layout, piece: PointClouds) -> dict[str, Any]:
    """One array a column; lists know their sizes, the counter stands there for users of the TTree's names."""
    arrays: dict[str, Any] = {
        branch: np.ascontiguousarray(piece.feature(name)) for name, branch in layout.clouds.items()
    }
    arrays[f"n{layout.prefix}"] = piece.counts.astype(np.int32)
    offsets = ak.index.Index64(piece.offsets)
    for name, values in layout.point_columns(piece).items():
        lists = ak.contents.ListOffsetArray(offsets, ak.contents.NumpyArray(values))
        arrays[f"{layout.prefix}_{name}"] = ak.Array(lists)
    return arrays


def _create(file: Any, name: str, types: dict[str, Any]) -> Any:
    return file.mkrntuple(name, types, f"{name}, written by pcdiff")


def _write(pieces: Iterator[PointClouds], path: Path, metadata: Mapping[str, Any]) -> None:
    rootlayout.write(pieces, path, metadata, _arrays, _create)


def _describe(path: Path) -> Description:
    return rootlayout.describe(path, "rntuple")


FORMAT = Format(
    name="rntuple",
    description="pcdiff's ROOT files with an RNTuple, one entry a cloud",
    fits=rootlayout.fits(RNTUPLE),
    iterate=rootlayout.iterate,
    describe=_describe,
    kinds=("jets", "halos", "vectors"),
    write=_write,
)
