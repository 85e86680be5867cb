"""Halo catalogues in the formats that hold any clouds, and what is required of them wherever they come from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.io import registry
from pcdiff.io.catalogue import catalogue


@pytest.mark.parametrize(
    ("format", "suffix"), [("parquet", "parquet"), ("root", "root"), ("rntuple", "root"), ("flat", "hdf5")]
)
@pytest.mark.parametrize("piece", [7, 1000])
def test_round_trip_is_exact(tmp_path: Path, halos: PointClouds, format: str, suffix: str, piece: int) -> None:
    path = registry.write(halos.split(piece), tmp_path / f"a.{suffix}", format=format, metadata={"note": 1})
    back = PointClouds.concatenate(list(registry.iterate(path, step_size=9)))
    assert back.equals(halos)
    assert back.schema.point("vx").unit == "km/s"
    assert back.schema.vectors == (("x", "y", "z"), ("vx", "vy", "vz"))
    assert back.provenance == halos.provenance
    found = registry.inspect(path)
    assert (found.format, found.clouds, found.metadata["note"]) == (format, 40, 1)


@pytest.mark.parametrize("name", ["x", "y", "z"])
@pytest.mark.parametrize(("value", "said"), [(-1e-3, "-0.001"), (None, "25.0"), (1e4, "10000.0")])
def test_halos_lie_in_their_box(halos: PointClouds, name: str, value: float | None, said: str) -> None:
    """The box is half-open: what lies at its far side, the value None here, is outside."""
    box = int(np.argmax(halos.feature("box_size") == 25))
    at = int(halos.offsets[box])
    halos.column(name)[at] = 25 if value is None else value
    with pytest.raises(DataError) as caught:
        halos.validate("a.hdf5")
    for key in ("a.hdf5", f"{name!r} is {said}", f"cloud {box}", "below the box size 25.0", "1 of"):
        assert key in str(caught.value)


def test_a_box_has_a_size(halos: PointClouds) -> None:
    halos.feature("box_size")[3] = 0
    with pytest.raises(DataError, match=r"'box_size' is 0\.0 in cloud 3; expected a number above 0"):
        halos.validate()


def test_halos_outside_are_neither_written_nor_read(
    tmp_path: Path, halos: PointClouds, refused: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    halos.column("y")[0] = 200
    path = tmp_path / "a.hdf5"
    refused(lambda: registry.write(halos, path), path, "'y' is 200.0", "box size")
    with monkeypatch.context() as context:
        context.setattr(PointClouds, "validate", lambda self, where: self)
        registry.write(halos, path)
    refused(lambda: registry.read(path), path, "'y' is 200.0", "box size")


@pytest.mark.parametrize(
    "written",
    [
        lambda position, box: position + np.float64(box) * 1e-7 * np.sign(position - box / 2),
        lambda position, box: np.where(position == 0, box, position),
        lambda position, box: np.round(position, 5),
    ],
)
def test_positions_at_the_edge_stay_in_place_on_the_torus(written: Callable[..., np.ndarray]) -> None:
    """However a file rounds positions near a side of the box, they come to lie in [0, box), and no halo moves."""
    box = np.float32(62.5)
    edges = [0, np.nextafter(box, np.float32(0)), 1e-6, box - 1e-6, np.nextafter(np.float64(box), 0), 31.0]
    position = np.repeat(np.array(edges, np.float64)[:, None], 3, axis=1)
    found = catalogue(
        written(position, box), None, np.full(len(edges), 1e13), {"box_size": float(box)}, mass_name="m", provenance={}
    ).validate()
    for name in ("x", "y", "z"):
        moved = found.column(name).astype(np.float64) - position[:, 0]
        assert np.all(np.abs(moved - box * np.round(moved / box)) < 2e-5)


@pytest.mark.parametrize(("mass", "said"), [(-1.0, "-1.0 in halo 2"), (np.nan, "nan in halo 2")])
def test_masses_that_are_none(mass: float, said: str) -> None:
    masses = np.array([1e13, 0, mass])
    with pytest.raises(DataError, match=f"'Mvir' is {said}"):
        catalogue(np.ones((3, 3)), None, masses, {"box_size": 10.0}, mass_name="Mvir", provenance={})
    with pytest.raises(DataError, match="'Mvir' is 0 in all 3 halos"):
        catalogue(np.ones((3, 3)), None, np.zeros(3), {"box_size": 10.0}, mass_name="Mvir", provenance={})
