"""Data sets of jets made with Pythia 8 and FastJet, whose gluon jets come close to those of JetNet.

A data set is made in shards of 2,000 jets (see :mod:`pcdiff.data.pythia` for the physics). The random numbers of a shard follow
from the seed, the process and the number of the shard alone, so that the result does not depend on how many worker processes
there are, and a rerun goes on where the last one ended.
"""

from __future__ import annotations

import os
from pathlib import Path

from pcdiff.clouds import PointClouds
from pcdiff.data.pythia import Recipe, selected_jets
from pcdiff.errors import optional
from pcdiff.executors import chosen_executors
from pcdiff.shards import make_in_shards

__all__ = ["make_jets"]

_SHARD = 2_000


def make_jets(
    output: str | os.PathLike[str],
    *,
    process: str = "g",
    count: int,
    seed: int = 0,
    radius: float = 0.4,
    pt: tuple[float, float] = (800.0, 1600.0),
    eta: float = 2.0,
    constituents: int | None = 30,
    significant_bits: int | None = None,
    max_ctau: float | None = Recipe.max_ctau,
    labels: bool = False,
    workers: int | None = None,
    dask: str | None = None,
    progress: bool = True,
) -> Path:
    """Make jets with Pythia 8 and write them to one file; needs the extra ``pythia``.

    Point columns: etarel, phirel (rad), ptrel relative to the jet of *all* constituents, by falling ptrel. Cloud columns: pt and
    mass (GeV), eta and num_constituents of all constituents, and type. The same arguments give the same file, bit for bit, with
    any number of workers. Finished shards wait in the folder ``OUTPUT.parts`` until all are there: after an
    interruption the same call goes on from them.

    Args:
        output: the file to write; the suffix decides the format (JetNet HDF5 for ``.hdf5``).
        process: what starts the jets, ``g``, ``q``, ``t``, ``w`` or ``z``; see :data:`pcdiff.data.pythia.PROCESSES`. Except for gluons, a jet is
            kept only if such a parton or boson lies within delta R < ``radius`` of its axis.
        count: number of jets.
        seed: other seeds give independent jets.
        radius: R of anti-kT.
        pt: window of the jet's transverse momentum in GeV. Hard collisions are made with a pT in the middle eighth of it.
        eta: largest absolute pseudorapidity of a jet.
        constituents: how many leading constituents are kept; None keeps all.
        significant_bits: round etarel, phirel and ptrel to so many binary digits (14: to 6e-5 of the value), which makes
            compressed files smaller; None keeps all 24 of float32.
        max_ctau: particles whose mean c tau is longer, in mm, do not decay. At 10, where the LHC experiments draw the line, K-short
            and hyperons stay whole. With None all decay that Pythia lets decay, whose own limit is 1 m.
        labels: store with each constituent its ``charge`` in units of e and its ``particle_class``: electrons, muons and photons by
            their PDG number, all other particles as charged or neutral hadrons. The jets are the same with and without.
        workers: number of processes; by default one for each CPU core.
        dask: a cluster that takes their place (:func:`pcdiff.executors.dask_workers`).
        progress: show a progress bar.

    Returns:
        The path of the file.

    Raises:
        DataError: a bad argument, cuts that no jet passes, or shards of other settings in ``OUTPUT.parts``.
        PcdiffError: Pythia or FastJet is not installed, or a worker was killed.
    """
    recipe = Recipe(
        process=process,
        count=count,
        seed=seed,
        radius=radius,
        pt=(float(pt[0]), float(pt[1])),
        eta=eta,
        constituents=constituents,
        significant_bits=significant_bits,
        shard_size=_SHARD,
        max_ctau=max_ctau,
        labels=labels,
    )
    for module in ("pythia8mc", "fastjet"):
        optional(module, "pythia")
    # Settings and seeds of Pythia follow from the plain arguments, which say more.
    return make_in_shards(
        recipe,
        _shard,
        output,
        what=f"{process} jets",
        suffix=".hdf5",
        executors=chosen_executors(workers, dask),
        progress=progress,
        derived="pythia_",
    )


def _shard(recipe: Recipe, shard: int) -> PointClouds:
    """Make the jets of one shard."""
    optional("fastjet", "pythia")._swig.ClusterSequence.set_fastjet_banner_stream(None)
    size = recipe.size(shard)
    pieces: list[PointClouds] = []
    found = 0
    for piece in selected_jets(recipe, recipe.pythia_seed(shard)):
        pieces.append(piece)
        found += len(piece)
        if found >= size:
            break
    return PointClouds.concatenate(pieces)[:size]
