"""Jet observables as plain functions of :class:`~pcdiff.clouds.PointClouds`.

All are computed from the constituents that were kept, in float64, so that they mean the same for every file format.
Momenta are in GeV, angles in radians. What describes the shape of a jet is computed from the constituents relative to
it (etarel, phirel, ptrel), massless, so that it does not depend on the jet's momentum and exists for files without one.
Where momentum fractions z_i are used, they are those of the summed ptrel of the kept constituents.
"""

from __future__ import annotations

from functools import partial

from pcdiff.physics.jets.composition import CLASS_EDGES, class_composition, class_multiplicity, jet_charge
from pcdiff.physics.jets.correlators import CORRELATOR_EDGES, c2, d2, energy_energy_correlator
from pcdiff.physics.jets.declustering import LUND_EDGES, lund_emissions, lund_plane, soft_drop_mass
from pcdiff.physics.jets.flow_polynomials import flow_polynomial_graphs, flow_polynomials, prime_columns
from pcdiff.physics.jets.images import IMAGE_EDGES, jet_images, sparse_images
from pcdiff.physics.jets.kinematic import (
    eta,
    etarel,
    mass,
    multiplicity,
    phirel,
    pt,
    ptrel,
    relative_mass,
    require_units,
    total_ptrel,
)
from pcdiff.physics.jets.shapes import (
    RANK_EDGES,
    angularity,
    girth,
    les_houches_angularity,
    ptd,
    rank_spectrum,
    ranked_ptrel,
    thrust,
)
from pcdiff.physics.jets.subjettiness import tau1, tau2, tau3, tau21, tau32
from pcdiff.physics.observable import Observable, Profile
from pcdiff.schema import PARTICLE_CLASSES

__all__ = [
    "INFRARED_AND_COLLINEAR_SAFE",
    "OBSERVABLES",
    "PROFILES",
    "angularity",
    "c2",
    "class_composition",
    "class_multiplicity",
    "d2",
    "energy_energy_correlator",
    "eta",
    "etarel",
    "flow_polynomial_graphs",
    "flow_polynomials",
    "girth",
    "jet_charge",
    "jet_images",
    "les_houches_angularity",
    "lund_emissions",
    "lund_plane",
    "mass",
    "multiplicity",
    "phirel",
    "prime_columns",
    "pt",
    "ptd",
    "ptrel",
    "rank_spectrum",
    "ranked_ptrel",
    "relative_mass",
    "require_units",
    "soft_drop_mass",
    "sparse_images",
    "tau1",
    "tau2",
    "tau3",
    "tau21",
    "tau32",
    "thrust",
    "total_ptrel",
]

