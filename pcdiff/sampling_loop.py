"""Many clouds through a sampler: in pieces of similar size, on all cores.

Which clouds form a piece, only the request decides. A piece runs in one thread, and so do its tensor operations: they are too small to be
split well. So the clouds are the same bit for bit on any number of cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Barrier

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pcdiff.clouds import offsets_of
from pcdiff.config import SamplingConfig
from pcdiff.diffusion import Denoiser, DenoiserLike, Potential, sample
from pcdiff.diffusion.guidance import ClassifierFree
from pcdiff.diffusion.heads import placed
from pcdiff.diffusion.samplers import Callback
from pcdiff.errors import ModelError
from pcdiff.noise import StepNoise
from pcdiff.precision import computing, pick_precision

__all__ = ["Guide", "Solver", "Window", "pieces", "workers"]

# Points that pass through the sampler together: on a CPU, what stays in the cache of a core; on another device, what fills it.
_CPU_POINTS = 1 << 12
_DEVICE_POINTS = 1 << 17

Guide = Callable[[DenoiserLike, Tensor, npt.NDArray[np.int64]], DenoiserLike]
"""Wraps the denoiser for clouds that pass through the sampler together (see :mod:`pcdiff.diffusion.guidance`): called with the
denoiser, their mask (B, N) and their numbers in the request (B,)."""


class _InPrecision(nn.Module):
    """A net that is computed in a precision of its own; its schedule, and the sampler around it, are not."""

    def __init__(self, net: nn.Module, device: torch.device, precision: torch.dtype) -> None:
        super().__init__()
        self.net = net
        self._device = device
        self._precision = precision

    def forward(self, x: Tensor, log_snr: Tensor, mask: Tensor, cond: Tensor) -> Tensor:
        with computing(self._device, self._precision):
            output: Tensor = self.net(x, log_snr, mask, cond)
        return output


@dataclass(frozen=True)
class Solver:
    """A sampler that is set up for a request.

    Attributes:
        denoiser: the model, on the device.
        chosen: the sampler.
        grid: its times.
        seed: of the noise that it draws along the way.
        device: where it runs.
        guide: a posterior or a constraint.
    """

    denoiser: Denoiser
    chosen: SamplingConfig
    grid: Tensor
    seed: int
    device: torch.device
    guide: Guide | None = None

    @property
    def threads(self) -> int:
        """How many pieces may run at a time.

        One where gradients are taken, since torch's choice of an attention that has them is one for all threads, and what a
        user's guide holds may not be made for several; and one on a device other than the CPU.
        """
        alone = self.guide is not None or isinstance(self.denoiser.net, Potential) or self.device.type != "cpu"
        return 1 if alone else torch.get_num_threads()

    def __call__(
        self,
        noise: Tensor,
        mask: Tensor,
        cond: Tensor,
        clouds: npt.NDArray[np.int64],
        callback: Callback | None = None,
    ) -> Tensor:
        """Standardised points, shape (B, N, F).

        Args:
            noise: standard normal, shape (B, N, F).
            mask: shape (B, N).
            cond: conditions, shape (B, C).
            clouds: their numbers in the request, shape (B,).
            callback: sees every intermediate.
        """
        gradients = self.guide is not None or callback is not None or isinstance(self.denoiser.net, Potential)
        with torch.no_grad() if gradients else torch.inference_mode():
            steps = StepNoise(self.seed, clouds, mask.sum(1).numpy(), noise.shape[2])
            noise, mask, cond = noise.to(self.device), mask.to(self.device), cond.to(self.device)
            x = sample(
                self.chosen.sampler,
                self._denoiser(mask, clouds),
                noise,
                self.grid,
                mask,
                cond,
                order=self.chosen.order,
                draw=lambda: torch.from_numpy(steps()).to(self.device),
                denoise=self.chosen.denoise,
                callback=callback,
                **self.chosen.options,
            )
            if self.chosen.denoise:
                return x
            return placed(x, self.denoiser.heads, float(self.denoiser.schedule.alpha(self.grid[-1:])))

    def _denoiser(self, mask: Tensor, clouds: npt.NDArray[np.int64]) -> DenoiserLike:
        """The model as these clouds see it."""
        model, denoiser = self.denoiser, self.denoiser
        precision = pick_precision(self.chosen.precision, self.device)
        if precision != torch.float32:
            net = _InPrecision(model.net, self.device, precision)
            denoiser = model.with_net(net)
        guided: DenoiserLike = denoiser
        if self.chosen.guidance != 1:
            guided = ClassifierFree(guided, self.chosen.guidance)
        return guided if self.guide is None else self.guide(guided, mask, clouds)


class Window:
    """Clouds that are sorted by size together, on their way through a solver.

    Args:
        solver: what makes them.
        pool: where the pieces run.
        start: the number of the first in the request.
        points: their noise, flat, shape (P, F); the result takes its place.
        counts: numbers of points, shape (n,).
        cond: conditions, shape (n, C).
        falling: the channel, if any, by which points are put in falling order.
    """

    def __init__(
        self,
        solver: Solver,
        pool: Executor,
        start: int,
        points: npt.NDArray[np.float32],
        counts: npt.NDArray[np.int64],
        cond: npt.NDArray[np.float32],
        falling: int | None,
    ) -> None:
        self._solver = solver
        self._start = start
        self._points = points
        self._counts = counts
        self._offsets = offsets_of(counts)
        self._cond = cond
        self._falling = falling
        parts = pieces(np.argsort(counts, kind="stable"), counts, solver.device)
        self._running: list[Future[int]] = [pool.submit(self._run, index) for index in parts]

    def result(self, progress: Callable[[int], None] | None = None) -> npt.NDArray[np.float32]:
        """Standardised points, flat, shape (P, F), once all pieces are through.

        Args:
            progress: called with the number of clouds of each piece.

        Raises:
            ModelError: the net's output is not finite.
        """
        for piece in self._running:
            made = piece.result()
            if progress is not None:
                progress(made)
        bad = ~np.isfinite(self._points)
        if bad.any():
            raise ModelError(
                f"the generator's output is not finite in {int(bad.any(axis=1).sum())} of {len(bad)} points; "
                "train longer or sample with more steps"
            )
        return self._points

    def _run(self, index: npt.NDArray[np.int64]) -> int:
        """Take the noise of some clouds to points, in its place; returns their number."""
        counts = self._counts[index]
        mask = np.arange(int(counts.max())) < counts[:, None]
        rows = (self._offsets[index][:, None] + np.arange(mask.shape[1]))[mask]
        noise = np.zeros((*mask.shape, self._points.shape[1]), np.float32)
        noise[mask] = self._points[rows]
        tensors = torch.from_numpy(noise), torch.from_numpy(mask), torch.from_numpy(self._cond[index])
        x = self._solver(*tensors, self._start + index).cpu().numpy()
        if self._falling is not None:
            # Not a number comes last and keeps its order: padding stays behind a point that failed.
            key = np.where(mask, -x[..., self._falling], np.nan)
            x = np.take_along_axis(x, key.argsort(axis=1, kind="stable")[..., None], axis=1)
        self._points[rows] = x[mask]
        return len(index)


def pieces(
    order: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], device: torch.device
) -> Iterator[npt.NDArray[np.int64]]:
    """Clouds that pass through the sampler together, of similar size; which ones, only the request decides.

    Args:
        order: the clouds by rising number of points.
        counts: numbers of points of all clouds.
        device: decides how many points a piece has at most, padding included, unless one cloud has more.

    >>> [piece.tolist() for piece in pieces(np.array([2, 0, 1]), np.array([2000, 3000, 10]), torch.device("cpu"))]
    [[2, 0], [1]]
    """
    most = _CPU_POINTS if device.type == "cpu" else _DEVICE_POINTS
    first = 0
    while first < len(order):
        sizes = counts[order[first : first + most]]
        fit = int(np.searchsorted(sizes * np.arange(1, len(sizes) + 1), most, side="right"))
        yield order[first : first + max(1, fit)]
        first += max(1, fit)


@contextmanager
def workers(count: int) -> Iterator[Executor]:
    """Threads whose tensor operations run in one thread each; when the block ends, what they have not begun is dropped."""
    own = torch.get_num_threads()
    together = Barrier(count)

    def alone(_: int) -> None:
        # Each thread takes one of these calls, since it waits here for all others.
        together.wait()
        # A new thread takes over torch's number when it is first asked for, which would undo what is set before.
        torch.get_num_threads()
        torch.set_num_threads(1)

    pool = ThreadPoolExecutor(count, "pcdiff-sampling")
    try:
        list(pool.map(alone, range(count)))
        # torch keeps one number for each thread that runs, and one, the last that was set, for threads to come.
        torch.set_num_threads(own)
        yield pool
    finally:
        together.abort()
        pool.shutdown(cancel_futures=True)
