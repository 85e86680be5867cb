"""Configs, runs, checkpoints and generators that `make fuzz` found to end otherwise than in one line, and ones that mean harm."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

import pytest
import torch

from pcdiff import checkpoint
from pcdiff.cli.facts import about
from pcdiff.config import OptimConfig, load_config
from pcdiff.errors import ConfigError, DataError, ModelError
from pcdiff.evaluation.loss import Losses
from pcdiff.files import read_json
from pcdiff.generator import Generator
from pcdiff.optimisers import build_optimiser
from pcdiff.records import read_run
from pcdiff.run import Metrics

from .test_generator import generator, sign

__all__ = ["generator"]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"a": ' + "9" * 5000 + "}", "[1]", "3", '"a"'])
def test_json_that_is_no_object(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"a\.json: (is not valid JSON|holds .* expected a JSON object)"):
        read_json(path)


@pytest.mark.parametrize(
    "line",
    [
        '{"step": 2}',
        '{"step": 2, "time": 1, "metrics": [1]}',
        '{"step": 2, "time": 1, "metrics": {"a": null}}',
        '{"step": 2, "time": 1, "metrics": {"a": 1',
        "[" * 100_000,
        '{"step": 2, "time": 1, "metrics": {"a": ' + "9" * 400 + "}}",
        "\udcff",
    ],
)
def test_a_damaged_line_of_metrics(tmp_path: Path, line: str) -> None:
    (tmp_path / "run.json").write_text('{"name": "a"}')
    file = tmp_path / "metrics.jsonl"
    whole = '{"step": 1, "time": 1, "metrics": {"loss/train": 1}}\n'
    file.write_text(whole + line + "\n" + whole, encoding="utf-8", errors="surrogateescape")
    for read in (about, Losses.read):
        with pytest.raises(DataError, match=r"metrics\.jsonl: line 2 is not a line of metrics"):
            read(tmp_path)
    # Training goes on without it.
    metrics = Metrics(file)
    metrics.close()
    assert file.read_text() == 2 * whole


@pytest.mark.parametrize("part", ['"data_fingerprint": [1]', '"versions": "1"', '"name": {}', '"tags": null'])
def test_a_damaged_run(tmp_path: Path, part: str) -> None:
    (tmp_path / "run.json").write_text("{" + part + "}")
    for read in (read_run, about):
        with pytest.raises(DataError, match=r"run\.json: \w+ is .*, expected (text|values by name)"):
            read(tmp_path)


def laughs(depth: int) -> str:
    """Nine times nine times nine ... values in a few lines."""
    lines = ["a0: &a0 [" + ", ".join(["x"] * 9) + "]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, depth)]
    return "\n".join(lines)


@pytest.mark.parametrize("text", [laughs(12), "name: &a [*a]", "name: &a {b: {c: *a}}", laughs(12) + "\nseed: *a11"])
def test_anchors_that_stand_for_too_much(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(
        ConfigError, match=r"a\.yaml: not valid YAML: its anchors stand for themselves, or for more than"
    ):
        load_config(path)


def test_anchors_that_stand_for_little() -> None:
    found = load_config({"name": "a", "data": {"train": "a.h5", "validation": "a.h5"}}, ["data.train=[&a x.h5, *a]"])
    assert found.data.train == ("x.h5", "x.h5")


@pytest.mark.parametrize("kind", ["epic", "transformer", "graph", "periodic-graph", "periodic-transformer"])
def test_an_unknown_key_of_any_net(kind: str) -> None:
    data = {"name": "a", "data": {"train": "a", "validation": "b"}, "net": {"kind": kind, "hiden": 4}}
    with pytest.raises(ConfigError, match="hiden: unknown key; did you mean 'hidden'"):
        load_config(data)


@pytest.mark.parametrize("key", ["net.hidden=1000000000", "net.layers=1000000000", "multiplicity.hidden=1000000000"])
def test_a_net_that_no_machine_holds(key: str) -> None:
    with pytest.raises(ConfigError, match="expected less than or equal to"):
        load_config({"name": "a", "data": {"train": "a", "validation": "b"}}, [key])


def test_a_name_longer_than_names_are(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"name: a\ndata: {{train: {'x' * 5000}, validation: b}}")
    assert load_config(tmp_path / "a.yaml").data.train == ("x" * 5000,)


@pytest.mark.parametrize(
    ("section", "values"),
    [("net", {"hidden": 8192, "layers": 256}), ("multiplicity", {"kind": "flow", "hidden": 8192})],
)
def test_a_generator_larger_than_its_file(tmp_path: Path, generator: Generator, section: str, values: dict) -> None:
    """It would take 300 GB of memory before its weights are found not to fit."""
    generator.save(tmp_path / "g")
    file = tmp_path / "g" / "generator.json"
    data = json.loads(file.read_text())
    data[section] |= values
    sign(file, data)
    with pytest.raises(
        ModelError, match=r"safetensors: holds [\d,]+ numbers, expected at least [\d,]+ as generator.json"
    ):
        Generator.load(tmp_path / "g")


@pytest.mark.parametrize("provenance", [[], {"steps": "many"}, {"data_fingerprint": 3}])
def test_a_damaged_provenance(tmp_path: Path, generator: Generator, provenance: object) -> None:
    generator.save(tmp_path / "g")
    file = tmp_path / "g" / "generator.json"
    sign(file, json.loads(file.read_text()) | {"provenance": provenance})
    with pytest.raises((ModelError, DataError), match=r"generator\.json: (says|steps|data_fingerprint)"):
        Generator.load(tmp_path / "g")


@pytest.mark.parametrize("damage", ["tensors", "unknown counter", "counter is text", "no counters", "version is text"])
def test_a_checkpoint_whose_checksum_fits(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    """A checkpoint that cannot be read is passed over like one whose checksum differs."""
    net = torch.nn.Linear(2, 2)
    models = (net, torch.nn.Linear(2, 2), build_optimiser(net, OptimConfig()))
    checkpoint.save(tmp_path, checkpoint.Counters(step=1), *models, keep=2)
    folder = checkpoint.save(tmp_path, checkpoint.Counters(step=2), *models, keep=2)
    state = json.loads((folder / "state.json").read_text())
    if damage == "tensors":
        (folder / "state.safetensors").write_bytes(b"\xff" * 100)
        state["sha256"] = hashlib.sha256(b"\xff" * 100).hexdigest()
    elif damage == "no counters":
        del state["counters"]
    elif damage == "version is text":
        state["format_version"] = "1"
    else:
        state["counters"] |= {"stop": 1} if damage == "unknown counter" else {"step": "2"}
    (folder / "state.json").write_text(json.dumps(state))
    with caplog.at_level(logging.WARNING):
        found = checkpoint.load_newest(tmp_path, *models)
    assert found is not None
    assert found.step == 1
    assert "is damaged" in caplog.text


def test_a_checkpoint_that_the_disk_does_not_give_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    net = torch.nn.Linear(2, 2)
    models = (net, torch.nn.Linear(2, 2), build_optimiser(net, OptimConfig()))
    for step in (1, 2):
        checkpoint.save(tmp_path, checkpoint.Counters(step=step), *models, keep=2)
    sums = checkpoint.sha256

    def fails(path: Path) -> str:
        if path.parent.name == "step_00000002":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return sums(path)

    monkeypatch.setattr(checkpoint, "sha256", fails)
    found = checkpoint.load_newest(tmp_path, *models)
    assert found is not None
    assert found.step == 1
    assert (
        "step_00000002/state.safetensors: cannot be read ([Errno 5] Input/output error); it is passed over"
        in caplog.text
    )


def test_a_copy_beside_the_checkpoints_is_none(tmp_path: Path) -> None:
    net = torch.nn.Linear(2, 2)
    models = (net, torch.nn.Linear(2, 2), build_optimiser(net, OptimConfig()))
    checkpoint.save(tmp_path, checkpoint.Counters(step=1), *models, keep=1)
    copy = tmp_path / "checkpoints" / "step_1.bak"
    shutil.copytree(tmp_path / "checkpoints" / "step_00000001", copy)
    found = checkpoint.load_newest(tmp_path, *models)
    assert found is not None
    assert found.step == 1
    checkpoint.save(tmp_path, checkpoint.Counters(step=2), *models, keep=1)
    assert sorted(path.name for path in copy.parent.iterdir()) == ["step_00000002", "step_1.bak"]


def test_checkpoints_none_of_which_is_whole(tmp_path: Path) -> None:
    """Training must not begin anew by itself, and remove what may still be mended."""
    net = torch.nn.Linear(2, 2)
    models = (net, torch.nn.Linear(2, 2), build_optimiser(net, OptimConfig()))
    assert checkpoint.load_newest(tmp_path, *models) is None
    for step in (1, 2):
        folder = checkpoint.save(tmp_path, checkpoint.Counters(step=step), *models, keep=2)
        (folder / "state.json").write_text("{")
    with pytest.raises(ModelError, match=r"checkpoints: none of the checkpoints in it is whole; .* remove this folder"):
        checkpoint.load_newest(tmp_path, *models)
