"""AbacusSummit's CompaSO halos: ``halo_info_NNN.asdf``, the slabs of a box, read with abacusutils.

Layout (Hadzhiyska et al., "CompaSO: A new halo finder for competitive assembly bias", arXiv:2110.11408): each file holds the halos
of a slab of the box, ASDF compressed by Blosc, with a header that has BoxSize (Mpc/h), Omega_M, Redshift and ParticleMassHMsun
(Msun/h). ``x_com`` and ``v_com`` are those of all particles of a halo, ``x_L2com`` and ``v_L2com`` of its largest dense core, ``N`` is
its number of particles. abacusutils turns positions into Mpc/h, which lie around 0, and velocities into km/s, peculiar.

The folder ``halo_info``, or its first file, stands for all slabs, for one alone is no periodic box.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError, one_line, optional, suggest
from pcdiff.io.catalogue import NO_MASS, catalogue, positive
from pcdiff.io.registry import Column, Description, Format

__all__ = ["FORMAT"]

_SLAB = re.compile(r"halo_info_(\d+)\.asdf")
_CENTERS = ("com", "L2com")

# Blosc shrinks physics by less than 100.
_MOST_COMPRESSED = 1000

# A block of an ASDF file: a mark and the length of the header, then flags, compression, bytes reserved, used and once unpacked.
_MARK, _BLOCK = b"\xd3BLK", struct.Struct(">4sH I4sQQQ")
_LONGEST_TREE = 1 << 24


def _fits(path: Path) -> bool:
    try:
        first, *_ = _slabs(path)
    except DataError:
        return False
    with first.open("rb") as stream:
        return stream.read(5) == b"#ASDF"


def _slabs(path: Path) -> list[Path]:
    """The files of all slabs, from 0 on."""
    folder = path if path.is_dir() else path.parent
    numbers = {int(found[1]): file for file in folder.iterdir() if (found := _SLAB.fullmatch(file.name)) is not None}
    slabs = [numbers[number] for number in sorted(numbers)]
    if not path.is_dir() and path not in slabs:
        raise DataError(f"{path}: is named otherwise than slabs are, expected halo_info_000.asdf")
    if not slabs:
        raise DataError(f"{path}: found no slabs in it, expected halo_info_000.asdf, ...")
    missing = next((number for number in range(len(slabs)) if number not in numbers), None)
    if missing is not None:
        raise DataError(f"{path}: slab {missing} is missing, found {', '.join(file.name for file in slabs[:3])}, ...")
    if not path.is_dir() and path != slabs[0]:
        raise DataError(
            f"{path}: is one of {len(slabs)} slabs of a box; name the first, {slabs[0].name}, or the folder, which stand for all"
        )
    return slabs


def _check_blocks(path: Path) -> None:
    """Refuse a file that ends within a block, or a block that says it unpacks to more than one of its size can."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        place = stream.read(_LONGEST_TREE).find(_MARK)
        if place < 0:
            raise DataError(f"{path}: found no block of data, expected a whole ASDF file")
        while True:
            stream.seek(place)
            head = stream.read(_BLOCK.size)
            if not head.startswith(_MARK):
                break
            begins = place + len(_MARK) + 2
            if len(head) == _BLOCK.size:
                _, length, _, _, reserved, used, unpacked = _BLOCK.unpack(head)
                place = begins + length + reserved
            if len(head) < _BLOCK.size or place > size:
                raise DataError(f"{path}: ends within a block of data, at {size} bytes: it is cut short")
            if unpacked > _MOST_COMPRESSED * max(used, 1):
                raise DataError(
                    f"{path}: a block of {used} bytes declares {unpacked} bytes unpacked; expected at most {_MOST_COMPRESSED} "
                    "times as many: is it damaged?"
                )


def _check_tree(path: Path) -> None:
    """Refuse a file whose tree names data elsewhere: ASDF would open other files for them, and addresses in the network."""
    with path.open("rb") as stream:
        text = stream.read(_LONGEST_TREE).partition(_MARK)[0].partition(b"\n...")[0]
    try:
        left = [yaml.compose(text, yaml.SafeLoader)]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: its tree is not YAML ({one_line(error)}); expected a whole ASDF file") from error
    seen: set[int] = set()
    while left:
        node = left.pop()
        # An anchor can be met again, even inside itself.
        if not isinstance(node, yaml.CollectionNode) or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            left += node.value
            continue
        for key, value in node.value:
            left += [key, value]
            if key.value == "$ref" or (key.value == "source" and value.tag != "tag:yaml.org,2002:int"):
                raise DataError(f"{path}: {key.value} is {value.value!r:.60}, expected data in the file itself")


