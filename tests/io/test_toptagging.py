"""Top-tagging HDF5 in the two layouts that pandas writes."""

from __future__ import annotations

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

import pcdiff
from pcdiff.clouds import PointClouds

COUNTS = [4, 1, 200, 7, 30]
LABELS = [1, 0, 1, 1, 0]
NAMES = [f"{component}_{i}" for i in range(200) for component in ("E", "PX", "PY", "PZ")]
TRUTH = ["truthE", "truthPX", "truthPY", "truthPZ"]


class Bomb:
    """Its pickle runs code; reading must never open it."""

    def __reduce__(self) -> tuple:
        return (pytest.fail, ("an attribute was unpickled",))


def momenta() -> np.ndarray:
    """Massless constituents (5, 200, 4): E, px, py, pz."""
    rng = np.random.default_rng(3)
    p = rng.normal(0, 20, (5, 200, 3))
    p[np.arange(200) >= np.array(COUNTS)[:, None]] = 0
    return np.concatenate([np.sqrt((p**2).sum(axis=2, keepdims=True)), p], axis=2).astype(np.float32)


def table_layout(path: Path, values: np.ndarray, labels: list[int]) -> None:
    block = np.concatenate([values.reshape(len(values), -1), np.ones((len(values), 4), np.float32)], axis=1)
    dtype = [("index", "<i8"), ("values_block_0", "<f4", (block.shape[1],)), ("values_block_1", "<i8", (2,))]
    rows = np.zeros(len(values), dtype)
    rows["values_block_0"] = block
    rows["values_block_1"][:, 0] = 2
    rows["values_block_1"][:, 1] = labels
    with h5py.File(path, "w") as file:
        file.attrs["PYTABLES_FORMAT_VERSION"] = np.bytes_("2.1")
        group = file.create_group("table")
        group.attrs["pandas_type"] = np.bytes_("frame_table")
        group.attrs["non_index_axes"] = np.bytes_(pickle.dumps(Bomb(), 0))
        group.create_dataset("table", data=rows, chunks=(2,), compression="gzip", shuffle=True)
        group["table"].attrs["values_block_0_kind"] = np.bytes_(pickle.dumps(Bomb(), 0))


def fixed_layout(path: Path, values: np.ndarray, labels: list[int]) -> None:
    block = np.concatenate([np.ones((len(values), 4), np.float32), values.reshape(len(values), -1)], axis=1)
    with h5py.File(path, "w") as file:
        group = file.create_group("table")
        group.attrs["pandas_type"] = np.bytes_("frame")
        group["axis0"] = np.array([*TRUTH, *NAMES, "is_signal_new", "ttv"], "S")
        group["block0_items"] = np.array([*TRUTH, *NAMES], "S")
        group["block0_values"] = block
        group["block1_items"] = np.array(["is_signal_new", "ttv"], "S")
        group["block1_values"] = np.stack([labels, [2] * len(labels)], axis=1)


LAYOUTS = pytest.mark.parametrize("layout", [table_layout, fixed_layout])


@LAYOUTS
def test_read(tmp_path: Path, layout) -> None:
    values, path = momenta(), tmp_path / "train.h5"
    layout(path, values, LABELS)
    clouds = pcdiff.read(path)
    assert clouds.counts.tolist() == COUNTS
    assert clouds.schema.point_names == ("px", "py", "pz", "energy")
    real = values[values[..., 0] > 0]
    for i, name in enumerate(("energy", "px", "py", "pz")):
        np.testing.assert_array_equal(clouds.column(name), real[:, i])
    assert clouds.feature("is_signal").tolist() == LABELS
    assert clouds.feature("is_signal").dtype == np.int32
    assert clouds.schema.cloud("is_signal").categories == ("QCD", "top")
    assert PointClouds.concatenate(list(pcdiff.iterate(path, step_size=2))).equals(clouds)


@LAYOUTS
def test_describe(tmp_path: Path, layout) -> None:
    layout(tmp_path / "test.h5", momenta(), LABELS)
    found = pcdiff.inspect(tmp_path / "test.h5")
    assert (found.format, found.clouds) == ("toptagging", 5)
    assert [column.feature for column in found.columns] == ["energy", "px", "py", "pz", "is_signal", "", ""]


@LAYOUTS
@pytest.mark.parametrize(
    ("index", "value", "keys"),
    [
        ((1, 0, 0), -5.0, ("'energy' is -5.0", "cloud 1")),
        ((2, 3, 1), np.nan, ("'px'", "cloud 2")),
        ((1, 0, 0), 0.0, ("no points", "cloud 1")),
    ],
)
def test_bad_values(tmp_path: Path, layout, index: tuple[int, ...], value: float, keys: tuple, refused) -> None:
    values, path = momenta(), tmp_path / "val.h5"
    values[index] = value
    layout(path, values, LABELS)
    refused(lambda: pcdiff.read(path), path, *keys)


@LAYOUTS
def test_bad_label(tmp_path: Path, layout, refused) -> None:
    layout(tmp_path / "a.h5", momenta(), [0, 1, 7, 0, 1])
    refused(lambda: pcdiff.read(tmp_path / "a.h5"), tmp_path / "a.h5", "'is_signal' is 7 in cloud 2")


def test_too_few_columns(tmp_path: Path, refused) -> None:
    path = tmp_path / "a.h5"
    table_layout(path, momenta()[:, :100], LABELS)
    refused(lambda: pcdiff.read(path), path, "'values_block_0'", "(404,)", "(800,)")


def test_missing_parts(tmp_path: Path, refused) -> None:
    path = tmp_path / "a.h5"
    fixed_layout(path, momenta(), LABELS)
    refused(lambda: pcdiff.read(path, format="toptagging", key="tables"), path, "'tables'", "did you mean 'table'")
    with h5py.File(path, "a") as file:
        del file["table/block1_items"]
        file["table/block1_items"] = np.array(["is_signal_old", "ttv"], "S")
    refused(lambda: pcdiff.read(path), path, "'is_signal_new'", "did you mean 'is_signal_old'")
    with h5py.File(path, "w") as file:
        file["table/table"] = np.zeros(3, [("index", "<i8"), ("values_block_0", "<f4", (804,))])
    refused(lambda: pcdiff.read(path), path, "'values_block_1'")
    with h5py.File(path, "w") as file:
        file["table/table"] = np.zeros((3, 4))
    refused(lambda: pcdiff.read(path), path, "'table/table'", "compound")


def test_is_only_read(tmp_path: Path, jets: PointClouds, refused) -> None:
    refused(
        lambda: pcdiff.write(jets, tmp_path / "a.h5", format="toptagging"), tmp_path / "a.h5", "only read", "jetnet"
    )
