"""What quality.py keeps and how it is shown: results in a file, limits, tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measuring import conditions, described
from tables import bullets, markdown_table

from pcdiff.errors import DataError
from pcdiff.files import read_json, write_json

# Heading of a table and the factor that its numbers are multiplied by.
SHOWN = {
    "w1m": ("W1M, 10⁻³", 1e3),
    "w1p": ("W1P, 10⁻³", 1e3),
    "w1efp": ("W1EFP, 10⁻⁵", 1e5),
    "fpd": ("FPD, 10⁻³", 1e3),
    "auc_boosted": ("AUC, boosted trees", 1.0),
    "auc_net": ("AUC, net", 1.0),
    "fpnd": ("FPND", 1.0),
}


@dataclass(frozen=True)
class Limit:
    """The largest allowed mean: ``floors`` times the floor, plus ``above``.

    Attributes:
        floors: how many floors.
        above: in the unit of the metric.
    """

    floors: float = 0.0
    above: float = 0.0

    def bound(self, floor: float) -> float:
        """In the unit of the metric."""
        return self.floors * floor + self.above


def _limits(floors: float, fpd: float, auc: float, fpnd: float | None) -> dict[str, Limit]:
    limits = {name: Limit(floors=floors) for name in ("w1m", "w1p", "w1efp")}
    limits |= {"fpd": Limit(above=fpd), "auc_boosted": Limit(above=auc), "auc_net": Limit(above=auc)}
    if fpnd is not None:
        limits["fpnd"] = Limit(floors=1.0, above=fpnd)
    return limits


LIMITS = {"gluon30": _limits(1.5, 0.5e-3, 0.60, 0.1), "gluon30-fast": _limits(3.0, 1.5e-3, 0.70, None)}
"""What a generator is held to, by the name of the metric."""


@dataclass(frozen=True)
class Verdict:
    """One metric of one generator beside its floor.

    Attributes:
        metric: its name.
        mean, spread: over sampling seeds; the spread is None of one seed.
        floor, floor_spread: the same metric between two samples of the truth.
        bound: the largest allowed mean; None without a limit.
    """

    metric: str
    mean: float
    spread: float | None
    floor: float
    floor_spread: float | None
    bound: float | None

    @property
    def ratio(self) -> float:
        """The mean in floors."""
        return self.mean / self.floor

    @property
    def met(self) -> bool | None:
        """Whether the mean is within the limit; None without one."""
        return None if self.bound is None else self.mean <= self.bound


def verdicts(name: str, values: dict[str, list[float]], floors: dict[str, list[float]]) -> list[Verdict]:
    """Of each metric that has been measured both for a generator of this name and between samples of the truth.

    Args:
        values: of each metric, by sampling seed.
        floors: of each metric, by draw.
    """
    limits = LIMITS.get(name, {})
    found = []
    for metric, own in values.items():
        if not own or not floors.get(metric):
            continue
        (mean, spread), (floor, floor_spread) = mean_and_spread(own), mean_and_spread(floors[metric])
        limit = limits.get(metric)
        bound = None if limit is None else limit.bound(floor)
        found.append(Verdict(metric, mean, spread, floor, floor_spread, bound))
    return found


def mean_and_spread(values: list[float]) -> tuple[float, float | None]:
    """Mean and standard deviation of one value; no deviation of a single one."""
    spread: Any = np.std(values, ddof=1) if len(values) > 1 else None
    return float(np.mean(values)), None if spread is None else float(spread)


class Store:
    """Results by (part, metric, number), in a file that is written anew with each.

    Args:
        path: the file; what is in it is kept.
        identity: of what all parts are compared with.
        say: told each new result.

    Raises:
        DataError: the file holds results of another identity.
    """

    def __init__(self, path: Path, identity: dict[str, Any], say: Callable[[str], None]) -> None:
        self.path, self.say = path, say
        self.data = read_json(path) if path.is_file() else {"identity": identity, "parts": {}}
        if self.data["identity"] != identity:
            raise DataError(
                f"{path}: holds results of other true jets or numbers of jets; name another file with --output, or remove it"
            )

    def part(self, name: str, identity: str) -> None:
        """Begin a part: what is kept of another generator of the same name goes."""
        parts = self.data["parts"]
        if parts.get(name, {}).get("identity") != identity:
            parts[name] = {"identity": identity, "values": {}}

    def once(self, name: str, metric: str, number: int, work: Callable[[], Any]) -> Any:
        """The result that is kept, or that of the work."""
        kept = self.data["parts"][name]["values"].setdefault(metric, {})
        if str(number) not in kept:
            start = time.monotonic()
            kept[str(number)] = work()
            self.data["conditions"] = conditions()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, self.data)
            self.say(f"{name}, {metric}, {number}: {_brief(kept[str(number)])} ({time.monotonic() - start:.0f} s)")
        return kept[str(number)]

    def values(self, name: str, metric: str) -> list[float]:
        """All that is kept of a metric."""
        return list(self.data["parts"][name]["values"].get(metric, {}).values())


def _brief(found: Any) -> str:
    return (
        f"{found:.5g}" if isinstance(found, float) else ", ".join(f"{one['name']} {one['value']:.4f}" for one in found)
    )


def judged(store: Store, name: str) -> list[Verdict]:
    """Each metric of a generator beside its floor."""
    values, floors = ({metric: store.values(part, metric) for metric in SHOWN} for part in (name, "truth"))
    return verdicts(name, values, floors)


def quality_table(store: Store, names: Sequence[str]) -> list[list[str]]:
    """Heading and lines."""
    lines = [["generator", "metric", "value", "floor", "in floors", "limit", "met"]]
    for name in names:
        for one in judged(store, name):
            title, factor = SHOWN[one.metric]
            bound = "-" if one.bound is None else f"{one.bound * factor:.3g}"
            met = "-" if one.met is None else ("yes" if one.met else "no")
            lines.append(
                [
                    name,
                    title,
                    _with_spread(one.mean * factor, one.spread, factor),
                    _with_spread(one.floor * factor, one.floor_spread, factor),
                    # Half is what no classifier falls below.
                    "-" if one.metric.startswith("auc") else f"{one.ratio:.2f}",
                    bound,
                    met,
                ]
            )
    return lines


def _with_spread(value: float, spread: float | None, factor: float) -> str:
    return f"{value:.3f}" if spread is None else f"{value:.3f} ± {spread * factor:.3f}"


def memorisation_table(store: Store, names: Sequence[str]) -> list[list[str]]:
    """Heading and lines; only the heading where it was not looked at."""
    lines = [["generator", "distance from the training jets", "value", "by chance"]]
    for name in names:
        for found in store.values(name, "memorisation"):
            lines += [
                [
                    name,
                    one["title"],
                    f"{one['value']:.4f} ± {one['error']:.4f}",
                    f"{one['floor']:.4f} ± {one['floor_error']:.4f}",
                ]
                for one in found
            ]
    return lines


def tables(store: Store, names: Sequence[str]) -> dict[str, list[list[str]]]:
    """Each table by its title."""
    found = {"Against the truth": quality_table(store, names), "Memorisation": memorisation_table(store, names)}
    return {title: lines for title, lines in found.items() if len(lines) > 1}


def notes(store: Store) -> list[str]:
    """What must stand beside the numbers."""
    about = store.data["identity"]
    return [
        *described(store.data["conditions"]),
        f"{about['jets']:,} generated jets of each seed against {about['jets']:,} true ones of {about['truth']}.",
    ]


def markdown(store: Store, names: Sequence[str]) -> str:
    """As in benchmarks/README.md."""
    parts = [f"#### {title}\n\n{markdown_table(lines)}" for title, lines in tables(store, names).items()]
    return "\n\n".join([*parts, bullets(notes(store))])
