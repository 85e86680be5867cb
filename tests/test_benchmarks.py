from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "speed.py"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str]:
    """What a run on tiny samples stored and printed. The numbers mean nothing, their relations do."""
    if not SCRIPT.is_file():
        pytest.skip("the benchmarks are not here")
    output = tmp_path_factory.mktemp("bench") / "speed.json"
    # A process of its own, because the number of threads belongs to the process.
    done = subprocess.run(
        [sys.executable, SCRIPT, "--quick", "--threads", "1", "--output", output],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(output.read_text()), done.stdout


def test_each_net_is_compared_with_the_reference_at_both_sizes(bench: tuple[dict, str]) -> None:
    result, _ = bench
    rows = {(row["constituents"], row["net"]): row for row in result["rows"]}
    assert set(rows) == {(n, net) for n in (30, 150) for net in ("epic", "transformer", "graph", "reference")}
    for (constituents, _), row in rows.items():
        reference = rows[constituents, "reference"]
        for part, speed in (("training", "clouds_per_second"), ("sampling", "clouds_per_second")):
            ours, theirs = (r[part][speed]["rounds"] for r in (row, reference))
            assert row[part]["ratio"]["rounds"] == pytest.approx([a / b for a, b in zip(ours, theirs, strict=True)])
        evaluation, sampling = row["evaluation"]["milliseconds_per_cloud"], row["sampling"]
        assert sampling["clouds_per_second"]["median"] == pytest.approx(
            1e3 / (evaluation["median"] * sampling["evaluations"])
        )
        fewer = reference["sampling"]["evaluations"] / sampling["evaluations"]
        assert sampling["ratio"]["median"] == pytest.approx(fewer * row["evaluation"]["ratio"]["median"])


def test_jets_of_pythia_are_compared_where_it_is_installed(bench: tuple[dict, str]) -> None:
    pytest.importorskip("pythia8mc")
    result, _ = bench
    for row in result["rows"]:
        pythia = result["pythia"]["jets_per_second"][(30, 150).index(row["constituents"])]["median"]
        assert row["sampling"]["ratio_to_pythia"]["median"] == pytest.approx(
            row["sampling"]["clouds_per_second"]["median"] / pythia
        )
        assert math.isfinite(pythia)


def test_the_conditions_are_printed_beside_the_numbers(bench: tuple[dict, str]) -> None:
    result, printed = bench
    at = result["conditions"]
    for text in (at["cpu"], at["date"], at["capability"], f"torch {at['versions']['torch']}", "torch threads: 1"):
        assert text in printed
    for table in ("Training", "Sampling"):
        assert table in printed
