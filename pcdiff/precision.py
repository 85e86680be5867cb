"""The precision that nets are computed in.

bfloat16 has the range of float32 with two to three digits. Where the hardware multiplies in it, a net costs half or less. Weights stay in
float32, and so do the first and the last layer of each net (:class:`pcdiff.nets.base.PointNet`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

__all__ = ["computing", "pick_precision"]


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """A precision by name.

    Args:
        name: ``float32``, ``bfloat16``, or ``auto``: bfloat16 where the hardware multiplies in it, else float32. On a CPU
            without AVX512_BF16 or AMX, bfloat16 is emulated and many times slower.
        device: where the net is computed.
    """
    if name == "auto":
        return torch.bfloat16 if _multiplies_bfloat16(device) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def computing(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    """The context in which a net is computed: with float32, nothing is changed; else matrix products take that precision."""
    if precision == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=precision)


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    # What torch knows of a CPU is named differently in its versions, and not at all in the oldest of them.
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    if known:
        return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
    probes = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(probe() for probe in probes if probe is not None)
