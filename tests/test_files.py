"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from pcdiff.errors import DataError
from pcdiff.files import (
    atomic_file,
    atomic_folder,
    expand,
    read_json,
    remove_folder,
    require_space,
    sha256,
    sweep,
    write_json,
)


class TestExpand:
    def test_names_in_order_and_globs_sorted(self, tmp_path: Path) -> None:
        for name in ("b1.h5", "b0.h5", "a.root"):
            (tmp_path / name).touch()
        found = expand([str(tmp_path / "b*.h5"), tmp_path / "a.root"])
        assert [path.name for path in found] == ["b0.h5", "b1.h5", "a.root"]

    def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern(self, tmp_path: Path) -> None:
        file = tmp_path / "jets[1].h5"
        file.touch()
        assert expand(str(file)) == [file]

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("jet.h5", "no such file; did you mean 'jets.h5'"),
            ("*.root", "no file matches"),
            ("none/jets.h5", "its folder does not exist"),
            ("", "is a folder"),
        ],
    )
    def test_refusals(self, tmp_path: Path, name: str, message: str) -> None:
        (tmp_path / "jets.h5").touch()
        with pytest.raises(DataError, match=message) as caught:
            expand(f"{tmp_path}/{name}")
        assert str(tmp_path) in str(caught.value)

    def test_no_names(self) -> None:
        with pytest.raises(DataError, match="no file given"):
            expand([])


class TestAtomicFile:
    @pytest.mark.parametrize("problem", [ValueError, KeyboardInterrupt, SystemExit])
    def test_nothing_is_left_behind_and_the_old_file_stays(self, tmp_path: Path, problem: type) -> None:
        target = tmp_path / "x.txt"
        target.write_text("old")

        def interrupted() -> None:
            with atomic_file(target) as temporary:
                temporary.write_text("half")
                raise problem

        with pytest.raises(problem):
            interrupted()
        assert target.read_text() == "old"
        assert list(tmp_path.iterdir()) == [target]

    def test_keeps_the_suffix_and_follows_the_umask(self, tmp_path: Path) -> None:
        target = tmp_path / "new" / "x.hdf5"
        before = os.umask(0o027)
        try:
            with atomic_file(target) as temporary:
                assert temporary.suffix == ".hdf5"
                assert not target.exists()
        finally:
            os.umask(before)
        assert target.stat().st_mode & 0o777 == 0o640

    @pytest.mark.parametrize(
        ("problem", "message"),
        [
            (OSError(errno.ENOSPC, "No space left on device"), "not enough disk"),
            (OSError("unable to extend file properly, errno = 28, error message = 'No space'"), "not enough disk"),
            (RuntimeError("Can't decrement id ref count (file write failed: errno = 28, ...)"), "not enough disk"),
            (Exception("I/O error: No space left on device (os error 28)"), "not enough disk"),
            (OSError(errno.EACCES, "Permission denied"), "cannot be written"),
        ],
    )
    def test_refusals_of_the_system_are_one_line(self, tmp_path: Path, problem: Exception, message: str) -> None:
        target = tmp_path / "x.h5"
        with pytest.raises(DataError, match=message) as caught, atomic_file(target):
            raise problem
        assert str(target) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == []

    def test_a_full_disk_behind_another_error(self, tmp_path: Path) -> None:
        def save() -> None:
            try:
                raise OSError(errno.ENOSPC, "No space left on device")
            finally:
                raise AttributeError("'Stream' object has no attribute 'pos'")

        with pytest.raises(DataError, match="not enough disk"), atomic_file(tmp_path / "x.pdf"):
            save()

    def test_a_folder_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "x").mkdir()
        with pytest.raises(DataError, match="cannot be written"), atomic_file(tmp_path / "x"):
            pass

    def test_a_file_where_the_folder_should_be(self, tmp_path: Path) -> None:
        (tmp_path / "x").touch()
        with pytest.raises(DataError, match="cannot be written"), atomic_file(tmp_path / "x" / "y"):
            pass

    def test_other_errors_pass_unchanged(self, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError, match="unrelated"), atomic_file(tmp_path / "x"):
            raise RuntimeError("unrelated")


