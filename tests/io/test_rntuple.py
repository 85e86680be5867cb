"""pcdiff's own ROOT files with an RNTuple: the names of the TTree, and the same clouds in each format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import uproot

from pcdiff.clouds import PointClouds
from pcdiff.io import registry


def test_plain_uproot_finds_the_names_of_the_tree(tmp_path: Path, jets: PointClouds) -> None:
    ntuple_path = registry.write(jets, tmp_path / "ntuple.root", format="rntuple", metadata={"seed": 7})
    tree_path = registry.write(jets, tmp_path / "tree.root")
    with uproot.open(ntuple_path) as ntuple_file, uproot.open(tree_path) as tree_file:
        ntuple, tree = ntuple_file["Jets"], tree_file["Jets"]
        assert ntuple.classname == "ROOT::RNTuple"
        assert set(ntuple.keys()) == set(tree.keys())
        assert ntuple.arrays().to_list() == tree.arrays(ntuple.keys()).to_list()
        np.testing.assert_array_equal(ntuple["nConstituent"].array(), jets.counts)


def test_the_reader_is_found_by_content(tmp_path: Path, jets: PointClouds) -> None:
    path = registry.write(jets, tmp_path / "jets.root", format="rntuple", metadata={"seed": 7})
    found = registry.inspect(path)
    assert (found.format, found.clouds, dict(found.metadata)) == ("rntuple", len(jets), {**jets.provenance, "seed": 7})
    assert {column.source: column.feature for column in found.columns}["Constituent_etarel"] == "etarel"


def test_clouds_pass_from_one_format_to_the_other_unchanged(tmp_path: Path, jets: PointClouds) -> None:
    tree = registry.read(registry.write(jets, tmp_path / "tree.root", format="root"))
    ntuple = registry.read(registry.write(tree.split(50), tmp_path / "ntuple.root", format="rntuple"))
    assert ntuple.equals(jets)
    assert ntuple.provenance == jets.provenance
