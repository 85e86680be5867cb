"""Shared fixtures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Tests that run side by side take one thread each, and so do the processes that they start: more would get into each other's way.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def shared() -> Path:
    """A folder of real files beside the project; tests that read them are skipped where it is absent."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder ../shared/data with real files is not here")
    return folder
