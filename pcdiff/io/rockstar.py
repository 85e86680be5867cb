"""Rockstar and consistent-trees catalogues: ``out_N.list``, ``hlist_A.list``, text with a row for each halo.

Layout (Behroozi, Wechsler, Wu, "The Rockstar Phase-Space Temporal Halo Finder", arXiv:1110.4372; consistent-trees,
arXiv:1110.4370): the first line names the columns, ``#ID DescID Mvir ... X Y Z VX VY VZ ...``, each with its number behind it in
consistent-trees, ``#scale(0) id(1) ... x(17)``. Which there are differs from catalogue to catalogue, so they are found by name, in
upper or lower case. Further lines of the header begin with ``#``: ``#a = 1.0``, ``#Om = 0.27; Ol = 0.73; h = 0.7`` (in
consistent-trees ``#Omega_M = 0.27; ...`` and the column ``scale``), ``#Box size: 250.0 Mpc/h`` (``#Full box size = ...``).
Masses are in Msun/h, positions in comoving Mpc/h, velocities peculiar in km/s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError, suggest
from pcdiff.io.catalogue import NO_MASS, catalogue, positive
from pcdiff.io.registry import Column, Description, Format
from pcdiff.schema import POSITION, VELOCITY

__all__ = ["FORMAT"]

_NUMBER = r"([-+]?\d[-+.\deE]*)"
_STATED = {
    "a": re.compile(rf"#\s*a\s*=\s*{_NUMBER}"),
    "omega_m": re.compile(rf"#\s*(?:Om|Omega_M)\s*=\s*{_NUMBER}"),
    "box_size": re.compile(rf"#\s*(?:Box size:|Full box size\s*=)\s*{_NUMBER}\s*Mpc/h"),
    "particle_mass": re.compile(rf"#\s*Particle mass:\s*{_NUMBER}\s*Msun/h"),
}

# Text that is held at once, the longest line, and the most lines of a header, in which some explain each column.
_BLOCK, _LONGEST_LINE, _MOST_LINES = 1 << 24, 1 << 16, 10_000


@dataclass(frozen=True)
class _Layout:
    """The header of a file.

    Attributes:
        names: of all columns, without their numbers.
        columns: where each column that is read is; ``parent`` and ``scale`` where there are such.
        stated: the numbers of the header.
    """

    names: tuple[str, ...]
    columns: Mapping[str, int]
    stated: Mapping[str, float]


def _fits(path: Path) -> bool:
    try:
        names, _ = _header(path)
    except DataError:
        return False
    return {"x", "y", "z"} <= {name.lower() for name in names}


def _header(path: Path) -> tuple[tuple[str, ...], dict[str, float]]:
    """The names of the columns, and the numbers that the header states."""
    stated: dict[str, float] = {}
    with path.open("rb") as stream:
        first = stream.readline(_LONGEST_LINE)
        if not first.startswith(b"#"):
            raise DataError(
                f"{path}: starts with {first[:20]!r}, expected a line '#ID ... X Y Z ...' with the names of columns"
            )
        words = first[1:].decode(errors="replace").split()
        for _ in range(_MOST_LINES):
            line = stream.readline(_LONGEST_LINE)
            if not line.startswith(b"#"):
                break
            for key, pattern in _STATED.items():
                found = pattern.match(line.decode(errors="replace"))
                if found is not None and key not in stated:
                    stated[key] = _float(found[1], f"the header's {found[0]!r}", path)
    return tuple(_plain(word, i, path) for i, word in enumerate(words)), stated


def _plain(word: str, place: int, path: Path) -> str:
    """The name of a column without its number, which ``name(n)`` gives and which must be its place.

    A number with a unit behind it, as in ``b_to_a(500c)``, belongs to the name.
    """
    numbered = re.fullmatch(r"(.+)\((\d+)\)", word)
    if numbered is None:
        return word
    # As text, for Python makes no numbers of thousands of digits.
    if numbered[2] != str(place):
        raise DataError(
            f"{path}: column {word!r:.100} of the header is number {place}, expected the number in its name"
        )
    return numbered[1]


def _float(text: str, what: str, path: Path) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise DataError(f"{path}: {what} is {text!r}, expected a number") from error


def _layout(path: Path, mass: str, box_size: float | None) -> _Layout:
    names, stated = _header(path)
    lower = {name.lower(): i for i, name in reversed(list(enumerate(names)))}
    columns: dict[str, int] = {}
    for feature, name in {**{name: name for name in (*POSITION, *VELOCITY)}, "mass": mass}.items():
        if name.lower() not in lower:
            raise DataError(
                f"{path}: no column {name!r} in the header, in upper or lower case; {suggest(name.lower(), lower)}"
            )
        columns[feature] = names.index(name) if name in names else lower[name.lower()]
    columns |= {feature: lower[name] for feature, name in (("parent", "pid"), ("scale", "scale")) if name in lower}
    if box_size is not None and "box_size" in stated:
        raise DataError(
            f"{path}: the option box_size is for files that do not state it; this one says {stated['box_size']:g}"
        )
    if box_size is None and "box_size" not in stated:
        raise DataError(f"{path}: the header has no line '#Box size: ... Mpc/h', so the option box_size is needed")
    stated["box_size"] = positive(stated["box_size"] if box_size is None else box_size, "the box size", path)
    return _Layout(names, columns, stated)


def _rows(path: Path, layout: _Layout) -> npt.NDArray[np.float64]:
    """The columns that are read, in the order of ``layout.columns``: shape (n, columns)."""
    wanted = list(layout.columns.values())
    parts = [np.zeros((0, len(wanted)))]
    row = 0
    with path.open("rb") as stream:
        while lines := stream.readlines(_BLOCK):
            lines = [line for line in lines if not line.startswith(b"#") and not line.isspace()]
            if not lines:
                continue
            parts.append(_parsed(lines, len(layout.names), row, path)[:, wanted])
            row += len(lines)
    return np.concatenate(parts)


def _parsed(lines: list[bytes], columns: int, before: int, path: Path) -> npt.NDArray[np.float64]:
    """Rows of text as numbers; ``before`` is the number of halos in the rows before."""
    try:
        found = np.loadtxt(lines, np.float64, comments=None, ndmin=2)
        if found.shape[1] == columns and lines[-1].endswith(b"\n"):
            return found
    except ValueError:
        # Which row is wrong is found below.
        pass
    for i, line in enumerate(lines):
        words = line.split()
        if len(words) != columns or not line.endswith(b"\n"):
            found_there = f"{len(words)} columns" + ("" if line.endswith(b"\n") else " and no end of line")
            raise DataError(
                f"{path}: halo {before + i} has {found_there}, expected {columns} and an end: is the file cut short?"
            )
        for place, word in enumerate(words):
            _float(word.decode(errors="replace"), f"column {place} of halo {before + i}", path)
    raise DataError(f"{path}: cannot be read as rows of {columns} numbers")


def _features(layout: _Layout, rows: npt.NDArray[np.float64], path: Path) -> dict[str, float]:
    """The cloud columns that the file gives."""
    features = {"box_size": layout.stated["box_size"]}
    scale = layout.stated.get("a")
    if scale is None and "scale" in layout.columns and len(rows):
        scales = rows[:, list(layout.columns).index("scale")]
        if np.any(scales != scales[0]):
            raise DataError(
                f"{path}: column 'scale' goes from {scales.min():g} to {scales.max():g}, expected one scale factor"
            )
        scale = float(scales[0])
    if scale is not None:
        features["redshift"] = 1 / positive(scale, "the scale factor", path) - 1
    if "omega_m" in layout.stated:
        features["omega_m"] = layout.stated["omega_m"]
    return features


def _iterate(
    path: Path, _step_size: int, *, mass: str = "Mvir", subhalos: bool = False, box_size: float | None = None
) -> Iterator[PointClouds]:
    """The catalogue as one cloud.

    Args:
        mass: the column that is the mass: ``Mvir``, ``M200b``, ``M200c``, ....
        subhalos: whether to keep halos that lie within another, which the column ``PID`` tells where there is one.
        box_size: side of the periodic box in Mpc/h, for a file that does not state it.
    """
    layout = _layout(path, mass, box_size)
    rows = _rows(path, layout)
    features = _features(layout, rows, path)
    place = {name: i for i, name in enumerate(layout.columns)}
    if "parent" in place and not subhalos:
        rows = rows[rows[:, place["parent"]] == -1]
    yield catalogue(
        rows[:, [place[name] for name in POSITION]],
        rows[:, [place[name] for name in VELOCITY]],
        rows[:, place["mass"]],
        features,
        mass_name=mass,
        provenance={"sources": [str(path)]},
    )


def _describe(path: Path, *, mass: str = "Mvir", subhalos: bool = False, box_size: float | None = None) -> Description:
    """What the header says; the options as for reading."""
    layout = _layout(path, mass, box_size)
    meaning = {i: "log10_mass" if name == "mass" else name for name, i in layout.columns.items()}
    meaning = {i: name for i, name in meaning.items() if name not in ("parent", "scale")}
    columns: list[Any] = [Column(name, meaning.get(i, ""), "text") for i, name in enumerate(layout.names)]
    columns += [Column(f"header: {name}", name) for name in ("box_size", "omega_m") if name in layout.stated]
    if "a" in layout.stated or "scale" in layout.columns:
        columns.append(Column("header: a" if "a" in layout.stated else "scale", "redshift"))
    notes = [NO_MASS]
    if "parent" not in layout.columns:
        notes.append("no column 'PID': halos within others cannot be told, all are kept")
    elif subhalos:
        notes.append("halos within others are kept")
    else:
        notes.append("hosts only: halos within others (PID other than -1) are left out; the option subhalos keeps them")
    return Description(path, "rockstar", 1, tuple(columns), dict(layout.stated), tuple(notes))


FORMAT = Format(
    name="rockstar",
    description="Rockstar and consistent-trees text (out_N.list, hlist), read only",
    fits=_fits,
    iterate=_iterate,
    describe=_describe,
    kinds=("halos",),
)
