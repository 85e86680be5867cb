r"""Categories in the denoiser: code words whose clean value is an expectation over a softmax.

The channels of all categorical features together hold the code word c_k of one of K combinations of categories, of share p_k in the
training data. A combination that these do not hold, such as a photon with a charge, is none. Noise leaves of each

    log p(k | x_t) = log p_k + (alpha / sigma^2) c_k x_t - alpha^2 |c_k|^2 / (2 sigma^2) + constant,

as far as this point alone tells. What the rest of the cloud and the conditions tell is for the net to learn. Its output o for these
channels counts as further evidence beside alpha x_t / sigma^2,

    x0 = sum_k q_k c_k,        q = softmax_k( log p_k + c_k (alpha x_t / sigma^2 + o) - alpha^2 |c_k|^2 / (2 sigma^2) ).

At o = 0, where an untrained net starts, it is the exact denoiser of points that are independent, as the preconditioned output is that of
Gaussian numbers. Near the data the combination is certain whatever the net says: it need not copy and sharpen its noisy input, which
would take up the loss and the capacity that fine structure in the other channels needs. x0 as an expectation over embeddings is the
score interpolation of Dieleman et al., "Continuous diffusion for categorical data", arXiv 2211.15089.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pcdiff.diffusion.heads import Head
from pcdiff.diffusion.schedule import Level

__all__ = ["CategoryHead"]


class CategoryHead(Head):
    """Reads a net's output for the channels of the categorical features.

    Args:
        channels: the C channels among those of a point.
        words: code words, shape (K, C).
        shares: p_k, positive, shape (K,).
    """

    words: Tensor
    log_shares: Tensor
    parametrisation = "x0"

    def __init__(self, channels: Tensor, words: Tensor, shares: Tensor) -> None:
        super().__init__()
        self.register_buffer("channels", channels, persistent=False)
        self.register_buffer("words", words, persistent=False)
        self.register_buffer("log_shares", shares.log(), persistent=False)

    def forward(self, x_t: Tensor, output: Tensor, level: Level) -> Tensor:
        """x0 of the features, shape (B, N, C), from these channels of the noisy clouds and of the net's output, likewise."""
        with torch.autocast(x_t.device.type, enabled=False):
            words, snr = self.words.to(x_t.dtype), level.alpha**2 / level.sigma**2
            evidence = level.alpha / level.sigma**2 * x_t + output.to(x_t.dtype)
            logits = self.log_shares.to(x_t.dtype) + evidence @ words.T - snr / 2 * words.square().sum(1)
            x0: Tensor = logits.softmax(dim=-1) @ words
        return x0
