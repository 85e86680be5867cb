"""JetClass: momenta, labels, and further columns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import awkward as ak
import numpy as np
import numpy.typing as npt
import pytest
import uproot

from pcdiff.io import registry
from pcdiff.io.jetclass import JETCLASS_TYPES
from pcdiff.schema import PARTICLE_CLASSES


def make_file(
    path: Path,
    counts: npt.NDArray[np.int64],
    labels: npt.NDArray[np.bool_],
    momentum: npt.NDArray[np.float32] | None = None,
) -> dict[str, ak.Array]:
    """A file in the layout of JetClass; its branches are returned too."""
    rng = np.random.default_rng(4)
    total = int(counts.sum())
    if momentum is None:
        space = rng.normal(0, 10, (3, total))
        momentum = np.vstack([space, np.sqrt((space**2).sum(axis=0))]).astype(np.float32)
    particles = {
        **dict(zip(("px", "py", "pz", "energy"), momentum, strict=True)),
        "charge": rng.integers(-1, 2, total).astype(np.float32),
        "d0val": rng.normal(size=total).astype(np.float32),
    }
    # The branches as arXiv:2202.03772 names them.
    flags = ("isChargedHadron", "isNeutralHadron", "isPhoton", "isElectron", "isMuon")
    kinds = rng.integers(0, 5, total)
    particles |= {flag: (kinds == number).astype(np.int32) for number, flag in enumerate(flags)}
    jets = {
        f"jet_{name}": rng.uniform(1, 2, len(counts)).astype(np.float32)
        for name in ("pt", "eta", "phi", "energy", "sdmass")
    }
    branches = {
        **{f"part_{name}": ak.unflatten(values, counts) for name, values in particles.items()},
        **jets,
        "label_QCD": labels[:, 0].astype(np.float32),
        **{f"label_{name}": labels[:, i] for i, name in enumerate(JETCLASS_TYPES) if i},
    }
    with uproot.recreate(path) as file:
        file.mktree("tree", branches)
    return {name: ak.Array(values) for name, values in branches.items()}


def test_columns_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "HToBB_000.root"
    written = make_file(path, np.array([3, 1, 40] * 10), np.eye(10, dtype=bool)[np.arange(30) % 10])
    jets = registry.read(path, extra=("charge", "d0val", "isPhoton"), extra_jets=("sdmass",))
    assert jets.schema.point_names == ("px", "py", "pz", "energy", "charge", "d0val", "isPhoton")
    assert jets.schema.cloud_names == ("pt", "eta", "phi", "energy", "sdmass", "type")
    for name in jets.schema.point_names:
        assert jets.points[name].to_list() == written[f"part_{name}"].to_list()
    for name in ("pt", "eta", "phi", "energy", "sdmass"):
        np.testing.assert_array_equal(jets.feature(name), written[f"jet_{name}"])
    assert jets.feature("type").tolist() == [i % 10 for i in range(30)]
    assert jets.schema.cloud("type").categories == (
        "QCD", "Hbb", "Hcc", "Hgg", "H4q", "Hqql", "Zqq", "Wqq", "Tbqq", "Tbl",
    )  # fmt: skip
    assert (jets.schema.point("d0val").unit, jets.schema.cloud("sdmass").unit) == ("mm", "GeV")
    momenta = jets.momenta()
    np.testing.assert_allclose(
        ak.flatten(momenta.pt), np.hypot(jets.column("px").astype(float), jets.column("py").astype(float))
    )


def test_the_flags_of_a_particle_are_its_class(tmp_path: Path, refused: Callable[..., None]) -> None:
    path = tmp_path / "HToBB_000.root"
    written = make_file(path, np.array([3, 1, 40]), np.eye(10, dtype=bool)[:3])
    jets = registry.read(path, extra=("particle_class", "isMuon"))
    assert jets.schema.point("particle_class").categories == PARTICLE_CLASSES
    kinds = jets.points["particle_class"]
    for name, flag in (("charged hadron", "isChargedHadron"), ("photon", "isPhoton"), ("muon", "isMuon")):
        assert (kinds == PARTICLE_CLASSES.index(name)).to_list() == (written[f"part_{flag}"] == 1).to_list()
    assert jets.points["isMuon"].to_list() == written["part_isMuon"].to_list()
    features = {column.source: column.feature for column in registry.inspect(path, extra=("particle_class",)).columns}
    assert (features["part_isPhoton"], features["part_charge"]) == ("particle_class", "")

    flags = {name: values for name, values in written.items() if not name.startswith("label_")}
    flags["part_isMuon"] = ak.ones_like(written["part_isMuon"])
    with uproot.recreate(path) as file:
        file.mktree("tree", flags | {name: written[name] for name in written if name.startswith("label_")})
    refused(
        lambda: registry.read(path, extra=("particle_class",)),
        path,
        "a particle has 2 of",
        "part_isMuon",
        "exactly one",
    )


def test_default_columns_and_pieces(tmp_path: Path) -> None:
    path = tmp_path / "jetclass.root"
    make_file(path, np.array([2, 5, 1, 7, 3]), np.eye(10, dtype=bool)[[0, 9, 3, 0, 1]])
    whole = registry.read(path)
    assert whole.schema.point_names == ("px", "py", "pz", "energy")
    assert whole.schema.cloud_names == ("pt", "eta", "phi", "energy", "type")
    pieces = list(registry.iterate(path, step_size=2))
    assert [len(piece) for piece in pieces] == [2, 2, 1]
    assert type(whole).concatenate(pieces).equals(whole)


@pytest.mark.parametrize("count", [0, 2])
def test_a_jet_needs_exactly_one_label(tmp_path: Path, refused: Callable[..., None], count: int) -> None:
    path = tmp_path / "jetclass.root"
    labels = np.eye(10, dtype=bool)[[0, 1]]
    labels[1, :] = np.arange(10) < count
    make_file(path, np.array([2, 3]), labels)
    refused(lambda: registry.read(path), path, f"{count} of the ten label_*", "exactly one")


def test_missing_columns_are_named(tmp_path: Path, refused: Callable[..., None]) -> None:
    path = tmp_path / "jetclass.root"
    make_file(path, np.array([2, 3]), np.eye(10, dtype=bool)[[0, 1]])
    for use in (registry.read, registry.inspect):
        refused(lambda use=use: use(path, extra=("charg",)), path, "'part_charg'", "did you mean 'part_charge'?")
        refused(lambda use=use: use(path, extra="charge"), path, "expected a list of names")


def test_inspect(tmp_path: Path) -> None:
    path = tmp_path / "jetclass.root"
    make_file(path, np.array([2, 3]), np.eye(10, dtype=bool)[[0, 1]])
    found = registry.inspect(path, extra=("charge",))
    features = {column.source: column.feature for column in found.columns}
    assert (found.format, found.clouds) == ("jetclass", 2)
    assert (features["part_px"], features["part_charge"], features["part_d0val"]) == ("px", "charge", "")
    assert features["label_Hbb"] == "type"


def test_real_jets(tmp_path: Path, shared: Path) -> None:
    """Real particles in the layout of the file: masses from the reader's momenta are those of the summed components."""
    data = np.load(shared / "jets" / "jetclass_500.npz")
    path = tmp_path / "jetclass.root"
    make_file(path, data["counts"].astype(np.int64), np.eye(10, dtype=bool)[data["label"]], data["p4"].T)
    jets = registry.read(path)
    np.testing.assert_array_equal(jets.feature("type"), data["label"])
    starts = np.concatenate([[0], np.cumsum(data["counts"])[:-1]])
    px, py, pz, energy = np.add.reduceat(data["p4"].astype(np.float64), starts).T
    mass = np.sqrt(energy**2 - px**2 - py**2 - pz**2)
    np.testing.assert_allclose(ak.sum(jets.momenta(), axis=1).mass, mass, rtol=1e-6)
    # Jets of top quarks are heavier than those of quarks and gluons, so the numbers stand for the right names.
    medians = {name: np.median(mass[jets.feature("type") == i]) for i, name in enumerate(JETCLASS_TYPES)}
    assert medians["QCD"] < medians["Wqq"] < medians["Zqq"] < medians["Hbb"] < medians["Tbqq"]
