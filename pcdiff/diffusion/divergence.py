r"""The divergence of a vector field over the valid entries of each cloud.

    div f(x) = sum_j df_j / dx_j

Exact: one product of the transposed Jacobian with a unit vector for each entry, in batches. Estimated (Hutchinson; FFJORD, arXiv 1810.01367): for random
v of zero mean and unit covariance, E[v^T J v] = div f; v is of signs (``rademacher``, the least variance) or normal (``gaussian``).

PyTorch's fused attention on a CPU has no second derivatives, so all runs under its plain kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["DivergenceKind", "divergence", "probe"]

DivergenceKind = Literal["exact", "rademacher", "gaussian"]

# Unit vectors that pass backward together.
_BATCH = 32


def probe(like: Tensor, mask: Tensor, kind: Literal["rademacher", "gaussian"], generator: torch.Generator) -> Tensor:
    """A random vector of zero mean and unit covariance over the valid entries, zero elsewhere; shape of ``like``."""
    v = torch.randn(like.shape, generator=generator, dtype=like.dtype)
    if kind == "rademacher":
        v = torch.where(v < 0, -1.0, 1.0).to(like.dtype)
    return v.to(like.device) * mask[..., None]


def divergence(
    field: Callable[[Tensor], Tensor],
    x: Tensor,
    mask: Tensor,
    vectors: Tensor | None = None,
    *,
    create_graph: bool = False,
) -> tuple[Tensor, Tensor]:
    """A field and its divergence.

    Args:
        field: from clouds (B, N, F) to vectors of that shape; cloud i of the result depends on cloud i alone.
        x: clouds, shape (B, N, F), zero where the mask is false.
        mask: shape (B, N).
        vectors: probes, shape (B, N, F), for the estimate v^T J v; exact when absent.
        create_graph: keep what is needed to differentiate the result.

    Returns:
        The field, shape (B, N, F), and its divergence, shape (B,).
    """
    with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        at = x if x.requires_grad else x.detach().requires_grad_()
        value = field(at)
        if vectors is not None:
            (product,) = torch.autograd.grad(value, at, vectors, create_graph=create_graph, retain_graph=create_graph)
            div = (product * vectors).sum((1, 2))
        else:
            div = _exact(value, at, mask, create_graph=create_graph)
    return (value, div) if create_graph else (value.detach(), div.detach())


def _exact(value: Tensor, at: Tensor, mask: Tensor, *, create_graph: bool) -> Tensor:
    features = at.shape[2]
    # Entry j of all clouds at once, for they do not see each other; only points that some cloud has.
    points = mask.any(0).nonzero().flatten().repeat_interleave(features)
    columns = torch.arange(features, device=at.device).repeat(len(points) // features)
    div = at.new_zeros(len(at))
    for p, f in zip(torch.split(points, _BATCH), torch.split(columns, _BATCH), strict=True):
        k = torch.arange(len(p), device=at.device)
        unit = at.new_zeros(len(p), *at.shape)
        unit[k, :, p, f] = 1.0
        (rows,) = torch.autograd.grad(
            value, at, unit, is_grads_batched=True, create_graph=create_graph, retain_graph=True
        )
        div = div + (rows[k, :, p, f] * mask[:, p].T).sum(0)
    return div
