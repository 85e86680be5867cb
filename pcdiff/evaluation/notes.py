"""What a reader should know before the numbers: observables that are not there, and units that look wrong."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pcdiff.clouds import PointClouds
from pcdiff.physics import Measured, noun, observables, titles

__all__ = ["left_out", "parts_taken", "unit_notes"]


def parts_taken(sets: Mapping[str, Measured], training: PointClouds | None) -> tuple[str, ...]:
    """One note for each set of which not all clouds were used."""
    provenances = {name: measured.provenance for name, measured in sets.items()}
    if training is not None:
        provenances["training"] = training.provenance
    kind = next(iter(sets.values())).kind
    return tuple(
        f"{name}: a random part was used, {about['part']['clouds']:,} of {about['part']['of']:,} {noun(kind)}"
        for name, about in provenances.items()
        if "part" in about
    )


def left_out(sets: Mapping[str, Measured]) -> tuple[str, ...]:
    """One note for each observable or profile that one of the sets lacks."""
    kind = next(iter(sets.values())).kind
    return tuple(
        f"{title} left out: {name} has {measured.missing[key]}"
        for key, title in titles(kind).items()
        for name, measured in sets.items()
        if key in measured.missing
    )


def unit_notes(truth: Measured, sample: Measured) -> tuple[str, ...]:
    """One note for each observable in GeV whose medians differ by a factor within 20 % of 1000, either way."""
    notes = []
    for name, observable in observables(truth.kind).items():
        if observable.unit != "GeV" or name not in truth.values or name not in sample.values:
            continue
        low, high = sorted(abs(float(np.median(measured.values[name]))) for measured in (truth, sample))
        if low > 0 and abs(high / low / 1000 - 1) <= 0.2:
            notes.append(f"values of {observable.title} differ by about 1000: is one of them in MeV?")
    return tuple(notes)
