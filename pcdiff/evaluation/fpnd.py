"""Fréchet ParticleNet distance (FPND) from real JetNet jets.

The Fréchet distance of the activations, before the last layer, of a ParticleNet that tells the jets of JetNet apart, from those of the
real data set: Kansal et al., "Particle Cloud Generation with Message Passing Generative Adversarial Networks", arXiv 2106.11535;
the network after Qu and Gouskos, "ParticleNet: Jet Tagging via Particle Clouds", arXiv 1902.08570. Its weights and the statistics of the
real jets come with the JetNet library (MIT licence), so the data set itself is not needed: :func:`fetch_fpnd_resources` takes them
from there.

The network, for the 30 slots x_i of a jet, empty ones included, is three times

    x_i <- (mean over the 16 slots j nearest to i of MLP(x_i, x_j - x_i), x_i)

where near means in the plane of etarel and phirel at first and among all features then; the mean over all slots goes through one linear
layer, which gives the 256 activations.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds
from pcdiff.data.fetch import download
from pcdiff.errors import DataError, suggest
from pcdiff.evaluation.physics_distances import frechet_distance, moments
from pcdiff.files import atomic_file, made_folder, sha256
from pcdiff.physics.jets.constituents import columns

if TYPE_CHECKING:
    import torch

__all__ = [
    "FPND_MOST",
    "FPND_SIZE",
    "FPND_TYPES",
    "activations",
    "fetch_fpnd_resources",
    "fpnd",
    "fpnd_resources",
    "frechet_from_real",
]

Floats = npt.NDArray[np.float64]

FPND_TYPES = ("g", "q", "t")

FPND_SIZE = 30
FPND_MOST = 50_000
_NEIGHBOURS = 16
# JetNet.fpnd_norm of the JetNet library: columns are divided by these, then shifted.
_LARGEST = (1.6211985349655151, 0.520724892616272, 0.8934717178344727)
_SHIFT = (0.0, 0.0, -0.5)
# torch.nn.BatchNorm1d's default.
_EPSILON = 1e-5

_WHEEL = "jetnet-0.2.5-py3-none-any.whl"
_URL = "https://files.pythonhosted.org/packages/77/dc/eec19124ceda0fe6c9dbb9e5c6d53971dfc82b462619fd35fb5fb2ed4f26"
_SHA256 = "eebcad0a990203897a75ede74e8f3877a045ab664034fe989c61c43eed897676"
_INSIDE = "jetnet/evaluation/fpnd_resources/jetnet/30_particles"


def fpnd(
    clouds: PointClouds,
    type: str,
    *,
    weights: Floats | None = None,
    resources: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> float:
    """FPND of jets from real JetNet jets of one type.

    It depends on the number of jets: the fewer, the larger. Published values are of 50,000 jets, and more are not used. Jets that are
    not JetNet's, however true, have a distance of their own: state it beside that of a model trained on them.

    Args:
        clouds: jets of at most 30 constituents.
        type: ``g`` (gluon), ``q`` (light quark) or ``t`` (top).
        weights: shape (n,), how much each jet counts.
        resources: the file that :func:`fetch_fpnd_resources` made; by default where it puts it.
        progress: show a progress bar.

    Raises:
        DataError: an unknown type, larger jets, columns that do not determine relative coordinates, or resources that are
            not there.
    """
    path = _existing(resources)
    clouds = clouds[:FPND_MOST]
    ones = np.ones(len(clouds)) if weights is None else weights[:FPND_MOST]
    found = activations(clouds, resources=path, progress=progress)
    return float(frechet_from_real(found, ones[None], type, resources=path)[0])


def frechet_from_real(
    found: Floats, weights: Floats, type: str, *, resources: str | os.PathLike[str] | None = None
) -> Floats:
    """Fréchet distance of weighted activations from those of real jets of one type, shape (draws,).

    Args:
        found: what :func:`activations` returns, shape (n, 256).
        weights: shape (draws, n), how much each jet counts.
        type: ``g``, ``q`` or ``t``.
        resources: as in :func:`fpnd`.

    Raises:
        DataError: an unknown type, fewer than two jets, or resources that are not there.
    """
    if type not in FPND_TYPES:
        raise DataError(f"FPND: no jet type {type!r}: {suggest(type, FPND_TYPES)}")
    if len(found) < 2:
        raise DataError(f"FPND: found {len(found)} jets, expected at least 2")
    stored = _load(_existing(resources))
    mean, covariance = stored[f"{type}_mean"].numpy(), stored[f"{type}_covariance"].numpy()
    means, covariances = moments(found, weights)
    # n / (n - 1), with Kish's effective number where weights differ.
    shares = (weights**2).sum(axis=1) / weights.sum(axis=1) ** 2
    pairs = zip(means, covariances / (1 - shares)[:, None, None], strict=True)
    return np.array([frechet_distance(mean, covariance, *pair) for pair in pairs])


def activations(
    clouds: PointClouds,
    *,
    resources: str | os.PathLike[str] | None = None,
    batch: int = 64,
    progress: bool = False,
) -> Floats:
    """ParticleNet's activations before the last layer and its ReLU, shape (n, 256).

    Args:
        clouds: jets of at most 30 constituents.
        batch: jets at once; no effect on values beyond rounding.
        progress: show a progress bar.

    Raises:
        DataError: larger jets, columns that do not determine relative coordinates, or resources that are not there.
    """
    import torch
    from rich.progress import track

    layers = _folded(_load(_existing(resources)))
    largest = int(clouds.counts.max(initial=0))
    if largest > FPND_SIZE:
        raise DataError(
            f"FPND is defined for jets of at most {FPND_SIZE} constituents, found one of {largest}; take the leading {FPND_SIZE} first"
        )
    out = np.empty((len(clouds), 256))
    starts = range(0, len(clouds), batch)
    with torch.inference_mode():
        for start in track(starts, "ParticleNet", disable=not progress):
            out[start : start + batch] = _activations(_slots(clouds[start : start + batch]), layers).double().numpy()
    return out


def fpnd_resources() -> Path:
    """Where :func:`fetch_fpnd_resources` puts its file: in ``$PCDIFF_CACHE``, by default ``~/.cache/pcdiff``."""
    cache = os.environ.get("PCDIFF_CACHE")
    folder = Path(cache).expanduser() if cache else Path.home() / ".cache" / "pcdiff"
    return folder / "fpnd_jetnet30.safetensors"


def fetch_fpnd_resources(
    output: str | os.PathLike[str] | None = None,
    *,
    base_url: str | None = None,
    timeout: float = 30.0,
    progress: bool = True,
) -> Path:
    """Download the network and the statistics of real jets: 3.7 MB from PyPI, of which 3.2 MB are kept.

    They are taken out of the wheel of version 0.2.5 of the JetNet library, whose SHA-256 sum is checked before anything is read from it.
    A file that is there already is kept.

    Args:
        output: the file to write; :func:`fpnd_resources` by default.
        base_url: another server's folder with the same wheel.
        timeout: seconds to wait for an answer, or for more data.
        progress: show a progress bar.

    Returns:
        The path of the file.

    Raises:
        DataError: no connection, an error of the server, a wrong sum, or no room on the disk.
    """
    target = fpnd_resources() if output is None else Path(output)
    if target.is_file():
        return target
    part = target.with_name(f"{_WHEEL}.part")
    url = f"{(base_url or _URL).rstrip('/')}/{_WHEEL}"
    try:
        with made_folder(target.parent):
            download(url, part, timeout, shown=progress)
            found = sha256(part)
            if found != _SHA256:
                part.unlink()
                raise DataError(f"{url}: its SHA-256 sum is {found}, expected {_SHA256}: damaged; removed")
            _store(part, target)
            part.unlink()
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({error.strerror or error})") from error
    return target


def _store(wheel: Path, target: Path) -> None:
    """Weights and statistics of the wheel as one safetensors file."""
    import torch
    from safetensors.torch import save_file

    with zipfile.ZipFile(wheel) as archive:
        with archive.open(f"{_INSIDE}/pnet_state_dict.pt") as stream:
            weights: dict[str, torch.Tensor] = torch.load(stream, map_location="cpu", weights_only=True)
        # The wheel holds each edge network under a second name too.
        tensors = {
            name: tensor.contiguous()
            for name, tensor in weights.items()
            if name.startswith(("edge_nets.", "fc1.")) and not name.endswith("num_batches_tracked")
        }
        for type in FPND_TYPES:
            for stored, name in (("mu", "mean"), ("sigma", "covariance")):
                with archive.open(f"{_INSIDE}/{type}_{stored}.txt") as stream:
                    tensors[f"{type}_{name}"] = torch.from_numpy(np.loadtxt(stream))
    with atomic_file(target) as temporary:
        save_file(tensors, temporary, {"source": _WHEEL, "sha256": _SHA256, "licence": "MIT"})


def _existing(resources: str | os.PathLike[str] | None) -> Path:
    path = fpnd_resources() if resources is None else Path(resources)
    if not path.is_file():
        raise DataError(
            f"FPND: {path} with ParticleNet and the statistics of real jets is not there; run: pcdiff data fetch fpnd"
        )
    return path


def _load(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: is not a safetensors file ({error}); remove it and fetch it again") from error
    missing = {"fc1.0.weight", *(f"{type}_mean" for type in FPND_TYPES)} - set(stored)
    if missing:
        raise DataError(f"{path}: lacks {', '.join(sorted(missing))}; remove it and fetch it again")
    return stored


def _slots(clouds: PointClouds) -> torch.Tensor:
    """Normalised (etarel, phirel, ptrel) of each slot, shape (n, 30, 3); an empty slot is a constituent without momentum."""
    import torch

    slots = np.zeros((len(clouds), FPND_SIZE, 3), np.float32)
    slots[np.arange(FPND_SIZE) < clouds.counts[:, None]] = np.stack(
        columns(clouds, "etarel", "phirel", "ptrel"), axis=1
    )
    return torch.from_numpy(slots / np.asarray(_LARGEST, np.float32) + np.asarray(_SHIFT, np.float32))


def _folded(stored: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Linear layers (weight, bias) with the batch normalisation of each folded in: a fixed scale and shift after training."""
    import torch

    edges = []
    for block in range(3):
        layers = []
        for linear in (0, 3, 6):
            name, norm = f"edge_nets.{block}.model.{linear}", f"edge_nets.{block}.model.{linear + 1}"
            scale = stored[f"{norm}.weight"] / torch.sqrt(stored[f"{norm}.running_var"] + _EPSILON)
            shift = stored[f"{norm}.bias"] + scale * (stored[f"{name}.bias"] - stored[f"{norm}.running_mean"])
            layers.append((scale[:, None] * stored[f"{name}.weight"], shift))
        edges.append(layers)
    return {"edges": edges, "last": (stored["fc1.0.weight"], stored["fc1.0.bias"])}


