"""The registry: which format, which options, whole files, clear refusals."""

from __future__ import annotations

import errno
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import pcdiff
from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.io import Format, formats, registry
from pcdiff.schema import jet_schema

SUFFIXES = pytest.mark.parametrize("suffix", [".hdf5", ".h5", ".parquet"])


def test_formats_are_complete() -> None:
    found = formats()
    assert {"jetnet", "toptagging", "energyflow", "parquet", "root", "nanoaod", "jetclass"} <= set(found)
    for name, known in found.items():
        assert isinstance(known, Format)
        assert known.name == name
        assert known.description


def options_of(function: Callable[..., object]) -> dict[str, object]:
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("name", registry._MODULES)
def test_a_file_is_described_with_the_options_that_read_it(name: str) -> None:
    known = formats()[name]
    assert options_of(known.describe) == options_of(known.iterate)


def test_the_reference_lists_the_options_of_every_reader() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reference" / "formats.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `([\w-]+)` \| `(\w+)` \|", text, re.MULTILINE))
    assert listed == {(name, option) for name, known in formats().items() for option in options_of(known.iterate)}


@pytest.mark.parametrize(("scale", "noted"), [(1.0, False), (1000.0, True)])
def test_inspect_doubts_a_jet_pt_in_mev(tmp_path: Path, jets: PointClouds, scale: float, noted: bool) -> None:
    """Jets of 800 to 1200 GeV, and the same numbers in MeV."""
    features = {name: jets.feature(name) for name in jets.schema.cloud_names}
    features["pt"] = features["pt"] * np.float32(scale)
    points = {name: jets.column(name) for name in jets.schema.point_names}
    path = pcdiff.write(PointClouds.from_flat(points, jets.offsets, features, jets.schema), tmp_path / "a.parquet")
    assert any("looks like MeV; map with scale: 0.001" in note for note in pcdiff.inspect(path).notes) == noted


def test_every_suffix_has_a_format_that_exists() -> None:
    assert {name for names in registry._BY_SUFFIX.values() for name in names} <= set(registry._MODULES)


@SUFFIXES
def test_one_set_many_pieces_and_many_files_are_the_same_data(tmp_path: Path, jets: PointClouds, suffix: str) -> None:
    whole = pcdiff.write(jets, tmp_path / f"whole{suffix}")
    for i, piece in enumerate(jets.split(50)):
        pcdiff.write(piece, tmp_path / f"part{i}{suffix}")
    parts = pcdiff.read(tmp_path / f"part*{suffix}")
    assert pcdiff.read(whole).equals(jets)
    assert parts.equals(jets)


def test_formats_agree_to_the_last_bit(tmp_path: Path, jets: PointClouds) -> None:
    prints = {pcdiff.read(pcdiff.write(jets, tmp_path / f"a{suffix}")).fingerprint() for suffix in (".h5", ".parquet")}
    assert prints == {jets.fingerprint()}


@SUFFIXES
def test_conversion_in_pieces(tmp_path: Path, jets: PointClouds, suffix: str) -> None:
    source = pcdiff.write(jets, tmp_path / "source.parquet")
    target = pcdiff.write(pcdiff.iterate(source, step_size=13), tmp_path / f"target{suffix}")
    assert pcdiff.read(target).equals(jets)


def test_the_same_content_gives_the_same_bytes(tmp_path: Path, jets: PointClouds) -> None:
    for suffix in (".h5", ".parquet"):
        a, b = (pcdiff.write(jets, tmp_path / f"{name}{suffix}").read_bytes() for name in "ab")
        assert a == b


