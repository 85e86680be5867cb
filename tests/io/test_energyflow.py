"""EnergyFlow npz: padded and flat layouts."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import awkward as ak
import numpy as np
import pytest

import pcdiff
from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError

COUNTS = np.array([3, 1, 5])


def padded() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    x = np.stack(
        [
            rng.uniform(1, 90, (3, 6)),
            rng.normal(size=(3, 6)),
            rng.uniform(0, 2 * np.pi, (3, 6)),
            rng.choice([22, -211, 2112], (3, 6)),
        ],
        axis=2,
    )
    x[np.arange(6) >= COUNTS[:, None]] = 0
    return {"X": x, "y": np.array([1.0, 0.0, 1.0])}


def flat() -> dict[str, np.ndarray]:
    p4 = np.random.default_rng(5).uniform(1, 9, (9, 4)).astype(np.float32)
    p4[:, 3] = 40
    return {"p4": p4, "counts": COUNTS.astype(np.int32), "label": np.array([1, 0, 1], np.int8)}


def save(path: Path, arrays: dict[str, np.ndarray], compressed: bool = True) -> Path:
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("step_size", [1, 2, 10])
def test_padded(tmp_path: Path, compressed: bool, step_size: int) -> None:
    arrays = padded()
    path = save(tmp_path / "QG_jets.npz", arrays, compressed)
    clouds = PointClouds.concatenate(list(pcdiff.iterate(path, step_size=step_size)))
    assert clouds.counts.tolist() == COUNTS.tolist()
    real = arrays["X"][arrays["X"][..., 0] > 0]
    for i, name in enumerate(("pt", "rapidity", "phi", "pdgId")):
        np.testing.assert_array_equal(clouds.column(name), real[:, i])
    assert clouds.column("pt").dtype == np.float64
    assert clouds.column("pdgId").dtype == clouds.feature("type").dtype == np.int32
    assert clouds.feature("type").tolist() == [1, 0, 1]
    assert clouds.schema.cloud("type").categories == ("g", "q")
    found = pcdiff.inspect(path)
    assert (found.format, found.clouds) == ("energyflow", 3)
    assert [column.feature for column in found.columns] == ["pt", "rapidity", "phi", "pdgId", "type"]


@pytest.mark.parametrize("step_size", [1, 2, 10])
def test_flat(tmp_path: Path, step_size: int) -> None:
    arrays = flat()
    path = save(tmp_path / "a.npz", arrays)
    clouds = PointClouds.concatenate(list(pcdiff.iterate(path, step_size=step_size)))
    assert clouds.counts.tolist() == COUNTS.tolist()
    for i, name in enumerate(("px", "py", "pz", "energy")):
        np.testing.assert_array_equal(clouds.column(name), arrays["p4"][:, i])
    assert clouds.feature("type").tolist() == [1, 0, 1]
    assert pcdiff.inspect(path).clouds == 3


def test_labels_may_stand_for_other_types(tmp_path: Path, refused) -> None:
    arrays = flat()
    arrays["label"][0] = 2
    path = save(tmp_path / "a.npz", arrays)
    refused(lambda: pcdiff.read(path), path, "'label' holds 2", "--option types=", "g, q")
    assert "label holds 0 to 2, expected 0 to 1 for g, q" in pcdiff.inspect(path).notes[-1]
    assert pcdiff.inspect(path, types=("g", "q", "top")).notes[-1] == "types: 0 is g, 1 is q, 2 is top"
    clouds = pcdiff.read(path, types=("g", "q", "top"))
    assert clouds.schema.cloud("type").categories == ("g", "q", "top")


def test_real_jets(shared: Path) -> None:
    path = shared / "jets" / "quark_gluon_2000.npz"
    clouds = pcdiff.read(path)
    assert len(clouds) == 2000
    with np.load(path) as file:
        assert clouds.counts.tolist() == file["counts"].tolist()
        sums = np.add.reduceat(file["p4"].astype(np.float64), clouds.offsets[:-1], axis=0)
    jets = ak.sum(clouds.momenta(), axis=1)
    expected = np.sqrt(sums[:, 3] ** 2 - (sums[:, :3] ** 2).sum(axis=1))
    np.testing.assert_allclose(jets.mass, expected, rtol=1e-9)
    np.testing.assert_allclose(jets.pt, np.hypot(sums[:, 0], sums[:, 1]), rtol=1e-9)
    assert 490 < ak.min(jets.pt) < ak.max(jets.pt) < 560


def test_real_jets_of_ten_types(shared: Path, refused) -> None:
    path = shared / "jets" / "jetclass_500.npz"
    refused(lambda: pcdiff.read(path), path, "'label' holds", "--option types=")
    assert any("label holds 0 to 9" in note and "--option types=" in note for note in pcdiff.inspect(path).notes)
    types = tuple("abcdefghij")
    assert pcdiff.read(path, types=types).schema.cloud("type").categories == types
    assert not any("holds" in note for note in pcdiff.inspect(path, types=types).notes)


def without(arrays: dict, *names: str, **other: object) -> dict:
    return {**{name: array for name, array in arrays.items() if name not in names}, **other}


def changed(arrays: dict, name: str, index: tuple, value: float) -> dict:
    arrays[name][index] = value
    return arrays


@pytest.mark.parametrize(
    ("arrays", "keys"),
    [
        (without(padded(), "y", z=np.zeros(3)), ("'y'", "there are: X, z")),
        (without(padded(), "y", y=np.zeros(2)), ("'y'", "(2,)", "(3)")),
        (without(padded(), X=padded()["X"][..., :3]), ("'X'", "(3, 6, 3)", "(n, n, 4)")),
        (without(padded(), X=padded()["X"].astype(object)), ("'X'", "object")),
        (without(padded(), X=np.asfortranarray(padded()["X"])), ("'X'", "row by row")),
        (changed(padded(), "X", (1, 0, 1), np.nan), ("'rapidity'", "cloud 1")),
        (changed(padded(), "X", (1, 0, 0), np.nan), ("'pt'", "cloud 1")),
        (changed(padded(), "X", (2, 0, 0), -3), ("'pt' is -3", "cloud 2")),
        (changed(padded(), "X", (2, 0, 3), 22.5), ("22.5", "whole")),
        (changed(padded(), "X", (2, 0, 3), np.inf), ("inf", "whole")),
        (changed(padded(), "y", (0,), 3), ("'y' holds 3", "option types")),
        (changed(padded(), "y", (0,), 0.5), ("y holds 0.5",)),
        (changed(flat(), "counts", (0,), 4), ("'counts'", "10", "9")),
        (changed(flat(), "counts", (0,), -1), ("'counts'",)),
        (changed(flat(), "p4", (0, 3), -1), ("'energy'",)),
        (without(flat(), "label"), ("'label'",)),
        (without(flat(), "counts", count=COUNTS), ("'counts'", "did you mean 'count'")),
    ],
)
def test_bad_arrays(tmp_path: Path, arrays: dict, keys: tuple[str, ...], refused) -> None:
    path = save(tmp_path / "a.npz", arrays)
    refused(lambda: pcdiff.read(path), path, *keys)


@pytest.mark.parametrize("kind", ["truncated", "text", "nothing"])
def test_broken_files(tmp_path: Path, kind: str, refused) -> None:
    path = save(tmp_path / "a.npz", padded())
    data = path.read_bytes()
    path.write_bytes({"truncated": data[:-100], "text": b"pt,eta\n" * 50, "nothing": b""}[kind])
    refused(lambda: pcdiff.read(path), path, "npz")


def test_flipped_bits_are_found(tmp_path: Path, refused) -> None:
    path = save(tmp_path / "a.npz", padded(), compressed=False)
    data = bytearray(path.read_bytes())
    data[400] ^= 255
    path.write_bytes(data)
    refused(lambda: pcdiff.read(path), path, "'X'", "damaged")


def test_damage_anywhere_is_one_line_or_harms_nothing(tmp_path: Path) -> None:
    """Each byte of a compressed file in turn: in the archive, in a compressed member, in the header of an array."""
    path = save(tmp_path / "a.npz", padded())
    whole, data = pcdiff.read(path), path.read_bytes()
    refusals = []
    for place in range(len(data)):
        for bits in (1, 32, 255):
            path.write_bytes(data[:place] + bytes([data[place] ^ bits]) + data[place + 1 :])
            try:
                found = pcdiff.read(path, format="energyflow")
            except DataError as error:
                refusals.append(str(error))
            else:
                assert found.equals(whole)
    assert len(refusals) > len(data)
    assert all(str(path) in refusal for refusal in refusals)


def test_a_header_that_promises_too_much(tmp_path: Path, refused) -> None:
    path = tmp_path / "a.npz"
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "<f8", "fortran_order": False, "shape": (10**9, 99, 4)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("X.npy", member.getvalue() + bytes(64))
    refused(lambda: pcdiff.read(path), path, "'X'", "declares")
