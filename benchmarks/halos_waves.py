"""Whether the net leaves flows and masses as large as they are: part `waves` of halos.py.

With u = x_t / alpha and D the net's x0, the probability-flow ODE moves u by du / dl = (D - u) / 2, l the log-SNR, and the variance of any sum over
the points that u has and that does not change with l by

    dV / dl = <u (D - u)> = <u (x0 - u)> + <u (D - x0)>,

the first term being that of the truth. So <u (D - x0)> / <x0^2>, taken over noised true boxes, is the share of the variance that the net adds, or
loses where it is negative, in each unit of log-SNR. It is 0 for the best possible D. It is shown for velocities and masses of single halos, and for the
sums of velocities sum_j v_j e^{-ikx_j} over the longest waves of the box, along k and across it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from halo_statistics import Estimate, pm
from matplotlib.figure import Figure
from torch import Tensor

from pcdiff.clouds import PointClouds
from pcdiff.diffusion.heads import torus_head
from pcdiff.errors import DataError
from pcdiff.evaluation.style import STYLE, TRUTH, colour, marker, page, panel
from pcdiff.generator import Generator
from pcdiff.loader import batch_of

_LOG_SNR = np.arange(-5.0, 2.1)
_WAVES = (1, 2)
# Boxes that the net sees at a time.
_AT_A_TIME = 4


@torch.inference_mode()
def measured(generator: Generator, truth: PointClouds, seed: int) -> dict[str, Any]:
    """The share at each log-SNR of each sum, with its error from box to box."""
    encoded = generator.transform.encode(truth)
    names = list(generator.transform.channels)
    places, flows = ([names.index(f"{prefix}{axis}") for axis in "xyz"] for prefix in ("", "v"))
    mass = names.index("log10_mass")
    denoiser = generator.denoiser
    head = torus_head(denoiser.heads)
    if head is None:
        raise DataError("the generator has no positions in a periodic box, whose waves these are")
    rng = torch.Generator().manual_seed(seed)
    found: dict[str, list[list[float]]] = {}
    for log_snr in _LOG_SNR:
        added: dict[str, list[Tensor]] = {}
        for first in range(0, len(truth), _AT_A_TIME):
            batch = batch_of(encoded, np.arange(first, min(first + _AT_A_TIME, len(truth))))
            t = denoiser.schedule.time(torch.full((len(batch),), log_snr, dtype=torch.float64)).float()
            level = denoiser.schedule.level(t)
            noise = torch.randn(batch.x.shape, generator=rng) * batch.mask[..., None]
            u = batch.x + level.sigma / level.alpha * noise
            x0 = denoiser(level.alpha * u, t, batch.mask, batch.cond).x0
            seen = [part * batch.mask[..., None] for part in (u, x0 - batch.x, batch.x)]
            sums = {"velocity": [part[..., flows] for part in seen], "log10 mass": [part[..., [mass]] for part in seen]}
            for whole in _WAVES:
                along, across = (
                    [torch.stack(parts, dim=1) for parts in zip(*of, strict=True)]
                    for of in _split(seen, u[..., places] / head.period * whole, flows)
                )
                sums |= {f"velocity along k = {whole}": along, f"velocity across k = {whole}": across}
            for name, (here, wrong, true) in sums.items():
                pair = torch.stack([(here * wrong).flatten(1).sum(1), true.square().flatten(1).sum(1)], dim=1)
                added.setdefault(name, []).append(pair)
        for name, pairs in added.items():
            contents, totals = torch.cat(pairs).double().numpy().T
            share = Estimate.of(contents[:, None], totals[:, None])
            found.setdefault(name, []).append([float(share.value[0]), float(share.error[0])])
    return {"boxes": len(truth), "log_snr": _LOG_SNR.tolist(), "shares": found}


def _split(seen: list[Tensor], turns: Tensor, flows: list[int]) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """Sums of velocities over the waves of the three axes: those along the wave, and those across it."""
    along: list[list[Tensor]] = []
    across: list[list[Tensor]] = []
    for wave in range(3):
        angle = 2 * np.pi * turns[..., wave]
        for function in (angle.cos(), angle.sin()):
            for axis in range(3):
                sums = [(part[..., flows[axis]] * function).sum(1) for part in seen]
                (along if axis == wave else across).append(sums)
    return along, across


def tables(found: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """By title."""
    lines = [["log-SNR", *found["shares"]]]
    for at, log_snr in enumerate(found["log_snr"]):
        lines.append([f"{log_snr:g}", *(pm(*values[at]) for values in found["shares"].values())])
    return {f"share of the variance that a unit of log-SNR adds, {found['boxes']} boxes": lines}


def figure(found: Mapping[str, Any]) -> Figure:
    """The shares against log-SNR."""
    with mpl.rc_context(STYLE):
        drawn = page(6.9, 4.0)
        axes = panel(drawn, 1.3, 0.65, 5.3, 3.1)
        axes.axhline(0, color=TRUTH, linewidth=1)
        for at, (name, values) in enumerate(found["shares"].items()):
            share, error = np.array(values).T
            # Side by side, so that no error bar hides another.
            places = np.array(found["log_snr"]) + 0.1 * (at - (len(found["shares"]) - 1) / 2)
            bars = {"linestyle": "none", "marker": marker(at), "markersize": 4, "elinewidth": 1, "color": colour(at)}
            axes.errorbar(places, share, error, label=name, **bars)
        axes.set(xlabel="log-SNR", ylabel="share of the variance added\nin a unit of log-SNR", ylim=(-0.6, 0.6))
        axes.legend(ncols=2, fontsize="small")
    return drawn
