from __future__ import annotations

from typing import Any

import pytest
import torch

from pcdiff.precision import computing, pick_precision

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ({"avx512_bf16": False, "amx_bf16": True}, torch.bfloat16),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({"avx2": True}, torch.float32),
    ],
)
def test_auto_follows_what_the_cpu_multiplies_in(
    monkeypatch: pytest.MonkeyPatch, known: dict[str, bool], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert pick_precision("auto", CPU) == expected
    assert pick_precision("float32", CPU) == torch.float32
    assert pick_precision("bfloat16", CPU) == torch.bfloat16


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("amx", [False, True])
def test_auto_asks_the_older_names_where_torch_has_no_list(
    monkeypatch: pytest.MonkeyPatch, bf16: bool, amx: bool
) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    assert pick_precision("auto", CPU) == (torch.bfloat16 if bf16 or amx else torch.float32)


def test_auto_is_float32_where_torch_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("get_capabilities", "_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert pick_precision("auto", CPU) == torch.float32
    assert pick_precision("auto", torch.device("mps")) == torch.float32


@pytest.mark.parametrize("supported", [False, True])
def test_auto_takes_no_emulation_on_cuda(monkeypatch: pytest.MonkeyPatch, supported: bool) -> None:
    asked: list[dict[str, Any]] = []

    def is_bf16_supported(**options: Any) -> bool:
        asked.append(options)
        return supported

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    assert pick_precision("auto", CUDA) == (torch.bfloat16 if supported else torch.float32)
    assert asked == [{"including_emulation": False}]


def test_products_are_rounded_in_lower_precision_and_nothing_is_in_float32() -> None:
    """Of values with eight significant bits each product is exact in float32; their sum is within one rounding, 2^-8."""
    torch.manual_seed(0)
    a, b = (torch.randn(shape).bfloat16().float() for shape in ((8, 16), (16, 8)))
    exact = a.double() @ b.double()
    with computing(CPU, torch.float32):
        assert (a @ b).dtype == torch.float32
    with computing(CPU, torch.bfloat16):
        product = a @ b
    assert product.dtype == torch.bfloat16
    assert not torch.is_autocast_enabled("cpu")
    # The sum of 16 terms in float32 comes before, with an error of 16 * 2^-24 of the sum of their sizes.
    bound = 2**-8 * exact.abs() + 2**-20 * (a.abs() @ b.abs()).double()
    assert ((product.double() - exact).abs() <= 1.01 * bound).all()
