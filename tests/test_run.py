"""The run folder."""

from __future__ import annotations

from pathlib import Path

from pcdiff.run import locked


def test_what_kills_left_of_a_run_is_swept(tmp_path: Path) -> None:
    """But for what belongs to the state of the tracking, which another process may be writing."""
    left = [".job-x.tmp", ".config-x.tmp.yaml", ".run-x.tmp.json", ".metrics-x.tmp.jsonl", "figures/.loss-x.tmp.png"]
    for name in (
        "figures",
        ".generator-x.tmp",
        ".generator-old-x.tmp/generator",
        ".evaluation-x.tmp",
        "checkpoints/.step_00000007-x.tmp",
    ):
        (tmp_path / name).mkdir(parents=True)
    for name in (*left, "figures/loss.png", ".tracking-x.tmp.json", "checkpoints/.step_00000007-x.tmp/state.json"):
        (tmp_path / name).touch()
    with locked(tmp_path):
        found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert found == {"checkpoints", "figures", "figures/loss.png", "lock", ".tracking-x.tmp.json"}
