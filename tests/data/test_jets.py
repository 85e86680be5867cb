from __future__ import annotations

import hashlib
import importlib.util
import re
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest

from pcdiff import io
from pcdiff.cli.parser import parse
from pcdiff.clouds import PointClouds
from pcdiff.data import jets, make_jets
from pcdiff.data.pythia import Recipe
from pcdiff.errors import DataError
from pcdiff.resources import find
from pcdiff.schema import JET_TYPES

needs_pythia = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("pythia8mc", "fastjet")),
    reason="the extra pythia is not installed",
)


CARD = find("datasets/jets/README.md").read_text(encoding="utf-8")


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jets, "_SHARD", 25)


def make(path: Path, **changes: Any) -> Path:
    return make_jets(path, **{"count": 40, "workers": 1, "progress": False, **changes})


@needs_pythia
@pytest.mark.usefixtures("small_shards")
def test_the_file_does_not_depend_on_workers_nor_on_interruptions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make(tmp_path / "one.hdf5")
    assert not (tmp_path / "one.hdf5.parts").exists()
    monkeypatch.setattr(jets.shutil, "rmtree", lambda folder: None)
    two = make(tmp_path / "two.hdf5", workers=2)
    assert two.read_bytes() == one.read_bytes()

    parts = sorted((tmp_path / "two.hdf5.parts").glob("*.hdf5"))
    assert [len(io.read(part)) for part in parts] == [25, 15]
    with pytest.raises(DataError, match=r"holds shards made with other settings \(radius 0.4, now 0.5\)"):
        make(tmp_path / "two.hdf5", radius=0.5)
    with pytest.raises(DataError, match=r"holds shards made with other settings \(max_ctau None, now 10.0\)"):
        make(tmp_path / "two.hdf5", max_ctau=10.0)
    kept = parts[0].stat().st_mtime_ns
    parts[1].unlink()
    two.unlink()
    make(tmp_path / "two.hdf5")
    assert two.read_bytes() == one.read_bytes()
    assert parts[0].stat().st_mtime_ns == kept


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> PointClouds:
    """Gluon jets with all their constituents."""
    return io.read(
        make(tmp_path_factory.mktemp("jets") / "g.hdf5", count=300, constituents=None, pt=(900, 1500), eta=1)
    )


@needs_pythia
def test_jets_pass_the_cuts(whole: PointClouds) -> None:
    assert np.all((whole.feature("pt") > 900) & (whole.feature("pt") < 1500))
    assert np.all(np.abs(whole.feature("eta")) < 1)
    assert np.all(np.diff(whole.column("ptrel"))[~np.isin(np.arange(1, whole.num_points), whole.offsets)] <= 0)
    assert whole.provenance["pythia_settings"][2:4] == ["PhaseSpace:pTHatMin = 1162.5", "PhaseSpace:pTHatMax = 1237.5"]


@needs_pythia
def test_constituents_add_up_to_the_jet(whole: PointClouds) -> None:
    assert np.array_equal(whole.counts, whole.feature("num_constituents"))

    def total(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, whole.offsets[:-1])

    pt = whole.column("ptrel").astype(float)
    phi = whole.column("phirel").astype(float)
    eta = whole.column("etarel") + np.repeat(whole.feature("eta").astype(float), whole.counts)
    x, y, z = total(pt * np.cos(phi)), total(pt * np.sin(phi)), total(pt * np.sinh(eta))
    # Three-momenta add up to single precision, for they do not depend on the constituents' masses.
    np.testing.assert_allclose(x, 1, atol=2e-6)
    np.testing.assert_allclose(y, 0, atol=2e-6)
    np.testing.assert_allclose(z, np.sinh(whole.feature("eta").astype(float)), atol=2e-6)

    # The masses of hadrons add to the jet's energy, by less than 0.3 per cent: pions and nucleons are light beside their
    # momenta. In the jet's mass, a small difference of large numbers, this is several per cent.
    momentum = whole.feature("pt") * np.sqrt(x**2 + y**2 + z**2)
    massless = whole.feature("pt") * total(pt * np.cosh(eta))
    energy = np.hypot(momentum, whole.feature("mass").astype(float))
    assert np.all((massless < energy) & (massless > 0.997 * energy))
    lack = 1 - np.sqrt(massless**2 - momentum**2) / whole.feature("mass")
    assert 0.04 < np.median(lack) < 0.11


