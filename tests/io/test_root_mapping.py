"""Any tree through a mapping: names, units, events with many clouds, and errors a user can act on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot

from pcdiff.errors import DataError
from pcdiff.io import registry

PT = [[3000.0, 1000.0], [500.0], [4000.0, 3000.0, 2000.0]]
ETA = [[0.1, 0.2], [0.3], [0.4, 0.5, 0.6]]
JET = [4000.0, 500.0, 9000.0]


def write_tree(path: Path, ntuple: bool = False, **trees: dict[str, Any]) -> Path:
    with uproot.recreate(path) as file:
        for name, branches in trees.items():
            (file.mkrntuple if ntuple else file.mktree)(
                name, {key: ak.Array(values) for key, values in branches.items()}
            )
    return path


@pytest.fixture(params=[False, True], ids=["TTree", "RNTuple"])
def flat(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """One entry is one cloud."""
    return write_tree(
        tmp_path / "flat.root",
        request.param,
        CollectionTree={"p_pt": PT, "p_eta": ETA, "j_pt": JET, "label": [0, 1, 1]},
    )


def test_names_units_and_types(flat: Path) -> None:
    jets = registry.read(
        flat,
        points={"pt": {"branch": "p_pt", "scale": 0.001}, "eta": "p_eta"},
        clouds={"pt": {"branch": "j_pt", "scale": 1e-3}, "type": "label"},
        axis="all",
        types=("background", "signal"),
    )
    np.testing.assert_allclose(jets.column("pt"), np.concatenate(PT) / 1000, rtol=1e-15)
    assert jets.points.eta.to_list() == ETA
    np.testing.assert_allclose(jets.feature("pt"), np.array(JET) / 1000, rtol=1e-15)
    assert jets.feature("type").tolist() == [0, 1, 1]
    assert jets.schema.cloud("type").categories == ("background", "signal")
    assert jets.schema.axis == "all"
    assert jets.schema.point("pt").unit == "GeV"


def test_a_number_of_pieces(flat: Path) -> None:
    pieces = list(registry.iterate(flat, step_size=2, points={"pt": "p_pt"}, clouds={"pt": "j_pt"}))
    assert [len(piece) for piece in pieces] == [2, 1]
    assert [jet for piece in pieces for jet in piece.points.pt.to_list()] == PT


def test_events_of_many_jets_are_opened(tmp_path: Path) -> None:
    """A list of lists an event becomes one cloud a jet; the same as one entry a jet."""
    nested = [[PT[0], PT[1]], [], [PT[2]]]
    path = write_tree(
        tmp_path / "x.root", True, Events={"pt": nested, "jet": [[4000.0, 500.0], [], [9000.0]], "met": [1.0, 2.0, 3.0]}
    )
    jets = registry.read(path, points={"pt": "pt"}, clouds={"pt": "jet"})
    assert jets.points.pt.to_list() == PT
    assert jets.feature("pt").tolist() == JET
    assert [len(piece) for piece in registry.iterate(path, step_size=1, points={"pt": "pt"})] == [1, 1, 1]


def test_fields_inside_a_collection(tmp_path: Path) -> None:
    path = tmp_path / "x.root"
    with uproot.recreate(path) as file:
        file.mkrntuple("Events", {"part": ak.zip({"pt": ak.Array(PT), "eta": ak.Array(ETA)})})
    jets = registry.read(path, points={"pt": "part.pt", "eta": "part.eta"})
    assert jets.points.pt.to_list() == PT
    assert jets.points.eta.to_list() == ETA


def test_events_need_one_number_a_jet(tmp_path: Path, refused: Callable[..., None]) -> None:
    path = write_tree(
        tmp_path / "x.root", True, Events={"pt": [[PT[0]], [PT[1]]], "met": [1.0, 2.0], "jets": [[1.0, 2.0], [3.0]]}
    )
    refused(
        lambda: registry.read(path, points={"pt": "pt"}, clouds={"met": "met"}), path, "'met'", "one for each cloud"
    )
    refused(lambda: registry.read(path, points={"pt": "pt"}, clouds={"pt": "jets"}), path, "'jets'", "different size")


def test_without_a_mapping_inspect_lists_and_read_asks(flat: Path, refused: Callable[..., None]) -> None:
    found = registry.inspect(flat)
    assert (found.format, found.clouds) == ("root-mapping", 3)
    assert {"p_pt", "p_eta", "j_pt", "label"} <= {column.source for column in found.columns}
    assert all(column.type and not column.feature for column in found.columns)
    assert "3 entries" in found.notes[0]
    refused(
        lambda: registry.read(flat, format="root-mapping"), flat, "for example points={", "'CollectionTree'", "p_pt"
    )


def test_inspect_shows_the_mapping(flat: Path) -> None:
    found = registry.inspect(flat, points={"pt": "p_pt"}, clouds={"pt": "j_pt"})
    features = {column.source: column.feature for column in found.columns}
    assert (features["p_pt"], features["j_pt"], features["p_eta"]) == ("pt", "pt", "")


def test_several_trees_need_a_choice(tmp_path: Path, refused: Callable[..., None]) -> None:
    path = write_tree(tmp_path / "x.root", nominal={"pt": PT}, systematic={"pt": ETA})
    refused(lambda: registry.read(path, points={"pt": "pt"}), path, "tree=", "'nominal' (3 entries)", "'systematic'")
    refused(lambda: registry.read(path, tree="nominall", points={"pt": "pt"}), path, "did you mean 'nominal'?")
    assert registry.read(path, tree="systematic", points={"pt": "pt"}).points.pt.to_list() == ETA
    assert {column.source for column in registry.inspect(path).columns} >= {"nominal/pt", "systematic/pt"}


@pytest.mark.parametrize(
    ("points", "clouds", "keys"),
    [
        ({"pt": "p_ptt"}, {}, ["no branch 'p_ptt'", "did you mean 'p_pt'?"]),
        ({"pt": "p_pt"}, {"pt": "j_ptt"}, ["no branch 'j_ptt'", "did you mean 'j_pt'?"]),
        ({"pt": "j_pt"}, {}, ["'j_pt'", "expected a list of numbers an entry"]),
        ({"pt": "p_pt"}, {"pt": "p_pt"}, ["'p_pt'", "expected one number an entry"]),
        ({"pt": {"branch": "p_pt", "scal": 2}}, {}, ["points.pt", "'scal'", "did you mean 'scale'?"]),
        ({"pt": {"branch": "p_pt", "scale": "MeV"}}, {}, ["points.pt.scale", "'MeV'", "expected a number"]),
        ({"pt": 3}, {}, ["points.pt is 3", "expected a branch"]),
        (["p_pt"], {}, ["option points", "expected a mapping"]),
    ],
)
def test_errors_name_file_and_key(
    flat: Path, refused: Callable[..., None], points: Any, clouds: Any, keys: list[str]
) -> None:
    refused(lambda: registry.read(flat, format="root-mapping", points=points, clouds=clouds), flat, *keys)


def test_lists_of_different_size_are_refused(tmp_path: Path, refused: Callable[..., None]) -> None:
    path = write_tree(tmp_path / "x.root", tree={"pt": PT, "eta": [[1.0, 2.0], [3.0], [4.0]]})
    refused(lambda: registry.read(path, points={"pt": "pt", "eta": "eta"}), path, "'pt' and 'eta'", "3 and 1")


def test_text_is_no_column(tmp_path: Path, refused: Callable[..., None]) -> None:
    path = write_tree(tmp_path / "x.root", True, tree={"pt": PT, "name": ["a", "b", "c"]})
    refused(lambda: registry.read(path, points={"pt": "name"}), path, "'name'", "expected a list of numbers")
    refused(
        lambda: registry.read(path, points={"pt": "pt"}, clouds={"name": "name"}), path, "'name'", "expected one number"
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, refused: Callable[..., None], bad: float) -> None:
    path = write_tree(tmp_path / "x.root", tree={"pt": [[1.0, bad], [2.0]]})
    refused(lambda: registry.read(path, points={"pt": "pt"}), path, "'pt' is not finite", "cloud 0")


def test_an_empty_cloud_is_refused_or_dropped(tmp_path: Path, refused: Callable[..., None]) -> None:
    path = write_tree(tmp_path / "x.root", tree={"pt": [[1.0], [], [2.0]]})
    refused(lambda: registry.read(path, points={"pt": "pt"}), path, "no points")
    assert len(registry.read(path, points={"pt": "pt"}, drop_empty=True)) == 2


def test_a_tree_without_entries_and_a_file_without_trees(tmp_path: Path, refused: Callable[..., None]) -> None:
    empty = write_tree(tmp_path / "empty.root", tree={"pt": ak.Array(PT)[:0]})
    refused(lambda: registry.read(empty, points={"pt": "pt"}), empty, "there are no clouds")
    bare = tmp_path / "bare.root"
    with uproot.recreate(bare) as file:
        file["note"] = "nothing else"
    refused(lambda: registry.read(bare, format="root-mapping", points={"pt": "pt"}), bare, "no tree")


def test_inspect_takes_the_options_of_reading(flat: Path) -> None:
    notes = registry.inspect(
        flat, points={"pt": "p_pt"}, clouds={"type": "label"}, axis="all", types=("background", "signal")
    ).notes
    assert notes[1:] == ("the jet's columns come from all constituents", "types: 0 is background, 1 is signal")
    with pytest.raises(DataError, match="axis is 'some'"):
        registry.inspect(flat, points={"pt": "p_pt"}, axis="some")


def test_a_misspelt_column_is_named_when_momenta_are_asked_for(flat: Path) -> None:
    """Any name may be mapped; only where a standard one is then missing is the nearest named."""
    jets = registry.read(flat, points={"pt": "p_pt", "etaa": "p_eta", "phi": "p_eta"}, clouds={"pt": "j_pt"})
    assert jets.points.etaa.to_list() == ETA
    with pytest.raises(DataError, match=r"'etaa' is no such name, did you mean 'eta'\?.*read from .*flat\.root"):
        jets.momenta()
