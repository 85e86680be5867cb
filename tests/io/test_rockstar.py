"""Rockstar and consistent-trees text, written here by hand from the layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import pcdiff

BOX = 250.0
OUT = [
    "ID",
    "DescID",
    "Mvir",
    "Vmax",
    "Vrms",
    "Rvir",
    "Rs",
    "Np",
    "X",
    "Y",
    "Z",
    "VX",
    "VY",
    "VZ",
    "M200b",
    "b_to_a(500c)",
    "T/|U|",
]
HLIST = [
    "scale",
    "id",
    "desc_scale",
    "pid",
    "upid",
    "mvir",
    "rvir",
    "x",
    "y",
    "z",
    "vx",
    "vy",
    "vz",
    "M200b",
    "b_to_a(500c)",
]
OUT_HEADER = """#a = 0.666667
#Om = 0.270000; Ol = 0.730000; h = 0.700000
#FOF linking length: 0.280000
#Particle mass: 1.3e8 Msun/h
#Box size: 250.000000 Mpc/h
#Units: Velocities in km / s (physical, peculiar)
"""
HLIST_HEADER = """#Omega_M = 0.307; Omega_L = 0.693; h0 = 0.68
#Full box size = 250.000000 Mpc/h
#Scale: Scale factor of halo.
#mvir: Msun/h
"""


def table(names: list[str], size: int = 30, *, parent: str = "pid") -> dict[str, np.ndarray]:
    """Columns by name; every third halo lies within another where there is a parent."""
    rng = np.random.default_rng(1)
    columns = {name: rng.uniform(1, 9, size) for name in names}
    for name in names:
        if name.lower() in "xyz":
            columns[name] = np.round(rng.uniform(0, BOX, size), 5)
            columns[name][0] = BOX
        elif name.lower() in ("vx", "vy", "vz"):
            columns[name] = np.round(rng.normal(0, 300, size), 2)
        elif name.lower() in ("mvir", "m200b"):
            columns[name] = 10 ** rng.uniform(11, 15, size)
        elif name.lower() == parent:
            columns[name] = np.where(np.arange(size) % 3 == 2, 7, -1)
        elif name == "scale":
            columns[name] = np.full(size, 0.666667)
    return columns


def rows(columns: dict[str, np.ndarray]) -> str:
    stacked = np.stack(list(columns.values()), axis=1)
    return "".join(" ".join(f"{value:.10g}" for value in row) + "\n" for row in stacked)


def write_out(path: Path, columns: dict[str, np.ndarray], header: str = OUT_HEADER) -> Path:
    path.write_text("#" + " ".join(columns) + "\n" + header + rows(columns))
    return path


def write_hlist(path: Path, columns: dict[str, np.ndarray], header: str = HLIST_HEADER) -> Path:
    path.write_text("#" + " ".join(f"{name}({i})" for i, name in enumerate(columns)) + "\n" + header + rows(columns))
    return path


def check(clouds: pcdiff.PointClouds, columns: dict[str, np.ndarray], mass: str, kept: np.ndarray) -> None:
    lower = {name.lower(): values[kept] for name, values in columns.items()}
    assert (len(clouds), clouds.schema.kind) == (1, "halos")
    for name in "xyz":
        np.testing.assert_allclose(clouds.column(name), lower[name] % BOX, rtol=1e-6)
        np.testing.assert_allclose(clouds.column(f"v{name}"), lower[f"v{name}"], rtol=1e-6)
    np.testing.assert_allclose(clouds.column("log10_mass"), np.log10(lower[mass.lower()]), rtol=1e-6)
    assert {clouds.column(name).dtype for name in clouds.schema.point_names} == {np.dtype(np.float32)}


@pytest.mark.parametrize("mass", ["Mvir", "M200b"])
@pytest.mark.parametrize("suffix", [".list", ".txt"])
def test_out_list(tmp_path: Path, mass: str, suffix: str) -> None:
    columns = table(OUT)
    path = write_out(tmp_path / f"out_3{suffix}", columns)
    clouds = pcdiff.read(path, mass=mass)
    check(clouds, columns, mass, np.full(30, True))
    features = {name: float(clouds.feature(name)[0]) for name in clouds.schema.cloud_names}
    assert features == pytest.approx({"box_size": BOX, "redshift": 0.5, "omega_m": 0.27}, rel=1e-5)
    found = pcdiff.inspect(path)
    assert (found.format, found.clouds) == ("rockstar", 1)
    assert found.metadata["particle_mass"] == 1.3e8
    assert any("cannot be told" in note for note in found.notes)


def test_columns_are_found_by_name_wherever_they_are(tmp_path: Path) -> None:
    columns = table(OUT)
    shuffled = {name: columns[name] for name in sorted(OUT, reverse=True)}
    a, b = (write_out(tmp_path / f"{name}.list", found) for name, found in (("a", columns), ("b", shuffled)))
    assert pcdiff.read(a).equals(pcdiff.read(b))


@pytest.mark.parametrize("subhalos", [False, True])
def test_hlist(tmp_path: Path, subhalos: bool) -> None:
    """Names with numbers and in lower case; a column says the scale factor; one halo in three lies within another."""
    columns = table(HLIST)
    path = write_hlist(tmp_path / "hlist_0.66667.list", columns)
    clouds = pcdiff.read(path, subhalos=subhalos)
    check(clouds, columns, "Mvir", np.full(30, True) if subhalos else columns["pid"] == -1)
    features = {name: float(clouds.feature(name)[0]) for name in clouds.schema.cloud_names}
    assert features == pytest.approx({"box_size": BOX, "redshift": 0.5, "omega_m": 0.307}, rel=1e-5)
    notes = " ".join(pcdiff.inspect(path, subhalos=subhalos).notes)
    assert ("hosts only" in notes) != subhalos
    sources = {column.source: column.feature for column in pcdiff.inspect(path).columns}
    assert sources["mvir"] == "log10_mass"
    assert sources["b_to_a(500c)"] == sources["pid"] == ""


def test_halos_without_a_mass_of_that_definition(tmp_path: Path) -> None:
    columns = table(OUT)
    columns["M200b"][[1, 4]] = 0
    path = write_out(tmp_path / "out_0.list", columns)
    check(pcdiff.read(path, mass="M200b"), columns, "M200b", columns["M200b"] > 0)
    assert pcdiff.read(path).num_points == 30


def test_a_header_without_scale_or_cosmology(tmp_path: Path, refused: Callable[..., None]) -> None:
    """What the file does not state is absent; the box alone must be known."""
    path = write_out(tmp_path / "out_0.list", table(OUT), "")
    refused(lambda: pcdiff.read(path), path, "'#Box size: ... Mpc/h'", "option box_size")
    assert pcdiff.read(path, box_size=BOX).schema.cloud_names == ("box_size",)
    stated = write_out(tmp_path / "out_1.list", table(OUT))
    refused(lambda: pcdiff.read(stated, box_size=BOX), stated, "this one says 250")
    none = write_out(tmp_path / "out_2.list", table(OUT), OUT_HEADER.replace("250.", "0."))
    refused(lambda: pcdiff.read(none), none, "the box size is 0.0")


def test_several_snapshots_in_one_file(tmp_path: Path, refused: Callable[..., None]) -> None:
    columns = table(HLIST)
    columns["scale"][3] = 0.5
    path = write_hlist(tmp_path / "hlist.list", columns)
    refused(lambda: pcdiff.read(path), path, "'scale' goes from 0.5 to 0.666667")


@pytest.mark.parametrize(
    ("old", "new", "keys"),
    [
        (" Mvir ", " M_vir ", ("'Mvir'", "did you mean 'm_vir'")),
        (" VZ ", " Vzz ", ("'vz'", "did you mean 'vzz'")),
        ("#ID", "ID", ("starts with", "#ID ... X Y Z")),
    ],
)
def test_a_renamed_column(tmp_path: Path, old: str, new: str, keys: tuple, refused: Callable[..., None]) -> None:
    path = write_out(tmp_path / "out_0.list", table(OUT))
    path.write_text(path.read_text().replace(old, new, 1))
    refused(lambda: pcdiff.read(path), path, *keys)


def test_an_unknown_mass(tmp_path: Path, refused: Callable[..., None]) -> None:
    path = write_out(tmp_path / "out_0.list", table(OUT))
    refused(lambda: pcdiff.read(path, mass="M200bb"), path, "'M200bb'", "did you mean 'm200b'")


@pytest.mark.parametrize("cut", [1, 4, 40])
def test_a_file_cut_short(tmp_path: Path, cut: int, refused: Callable[..., None]) -> None:
    """Within the last row, also where all that is missing is the end of its last number."""
    path = write_out(tmp_path / "out_0.list", table(OUT))
    path.write_bytes(path.read_bytes()[:-cut])
    refused(lambda: pcdiff.read(path), path, "halo 29", "no end of line", "expected 17", "cut short")


def test_rows_that_are_no_numbers(
    tmp_path: Path, refused: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The halo is named also where the text is read in pieces."""
    monkeypatch.setattr("pcdiff.io.rockstar._BLOCK", 300)
    columns = table(OUT)
    path = write_out(tmp_path / "out_0.list", columns)
    check(pcdiff.read(path), columns, "Mvir", np.full(30, True))
    lines = path.read_text().splitlines(keepends=True)
    for change, said in (
        (lambda line: line.replace(" ", " x", 1), "column 1 of halo 20 is 'x"),
        (lambda line: line.replace(" ", "", 1), "halo 20 has 16 columns, expected 17"),
        (lambda line: "1 " + line, "halo 20 has 18 columns, expected 17"),
    ):
        broken = [change(line) if number == 7 + 20 else line for number, line in enumerate(lines)]
        path.write_text("".join(broken))
        refused(lambda: pcdiff.read(path), path, said)


def test_numbers_of_columns_are_their_places(tmp_path: Path, refused: Callable[..., None]) -> None:
    path = write_hlist(tmp_path / "hlist.list", table(HLIST))
    path.write_text(path.read_text().replace("mvir(5)", "mvir(6)"))
    refused(lambda: pcdiff.read(path), path, "'mvir(6)'", "is number 5")
    # More digits than Python makes a number of.
    path.write_text(path.read_text().replace("mvir(6)", f"mvir({'9' * 5000})"))
    refused(lambda: pcdiff.read(path, format="rockstar"), path, "is number 5")