def _header(slabs: list[Path], columns: tuple[str, ...]) -> dict[str, float]:
    """What the header says, after a look at what each file declares to hold."""
    asdf = optional("asdf", "abacus")
    optional("abacusnbody.data.compaso_halo_catalog", "abacus")
    header: dict[str, Any] = {}
    for slab in slabs:
        _check_blocks(slab)
        _check_tree(slab)
        try:
            with asdf.open(slab, lazy_load=True) as file:
                tree, data = file.tree, file.tree["data"]
                declared = {name: (data[name].shape, data[name].dtype.itemsize) for name in columns if name in data}
                names = [str(name) for name in data]
                header = header or dict(tree["header"])
        except Exception as error:
            # What ASDF, YAML and the tree raise for damage is of no one type.
            raise DataError(
                f"{slab}: cannot be opened ({one_line(error)}); expected a whole CompaSO ASDF file"
            ) from error
        size = slab.stat().st_size
        for name in columns:
            if name not in declared:
                raise DataError(f"{slab}: no column {name!r} in it; {suggest(name, names)}")
            shape, width = declared[name]
            if np.prod(shape, dtype=float) * width > _MOST_COMPRESSED * size:
                raise DataError(
                    f"{slab}: column {name!r} declares the shape {shape} in a file of {size / 1e6:.3f} MB; expected at most "
                    f"{_MOST_COMPRESSED} times the file: is it damaged?"
                )
    keys = {"box_size": "BoxSize", "redshift": "Redshift", "omega_m": "Omega_M", "particle_mass": "ParticleMassHMsun"}
    for key in keys.values():
        if not isinstance(header.get(key), (int, float)):
            raise DataError(f"{slabs[0]}: no number {key!r} in the header; {suggest(key, map(str, header))}")
    found = {name: float(header[key]) for name, key in keys.items()}
    for name in ("box_size", "particle_mass"):
        positive(found[name], f"{keys[name]!r} of the header", slabs[0])
    return found


def _columns(path: Path, center: str) -> tuple[str, str, str]:
    if center not in _CENTERS:
        raise DataError(f"{path}: the option center is {center!r}, expected {' or '.join(map(repr, _CENTERS))}")
    return "N", f"x_{center}", f"v_{center}"


def _iterate(path: Path, _step_size: int, *, cleaned: bool = False, center: str = "com") -> Iterator[PointClouds]:
    """All slabs as one cloud.

    Args:
        cleaned: whether to take numbers of particles from AbacusSummit's cleaned catalogue, whose folder ``cleaning`` must lie
            beside or above that of the simulation.
        center: whose position and velocity are read: ``com``, of all particles, or ``L2com``, of the largest dense core.
    """
    columns = _columns(path, center)
    slabs = _slabs(path)
    header = _header(slabs, columns)
    compaso = optional("abacusnbody.data.compaso_halo_catalog", "abacus")
    number, x, v = columns
    # abacusutils names the cleaned number N_total while it reads and N after.
    fields = ["N_total" if cleaned else number, x, v]
    try:
        halos = compaso.CompaSOHaloCatalog(slabs, cleaned=cleaned, fields=fields).halos
        position, velocity, particles = (np.asarray(halos[name]) for name in (x, v, number))
    except Exception as error:
        # What abacusutils, ASDF and Blosc raise is of no one type.
        raise DataError(f"{path}: cannot be read by abacusutils ({one_line(error)})") from error
    features = {name: header[name] for name in ("box_size", "redshift", "omega_m")}
    yield catalogue(
        position.astype(np.float64) % header["box_size"],
        velocity,
        particles * header["particle_mass"],
        features,
        mass_name="N",
        provenance={"sources": [str(path)]},
    )


def _describe(path: Path, *, cleaned: bool = False, center: str = "com") -> Description:
    """What is inside; the options as for reading."""
    number, x, v = _columns(path, center)
    slabs = _slabs(path)
    header = _header(slabs, (number, x, v))
    columns = [Column(f"{x}[:, {i}]", name, "float32") for i, name in enumerate("xyz")]
    columns += [Column(f"{v}[:, {i}]", f"v{name}", "float32") for i, name in enumerate("xyz")]
    columns += [Column(f"{number} * ParticleMassHMsun", "log10_mass", "uint32")]
    columns += [Column(f"header: {key}", name) for name, key in (("box_size", "BoxSize"), ("redshift", "Redshift"))]
    columns += [Column("header: Omega_M", "omega_m")]
    state = "cleaned" if cleaned else "as CompaSO found them; the option cleaned takes those of the cleaned catalogue"
    notes = (f"{len(slabs)} slab{'' if len(slabs) == 1 else 's'}", f"halos {state}", NO_MASS)
    return Description(path, "abacus", 1, tuple(columns), header, notes)


FORMAT = Format(
    name="abacus",
    description="AbacusSummit's CompaSO halos (ASDF slabs), read only; needs the extra abacus",
    fits=_fits,
    iterate=_iterate,
    describe=_describe,
    kinds=("halos",),
)
