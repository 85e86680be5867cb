"""Metrics of the JetNet library 0.2.5 on given arrays, for test_jetnet_agreement.py.

Run by the Python of an environment that has that library, which needs other versions of packages than pcdiff:

    python jetnet_reference.py arrays.npz result.npz

Reads ``real`` and ``generated``, jets (n, 30, 3) with columns etarel, phirel, ptrel, and ``network``, the number of jets that FPND
is computed of; writes what the library makes of them. torch_cluster,
which seldom has a wheel, is replaced by the one function of it that the library needs.
"""

from __future__ import annotations

import sys
import types
import warnings

import numpy as np
import torch
import torch_geometric.nn  # noqa: F401  looks for torch_cluster itself, so before there is a stand-in


def knn_graph(x: torch.Tensor, k: int, batch: torch.Tensor) -> torch.Tensor:
    """Edges (source, target) from the k nearest points of the same jet to each point, itself not counted; jets of equal size."""
    size = int((batch == 0).sum())
    jets = x.reshape(-1, size, x.shape[1])
    distances = torch.cdist(jets, jets, compute_mode="donot_use_mm_for_euclid_dist")
    distances.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    near = distances.topk(k, largest=False).indices + size * torch.arange(len(jets))[:, None, None]
    return torch.stack([near.flatten(), torch.arange(len(x)).repeat_interleave(k)])


stub = types.ModuleType("torch_cluster")
stub.knn_graph = knn_graph
sys.modules["torch_cluster"] = stub
warnings.simplefilter("ignore")

import jetnet.evaluation.gen_metrics as library
from jetnet.datasets import JetNet


def main(source: str, target: str) -> None:
    """Compute and write everything."""
    with np.load(source) as arrays:
        real, generated = arrays["real"], arrays["generated"]
        network = int(arrays["network"])
    size = len(real)
    library.rng = np.random.default_rng(0)
    found = {}
    found["coverage"], found["mmd"] = library.cov_mmd(real, generated, use_tqdm=False)
    found["emds"] = library.emds(generated[:20][:, :, [2, 0, 1]], real[:20][:, :, [2, 0, 1]])
    for name in ("w1m", "w1p"):
        found[name], found[f"{name}_error"] = getattr(library, name)(real, generated, num_eval_samples=size)
    features = [library.get_fpd_kpd_jet_features(jets, efp_jobs=1) for jets in (real, generated)]
    found["polynomials"] = features[0][:500]
    found["w1efp"], found["w1efp_error"] = library.w1efp(real, generated, num_eval_samples=size, efp_jobs=1)
    found["fpd"], found["fpd_error"] = library.fpd(*features)
    found["kpd"], found["kpd_error"] = library.kpd(*features)
    jets = generated[:network].astype(np.float32)
    found["fpnd"] = library.fpnd(jets, "g", use_tqdm=False)
    with torch.no_grad():
        normalised = torch.from_numpy(JetNet.fpnd_norm(jets[:100]))
        found["activations"] = library.fpnd_dict["jetnet"][30]["g"]["pnet"](normalised, ret_activations=True).numpy()
    np.savez(target, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
