"""Public data sets, downloaded from where their authors published them and checked against the published sum."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

import pcdiff
from pcdiff.errors import DataError, suggest
from pcdiff.files import made_folder, require_space
from pcdiff.schema import JET_TYPES

__all__ = ["DATA_SETS", "download", "fetch"]

_CHUNK = 1 << 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataSet:
    """Where a data set is published.

    Attributes:
        url: folder of the files on the server.
        suffix: a file is named by the jet type followed by this.
        md5: sum of each file by jet type, as far as they are known.
    """

    url: str
    suffix: str
    md5: Mapping[str, str] = field(default_factory=dict)


# Kansal et al., "JetNet", Zenodo, doi:10.5281/zenodo.6975118 (30 constituents) and 6975117 (150 constituents).
DATA_SETS: Mapping[str, DataSet] = {
    "jetnet30": DataSet(
        "https://zenodo.org/records/6975118/files",
        ".hdf5",
        {
            "g": "4f537329da897a22a59762c9fd8b74da",
            "q": "0ede789774bb74d4795c5d19d7ef66c6",
            "t": "6c9d0663b352c85f74fcd2553e6872bf",
            "w": "16cc265cb039f76bba43bab408916e3e",
            "z": "90ffacd034dc87c802bc43385af9fea3",
        },
    ),
    "jetnet150": DataSet("https://zenodo.org/records/6975117/files", "150.hdf5"),
}


def fetch(
    name: str = "jetnet30",
    *,
    type: str = "g",
    output: str | os.PathLike[str] = ".",
    base_url: str | None = None,
    timeout: float = 30.0,
    progress: bool = True,
) -> Path:
    """Download one file of a public data set.

    The file appears under its name only when it is whole and its MD5 sum is right. Until then it is ``NAME.part``, from which the
    next call goes on. A file that is there already and has the right sum is not fetched again. Where no sum is published,
    the one found is logged as a warning.

    Args:
        name: ``jetnet30`` or ``jetnet150``.
        type: jet type, ``g``, ``q``, ``t``, ``w`` or ``z``.
        output: the folder to put it in; the file keeps its published name, which tells the jet type.
        base_url: another server's folder with the same files.
        timeout: seconds to wait for an answer, or for more data.
        progress: show a progress bar.

    Returns:
        The path of the file.

    Raises:
        DataError: unknown name or type, no connection, an error of the server, a wrong sum, or no room on the disk.
    """
    if name not in DATA_SETS:
        raise DataError(f"fetch: no data set {name!r}: {suggest(name, DATA_SETS)}")
    if type not in JET_TYPES:
        raise DataError(f"fetch: no jet type {type!r} in {name}: {suggest(type, JET_TYPES)}")
    source = DATA_SETS[name]
    target = Path(output) / f"{type}{source.suffix}"
    wanted = source.md5.get(type)
    if wanted is not None and target.is_file() and _md5(target) == wanted:
        return target
    url = f"{(base_url or source.url).rstrip('/')}/{target.name}"
    part = target.with_name(f"{target.name}.part")
    try:
        with made_folder(target.parent):
            download(url, part, timeout, shown=progress)
            found = _md5(part)
            if wanted is not None and found != wanted:
                part.unlink()
                raise DataError(
                    f"{url}: its MD5 sum is {found}, expected {wanted}: damaged, or another version; removed"
                )
            part.replace(target)
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({error.strerror or error})") from error
    if wanted is None:
        _log.warning("%s: no sum is published for this file, so it is not checked; its MD5 sum is %s", target, found)
    return target


def download(url: str, part: Path, timeout: float, *, shown: bool) -> None:
    """Bring ``part`` to the full length of the file behind ``url``."""
    have = part.stat().st_size if part.exists() else 0
    with _open(url, have, timeout) as response:
        # 206: the server sends what is missing; otherwise it sends all again.
        resumed = response.status == http.client.PARTIAL_CONTENT
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        if total is not None:
            require_space(part, total - start)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with part.open("ab" if resumed else "wb") as stream, Progress(*columns, disable=not shown) as bar:
            task = bar.add_task(part.stem, total=total, completed=start)
            for chunk in _chunks(response, url, timeout):
                stream.write(chunk)
                bar.advance(task, len(chunk))
            size = stream.tell()
    if total is not None and size != total:
        raise DataError(f"{url}: the connection ended at {size} of {total} bytes; fetch it again to go on from there")


def _open(url: str, start: int, timeout: float) -> http.client.HTTPResponse:
    """The server's answer to a request for all bytes from ``start``."""
    if not url.startswith(("http://", "https://")):
        raise DataError(f"{url}: expected an address that starts with http:// or https://")
    headers = {"User-Agent": f"pcdiff/{pcdiff.__version__}"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=timeout
        )
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            error.close()
            return _open(url, 0, timeout)
        raise DataError(f"{url}: the server answered {error.code} ({error.reason})") from error
    except urllib.error.URLError as error:
        raise DataError(f"{url}: cannot be reached ({error.reason}); is there a network?") from error
    except (TimeoutError, http.client.HTTPException, OSError, ValueError) as error:
        raise DataError(f"{url}: no answer that can be used ({str(error) or type(error).__name__})") from error
    return response


def _chunks(response: http.client.HTTPResponse, url: str, timeout: float) -> Iterator[bytes]:
    """The body, piece by piece."""
    while True:
        try:
            # read1 gives what has come, so that a slow server is not taken for a silent one.
            chunk = response.read1(_CHUNK)
        except TimeoutError as error:
            raise DataError(f"{url}: no data for {timeout:g} s; fetch it again to go on from there") from error
        except (http.client.HTTPException, OSError) as error:
            raise DataError(f"{url}: the connection broke ({error}); fetch it again to go on from there") from error
        if not chunk:
            return
        yield chunk


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
