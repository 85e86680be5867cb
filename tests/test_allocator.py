"""Freed memory that is kept costs no page faults when it is needed again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Three arrays of 16 MB live together and are freed together, as the results of operations of torch are.
FAULTS = """
import resource, sys
import numpy as np
from pcdiff.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
for turn in range(12):
    if turn == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [np.ones(1 << 24, np.uint8) for _ in range(3)]
    del arrays
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="does nothing with another C library")
def test_memory_that_is_kept_is_not_asked_for_again() -> None:
    faults = {
        word: int(
            subprocess.run([sys.executable, "-c", FAULTS, word], capture_output=True, check=True, text=True).stdout
        )
        for word in ("keep", "default")
    }
    assert faults["keep"] < 100 < faults["default"]
