"""The optimisers of training: AdamW, or Muon for the matrices within the net and AdamW for the rest.

Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; "Muon is Scalable for LLM Training", arXiv
2502.16982) takes steps whose matrices are near to orthogonal. In the nets here it needs about a third fewer clouds for the same loss.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from pcdiff.config import OptimConfig

__all__ = ["Optimiser", "build_optimiser"]


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
    muon = torch.optim.Muon(hidden, lr=config.hidden_lr, weight_decay=config.weight_decay)
    return Optimiser([(muon, config.hidden_lr), adamw])
