"""Files written whole or not at all, globs, and checksums; used wherever pcdiff touches the disk."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from pcdiff.errors import DataError, PcdiffError, suggest

__all__ = [
    "atomic_file",
    "atomic_folder",
    "expand",
    "lock",
    "made_folder",
    "plain_errors",
    "read_json",
    "remove_folder",
    "require_replaceable",
    "require_space",
    "sha256",
    "sweep",
    "unlock",
    "write_json",
]

_log = logging.getLogger(__name__)


def expand(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], *, folders: Collection[str] = ()
) -> list[Path]:
    """Existing files from names and globs, in the order given, each glob sorted.

    Args:
        paths: names and globs.
        folders: the names of folders that are taken as files are, because they are one data set.

    Raises:
        DataError: a file does not exist, is a folder, or a glob matches nothing.
    """
    names = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not names:
        raise DataError("no file given")
    found: list[Path] = []
    for given in names:
        name = os.fspath(given)
        path = Path(name).expanduser()
        if path.is_file() or (path.is_dir() and path.name in folders):
            found.append(path)
        elif path.is_dir():
            raise DataError(f"{name}: is a folder, expected a file or a glob such as {name.rstrip('/')}/*.root")
        elif glob.has_magic(name):
            matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
            files = [match for match in matches if match.is_file() or (match.is_dir() and match.name in folders)]
            if not files:
                raise DataError(f"{name}: no file matches this pattern")
            found += files
        else:
            near = [p.name for p in path.parent.iterdir() if not p.name.startswith(".")] if path.parent.is_dir() else []
            hint = suggest(path.name, near) if near else "its folder does not exist or is empty"
            raise DataError(f"{name}: no such file; {hint}")
    return found


def require_space(path: Path, size: int) -> None:
    """Refuse early when the disk that holds ``path`` has less than ``size`` bytes free."""
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < size:
        raise DataError(f"{path}: not enough disk: {free / 1e6:.1f} MB free, about {size / 1e6:.1f} MB needed")


def require_replaceable(folder: Path, kind: str, names: Collection[str]) -> None:
    """Refuse a folder whose content would be lost, for it is not of the kind that is written there.

    Args:
        folder: where something is to be written.
        kind: what that is, for people: ``"a report"``.
        names: the files by which one of them is known.

    Raises:
        DataError: it is a file, the working directory, or a folder that holds other things.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise DataError(f"{folder}: is a file, expected a folder for {kind}")
    if folder.resolve() == Path.cwd():
        raise DataError(f"{folder}: is the working directory, which cannot be replaced; name a folder inside it")
    found = {path.name for path in folder.iterdir()}
    if found and not set(names) <= found:
        raise DataError(f"{folder}: is a folder with other things than {kind}, expected a new or an empty one")


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (
    errno.EACCES,
    errno.EROFS,
    errno.EPERM,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.EIO,
)


@contextmanager
def plain_errors(path: Path, *, always: bool = False) -> Iterator[None]:
    """Turn the operating system's refusals into one line about the output.

    Args:
        always: whether every error of the system in this block is about the output.
    """
    try:
        yield
    except PcdiffError:
        raise
    except Exception as error:
        code = _code(error)
        # Matplotlib fails anew when it cleans up after a full disk.
        full = next((number for number in map(_code, _history(error)) if number in _FULL), None)
        if full is not None:
            raise DataError(f"{path}: not enough disk to write this file ({os.strerror(full)})") from error
        if code is not None and (code in _REFUSED or always):
            raise DataError(f"{path}: cannot be written ({os.strerror(code)})") from error
        raise


