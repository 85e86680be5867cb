"""How the C library gives memory back.

torch on a CPU asks for a new array in each operation. Of glibc's defaults, arrays of the size of a few clouds' messages between neighbours are given
back to the system as soon as they are freed and asked for anew, page by page, which a `periodic-graph` net does all the time. What is kept, though, is
cut into pieces between which no large array fits, so that a process grows for as long as it works, unless it gives back now and then. And oneDNN, with which torch computes
in bfloat16, and what torch has around it keep code for each of the last 1,024 shapes of arrays, some 100 kB each: clouds of variable size have new shapes all the time.
"""

from __future__ import annotations

import ctypes
import os
import platform

__all__ = ["give_back_freed_memory", "keep_freed_memory"]

# Names of parameters in malloc.h, and their values in bytes: the largest size of an array that is taken from the heap (glibc allows no
# more), and how much of the heap's end may be free.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MMAP, _TRIM = 1 << 25, 1 << 30

# Shapes whose code is kept: more than one evaluation of a net has. Both are read when something is computed for the first time.
_CACHES = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
_SHAPES = "32"


def keep_freed_memory() -> None:
    """Let this process keep up to 1 GiB that it has freed, for what it needs next; where its C library is not glibc, nothing is done.

    The command line and the workers that pcdiff starts do so by themselves. A notebook or script that samples halos on a CPU gains by it, too.
    """
    for cache in _CACHES:
        os.environ.setdefault(cache, _SHAPES)
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _MMAP)
        libc.mallopt(_M_TRIM_THRESHOLD, _TRIM)


def give_back_freed_memory() -> None:
    """Give all that is free back to the system, where the C library is glibc: some milliseconds, between long parts of work."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
