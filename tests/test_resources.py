from __future__ import annotations

from pathlib import Path

import pytest

from pcdiff.errors import DataError
from pcdiff.resources import find, shipped


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that holds nothing."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_the_users_file_wins_over_one_beside_the_config_and_the_shipped_one(empty: Path, tmp_path: Path) -> None:
    name = "datasets/jets/gluon30_test.hdf5"
    beside = tmp_path / "configs"
    assert find(name, beside) == shipped()[name]
    for folder in (beside, empty):
        target = folder / name
        target.parent.mkdir(parents=True)
        target.touch()
        assert find(name, beside).resolve() == target


@pytest.mark.parametrize("name", ["datasets/jets/gluon30_test.hdf5", "jets/gluon30_test.hdf5"])
def test_shipped_data_are_found_from_anywhere(empty: Path, name: str) -> None:
    assert find(name).is_file()


def test_a_glob_passes_through(empty: Path) -> None:
    found = find("datasets/jets/*.hdf5")
    assert found.name == "*.hdf5"
    assert {path.stem for path in found.parent.glob(found.name)} == {
        "gluon30_train",
        "gluon30_validation",
        "gluon30_test",
    }
    (empty / "one.hdf5").touch()
    assert find("*.hdf5") == Path("*.hdf5")


def test_a_missing_name_gives_one_line_with_the_nearest(empty: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"gluon30_tests.hdf5: no such file .*did you mean 'datasets/jets/gluon30_test.hdf5'"
    ):
        find("datasets/jets/gluon30_tests.hdf5", tmp_path)
    (empty / "events.root").touch()
    with pytest.raises(DataError, match=r"event.root: no such file .*did you mean 'events.root'\?"):
        find("event.root")
    with pytest.raises(DataError, match=r"no file matches this pattern"):
        find(str(tmp_path / "*.root"))


def test_only_what_helps_is_suggested(empty: Path) -> None:
    (empty / ".out-x.tmp.root").touch()
    (empty / "events.root").touch()
    with pytest.raises(DataError, match=r"; there are: events\.root$"):
        find("qqqqqq.xyz")


def test_what_a_user_left_in_a_checkout_is_not_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("pyproject.toml", "*.toml", "tests"):
        with pytest.raises(DataError, match="nor among what pcdiff ships"):
            find(name)