def _code(error: BaseException) -> int | None:
    """The number of the operating system's error, where it is one."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    # HDF5, Arrow and safetensors give some refusals as text only.
    stated = re.search(r"\b(?:errno[ =]+|os error )(\d+)", str(error))
    return int(stated.group(1)) if stated else None


def _history(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those during whose handling it came up."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """A folder for outputs, made with its parents; those that it made go again if the block fails and they are empty."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with suppress(OSError):
            for path in missing:
                path.rmdir()
        raise


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name in the same folder; renamed to ``path`` when the block ends well, removed when it does not.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "x.txt"
    >>> with atomic_file(target) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> target.read_text()
    'whole'
    """
    target = Path(path)
    with plain_errors(target), _temporary(target, _make_file) as temporary:
        yield temporary
        with plain_errors(target, always=True):
            _settle(temporary, 0o666, [temporary])
            temporary.replace(target)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """As :func:`atomic_file` for a folder: an older one of that name is replaced only once the new one is whole."""
    target = Path(path)
    with plain_errors(target), _temporary(target, _make_folder) as temporary:
        yield temporary
        with plain_errors(target, always=True):
            _settle(temporary, 0o777, [name for name in temporary.rglob("*") if name.is_file()])
            if target.exists():
                _exchange(temporary, target)
            else:
                temporary.replace(target)


def _exchange(new: Path, target: Path) -> None:
    """Put a folder in the place of another, which comes back when that fails."""
    aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-old-", suffix=".tmp"))
    old = aside / target.name
    try:
        target.replace(old)
        new.replace(target)
    except BaseException:
        if not target.exists():
            old.replace(target)
        with suppress(OSError):
            aside.rmdir()
        raise
    shutil.rmtree(aside)


@contextmanager
def _temporary(target: Path, make: Callable[[Path], Path]) -> Iterator[Path]:
    """Something beside the target that is gone when the block ends, unless it was renamed."""
    with ExitStack() as stack:
        with plain_errors(target, always=True):
            stack.enter_context(made_folder(target.parent))
            temporary = make(target)
        try:
            yield temporary
        finally:
            if temporary.is_dir():
                shutil.rmtree(temporary)
            else:
                temporary.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Remove a folder, which is whole or not there under its name however the process ends."""
    aside = _make_folder(path)
    path.replace(aside)
    shutil.rmtree(aside)


def sweep(folder: Path, *names: str) -> None:
    """Remove what a kill left of files and folders that were being written or removed; for whoever alone does so.

    Args:
        folder: where they are.
        names: their own names, in which ``*`` stands for anything.
    """
    for name in map(Path, names):
        for left in (*folder.glob(f".{name.stem}-*.tmp{name.suffix}"), *folder.glob(f".{name}-*.tmp")):
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink(missing_ok=True)


def _make_file(target: Path) -> Path:
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}-", suffix=f".tmp{target.suffix}")
    os.close(handle)
    return Path(name)


def _make_folder(target: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-", suffix=".tmp"))


def _settle(path: Path, mode: int, files: Iterable[Path]) -> None:
    """Give it the permissions that the user's umask leaves, where tempfile gives them to the owner only; flush the files."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(mode & ~mask)
    for file in files:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())


def lock(stream: IO[Any]) -> bool:
    """Keep other processes from locking an open file, until it is unlocked.

    Returns:
        Whether none has locked it before. Where the file system has no locks nothing is known of others: true, with a warning.
    """
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # Some network file systems have none, and pcdiff has to work there too.
        _log.warning("%s: cannot be locked (%s), so another process is not kept away", stream.name, error.strerror)
    return True


def unlock(stream: IO[Any]) -> None:
    """Let others lock a file. Closing it is not enough: forked workers of a data loader share the lock."""
    with suppress(OSError):
        fcntl.flock(stream, fcntl.LOCK_UN)


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 checksum of a file, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Plain data as readable JSON, atomically; numbers that JSON lacks (NaN, infinity) are refused."""
    text = json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False)
    with atomic_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON object, or say which file is none.

    Raises:
        DataError: missing or unreadable file, not JSON, or no object.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    # Beside what is no JSON: numbers of thousands of digits, and brackets deeper than Python goes.
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not valid JSON ({error})") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds {found!r:.60}, expected a JSON object")
    return found