@needs_pythia
def test_bosons_that_decay_give_jets_at_their_mass(tmp_path: Path) -> None:
    found = io.read(make(tmp_path / "w.hdf5", process="w", count=200))
    assert set(found.feature("type")) == {JET_TYPES.index("w")}
    assert found.counts.max() <= 30
    # 80.4 GeV, smeared by radiation out of the jet and by the underlying event into it.
    assert np.mean(np.abs(found.feature("mass") - 80.4) < 12) > 0.6


def recipe(**changes: Any) -> Recipe:
    """The recipe of the embedded jets but for some changes."""
    plain = {"process": "g", "count": 40, "seed": 0, "radius": 0.4, "pt": (800.0, 1600.0), "eta": 2.0}
    return Recipe(**{**plain, "constituents": 30, "significant_bits": 14, "shard_size": 2_000, **changes})


@needs_pythia
def test_particles_that_live_long_stay_whole() -> None:
    """c tau of K-short 26.8 mm, Lambda 78.9 mm; of D0 0.12 mm, pi0 25 nm (Review of Particle Physics)."""

    import pythia8mc

    def numbers(chosen: Recipe) -> set[int]:
        pythia = pythia8mc.Pythia("", False)
        for setting in ("Print:quiet = on", *chosen.settings, "Random:setSeed = on", "Random:seed = 1"):
            pythia.readString(setting)
        assert pythia.init()
        particles = pythia.nextBatch(100).prt
        return set(ak.to_numpy(abs(ak.flatten(particles.id[particles.status > 0]))).tolist())

    plain, whole, between = (numbers(recipe(max_ctau=length)) for length in (None, 10.0, 50.0))
    assert {310, 3122, 421, 111}.isdisjoint(plain)
    assert whole >= {310, 3122}
    assert whole.isdisjoint({421, 111})
    assert 3122 in between
    assert 310 not in between