class TestAtomicFolder:
    def test_replaces_the_whole_folder(self, tmp_path: Path) -> None:
        target = tmp_path / "run"
        for content in ("one", "two"):
            with atomic_folder(target) as temporary:
                (temporary / content).touch()
        assert [path.name for path in target.iterdir()] == ["two"]
        assert list(tmp_path.iterdir()) == [target]

    def test_keeps_the_old_one_on_an_interrupt(self, tmp_path: Path) -> None:
        target = tmp_path / "run"
        with atomic_folder(target) as temporary:
            (temporary / "one").touch()
        with pytest.raises(KeyboardInterrupt), atomic_folder(target) as temporary:
            raise KeyboardInterrupt
        assert [path.name for path in target.iterdir()] == ["one"]
        assert list(tmp_path.iterdir()) == [target]

    def test_flushes_the_files_of_inner_folders(self, tmp_path: Path) -> None:
        with atomic_folder(tmp_path / "run") as temporary:
            (temporary / "figures").mkdir()
            (temporary / "figures" / "a.png").touch()
        assert (tmp_path / "run" / "figures" / "a.png").is_file()

    def test_a_disk_that_is_full_for_a_library_in_rust(self, tmp_path: Path) -> None:
        problem = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        with pytest.raises(DataError, match=r"new/run: not enough disk"), atomic_folder(tmp_path / "new" / "run"):
            raise problem
        assert list(tmp_path.iterdir()) == []

    def test_the_old_one_comes_back_when_the_new_one_cannot_be_put_there(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        target = tmp_path / "run"
        with atomic_folder(target) as temporary:
            (temporary / "one").touch()
        replace = Path.replace

        def fails(self: Path, other: Path) -> Path:
            if other == target and not self.parent.name.startswith(".run-old"):
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(self))
            return replace(self, other)

        monkeypatch.setattr(Path, "replace", fails)
        with pytest.raises(DataError, match="run: cannot be written"), atomic_folder(target):
            pass
        assert [path.name for path in target.iterdir()] == ["one"]
        assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
def test_folders_made_for_an_output_go_with_it(atomic: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    with pytest.raises(KeyError), atomic(tmp_path / "kept" / "a" / "b" / "x"):
        raise KeyError
    assert [path.name for path in tmp_path.rglob("*")] == ["kept"]


def test_a_target_whose_folder_vanished_is_named(tmp_path: Path) -> None:
    target = tmp_path / "a" / "x.root"
    with pytest.raises(DataError, match=r"a/x\.root: cannot be written"), atomic_file(target) as temporary:
        temporary.unlink()


def test_require_space(tmp_path: Path) -> None:
    require_space(tmp_path / "new" / "x", 0)
    with pytest.raises(DataError, match="not enough disk") as caught:
        require_space(tmp_path / "new" / "x", 1 << 60)
    assert "x" in str(caught.value)


def test_json_round_trip_and_refusals(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": [1, 2.5, None, "ü"]})
    assert read_json(path) == {"a": [1, 2.5, None, "ü"]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, float("nan"))
    assert read_json(path) == {"a": [1, 2.5, None, "ü"]}
    path.write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        read_json(path)
    with pytest.raises(DataError, match="no such file"):
        read_json(tmp_path / "none.json")
    with pytest.raises(DataError, match="cannot be read"):
        read_json(tmp_path)


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert sha256(path) == hashlib.sha256(b"abc").hexdigest()


class TestSweep:
    def test_what_kills_left_of_the_named_goes_and_nothing_else(self, tmp_path: Path) -> None:
        """Names as the atomic writers give them, with and without a suffix."""
        kept = [tmp_path / name for name in ("run.json", "other", ".run.json", ".hidden.tmp", "x.tmp")]
        for path in kept:
            path.touch()
        with (
            atomic_file(tmp_path / "run.json") as a,
            atomic_file(tmp_path / "job") as b,
            atomic_folder(tmp_path / "generator") as c,
            atomic_file(tmp_path / "runs.json") as other,
        ):
            (c / "inside").touch()
            assert {a, b, c, other} < set(tmp_path.iterdir())
            sweep(tmp_path, "run.json", "job", "generator")
            left = set(tmp_path.iterdir())
            a.touch()
            b.touch()
            c.mkdir()
        assert left == {*kept, other}

    def test_a_star_stands_for_anything(self, tmp_path: Path) -> None:
        for name in (".00000-x.tmp.parquet", ".a b-x.tmp.parquet", ".00000-x.tmp.hdf5", "00000.parquet"):
            (tmp_path / name).touch()
        sweep(tmp_path, "*.parquet")
        assert {path.name for path in tmp_path.iterdir()} == {".00000-x.tmp.hdf5", "00000.parquet"}

    def test_a_folder_that_is_not_there_is_swept(self, tmp_path: Path) -> None:
        sweep(tmp_path / "none", "*")


def test_a_folder_is_removed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill in the midst of it leaves nothing under its name, and what is left is swept."""
    folder = tmp_path / "folder"
    (folder / "in").mkdir(parents=True)

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pcdiff.files.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_folder(folder)
    assert not folder.exists()
    sweep(tmp_path, "folder")
    assert list(tmp_path.iterdir()) == []
    folder.mkdir()
    remove_folder(folder)
    assert list(tmp_path.iterdir()) == []