def _activations(x: torch.Tensor, layers: dict[str, Any]) -> torch.Tensor:
    """The network of the module's formula: (n, 30, 3) -> (n, 256)."""
    import torch
    from torch.nn.functional import linear, relu

    places = x[..., :2]
    for (weight, bias), *deeper in layers["edges"]:
        near = _nearest(places)
        # The first layer of MLP(x_i, x_j - x_i) is linear, so it is applied to slots and not to pairs of them.
        own, other = weight.chunk(2, dim=1)
        center, neighbour = linear(x, own - other, bias), linear(x, other)
        index = near.flatten(1)[..., None].expand(-1, -1, neighbour.shape[-1])
        hidden = relu(neighbour.gather(1, index).reshape(*near.shape, -1) + center[:, :, None])
        for weight, bias in deeper:
            hidden = relu(linear(hidden, weight, bias))
        x = torch.cat([hidden.mean(dim=2), x], dim=-1)
        places = x
    return linear(x.mean(dim=1), *layers["last"])


def _nearest(places: torch.Tensor) -> torch.Tensor:
    """Numbers of the slots nearest to each slot, itself not counted: (n, N, f) -> (n, N, 16)."""
    import torch

    distances = torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist")
    itself = torch.eye(places.shape[1], dtype=torch.bool)
    return distances.masked_fill(itself, torch.inf).topk(_NEIGHBOURS, largest=False, sorted=False).indices
