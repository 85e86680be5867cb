"""ROOT files through uproot: opening, choosing trees and branches, reading in chunks, with errors in one line.

"Tree" stands for a TTree or an RNTuple, and "branch" for a branch of the one or a field of the other: both are read alike.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import numpy.typing as npt
import uproot

from pcdiff.clouds import PointClouds, offsets_of
from pcdiff.errors import DataError, PcdiffError, suggest

__all__ = [
    "RNTUPLE",
    "Tree",
    "chunks",
    "fits_if",
    "lists",
    "numbers",
    "open_root",
    "open_tree",
    "regroup",
    "root_errors",
    "same_sizes",
    "tree_classes",
    "trees",
]

RNTUPLE = "ROOT::RNTuple"
_TREES = ("TTree", "TNtuple", "TNtupleD", RNTUPLE)

# Memory that one chunk of a file with many entries may take; pieces are regrouped to the asked size afterwards.
_CHUNK = "100 MB"

# What a page of an RNTuple may unpack to: so many bytes for each of its own, and any page so many. Physics shrinks by less than 100.
_SHRINKS, _PAGE = 2000, 1 << 24


@dataclass(frozen=True)
class Tree:
    """An open TTree or RNTuple.

    Attributes:
        path: the file, for error messages.
        name: its name in the file, with folders.
        handle: uproot's object.
        branches: the type of each branch or field by its name.
        entries: number of entries.
    """

    path: Path
    name: str
    handle: Any
    branches: Mapping[str, str]
    entries: int

    def require(self, names: Iterable[str]) -> None:
        """Refuse, with the nearest name, when one of these branches is missing."""
        for name in names:
            if name not in self.branches:
                raise DataError(
                    f"{self.path}: tree {self.name!r} has no branch {name!r}: {suggest(name, self.branches)}"
                )


@contextmanager
def root_errors(path: Path, what: str = "") -> Iterator[None]:
    """Turn whatever uproot raises on damaged bytes into one line that names the file."""
    try:
        yield
    except PcdiffError:
        raise
    # Damaged bytes surface as nearly any exception: zlib.error, struct.error, IndexError, uproot.DeserializationError, ...
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
        raise DataError(
            f"{path}: {what + ' ' if what else ''}cannot be read, the file may be damaged or of an unknown layout "
            f"({type(error).__name__}: {reason[:160]})"
        ) from error


def _check_header(path: Path) -> None:
    """Refuse early what is no ROOT file or shorter than its header says: uproot may read parts of a file cut short."""
    with root_errors(path), path.open("rb") as stream:
        head = stream.read(20)
    if not head:
        raise DataError(f"{path}: is empty, expected a ROOT file")
    if head[:4] != b"root":
        raise DataError(f"{path}: is not a ROOT file: it starts with {head[:8]!r}, expected b'root'")
    size = path.stat().st_size
    # From version 1,000,000 on, positions take eight bytes instead of four.
    end = -1
    if len(head) == 20:
        wide = struct.unpack(">i", head[4:8])[0] >= 1_000_000
        end = struct.unpack(">q", head[12:20])[0] if wide else struct.unpack(">i", head[12:16])[0]
    if not 0 < end <= size:
        raise DataError(f"{path}: is cut short or damaged: {size} bytes, its header says {end}")


@contextmanager
def open_root(path: Path) -> Iterator[Any]:
    """uproot's directory of a file.

    Raises:
        DataError: no ROOT file, or one that is cut short or damaged.
    """
    _check_header(path)
    with root_errors(path):
        # A Path, since uproot splits a string at a colon. Mapped, since reading would take the memory that damaged bytes ask for.
        file = uproot.open(path, handler=uproot.MemmapSource)
    try:
        yield file
    finally:
        file.close()


def tree_classes(path: Path, file: Any) -> dict[str, str]:
    """The class of each TTree and RNTuple by its name."""
    with root_errors(path):
        return dict(file.classnames(cycle=False, filter_classname=lambda name: name in _TREES))


def trees(path: Path, file: Any) -> dict[str, Tree]:
    """All TTrees and RNTuples of a file by name; of several cycles the newest."""
    return {name: open_tree(path, file, name) for name in tree_classes(path, file)}


def open_tree(path: Path, file: Any, name: str) -> Tree:
    """The TTree or RNTuple of that name.

    Raises:
        DataError: there is none; the nearest name is given.
    """
    names = tree_classes(path, file)
    if name not in names:
        raise DataError(f"{path}: has no tree {name!r}: {suggest(name, names)}")
    with root_errors(path, f"tree {name!r}"):
        handle = file[name]
        # Branches inside branches are read by their own name, fields inside collections by their full one.
        items = handle.items() if names[name] == RNTUPLE else handle.items(full_paths=False)
        branches = {key: branch.typename for key, branch in items if branch.typename}
        return Tree(path, name, handle, branches, int(handle.num_entries))


def fits_if(test: Callable[[Path, Any, Mapping[str, str]], bool]) -> Callable[[Path], bool]:
    """A format's ``fits`` from ``test(path, file, classes)``, with the open file and the classes of its trees.

    A test should look at the classes first, since opening a tree of thousands of branches takes seconds. A file that
    cannot be opened fits nothing.
    """

    def fits(path: Path) -> bool:
        try:
            with open_root(path) as file:
                return test(path, file, tree_classes(path, file))
        except DataError:
            return False

    return fits


class _Lists(uproot.AsJagged):  # type: ignore[misc]
    """Lists whose offsets are held against the numbers that there are, before uproot takes the memory that they ask for."""

    def hook_before_final_array(self, *, basket_arrays: Mapping[int, Any], **_: Any) -> None:
        for basket in basket_arrays.values():
            ends, numbers = basket.offsets, len(basket.content)
            if len(ends) and (ends[0] < 0 or ends[-1] > numbers or np.any(np.diff(ends) < 0)):
                raise ValueError(
                    f"the ends of lists do not rise from 0 to at most {numbers}, the numbers that there are"
                )


def _check_lists(tree: Tree, names: frozenset[str]) -> None:
    """Let uproot read the lists of these branches as :class:`_Lists`."""
    for _, branch in tree.handle.iteritems(filter_name=names.__contains__, full_paths=False):
        found = branch.interpretation
        if type(found) is uproot.AsJagged:
            # uproot has no public way to choose how branches are read that it iterates over together.
            branch._interpretation = _Lists(found.content, found.header_bytes, found.typename, found.original)


def _check_pages(tree: Tree) -> None:
    """Hold what the pages of an RNTuple say that they unpack to against the bytes that they have in the file."""
    for cluster in tree.handle.ntuple.page_link_list:
        for column in cluster:
            for page in column.pages:
                # At most eight bytes a number.
                if 8 * page.num_elements > max(_PAGE, _SHRINKS * page.locator.num_bytes):
                    raise DataError(
                        f"{tree.path}: tree {tree.name!r}: a page of {page.locator.num_bytes} bytes says that it holds "
                        f"{page.num_elements:,} numbers; the file is damaged"
                    )


def chunks(tree: Tree, names: Iterable[str], entries: int) -> Iterator[dict[str, ak.Array]]:
    """These branches for at most ``entries`` consecutive entries at a time, fewer where these would take much memory.

    Raises:
        DataError: a branch is missing, or its bytes are damaged.
    """
    wanted = list(dict.fromkeys(names))
    tree.require(wanted)
    if tree.entries == 0:
        return
    what = f"tree {tree.name!r}, branches {', '.join(wanted[:6])}{', ...' if len(wanted) > 6 else ''}"
    chosen = frozenset(wanted)
    with root_errors(tree.path, what):
        step = max(1, min(entries, tree.handle.num_entries_for(_CHUNK, filter_name=chosen.__contains__)))
        if tree.handle.classname == RNTUPLE:
            _check_pages(tree)
        else:
            _check_lists(tree, chosen)
        arrays = tree.handle.iterate(filter_name=chosen.__contains__, step_size=step, library="ak")
    while True:
        with root_errors(tree.path, what):
            array = next(arrays, None)
            if array is None:
                return
            # A field inside a collection comes inside the record of the collection.
            found = {name: array[name] if name in array.fields else array[tuple(name.split("."))] for name in wanted}
        yield found


def lists(tree: Tree, name: str, array: ak.Array) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """The numbers of a jagged branch, flat, and the offsets of its entries.

    Raises:
        DataError: the branch does not hold one list of numbers an entry.
    """
    if array.ndim != 2 or not _is_numeric(array):
        raise DataError(
            f"{tree.path}: branch {name!r} of tree {tree.name!r} is {array.type.content}; expected a list of numbers an entry"
        )
    offsets = offsets_of(ak.to_numpy(ak.num(array)))
    return np.asarray(ak.to_numpy(ak.flatten(array))), offsets


def numbers(tree: Tree, name: str, array: ak.Array) -> npt.NDArray[Any]:
    """The numbers of a branch with one number an entry.

    Raises:
        DataError: the branch holds something else.
    """
    if array.ndim != 1 or not _is_numeric(array):
        raise DataError(
            f"{tree.path}: branch {name!r} of tree {tree.name!r} is {array.type.content}; expected one number an entry"
        )
    return np.asarray(ak.to_numpy(array))


def _is_numeric(array: ak.Array) -> bool:
    kind: Any = array.type.content
    while isinstance(kind, (ak.types.ListType, ak.types.RegularType)):
        if kind.parameter("__array__") in ("string", "bytestring"):
            return False
        kind = kind.content
    return isinstance(kind, ak.types.NumpyType)


def same_sizes(tree: Tree, offsets: Mapping[str, npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """The offsets shared by all jagged branches.

    Raises:
        DataError: two branches have lists of different sizes.
    """
    first, *others = offsets
    for other in others:
        if not np.array_equal(offsets[first], offsets[other]):
            counts = {name: np.diff(offsets[name]) for name in (first, other)}
            at = int(np.argmax(counts[first] != counts[other]))
            raise DataError(
                f"{tree.path}: branches {first!r} and {other!r} of tree {tree.name!r} have lists of different size: "
                f"{counts[first][at]} and {counts[other][at]} where they first differ"
            )
    return offsets[first]


def regroup(pieces: Iterable[PointClouds], size: int) -> Iterator[PointClouds]:
    """The same clouds in pieces of exactly ``size``, the last one smaller; pieces without clouds are passed over."""
    held: list[PointClouds] = []
    total = 0
    for piece in pieces:
        while len(piece):
            part = piece[: size - total]
            held.append(part)
            total += len(part)
            piece = piece[len(part) :]
            if total == size:
                yield PointClouds.concatenate(held)
                held, total = [], 0
    if held:
        yield PointClouds.concatenate(held)
