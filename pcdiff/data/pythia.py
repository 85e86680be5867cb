"""Jets of one random seed: collisions of Pythia 8, clustered with FastJet.

Proton collisions at 13 TeV, Monash tune (arXiv:1404.5630), underlying event on, no detector. Particles with a mean c tau above
10 mm, unless the recipe says otherwise, do not decay. The visible final state within ``|eta| < 5`` is clustered with anti-kT
(arXiv:0802.1189); of the two leading jets of an event those inside the windows of pT and eta are kept, each with its leading
constituents. Pythia 8.3: arXiv:2203.11601; FastJet: arXiv:1111.6097.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import reduce
from importlib.metadata import version
from operator import or_
from typing import Any

import awkward as ak
import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds, offsets_of
from pcdiff.errors import DataError, optional, suggest
from pcdiff.schema import JET_TYPES, PARTICLE_CLASSES, jet_schema

__all__ = ["PROCESSES", "Recipe", "selected_jets"]

_ENERGY = 13_000.0
_VISIBLE_ETA = 5.0
_NEUTRINOS = (12, 14, 16)
_EVENTS = 100
_POINTS = ("etarel", "phirel", "ptrel")
_CLOUDS = ("pt", "eta", "mass", "num_constituents", "type")
# By the absolute PDG number; what is none of these is a hadron.
_CLASSES = {11: "electron", 13: "muon", 22: "photon"}


@dataclass(frozen=True)
class Process:
    """How jets of one type are made.

    Attributes:
        description: one line for people.
        settings: Pythia settings that choose the hard process and the decays.
        partons: PDG numbers of what a jet must be near to (delta R below the jet radius); none for gluons, where all that
            leaves the hard process is gluons.
        decays: whether these are particles that decay, taken at their last appearance in the event record, or
            partons as they leave the hard process.
    """

    description: str
    settings: tuple[str, ...]
    partons: tuple[int, ...] = ()
    decays: bool = False


_TO_QUARKS = ("onMode = off", "onIfAny = 1 2 3 4 5")

PROCESSES: Mapping[str, Process] = {
    "g": Process("gluons: g g -> g g and q qbar -> g g", ("HardQCD:gg2gg = on", "HardQCD:qqbar2gg = on")),
    "q": Process(
        "light quarks u, d, s: q q -> q q, g g -> q qbar and q qbar -> q' qbar'",
        ("HardQCD:qq2qq = on", "HardQCD:gg2qqbar = on", "HardQCD:qqbar2qqbarNew = on"),
        partons=(1, 2, 3),
    ),
    "t": Process(
        "top quarks that decay to quarks: g g -> t tbar and q qbar -> t tbar",
        ("Top:gg2ttbar = on", "Top:qqbar2ttbar = on", *(f"24:{text}" for text in _TO_QUARKS)),
        partons=(6,),
        decays=True,
    ),
    "w": Process(
        "W bosons that decay to quarks: q qbar -> W+ W-",
        ("WeakDoubleBoson:ffbar2WW = on", *(f"24:{text}" for text in _TO_QUARKS)),
        partons=(24,),
        decays=True,
    ),
    "z": Process(
        "Z bosons that decay to quarks: q qbar -> Z Z",
        ("WeakDoubleBoson:ffbar2gmZgmZ = on", "WeakZ0:gmZmode = 2", *(f"23:{text}" for text in _TO_QUARKS)),
        partons=(23,),
        decays=True,
    ),
}


@dataclass(frozen=True)
class Recipe:
    """All that decides which jets come out."""

    process: str
    count: int
    seed: int
    radius: float
    pt: tuple[float, float]
    eta: float
    constituents: int | None
    significant_bits: int | None
    shard_size: int
    max_ctau: float | None = 10.0
    labels: bool = False

    def __post_init__(self) -> None:
        low, high = self.pt
        bits, ctau = self.significant_bits, self.max_ctau
        for name, value, good, wanted in (
            ("count", self.count, self.count >= 1, "at least 1"),
            ("seed", self.seed, self.seed >= 0, "a whole number from 0"),
            ("radius", self.radius, 0 < self.radius <= 1.5, "a jet radius above 0 and at most 1.5"),
            ("pt", self.pt, 0 < low < high < _ENERGY / 2, f"two rising values in GeV below {_ENERGY / 2:g}"),
            ("eta", self.eta, 0 < self.eta <= _VISIBLE_ETA, f"above 0 and at most {_VISIBLE_ETA:g}"),
            ("constituents", self.constituents, self.constituents is None or self.constituents >= 1, "at least 1"),
            ("significant_bits", bits, bits is None or 8 <= bits <= 24, "8 to 24"),
            ("max_ctau", ctau, ctau is None or 0 < ctau < math.inf, "a length in mm above 0, or None"),
        ):
            if not good:
                raise DataError(f"make jets: {name} is {value}; expected {wanted}")
        if self.process not in PROCESSES:
            raise DataError(f"make jets: no process {self.process!r}: {suggest(self.process, PROCESSES)}")

    @property
    def shards(self) -> int:
        return math.ceil(self.count / self.shard_size)

    def size(self, shard: int) -> int:
        """Number of jets in a shard: the last one may be smaller."""
        return min(self.shard_size, self.count - shard * self.shard_size)

    def pythia_seed(self, shard: int) -> int:
        """A seed that Pythia accepts, 1 to 900,000,000."""
        state = np.random.SeedSequence([self.seed, JET_TYPES.index(self.process), shard]).generate_state(1, np.uint64)
        return int(state[0] % 900_000_000) + 1

    @property
    def settings(self) -> list[str]:
        """The Pythia settings, without the random seed."""
        low, high = self.pt
        # A narrow window about the middle: nearly all jets then lie inside the pT cuts, and their spectrum is a peak.
        middle, half = (low + high) / 2, (high - low) / 16
        settings = [
            f"Beams:eCM = {_ENERGY:g}",
            "Tune:pp = 14",
            f"PhaseSpace:pTHatMin = {middle - half:g}",
            f"PhaseSpace:pTHatMax = {middle + half:g}",
            *PROCESSES[self.process].settings,
        ]
        if self.max_ctau is not None:
            settings += ["ParticleDecays:limitTau0 = on", f"ParticleDecays:tau0Max = {self.max_ctau:g}"]
        return settings

    def provenance(self) -> dict[str, Any]:
        """The whole recipe as plain data: what is stored with the jets.

        The largest lifetime is stored only where there is one, for in recipes of the time before there was one all decays; labels
        likewise.
        """
        later = {"max_ctau": None, "labels": False}
        chosen = {name: value for name, value in asdict(self).items() if name not in later or value != later[name]}
        return {
            "recipe": "pcdiff.data.make_jets",
            **chosen,
            "pt": list(self.pt),
            "jets": f"anti-kT, visible final state with |eta| < {_VISIBLE_ETA:g}, the two leading jets of an event",
            "pythia_settings": self.settings,
            "pythia_seeds": [self.pythia_seed(shard) for shard in range(self.shards)],
            "versions": {name: version(name) for name in ("pythia8mc", "fastjet")},
        }


def selected_jets(recipe: Recipe, seed: int) -> Iterator[PointClouds]:
    """Jets that pass the cuts, from 100 events at a time, without end.

    Raises:
        DataError: Pythia does not start, or 3,000 events in a row give no jet.
    """
    pythia = optional("pythia8mc", "pythia").Pythia("", False)
    for setting in ("Print:quiet = on", *recipe.settings, "Random:setSeed = on", f"Random:seed = {seed}"):
        pythia.readString(setting)
    if not pythia.init():
        raise DataError(f"make jets: Pythia does not start with {', '.join(recipe.settings)}")
    barren = 0
    while barren < 30:
        jets = _jets(pythia.nextBatch(_EVENTS).prt, recipe, pythia.particleData)
        barren = 0 if len(jets) else barren + 1
        yield jets
    raise DataError(
        f"make jets: {30 * _EVENTS} events in a row gave no {recipe.process} jet with pT in {recipe.pt} GeV, |eta| < "
        f"{recipe.eta} and R = {recipe.radius}; widen the cuts"
    )


def _jets(particles: ak.Array, recipe: Recipe, table: Any) -> PointClouds:
    """Cluster events, select jets and express their constituents relative to them.

    Args:
        particles: ``events * var * {id, status, daughter1, p: {px, py, pz, e}, ...}``, Pythia's event records.
        table: Pythia's particle data.
    """
    fastjet = optional("fastjet", "pythia")
    seen = _is_visible(particles)
    visible = particles.p[seen]
    momenta = ak.zip({"px": visible.px, "py": visible.py, "pz": visible.pz, "E": visible.e}, with_name="Momentum4D")
    clusters = fastjet.ClusterSequence(momenta, fastjet.JetDefinition(fastjet.antikt_algorithm, recipe.radius))
    jets = clusters.inclusive_jets(recipe.pt[0])
    inside = clusters.constituent_index(recipe.pt[0])

    leading = ak.argsort(jets.pt, axis=1, ascending=False)[:, :2]
    jets, inside = jets[leading], inside[leading]
    keep = (jets.pt > recipe.pt[0]) & (jets.pt < recipe.pt[1]) & (abs(jets.eta) < recipe.eta)
    # A lone photon, once in 20,000 jets of light quarks, is no jet: it has no mass.
    keep = keep & (ak.num(inside, axis=2) > 1)
    if PROCESSES[recipe.process].partons:
        keep = keep & _is_near(jets, _partons(particles, PROCESSES[recipe.process]), recipe.radius)
    jets, inside = jets[keep], inside[keep]

    chosen = ak.flatten(inside, axis=2)
    members = ak.flatten(momenta[chosen], axis=1)
    labels = _labels(ak.to_numpy(ak.flatten(particles.id[seen][chosen])), table) if recipe.labels else {}
    return _relative(ak.flatten(jets), members, ak.to_numpy(ak.flatten(ak.num(inside, axis=2))), labels, recipe)


def _labels(numbers: npt.NDArray[Any], table: Any) -> dict[str, npt.NDArray[np.int32]]:
    """Charge, in units of e, and class of particles of these PDG numbers, shape (P,) each.

    Args:
        table: Pythia's particle data.
    """
    kinds, where = np.unique(numbers, return_inverse=True)
    charges = np.array([table.charge(int(number)) for number in kinds])
    hadrons = [PARTICLE_CLASSES[0] if charge else PARTICLE_CLASSES[1] for charge in charges]
    names = [_CLASSES.get(abs(int(number)), hadron) for number, hadron in zip(kinds, hadrons, strict=True)]
    classes = [PARTICLE_CLASSES.index(name) for name in names]
    return {"charge": charges.astype(np.int32)[where], "particle_class": np.array(classes, np.int32)[where]}


def _is_visible(particles: ak.Array) -> ak.Array:
    """Particles of the final state that a detector could see."""
    invisible = _is_any(particles, _NEUTRINOS)
    # |eta| < 5 as |pz| < pT sinh(5), which holds for particles along the beam too.
    central = abs(particles.p.pz) < np.hypot(particles.p.px, particles.p.py) * np.sinh(_VISIBLE_ETA)
    return (particles.status > 0) & ~invisible & central


def _is_any(particles: ak.Array, numbers: tuple[int, ...]) -> ak.Array:
    """Whether a particle or its antiparticle has one of these PDG numbers."""
    return reduce(or_, (abs(particles.id) == number for number in numbers))


def _partons(particles: ak.Array, process: Process) -> ak.Array:
    """Momenta of what the jets of a process should come from."""
    wanted = _is_any(particles, process.partons)
    if process.decays:
        # The last of several copies of a particle in the record is the one whose daughters are other particles.
        chosen = wanted & (particles.status < 0) & (particles.id[particles.daughter1] != particles.id)
    else:
        # -23: outgoing from the hardest process.
        chosen = wanted & (particles.status == -23)
    momenta = particles.p[chosen]
    return ak.zip({"px": momenta.px, "py": momenta.py, "pz": momenta.pz, "E": momenta.e}, with_name="Momentum4D")


def _is_near(jets: ak.Array, partons: ak.Array, radius: float) -> ak.Array:
    """Per jet, whether a parton of its event lies within delta R < radius in pseudorapidity and azimuth."""
    jet, parton = ak.unzip(ak.cartesian([jets, partons], nested=True))
    return ak.any(jet.deltaR(parton) < radius, axis=2)


def _relative(
    jets: ak.Array,
    members: ak.Array,
    sizes: npt.NDArray[np.int64],
    labels: Mapping[str, npt.NDArray[np.int32]],
    recipe: Recipe,
) -> PointClouds:
    """Jets with the leading of their constituents, by falling transverse momentum.

    Args:
        jets: four-momenta of n jets.
        members: four-momenta of all their constituents, jet by jet.
        sizes: (n,) how many constituents each jet has.
        labels: columns of the constituents that are stored as they are.
    """
    owner = np.repeat(np.arange(len(sizes)), sizes)
    axis = {name: ak.to_numpy(getattr(jets, name)) for name in ("pt", "eta", "phi", "mass")}
    pt, eta, phi = (ak.to_numpy(getattr(members, name)) for name in ("pt", "eta", "phi"))
    order = np.lexsort((-pt, owner))
    turn = (phi - axis["phi"][owner] + np.pi) % (2 * np.pi) - np.pi
    points = {"etarel": eta - axis["eta"][owner], "phirel": turn, "ptrel": pt / axis["pt"][owner]}
    features = {
        "pt": axis["pt"].astype(np.float32),
        "eta": axis["eta"].astype(np.float32),
        "mass": axis["mass"].astype(np.float32),
        "num_constituents": sizes.astype(np.float32),
        "type": np.full(len(sizes), JET_TYPES.index(recipe.process), np.int32),
    }
    columns: dict[str, npt.NDArray[Any]] = {
        name: _rounded(values[order], recipe.significant_bits) for name, values in points.items()
    }
    columns |= {name: values[order] for name, values in labels.items()}
    offsets = offsets_of(sizes)
    schema = jet_schema((*_POINTS, *labels), _CLOUDS, axis="all")
    clouds = PointClouds.from_flat(columns, offsets, features, schema)
    return clouds if recipe.constituents is None else clouds.leading(recipe.constituents)


def _rounded(values: npt.NDArray[np.float64], bits: int | None) -> npt.NDArray[np.float32]:
    """Single precision, rounded to so many significant binary digits."""
    if bits is not None:
        fraction, exponent = np.frexp(values)
        values = np.ldexp(np.round(fraction * 2.0**bits), exponent - bits)
    return values.astype(np.float32)