OBSERVABLES = (
    Observable("relative_mass", "relative jet mass", "cloud", relative_mass, r"relative jet mass $m/p_\mathrm{T}$"),
    Observable("mass", "mass of the kept constituents", "cloud", mass, "mass of the kept constituents $m$", unit="GeV"),
    Observable(
        "soft_drop_mass",
        "soft-drop mass",
        "cloud",
        soft_drop_mass,
        r"soft-drop mass ($z_\mathrm{cut} = 0.1$, $\beta = 0$)",
        unit="GeV",
        log_y=True,
    ),
    Observable(
        "pt",
        "pT of the summed kept constituents",
        "cloud",
        pt,
        r"$p_\mathrm{T}$ of the summed kept constituents",
        unit="GeV",
        log_y=True,
    ),
    Observable(
        "eta",
        "pseudorapidity of the summed kept constituents",
        "cloud",
        eta,
        r"$\eta$ of the summed kept constituents",
    ),
    Observable(
        "multiplicity", "multiplicity", "cloud", multiplicity, "number of constituents $n$", integer=True, log_y=True
    ),
    *(
        Observable(
            f"{name.replace(' ', '_')}_multiplicity",
            f"{name} multiplicity",
            "cloud",
            partial(class_multiplicity, name=name),
            f"number of {name}s",
            integer=True,
            log_y=True,
            columns=("particle_class",),
        )
        for name in PARTICLE_CLASSES
    ),
    Observable(
        "jet_charge",
        "jet charge",
        "cloud",
        jet_charge,
        r"jet charge $Q_\kappa$ ($\kappa = 0.5$)",
        unit="e",
        log_y=True,
        columns=("charge",),
    ),
    Observable("total_ptrel", "sum of ptrel", "cloud", total_ptrel, r"sum of $p_\mathrm{T}^\mathrm{rel}$", log_y=True),
    Observable(
        "les_houches_angularity",
        "Les Houches angularity",
        "cloud",
        les_houches_angularity,
        r"Les Houches angularity $\lambda^1_{1/2}$",
    ),
    Observable("girth", "girth", "cloud", girth, r"girth $\lambda^1_1$"),
    Observable("thrust", "thrust", "cloud", thrust, r"thrust $\lambda^1_2$", log_y=True),
    Observable("ptd", "pTD", "cloud", ptd, r"$p_\mathrm{T}^D$"),
    Observable("tau1", "1-subjettiness", "cloud", tau1, r"$\tau_1$"),
    Observable("tau2", "2-subjettiness", "cloud", tau2, r"$\tau_2$"),
    Observable("tau3", "3-subjettiness", "cloud", tau3, r"$\tau_3$"),
    Observable("tau21", "N-subjettiness ratio tau21", "cloud", tau21, r"$\tau_{21} = \tau_2 / \tau_1$"),
    Observable("tau32", "N-subjettiness ratio tau32", "cloud", tau32, r"$\tau_{32} = \tau_3 / \tau_2$"),
    Observable("c2", "C2 at beta 1", "cloud", c2, r"$C_2$ ($\beta = 1$)"),
    Observable("d2", "D2 at beta 1", "cloud", d2, r"$D_2$ ($\beta = 1$)", log_y=True),
    Observable(
        "leading_ptrel",
        "ptrel of the leading constituent",
        "cloud",
        partial(ranked_ptrel, rank=1),
        r"$p_\mathrm{T}^\mathrm{rel}$ of the leading constituent",
    ),
    Observable(
        "second_ptrel",
        "ptrel of the second constituent",
        "cloud",
        partial(ranked_ptrel, rank=2),
        r"$p_\mathrm{T}^\mathrm{rel}$ of the second constituent",
    ),
    Observable(
        "third_ptrel",
        "ptrel of the third constituent",
        "cloud",
        partial(ranked_ptrel, rank=3),
        r"$p_\mathrm{T}^\mathrm{rel}$ of the third constituent",
    ),
    Observable("etarel", "constituent etarel", "point", etarel, r"constituent $\eta^\mathrm{rel}$", log_y=True),
    Observable(
        "phirel", "constituent phirel", "point", phirel, r"constituent $\phi^\mathrm{rel}$", unit="rad", log_y=True
    ),
    Observable(
        "ptrel", "constituent ptrel", "point", ptrel, r"constituent $p_\mathrm{T}^\mathrm{rel}$", log_x=True, log_y=True
    ),
)

PROFILES = (
    Profile(
        "rank_spectrum",
        "ptrel by rank",
        rank_spectrum,
        (RANK_EDGES,),
        ("rank of the constituent",),
        r"mean $p_\mathrm{T}^\mathrm{rel}$",
        log_y=True,
    ),
    Profile(
        "energy_energy_correlator",
        "energy-energy correlator",
        energy_energy_correlator,
        (CORRELATOR_EDGES,),
        ("$R_L$",),
        r"mean $\sum 2 z_i z_j$",
        log_x=True,
        log_y=True,
    ),
    Profile(
        "lund_plane",
        "primary Lund plane",
        lund_plane,
        LUND_EDGES,
        (r"$\ln(1/\Delta)$", r"$\ln(k_\mathrm{t}/p_\mathrm{T})$"),
        "mean number of emissions",
    ),
    Profile(
        "jet_image",
        "jet image",
        sparse_images,
        IMAGE_EDGES,
        (r"$\eta^\mathrm{rel}$", r"$\phi^\mathrm{rel}$ [rad]"),
        r"mean $p_\mathrm{T}^\mathrm{rel}$",
        log_y=True,
    ),
    Profile(
        "class_composition",
        "momentum fraction by particle class",
        class_composition,
        (CLASS_EDGES,),
        ("particle class",),
        "mean momentum fraction",
        log_y=True,
        columns=("particle_class",),
        categories=PARTICLE_CLASSES,
    ),
)

# What neither a further constituent of vanishing pT nor the splitting of one into two of the same direction changes,
# the ratios among them where their denominator is not 0. Kinoshita, J. Math. Phys. 3 (1962) 650; Lee and Nauenberg,
# Phys. Rev. 133 (1964) B1549. Energy-flow polynomials are safe too; the others, which count constituents or name single
# ones, are not.
INFRARED_AND_COLLINEAR_SAFE = frozenset(
    {
        "c2",
        "d2",
        "energy_energy_correlator",
        "eta",
        "girth",
        "jet_image",
        "les_houches_angularity",
        "lund_plane",
        "mass",
        "pt",
        "relative_mass",
        "soft_drop_mass",
        "tau1",
        "tau2",
        "tau21",
        "tau3",
        "tau32",
        "thrust",
        "total_ptrel",
    }
)
