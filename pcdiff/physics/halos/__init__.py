"""Observables of halo catalogues in periodic boxes, as plain functions of :class:`~pcdiff.clouds.PointClouds`.

Positions are comoving, in Mpc/h, and stand for all their images; peculiar velocities are in km/s, masses in Msun/h. Nothing depends on where the
box begins. What needs velocities or masses is missing from catalogues without them.
"""

from __future__ import annotations

from functools import partial

from pcdiff.physics.halos.boxes import require_units
from pcdiff.physics.halos.kinematic import (
    MASS_EDGES,
    bulk_flow,
    log10_mass,
    mass_function,
    number_of_halos,
    speed,
    velocity_along_x,
    velocity_dispersion,
)
from pcdiff.physics.halos.neighbours import (
    COUNT_EDGES,
    NEIGHBOURS,
    RADIUS_EDGES,
    counts_in_spheres,
    nearest_neighbour_distribution,
)
from pcdiff.physics.halos.pairs import (
    SEPARATION_EDGES,
    expected_pairs,
    pair_counts,
    pairwise_velocity,
    redshift_space_monopole,
    redshift_space_quadrupole,
    two_point_correlation,
)
from pcdiff.physics.halos.spectrum import WAVE_NUMBER_EDGES, halo_pairs, power_spectrum
from pcdiff.physics.observable import Observable, Profile

__all__ = [
    "OBSERVABLES",
    "PROFILES",
    "bulk_flow",
    "counts_in_spheres",
    "expected_pairs",
    "halo_pairs",
    "log10_mass",
    "mass_function",
    "nearest_neighbour_distribution",
    "number_of_halos",
    "pair_counts",
    "pairwise_velocity",
    "power_spectrum",
    "redshift_space_monopole",
    "redshift_space_quadrupole",
    "require_units",
    "speed",
    "two_point_correlation",
    "velocity_along_x",
    "velocity_dispersion",
]

OBSERVABLES = (
    Observable(
        "number_of_halos", "number of halos", "cloud", number_of_halos, "number of halos in a box $N$", integer=True
    ),
    Observable(
        "velocity_dispersion",
        "velocity dispersion in one dimension",
        "cloud",
        velocity_dispersion,
        r"velocity dispersion of a box $\sigma_\mathrm{1D}$",
        unit="km/s",
    ),
    Observable("bulk_flow", "bulk flow", "cloud", bulk_flow, r"bulk flow of a box $|\bar{v}|$", unit="km/s"),
    Observable(
        "log10_mass",
        "log10 of the halo mass",
        "point",
        log10_mass,
        r"halo mass $\log_{10}(M\,/\,h^{-1} M_\odot)$",
        log_y=True,
    ),
    Observable("speed", "halo speed", "point", speed, "halo speed $|v|$", unit="km/s", log_y=True),
    Observable(
        "vx", "halo velocity along x", "point", velocity_along_x, "halo velocity $v_x$", unit="km/s", log_y=True
    ),
)

_of_separation = partial(Profile, edges=(SEPARATION_EDGES,), log_x=True, distribution=False)
_in_redshift_space = partial(_of_separation, labels=("redshift-space separation $s$ [Mpc/$h$]",), totals=expected_pairs)

PROFILES = (
    Profile(
        "mass_function",
        "mass function",
        mass_function,
        (MASS_EDGES,),
        (r"halo mass $\log_{10}(M\,/\,h^{-1} M_\odot)$",),
        r"$\mathrm{d}n/\mathrm{d}\log_{10} M$ [(Mpc/$h$)$^{-3}$]",
        log_y=True,
    ),
    _of_separation(
        "two_point_correlation",
        "two-point correlation function",
        two_point_correlation,
        labels=("separation $r$ [Mpc/$h$]",),
        content=r"$\xi(r)$",
        log_y=True,
        totals=expected_pairs,
    ),
    _in_redshift_space(
        "redshift_space_monopole",
        "redshift-space monopole",
        redshift_space_monopole,
        content=r"$s^2\,\xi_0(s)$ [(Mpc/$h$)$^2$]",
    ),
    _in_redshift_space(
        "redshift_space_quadrupole",
        "redshift-space quadrupole",
        redshift_space_quadrupole,
        content=r"$s^2\,\xi_2(s)$ [(Mpc/$h$)$^2$]",
    ),
    Profile(
        "power_spectrum",
        "power spectrum",
        power_spectrum,
        (WAVE_NUMBER_EDGES,),
        ("wave number $k$ [$h$/Mpc]",),
        r"$P(k)$ [(Mpc/$h$)$^3$]",
        log_x=True,
        log_y=True,
        distribution=False,
        totals=halo_pairs,
    ),
    _of_separation(
        "pairwise_velocity",
        "mean pairwise velocity",
        pairwise_velocity,
        labels=("separation $r$ [Mpc/$h$]",),
        content=r"$v_{12}(r)$ [km/s]",
        totals=pair_counts,
    ),
    *(
        Profile(
            f"nearest_neighbour_{k}",
            f"CDF of the distance to the {word} halo",
            partial(nearest_neighbour_distribution, k=k),
            (RADIUS_EDGES,),
            (f"distance $r_{k}$ to the {word} halo [Mpc/$h$]",),
            f"CDF of $r_{k}$",
            log_x=True,
            distribution=False,
        )
        for k, word in zip(NEIGHBOURS, ("nearest", "second-nearest", "fourth-nearest", "eighth-nearest"), strict=True)
    ),
    *(
        Profile(
            f"counts_in_spheres_{radius}",
            f"counts in spheres of {radius} Mpc/h",
            partial(counts_in_spheres, radius=radius),
            (edges,),
            (f"number of halos in a sphere of radius {radius} Mpc/$h$",),
            "share of spheres",
            log_y=True,
        )
        for radius, edges in COUNT_EDGES.items()
    ),
)
