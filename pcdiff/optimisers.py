"""The optimisers of training: AdamW, or Muon for the matrices within the net and AdamW for the rest.

Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; "Muon is Scalable for LLM Training", arXiv
2502.16982) takes steps whose matrices are near to orthogonal. What it gains in the nets here, ``benchmarks/choices.py`` measures.
It is written out here since torch.optim.Muon multiplies in bfloat16, which most CPUs only emulate.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pcdiff.config import OptimConfig

__all__ = ["Muon", "Optimiser", "build_optimiser"]

_MOMENTUM = 0.95
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Muon for matrices, as torch.optim.Muon has it, but in their own precision.

    The step is the momentum (with Nesterov's look ahead), made near to orthogonal by five iterations of a Newton-Schulz polynomial whose
    coefficients are those of Jordan et al. 2024: the singular values end between about 0.7 and 1.2. Tall matrices move by
    sqrt(rows / columns) times more. Matrices of one shape are multiplied together.

    Args:
        matrices: parameters of two dimensions.
        lr: learning rate.
        weight_decay: each step shrinks the matrices by lr * weight_decay.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """One step, from the gradients that there are."""
        for group in self.param_groups:
            matrices = [matrix for matrix in group["params"] if matrix.grad is not None]
            if not matrices:
                continue
            of_shape: dict[torch.Size, list[int]] = {}
            for index, matrix in enumerate(matrices):
                of_shape.setdefault(matrix.shape, []).append(index)
            ahead = self._ahead(matrices)
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
            for (rows, columns), indices in of_shape.items():
                rate = group["lr"] * max(1.0, rows / columns) ** 0.5
                moves = orthogonal(torch.stack([ahead[index] for index in indices]))
                torch._foreach_add_([matrices[index] for index in indices], list(moves.unbind()), alpha=-rate)

    def _ahead(self, matrices: list[nn.Parameter]) -> list[Tensor]:
        """The momenta, looked at one step ahead; all in a few calls, since on a GPU each call costs as much as its work."""
        gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
        for matrix in matrices:
            if not self.state[matrix]:
                self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
        momenta = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
        torch._foreach_lerp_(momenta, gradients, 1 - _MOMENTUM)
        return list(torch._foreach_lerp(gradients, momenta, _MOMENTUM))


def orthogonal(matrices: Tensor) -> Tensor:
    """Near to the orthogonal factor of the polar decomposition of each, shape (n, rows, columns)."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = _NEWTON_SCHULZ
    for _ in range(5):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Optimiser:
    """Several optimisers of torch that step together, as one.

    Attributes:
        parts: the optimisers.
        peaks: for each of them the largest learning rate.
    """

    def __init__(self, parts: Iterable[tuple[torch.optim.Optimizer, float]]) -> None:
        self.parts, self.peaks = zip(*parts, strict=True)

    def step(self, factor: float) -> None:
        """Take a step at this fraction of the largest learning rates."""
        for part, peak in zip(self.parts, self.peaks, strict=True):
            for group in part.param_groups:
                group["lr"] = peak * factor
            part.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad()

    @property
    def lr(self) -> float:
        """The learning rate of AdamW in the last step."""
        return float(self.parts[-1].param_groups[0]["lr"])

    def moments(self) -> dict[str, torch.Tensor]:
        """All that the next step depends on, by the number of the parameter and the name of the moment."""
        found: dict[str, torch.Tensor] = {}
        first = 0
        for part in self.parts:
            state = part.state_dict()
            for index, moments in state["state"].items():
                found |= {f"{first + index}.{name}": value for name, value in moments.items()}
            first += sum(len(group["params"]) for group in state["param_groups"])
        return found

    def load_moments(self, found: dict[str, torch.Tensor]) -> None:
        """Take what :meth:`moments` gave."""
        moments: dict[int, dict[str, Any]] = {}
        for key, value in found.items():
            index, _, name = key.partition(".")
            moments.setdefault(int(index), {})[name] = value
        first = 0
        for part in self.parts:
            groups = part.state_dict()["param_groups"]
            count = sum(len(group["params"]) for group in groups)
            state = {index - first: value for index, value in moments.items() if first <= index < first + count}
            part.load_state_dict({"state": state, "param_groups": groups})
            first += count


def build_optimiser(model: nn.Module, config: OptimConfig) -> Optimiser:
    """The optimiser that a config names for a model."""
    everything = list(model.named_parameters())
    hidden = [value for name, value in everything if config.kind == "muon" and value.ndim == 2 and ".layers." in name]
    chosen = {id(value) for value in hidden}
    rest = [value for _, value in everything if id(value) not in chosen]
    adamw = torch.optim.AdamW(rest, lr=config.lr, weight_decay=config.weight_decay), config.lr
    if not hidden:
        return Optimiser([adamw])
    muon = Muon(hidden, lr=config.hidden_lr, weight_decay=config.weight_decay)
    return Optimiser([(muon, config.hidden_lr), adamw])
