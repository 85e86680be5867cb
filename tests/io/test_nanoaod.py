"""CMS NanoAOD: which candidate belongs to which jet, in both layouts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from pcdiff.io import registry

LAYOUTS = {"v15": ("FatJetPFCand", "pfCandIdx", "PFCand"), "pfnano": ("FatJetPFCands", "pFCandsIdx", "PFCands")}

# Three events. The first has two jets, whose links come mixed, and a candidate of no stored jet; the second has a jet
# without candidates and one that shares candidate 0 with no one; the third has no jet.
JETS = [[400.0, 300.0], [250.0, 200.0], []]
CANDIDATES = [[1.0, 5.0, 3.0, 2.0, 4.0], [7.0, 8.0], [9.0]]
JET_INDEX = [[1, 0, 0, -1, 1], [1, 1], []]
CANDIDATE_INDEX = [[0, 2, 1, 4, 3], [0, 1], []]
EXPECTED_PT = [[5.0, 3.0], [2.0, 1.0], [8.0, 7.0]]


def make_file(
    path: Path,
    layout: str,
    *,
    jet_index: object = JET_INDEX,
    candidate_index: object = CANDIDATE_INDEX,
    charge: bool = False,
    ntuple: bool = False,
) -> Path:
    link, index, candidates = LAYOUTS[layout]
    pt = ak.values_astype(ak.Array(CANDIDATES), np.float32)
    jet = ak.values_astype(ak.Array(JETS), np.float32)
    branches = {
        "event": np.arange(3),
        **{f"FatJet_{name}": jet * scale for name, scale in (("pt", 1), ("eta", 0.001), ("phi", 0.01), ("mass", 0.1))},
        **{f"{candidates}_{name}": pt * scale for name, scale in (("pt", 1), ("eta", 0.1), ("phi", -0.1), ("mass", 0))},
        f"{candidates}_pdgId": ak.values_astype(pt * 100, np.int32),
        f"{link}_jetIdx": ak.values_astype(ak.Array(jet_index), np.int32),
        f"{link}_{index}": ak.values_astype(ak.Array(candidate_index), np.int32),
    }
    if charge:
        branches[f"{candidates}_charge"] = ak.values_astype(pt, np.int32)
    with uproot.recreate(path) as file:
        (file.mkrntuple if ntuple else file.mktree)("Events", branches)
    return path


@pytest.mark.parametrize("ntuple", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_links_are_followed_and_constituents_fall_in_pt(tmp_path: Path, layout: str, ntuple: bool) -> None:
    jets = registry.read(make_file(tmp_path / "nano.root", layout, ntuple=ntuple))
    assert jets.points.pt.to_list() == EXPECTED_PT
    np.testing.assert_array_equal(jets.column("pdgId"), 100 * jets.column("pt"))
    np.testing.assert_array_equal(jets.column("eta"), np.float32(0.1) * jets.column("pt"))
    # The jet of 250 GeV has no candidates.
    assert jets.feature("pt").tolist() == [400, 300, 200]
    assert jets.feature("mass") == pytest.approx([40, 30, 20])
    assert jets.schema.point_names == ("pt", "eta", "phi", "mass", "pdgId")
    assert jets.schema.point("pt").unit == "GeV"


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_pieces_join_to_the_whole(tmp_path: Path, size: int) -> None:
    path = make_file(tmp_path / "nano.root", "v15")
    pieces = list(registry.iterate(path, step_size=size))
    assert max(map(len, pieces)) <= size
    assert [jet for piece in pieces for jet in piece.points.pt.to_list()] == EXPECTED_PT


def test_charge_is_read_where_present(tmp_path: Path) -> None:
    jets = registry.read(make_file(tmp_path / "nano.root", "pfnano", charge=True))
    np.testing.assert_array_equal(jets.column("charge"), jets.column("pt"))


def test_inspect_counts_jets_that_are_left_out(tmp_path: Path) -> None:
    found = registry.inspect(make_file(tmp_path / "nano.root", "v15"))
    assert (found.format, found.clouds) == ("nanoaod", 3)
    assert found.notes == ("3 of 4 FatJet have candidates; the others are left out",)


def test_inspect_names_the_columns_of_jets_and_of_candidates(tmp_path: Path) -> None:
    found = registry.inspect(make_file(tmp_path / "nano.root", "v15"))
    shown = {column.source: column.feature for column in found.columns}
    assert shown == {
        "FatJetPFCand_jetIdx": "",
        "FatJetPFCand_pfCandIdx": "",
        **{f"{what}_{name}": name for what in ("FatJet", "PFCand") for name in ("pt", "eta", "phi", "mass")},
        "PFCand_pdgId": "pdgId",
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_index_out_of_range_is_refused(tmp_path: Path, refused: Callable[..., None], layout: str) -> None:
    link, index, _ = LAYOUTS[layout]
    for wrong in (2, -2):
        path = make_file(tmp_path / "nano.root", layout, jet_index=[[1, 0, wrong, -1, 1], [1, 1], []])
        refused(lambda path=path: registry.read(path), path, f"'{link}_jetIdx'", f"is {wrong}", "one of 2")
    for wrong in (2, -1):
        path = make_file(tmp_path / "nano.root", layout, candidate_index=[[0, 2, 1, 4, 3], [0, wrong], []])
        refused(lambda path=path: registry.read(path), path, f"'{link}_{index}'", f"is {wrong}", "one of 2")


def test_links_of_different_length_are_refused(tmp_path: Path, refused: Callable[..., None]) -> None:
    path = make_file(tmp_path / "nano.root", "v15", jet_index=[[1, 0, 0, 1], [1, 1], []])
    refused(
        lambda: registry.read(path), path, "FatJetPFCand_jetIdx", "FatJetPFCand_pfCandIdx", "different size: 4 and 5"
    )


def test_other_jets_are_suggested(tmp_path: Path, refused: Callable[..., None]) -> None:
    path = make_file(tmp_path / "nano.root", "v15")
    refused(lambda: registry.read(path, jets="Jet"), path, "no candidates for jets='Jet': did you mean 'FatJet'?")
    refused(lambda: registry.read(path, jet="Jet"), path, "did you mean 'jets'?")


def test_plain_nanoaod_is_named(tmp_path: Path, refused: Callable[..., None]) -> None:
    path = tmp_path / "nano.root"
    with uproot.recreate(path) as file:
        file.mktree("Events", {"FatJet_pt": ak.Array(JETS)})
    refused(lambda: registry.read(path, format="nanoaod"), path, "plain NanoAOD")


def test_real_cms_file(shared: Path) -> None:
    """Top pairs in NanoAOD 15: counts from the file's description."""
    jets = registry.read(shared / "cms" / "nano_tt_v15.root")
    assert (len(jets), jets.num_points) == (62, 2374)
    pt = jets.points.pt
    assert ak.all(pt[:, :-1] >= pt[:, 1:])
    # Candidates carry most of the momentum of a jet, whose own is calibrated, and lie within its radius of 0.8.
    momenta = jets.momenta()
    fraction = ak.to_numpy(ak.sum(momenta, axis=1).pt) / jets.feature("pt")
    assert 0.8 < np.median(fraction) < 1.1
    relative = jets.relative()
    assert np.quantile(np.hypot(ak.flatten(relative.etarel), ak.flatten(relative.phirel)), 0.99) < 0.85
