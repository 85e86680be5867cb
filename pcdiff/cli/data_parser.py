"""The words of the command line that make and fetch data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pcdiff.cli import data_commands
from pcdiff.cli.arguments import CLUSTER, count, count_or_all, length_or_all, window, window_or_value

__all__ = ["add_data"]


def add_data(data: Any, command: Callable[..., Any], group: Callable[..., Any]) -> None:
    """Add them.

    Args:
        data: the words after ``data``.
        command, group: make a command, or a group of commands, of the parser.
    """
    made = group(data, "make", "simulate a data set")
    jets = command(
        made, "jets", data_commands.make_jets, "simulate jets with Pythia 8 and FastJet", "pcdiff.data.make_jets"
    )
    jets.add_argument("--process", metavar="TYPE", required=True, help="what starts the jets: g, q, t, w or z")
    jets.add_argument("-n", dest="count", metavar="N", type=count, required=True, help="number of jets")
    jets.add_argument("-o", "--output", metavar="FILE", type=Path, help="data/jets_TYPE_N.hdf5 when absent")
    jets.add_argument("--radius", metavar="R", type=float, help="radius of the anti-kt jets")
    jets.add_argument("--pt", metavar="LOW:HIGH", type=window, help="window of the jet pT in GeV")
    jets.add_argument("--eta", metavar="MAX", type=float, help="largest absolute pseudorapidity of a jet")
    jets.add_argument("--constituents", metavar="N", type=count_or_all, help="most constituents kept of a jet, or all")
    jets.add_argument(
        "--significant-bits",
        metavar="N",
        type=count,
        help="round to this many binary digits, so files shrink; default: all",
    )
    jets.add_argument(
        "--max-ctau",
        metavar="MM",
        type=length_or_all,
        help="longest mean c tau, in mm, of particles that decay, or all",
    )
    jets.add_argument("--labels", action="store_true", help="store charge and class of each constituent")
    jets.add_argument("--seed", metavar="SEED", type=int, help="the same seed gives the same jets")
    _add_workers(jets)

    halos = command(
        made,
        "halos_pm",
        data_commands.make_halos,
        "simulate halo catalogues with a particle mesh",
        "pcdiff.data.make_halos",
    )
    halos.add_argument("-n", dest="count", metavar="N", type=count, required=True, help="number of boxes")
    halos.add_argument("-o", "--output", metavar="FILE", type=Path, help="data/halos_pm_N.hdf5 when absent")
    halos.add_argument(
        "--omega-m", metavar="LOW:HIGH", type=window_or_value, help="window of Omega_m, or one value for all boxes"
    )
    halos.add_argument(
        "--sigma-8", metavar="LOW:HIGH", type=window_or_value, help="window of sigma_8, or one value for all boxes"
    )
    halos.add_argument("--steps", metavar="STEPS", type=count, help="steps of the simulation")
    halos.add_argument("--refinement", metavar="N", type=count, help="mesh cells along a side for each particle")
    halos.add_argument("--seed", metavar="SEED", type=int, help="the same seed gives the same boxes")
    _add_workers(halos)

    toy = command(
        made, "toy", data_commands.make_toy, "draw points of a toy distribution in the plane", "pcdiff.data.toy"
    )
    toy.add_argument(
        "--shape",
        metavar="NAME",
        required=True,
        help="gaussian, two-gaussians, spiral, swiss-roll or eight-gaussians",
    )
    toy.add_argument("-n", dest="count", metavar="N", type=count, required=True, help="number of points")
    toy.add_argument("-o", "--output", metavar="FILE", type=Path, help="data/toy_NAME_N.parquet when absent")
    toy.add_argument("--seed", metavar="SEED", type=int, help="the same seed gives the same points")

    fetch = command(
        data, "fetch", data_commands.fetch, "download a public data set and check its sum", "pcdiff.data.fetch"
    )
    fetch.add_argument("name", metavar="NAME", help="jetnet30, jetnet150, or fpnd: what FPND compares jets with")
    fetch.add_argument("--type", metavar="TYPE", help="jet type: g, q, t, w or z")
    fetch.add_argument("-o", "--output", metavar="FOLDER", type=Path, help="folder to put the file in")


def _add_workers(parser: Any) -> None:
    """The options that say where a data set is made."""
    parser.add_argument("--workers", metavar="N", type=count, help="number of processes; default: one for each core")
    parser.add_argument(
        "--dask",
        metavar="WHERE",
        help=f"a cluster in their place: {CLUSTER}",
    )
