"""Our metrics against those of the JetNet library 0.2.5, which runs in an environment of its own.

``PCDIFF_JETNET_PYTHON`` names a Python with jetnet 0.2.5; without it a virtual environment is made and filled from PyPI.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import pcdiff
from pcdiff.clouds import PointClouds
from pcdiff.evaluation.fpnd import activations, fetch_fpnd_resources, fpnd
from pcdiff.evaluation.marginals import weighted_wasserstein
from pcdiff.evaluation.physics_distances import frechet_physics_distance, kernel_physics_distance
from pcdiff.evaluation.transport import energy_movers_distances, matched_batches
from pcdiff.physics.jets import flow_polynomials, prime_columns, relative_mass
from pcdiff.resources import find

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

NETWORK = 500
SIZE = 2000


@pytest.fixture(scope="module")
def jets() -> tuple[PointClouds, PointClouds]:
    clouds = pcdiff.read(find("datasets/jets/gluon30_test.hdf5"))
    return clouds[:SIZE], clouds[SIZE : 2 * SIZE]


@pytest.fixture(scope="module")
def library(jets: tuple[PointClouds, PointClouds], tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("jetnet")
    python = os.environ.get("PCDIFF_JETNET_PYTHON")
    if python is None:
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        python = str(folder / "venv" / "bin" / "python")
        install = [python, "-m", "pip", "install", "--quiet", "--prefer-binary"]
        # jetnet asks for an older torch_geometric stack than there are wheels for; its imports need these.
        needed = ["numpy<2", "scipy", "torch", "torch_geometric", "energyflow", "wasserstein>=1.1", "numba", "h5py"]
        needed += ["pandas", "tables", "tqdm", "requests", "awkward", "coffea", "pyarrow<26"]
        subprocess.run([*install, *needed], check=True)
        subprocess.run([*install, "--no-deps", "jetnet==0.2.5"], check=True)
    arrays = {
        name: part.padded(30)[0].astype(np.float64) for name, part in zip(("real", "generated"), jets, strict=True)
    }
    np.savez(folder / "arrays.npz", network=NETWORK, **arrays)
    script = Path(__file__).with_name("jetnet_reference.py")
    subprocess.run([python, script, folder / "arrays.npz", folder / "result.npz"], check=True)
    with np.load(folder / "result.npz") as found:
        return dict(found)


@pytest.fixture(scope="module")
def polynomials(jets: tuple[PointClouds, PointClouds]) -> list[np.ndarray]:
    return [flow_polynomials(part) for part in jets]


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fpnd")
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*download, "--dest", folder, "jetnet==0.2.5"], check=True)
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        try:
            return fetch_fpnd_resources(folder / "resources.safetensors", base_url=address, progress=False)
        finally:
            server.shutdown()
            thread.join()


def resampled(values: list[np.ndarray], owners: list[np.ndarray], batches: int = 20) -> tuple[float, float]:
    """Mean W1 of resamples of as many jets, and the spread of one."""
    rng = np.random.default_rng(1)
    counts = [
        np.stack([np.bincount(rng.integers(SIZE, size=SIZE), minlength=SIZE) for _ in range(batches)]) for _ in range(2)
    ]
    first, second = np.pad(counts[0], ((0, 0), (0, SIZE))), np.pad(counts[1], ((0, 0), (SIZE, 0)))
    found = weighted_wasserstein(np.concatenate(values), np.concatenate([owners[0], owners[1] + SIZE]), first, second)
    return float(found.mean()), float(found.std(ddof=1))


def within(ours: tuple[float, float], theirs: float, batches: int = 5) -> None:
    """Means of 20 of our resamples and of five of the library's agree within four standard errors of their difference."""
    assert abs(ours[0] - theirs) < 4 * ours[1] * np.sqrt(1 / 20 + 1 / batches)


def test_distances_between_jets_and_energy_flow_polynomials_agree(jets, library, polynomials) -> None:
    np.testing.assert_allclose(energy_movers_distances(jets[1][:20], jets[0][:20]), library["emds"], rtol=1e-5)
    np.testing.assert_allclose(polynomials[0][:500], library["polynomials"], rtol=1e-5)


def test_coverage_and_mmd_agree_on_the_same_draws(jets, library) -> None:
    coverage, mmd = matched_batches(*jets, seed=0)
    assert coverage.mean() == pytest.approx(library["coverage"], rel=1e-9)
    assert mmd.mean() == pytest.approx(library["mmd"], rel=1e-5)


def test_frechet_and_kernel_physics_distance_agree_on_the_same_draws(library, polynomials) -> None:
    # Roots of matrices by another way differ in the seventh digit, and the fit carries that on.
    value, error = frechet_physics_distance(*polynomials)
    assert value == pytest.approx(library["fpd"], rel=1e-5)
    assert error == pytest.approx(library["fpd_error"], rel=1e-5)
    value, error = kernel_physics_distance(*polynomials)
    assert value == pytest.approx(library["kpd"], rel=1e-5)
    assert error == pytest.approx(library["kpd_error"], rel=1e-5)


def test_wasserstein_distances_agree_within_their_errors(jets, library, polynomials) -> None:
    one_each = [np.arange(SIZE)] * 2
    within(resampled([relative_mass(part) for part in jets], one_each), float(library["w1m"]))
    owners = [np.repeat(np.arange(SIZE), part.counts) for part in jets]
    for column, theirs in zip(("etarel", "phirel", "ptrel"), library["w1p"], strict=True):
        within(resampled([part.column(column).astype(np.float64) for part in jets], owners), float(theirs))
    for column, theirs in zip(prime_columns(), library["w1efp"], strict=True):
        within(resampled([part[:, column] for part in polynomials], one_each), float(theirs))


def test_particlenet_agrees(jets, library, resources) -> None:
    found = activations(jets[1][:NETWORK], resources=resources)
    scale = np.abs(library["activations"]).max()
    np.testing.assert_allclose(found[:100], library["activations"], rtol=1e-5, atol=1e-5 * scale)
    assert fpnd(jets[1][:NETWORK], "g", resources=resources) == pytest.approx(library["fpnd"], rel=1e-4)
