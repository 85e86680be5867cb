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


# Arrays of 1 MB with small things between them that live on, so that no end of the heap is free.
HELD = """
import re
from pathlib import Path
from pcdiff.allocator import give_back_freed_memory, keep_freed_memory

def megabytes():
    text = Path("/proc/self/smaps_rollup").read_text()
    return int(re.search(r"^Anonymous:\\s+(\\d+)", text, re.MULTILINE).group(1)) / 1e3

keep_freed_memory()
before = megabytes()
pairs = [(bytearray(b"1") * 1_000_000, bytearray(b"2") * 1000) for _ in range(200)]
kept = [small for _, small in pairs]
del pairs
held = megabytes()
give_back_freed_memory()
print(held - before, megabytes() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="does nothing with another C library")
def test_freed_memory_is_given_back_also_from_within() -> None:
    found = subprocess.run([sys.executable, "-c", HELD], capture_output=True, check=True, text=True).stdout
    held, left = map(float, found.split())
    assert held > 190
    assert left < 10


# A layer of clouds that all have another number of points.
SHAPES = """
import re
from pathlib import Path
from pcdiff.allocator import keep_freed_memory
keep_freed_memory()
import torch

def megabytes():
    text = Path("/proc/self/smaps_rollup").read_text()
    return int(re.search(r"^Anonymous:\\s+(\\d+)", text, re.MULTILINE).group(1)) / 1e3

torch.set_num_threads(1)
weight = torch.zeros(64, 64, dtype=torch.bfloat16)
with torch.inference_mode():
    for rows in range(1, 700):
        if rows == 100:
            before = megabytes()
        torch.nn.functional.linear(torch.zeros(rows, 64, dtype=torch.bfloat16), weight)
print(megabytes() - before)
"""


@pytest.mark.skipif(platform.system() != "Linux", reason="asks Linux for the memory")
def test_no_code_is_kept_for_each_size_of_clouds() -> None:
    """By default it is 400 MB for 600 sizes on a processor that computes in bfloat16."""
    found = subprocess.run([sys.executable, "-c", SHAPES], capture_output=True, check=True, text=True).stdout
    assert float(found) < 40
