"""How a generator is sampled, and what each sampler can be told; known without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from pcdiff.config.section import Real, Section, Whole, mistake

__all__ = ["SAMPLER_FACTS", "SamplerFacts", "SamplingConfig"]


@dataclass(frozen=True)
class SamplerFacts:
    """What a sampler can be told: the orders it may have, the default first, and its options with their defaults."""

    orders: tuple[int, ...] = ()
    options: dict[str, float] = field(default_factory=dict)


SAMPLER_FACTS = {
    "ddim": SamplerFacts((2, 1, 3), {"eta": 0.0}),
    "unipc": SamplerFacts((2, 1, 3)),
    "ancestral": SamplerFacts(),
    "sde-dpm": SamplerFacts((2, 1, 3)),
    "euler": SamplerFacts(),
    "heun": SamplerFacts(),
    "edm-churn": SamplerFacts(options={"churn": 40.0, "inflation": 1.003}),
    "rk45": SamplerFacts(options={"tolerance": 1e-5}),
    "euler-maruyama": SamplerFacts(options={"eta": 1.0}),
    "ito": SamplerFacts(options={"eta": 1.0}),
    "predictor-corrector": SamplerFacts(options={"corrections": 1.0, "snr": 0.16}),
    "langevin": SamplerFacts(options={"corrections": 10.0, "step": 0.1}),
    "restart": SamplerFacts((2, 1, 3), {"repeats": 2.0, "log_snr_low": 0.0, "log_snr_high": 3.0}),
}


class SamplingConfig(Section):
    sampler: Literal[
        "ddim",
        "unipc",
        "ancestral",
        "sde-dpm",
        "euler",
        "heun",
        "edm-churn",
        "rk45",
        "euler-maruyama",
        "ito",
        "predictor-corrector",
        "langevin",
        "restart",
    ] = "ddim"
    """How clouds are made of noise. ODE: ddim and its multistep forms (DPM-Solver++), unipc, euler, heun, rk45; stochastic:
    the rest. The table in docs/methods.md says which is for what."""
    order: Literal[1, 2, 3] | None = None
    """Order of ddim, unipc, sde-dpm and restart (1 is DDIM, 2 and 3 its multistep forms); 2 when absent. The others have none."""
    steps: Whole = Field(default=20, ge=1, le=1_000_000)
    """Number of steps."""
    grid: Literal["log-snr", "uniform", "quadratic", "karras", "fitted"] = "log-snr"
    """How the times are spread: evenly in log-SNR, in t, in sqrt(t), in (sigma / alpha)^(1/7), or as they were fitted to the generator."""
    options: dict[str, Real] = Field(default={})
    """Further settings of the sampler, for example `eta` of ddim."""
    denoise: bool = False
    """End with one more evaluation, which takes out the noise that is left at the last time."""
    guidance: Real = 1.0
    """Strength of classifier-free guidance; 1 is none. Needs a training with `denoiser.drop_conditions`."""
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """What the net is computed in. Auto: bfloat16 where the hardware multiplies in it, which halves the time. It moves a standardised
    point by about 0.002, a twentieth of what 20 steps leave; values of other batching then agree to its rounding only."""

    @field_validator("order")
    @classmethod
    def _known_order(cls, order: int | None, info: ValidationInfo) -> int | None:
        sampler = info.data.get("sampler")
        if order is not None and sampler is not None and not SAMPLER_FACTS[sampler].orders:
            raise mistake(order, f"no order for the sampler {sampler}")
        return order

    @field_validator("options")
    @classmethod
    def _known_options(cls, options: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        sampler = info.data.get("sampler")
        known = SAMPLER_FACTS[sampler].options if sampler is not None else options
        for name, value in options.items():
            if name not in known:
                raise mistake(name, f"an option of the sampler {sampler}: {', '.join(known) or 'it has none'}")
            if not math.isfinite(value) or (value < 0 and not name.startswith("log_snr")):
                raise mistake(value, "a number from 0", name)
            if sampler == "ddim" and name == "eta" and value > 1:
                raise mistake(value, "a number from 0 to 1", name)
        return options

    def resolved(self) -> SamplingConfig:
        """The same with the sampler's own defaults written out."""
        facts = SAMPLER_FACTS[self.sampler]
        order = next(iter(facts.orders), None) if self.order is None else self.order
        return self.model_copy(update={"order": order, "options": facts.options | self.options})
