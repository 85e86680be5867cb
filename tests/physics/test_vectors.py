"""Observables of plain vectors."""

from __future__ import annotations

import numpy as np

from pcdiff.clouds import PointClouds
from pcdiff.physics import measure, observables, planes
from pcdiff.schema import vector_schema


def vectors(**columns: object) -> PointClouds:
    flat = {name: np.asarray(values, np.float32) for name, values in columns.items()}
    size = len(next(iter(flat.values())))
    return PointClouds.from_flat(flat, np.arange(size + 1), {}, vector_schema(list(flat)))


def test_coordinates_and_radius() -> None:
    found = measure(vectors(x=[3.0, 0.0, -5.0], y=[-4.0, 0.0, 12.0]))
    assert list(found.values) == list(observables("vectors")) == ["x", "y", "radius"]
    np.testing.assert_array_equal(found.values["x"], [3.0, 0.0, -5.0])
    np.testing.assert_array_equal(found.values["y"], [-4.0, 0.0, 12.0])
    np.testing.assert_array_equal(found.values["radius"], [5.0, 0.0, 13.0])
    assert all(values.dtype == np.float64 for values in found.values.values())


def test_the_radius_does_not_overflow_where_the_coordinates_do_not() -> None:
    largest = float(np.finfo(np.float32).max)
    np.testing.assert_allclose(measure(vectors(x=[largest], y=[largest])).values["radius"], largest * np.sqrt(2))


def test_what_the_columns_do_not_determine_is_named() -> None:
    found = measure(vectors(x=[1.0], z=[2.0]))
    assert list(found.values) == ["x"]
    assert found.missing["y"].startswith("no point feature 'y'")
    assert set(found.missing) == {"y", "radius"}


def test_the_plane_is_that_of_the_coordinates() -> None:
    assert [(first.name, second.name) for first, second in planes("vectors")] == [("x", "y")]
    assert planes("jets") == ()