@pytest.mark.slow
@needs_pythia
def test_cuts_that_no_jet_passes_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"3000 events in a row gave no z jet .*eta\| < 1e-06"):
        make(tmp_path / "z.hdf5", process="z", eta=1e-6)
    assert not (tmp_path / "z.hdf5").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"process": "b"}, "no process 'b': there are: g, q, t, w, z"),
        ({"count": 0}, "count is 0; expected at least 1"),
        ({"pt": (900, 800)}, r"pt is \(900.0, 800.0\); expected two rising values in GeV below 6500"),
        ({"eta": 0}, "eta is 0; expected above 0 and at most 5"),
        ({"radius": 4}, "radius is 4; expected a jet radius above 0 and at most 1.5"),
        ({"seed": -1}, "seed is -1; expected a whole number from 0"),
        ({"constituents": 0}, "constituents is 0; expected at least 1"),
        ({"significant_bits": 2}, "significant_bits is 2; expected 8 to 24"),
        ({"max_ctau": 0}, "max_ctau is 0; expected a length in mm above 0"),
        ({"workers": 0}, "workers is 0; expected at least 1"),
    ],
)
def test_bad_arguments(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(tmp_path / "g.hdf5", **changes)
    assert list(tmp_path.iterdir()) == []


SPLITS = {"train": 16_000, "validation": 2_000, "test": 6_000}


@pytest.fixture(scope="module")
def embedded() -> dict[str, PointClouds]:
    return {name: io.read(find(f"datasets/jets/gluon30_{name}.hdf5")) for name in SPLITS}


def test_embedded_splits_have_their_size_and_share_no_jet(embedded: dict[str, PointClouds]) -> None:
    assert {name: len(clouds) for name, clouds in embedded.items()} == SPLITS
    rows = [np.stack([c.feature(n) for n in ("pt", "eta", "mass")], axis=1) for c in embedded.values()]
    assert len(np.unique(np.concatenate(rows), axis=0)) == sum(SPLITS.values())
    assert len({clouds.provenance["seed"] for clouds in embedded.values()}) == 3
    assert sum(find(f"datasets/jets/gluon30_{name}.hdf5").stat().st_size for name in SPLITS) < 8e6


def test_the_embedded_files_are_those_of_the_card() -> None:
    listed = dict(re.findall(r"^\| `gluon30_(\w+)\.hdf5` \| [\d,]+ \| \d \| `(\w{64})` \|$", CARD, re.MULTILINE))
    assert set(listed) == set(SPLITS)
    for name, digest in listed.items():
        assert hashlib.sha256(find(f"datasets/jets/gluon30_{name}.hdf5").read_bytes()).hexdigest() == digest


@needs_pythia
def test_the_commands_of_the_card_are_the_recipes_of_the_embedded_files(embedded: dict[str, PointClouds]) -> None:
    commands = re.findall(r"^    pcdiff (data make jets .* -o datasets/jets/gluon30_(\w+)\.hdf5)$", CARD, re.MULTILINE)
    assert {name for _, name in commands} == set(SPLITS)
    for command, name in commands:
        args = parse(shlex.split(command))
        again = recipe(
            process=args.process, count=args.count, seed=args.seed, significant_bits=args.significant_bits
        ).provenance()
        stored = dict(embedded[name].provenance)
        # Another installation may have other versions of Pythia and FastJet.
        assert set(stored.pop("versions")) == set(again.pop("versions"))
        assert stored == again


@pytest.mark.slow
@needs_pythia
def test_an_embedded_split_is_made_again(tmp_path: Path, embedded: dict[str, PointClouds]) -> None:
    stored = embedded["validation"]
    if any(version(name) != found for name, found in stored.provenance["versions"].items()):
        pytest.skip("another version of Pythia or FastJet")
    again = io.read(make(tmp_path / "g.hdf5", count=2_000, seed=2, significant_bits=14))
    assert again.equals(stored)
    assert again.provenance == stored.provenance


def test_embedded_columns_are_rounded_to_14_bits(embedded: dict[str, PointClouds]) -> None:
    for name in ("etarel", "phirel", "ptrel"):
        # Of the 24 significant bits of float32 the last 10 are zero, the 11th is not always.
        bits = embedded["train"].column(name).view(np.uint32)
        assert not np.any(bits & 0x3FF)
        assert np.any(bits & 0x400)


def test_embedded_splits_follow_one_distribution(embedded: dict[str, PointClouds]) -> None:
    for name in ("pt", "eta", "mass", "num_constituents"):
        train, test = (embedded[split].feature(name).astype(float) for split in ("train", "test"))
        error = np.hypot(train.std() / np.sqrt(len(train)), test.std() / np.sqrt(len(test)))
        assert abs(train.mean() - test.mean()) < 4 * error


def test_embedded_moments_are_those_of_the_recipe(embedded: dict[str, PointClouds]) -> None:
    jets = PointClouds.concatenate(list(embedded.values()))

    # Means and deviations of 24,000 jets by an independent program of the same physics, particle by particle in Python.
    for name, mean, deviation in (("pt", 1124.0, 133.8), ("mass", 99.63, 45.88), ("num_constituents", 72.56, 23.20)):
        values = jets.feature(name).astype(float)
        error = np.sqrt(2 / len(values)) * values.std()
        assert abs(values.mean() - mean) < 4 * error
        # The error of a deviation, for a tail no heavier than a kurtosis of 9.
        assert abs(values.std() - deviation) < 4 * error * np.sqrt((9 - 1) / 4)
    # Errors of samples of this size, from resampling whole jets.
    for name, moment, value, error in (
        ("etarel", np.std, 0.07675, 0.00027),
        ("phirel", np.std, 0.07592, 0.00026),
        ("ptrel", np.mean, 0.03001, 0.00002),
        ("ptrel", np.std, 0.03811, 0.00012),
    ):
        assert abs(moment(jets.column(name).astype(float)) - value) < 4 * np.sqrt(2) * error