@pytest.mark.parametrize(
    ("call", "keys"),
    [
        (lambda at: pcdiff.read(at / "none.h5"), ("none.h5", "no such file")),
        (lambda at: pcdiff.read(at / "*.h5"), ("*.h5", "no file matches")),
        (pcdiff.read, ("is a folder",)),
        (lambda at: pcdiff.read(at / "a.csv"), ("a.csv", "'.csv'", ".root")),
        (lambda at: pcdiff.read(at / "a.parquet", tyep="g"), ("a.parquet", "'tyep'")),
        (lambda at: pcdiff.read(at / "a.parquet", format="jetnett"), ("'jetnett'", "did you mean 'jetnet'")),
        (lambda at: pcdiff.read(at / "a.parquet", format="jetnet"), ("a.parquet", "HDF5")),
        (lambda at: pcdiff.inspect(at / "a.parquet", step=1), ("a.parquet", "'step'")),
        (lambda at: pcdiff.inspect(at / "*"), ("matches 2 files", "expected one")),
        (lambda at: list(pcdiff.iterate(at / "a.parquet", step_size=0)), ("step_size is 0",)),
        (lambda at: pcdiff.read([at / "a.parquet", at / "none.h5"]), ("none.h5",)),
    ],
)
def test_bad_requests(tmp_path: Path, jets: PointClouds, call, keys: tuple[str, ...]) -> None:
    pcdiff.write(jets, tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("pt")
    with pytest.raises(DataError) as caught:
        call(tmp_path)
    assert "\n" not in str(caught.value)
    for key in keys:
        assert key in str(caught.value)


def test_a_needed_option_is_asked_for(tmp_path: Path, jets: PointClouds, monkeypatch, refused) -> None:
    def iterate(path: Path, step_size: int, *, tree: str) -> Iterator[PointClouds]:
        yield jets

    parquet = registry._format("parquet")
    needy = Format("needy", "", parquet.fits, iterate, parquet.describe)
    monkeypatch.setattr(registry, "_format", lambda name: needy)
    path = tmp_path / "a.parquet"
    path.touch()
    refused(lambda: pcdiff.read(path), path, "needs the option 'tree'")
    assert pcdiff.read(path, tree="x").equals(jets)


def test_files_of_another_schema_are_not_joined(tmp_path: Path, jets: PointClouds, refused) -> None:
    a = pcdiff.write(jets, tmp_path / "a.parquet")
    other = PointClouds.from_flat({"x": [1.0]}, [0, 1], {}, jet_schema(["x"], []))
    b = pcdiff.write(other, tmp_path / "b.parquet")
    refused(lambda: pcdiff.read([a, b]), b, "read them apart")


def test_a_file_without_clouds(tmp_path: Path, jets: PointClouds, refused) -> None:
    for suffix in (".h5", ".parquet"):
        path = pcdiff.write(jets[:0], tmp_path / f"a{suffix}")
        assert pcdiff.inspect(path).clouds == 0
        refused(lambda path=path: pcdiff.read(path), path, "no clouds")


class TestWrite:
    @pytest.mark.parametrize("suffix", [".csv", ""])
    def test_unknown_suffix(self, tmp_path: Path, jets: PointClouds, suffix: str, refused) -> None:
        target = tmp_path / f"a{suffix}"
        refused(lambda: pcdiff.write(jets, target), target, repr(suffix), ".parquet")

    def test_a_format_that_is_only_read(self, tmp_path: Path, jets: PointClouds, refused) -> None:
        target = tmp_path / "a.npz"
        refused(lambda: pcdiff.write(jets, target), target, "'energyflow'", "only read", "jetnet", "parquet", "root")

    @SUFFIXES
    def test_unknown_option(self, tmp_path: Path, jets: PointClouds, suffix: str, refused) -> None:
        target = tmp_path / f"a{suffix}"
        refused(lambda: pcdiff.write(jets, target, sizes=3), target, "'sizes'")

    @SUFFIXES
    @pytest.mark.parametrize("problem", [KeyboardInterrupt, ValueError])
    def test_nothing_is_left_of_a_file_that_was_not_finished(
        self, tmp_path: Path, jets: PointClouds, suffix: str, problem: type
    ) -> None:
        def pieces() -> Iterator[PointClouds]:
            yield jets
            raise problem

        with pytest.raises(problem):
            pcdiff.write(pieces(), tmp_path / f"a{suffix}")
        assert list(tmp_path.iterdir()) == []

    @SUFFIXES
    def test_values_are_checked(self, tmp_path: Path, jets: PointClouds, suffix: str, refused) -> None:
        jets.column("phirel")[3] = np.nan
        target = tmp_path / f"a{suffix}"
        refused(lambda: pcdiff.write(jets, target), target, "'phirel'", "not finite")
        assert list(tmp_path.iterdir()) == []

    @SUFFIXES
    def test_pieces_must_agree(self, tmp_path: Path, jets: PointClouds, suffix: str, refused) -> None:
        def doubled(piece: PointClouds) -> PointClouds:
            points = {name: piece.column(name).astype(np.float64) for name in piece.schema.point_names}
            features = {name: piece.feature(name) for name in piece.schema.cloud_names}
            return PointClouds.from_flat(points, piece.offsets, features, piece.schema)

        other = PointClouds.from_flat({"x": [1.0]}, [0, 1], {}, jet_schema(["x"], []))
        target = tmp_path / f"a{suffix}"
        for second in (other, doubled(jets)):
            refused(lambda second=second: pcdiff.write([jets, second], target), target, "pieces differ")
        assert list(tmp_path.iterdir()) == []

    @SUFFIXES
    def test_nothing_to_write(self, tmp_path: Path, suffix: str, refused) -> None:
        target = tmp_path / f"a{suffix}"
        refused(lambda: pcdiff.write([], target), target, "nothing to write")
        assert list(tmp_path.iterdir()) == []

    @SUFFIXES
    def test_a_full_disk_is_seen_before_writing(
        self, tmp_path: Path, jets: PointClouds, suffix: str, monkeypatch, refused
    ) -> None:
        monkeypatch.setattr("pcdiff.files.shutil.disk_usage", lambda path: type("Usage", (), {"free": 100}))
        target = tmp_path / f"a{suffix}"
        refused(lambda: pcdiff.write(jets, target), target, "not enough disk")
        assert list(tmp_path.iterdir()) == []

    def test_a_disk_that_fills_while_writing(self, tmp_path: Path, jets: PointClouds, monkeypatch, refused) -> None:
        def write(pieces: Iterator[PointClouds], path: Path, metadata: dict) -> None:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

        parquet = registry._format("parquet")
        full = Format("parquet", "", parquet.fits, parquet.iterate, parquet.describe, write)
        monkeypatch.setattr(registry, "_format", lambda name: full)
        refused(lambda: pcdiff.write(jets, tmp_path / "a.parquet"), tmp_path / "a.parquet", "not enough disk")
        assert list(tmp_path.iterdir()) == []

    def test_an_older_file_stays_until_the_new_one_is_whole(self, tmp_path: Path, jets: PointClouds) -> None:
        target = pcdiff.write(jets[:5], tmp_path / "a.h5")
        with pytest.raises(DataError):
            pcdiff.write(jets, target, size=1)
        assert pcdiff.read(target).equals(jets[:5])
