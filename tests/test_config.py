"""Configs: every mistake is one line that names its place, and nothing is guessed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pcdiff.config import (
    Config,
    DistillConfig,
    GraphConfig,
    RunConfig,
    config_hash,
    flat,
    json_schema,
    load_any,
    load_config,
    to_yaml,
)
from pcdiff.errors import ConfigError, DataError

ROOT = Path(__file__).parents[1]
MINIMAL: dict[str, Any] = {"name": "gluons", "data": {"train": "train.h5", "validation": "validation.h5"}}
TEXT = "name: gluons\ndata: {train: train.h5, validation: validation.h5}\n"


def refused(config: Any, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(config, overrides)
    return str(caught.value).split("\n")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize("name", ["gluon30_teacher", "quickstart"])
def test_shipped_configs_are_found_by_name_from_any_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(name) == load_config(f"configs/{name}.yaml")
    assert load_config(name).name == name.replace("_", "-")


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "configs").glob("*.yaml")))
def test_shipped_configs_tell_editors_their_schema(name: str) -> None:
    head, *_ = (ROOT / "configs" / name).read_text(encoding="utf-8").splitlines()
    schema = "distill_schema" if isinstance(load_any(ROOT / "configs" / name), DistillConfig) else "schema"
    assert head == f"# yaml-language-server: $schema={schema}.json"


@pytest.mark.parametrize(("kind", "name"), [(Config, "schema"), (DistillConfig, "distill_schema")])
def test_committed_schema_is_current_and_describes_every_key(kind: type[RunConfig], name: str) -> None:
    schema = json_schema(kind)
    committed = json.loads((ROOT / "configs" / f"{name}.json").read_text(encoding="utf-8"))
    assert committed == schema, "renew it: make schema"
    for section in [schema, *schema["$defs"].values()]:
        assert [key for key, field in section["properties"].items() if not field.get("description")] == []


@pytest.mark.parametrize(
    ("written", "value"),
    [("1e-3", 1e-3), ("1E-3", 1e-3), ("+2.5e-4", 2.5e-4), ("0.002", 2e-3), (".5", 0.5), ("1", 1.0)],
)
def test_numbers_in_overrides(written: str, value: float) -> None:
    assert load_config(MINIMAL, [f"optim.lr={written}"]).optim.lr == value


def test_overrides_replace_values_and_the_last_one_wins(file: Path) -> None:
    config = load_config(
        file, ["net.hidden=64", "training.steps=1e4", "training.steps=2e4", "data.train=[a.h5, b.h5]", "output="]
    )
    assert (config.net.hidden, config.training.steps) == (64, 20_000)
    assert config.data.train == ("a.h5", "b.h5")
    assert config.output is None
    assert load_config(file, ["data.train=*.h5"]).data.train == ("*.h5",)


def test_an_override_does_not_reach_through_an_anchor(file: Path) -> None:
    file.write_text(
        "name: g\ndata: {train: t.h5, validation: v.h5}\n"
        "net: &size {hidden: 32, layers: 2}\nmultiplicity: {<<: *size, steps: 10}\n"
    )
    config = load_config(file, ["net.hidden=64"])
    assert (config.net.hidden, config.multiplicity.hidden, config.multiplicity.layers) == (64, 32, 2)


def test_all_mistakes_at_once_each_with_its_place(file: Path) -> None:
    file.write_text(TEXT + "optm: {lr: 1}\nnet: {kind: transformer, hiden: 64}\nseed: -1\ntraining: {steps: many}\n")
    lines = refused(file, "optim.lr=fast", "sampling.oder=1")
    assert sorted(lines) == sorted(
        [
            f"{file}: optm: unknown key; did you mean 'optim'?",
            f"{file}: net.hiden: unknown key; did you mean 'hidden'?",
            f"{file}: seed: found -1, expected greater than or equal to 0",
            f"{file}: training.steps: found 'many', expected a whole number",
            "override 'optim.lr=fast': optim.lr: found 'fast', expected a number",
            "override 'sampling.oder=1': sampling.oder: unknown key; did you mean 'order'?",
        ]
    )


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"name": "a/b"}, "name: found 'a/b', expected letters, digits and . _ -"),
        ({"name": ".."}, "name: found '..', expected letters"),
        ({"name": 2024}, "name: found 2024, expected text"),
        ({"device": "gpu"}, "device: found 'gpu', expected auto, cpu, cuda, cuda:N or mps"),
        ({"seed": True}, "seed: found true, expected a number"),
        ({"schema_version": 2}, "schema_version: found 2, expected 1"),
        ({"optim": None}, "optim: found nothing, expected keys below it: kind, lr"),
        (
            {"optim": {"hidden_lr": 0.1}},
            "optim.hidden_lr: found 0.1, expected this key with kind: muon only, not adamw",
        ),
        ({"optim": {"lr": float("nan")}}, "optim.lr: found nan, expected"),
        ({"optim": {"lr": float("inf")}}, "optim.lr: found inf, expected a finite number"),
        ({"training": {"steps": 1.5}}, "training.steps: found 1.5, expected a whole number"),
        ({"features": {"reflect": "maybe"}}, "features.reflect: found 'maybe', expected true or false"),
        ({"features": {"points": {}}}, "features.points: found {}, expected at least 1 item"),
        (
            {"features": {"points": {"ptrel": "lg"}}},
            "features.points.ptrel: found 'lg', expected 'standard', 'log', 'normal-score', 'categorical' or 'periodic'",
        ),
        ({"features": {"points": {1: "log"}}}, "features.points.1: found 1, expected text"),
        ({"data": {"train": ["a", 1], "validation": "v"}}, "data.train.1: found 1, expected text"),
        ({"data": {"train": [], "validation": "v"}}, "data.train: found [], expected at least 1 item"),
        ({"data": {"train": "t"}}, "data.validation: found nothing, expected a value"),
        (
            {"data": {**MINIMAL["data"], "options": {"format": "root"}}},
            "data.options.format: found 'root', expected this one as data.format",
        ),
        ({"net": "epic"}, "net: found 'epic', expected keys below it such as kind: epic"),
        ({"net": {"kind": "epick"}}, "net.kind: found 'epick', expected 'epic', 'transformer', 'graph'"),
        ({"net": {"value_size": 8}}, "net.value_size: found 8, expected this key with net.heads above 0 only"),
        ({"net": {"attending": [0]}}, "net.attending: found [0], expected this key with net.heads above 0 only"),
        (
            {"net": {"heads": 1, "attending": [0, 4]}},
            "net.attending: found [0, 4], expected numbers of layers, from 0 to 3",
        ),
        ({"net": {"kind": "transformer", "heads": 3}}, "net.heads: found 3, expected a divisor of net.hidden = 128"),
        ({"net": {"neighbours": 4}}, "net.neighbours: unknown key"),
        (
            {"net": {"kind": "graph", "coordinates": ["eta", "phirel"]}},
            "net.coordinates: found 'eta', expected only names in features.points: etarel, phirel, ptrel",
        ),
        (
            {"features": {"points": {"charge": "categorical"}}, "denoiser": {"potential": True}},
            "denoiser.potential: found true, expected false, for features.points holds categories",
        ),
        (
            {
                "features": {"points": {"etarel": "standard", "charge": "categorical"}},
                "net": {"kind": "graph", "coordinates": ["charge"]},
            },
            "net.coordinates: found 'charge', expected only names in features.points: etarel",
        ),
        ({"lr": 1}, "lr: unknown key; did you mean 'optim.lr' or 'multiplicity.lr'?"),
        ({"hidden": 1}, "hidden: unknown key; did you mean 'multiplicity.hidden' or 'net.hidden'?"),
        ({1: 2}, "1: found 1, expected text"),
    ],
)
def test_one_mistake_is_one_line(change: dict[Any, Any], line: str) -> None:
    (found,) = refused({**MINIMAL, **change})
    assert found.startswith(f"config: {line}")


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("optim.lr", "expected KEY.PATH=VALUE"),
        ("=3", "expected KEY.PATH=VALUE"),
        ("net.=3", "expected KEY.PATH=VALUE"),
        ("name.first=g", "name: found 'gluons', which has no keys below it"),
        ("name=[", "line 1, column 2: not valid YAML"),
        ("net={hidden: 1, hidden: 2}", "hidden: found twice"),
        ("net.kind=grap", "net.kind: found 'grap', expected"),
        ("data=3", "data: found 3, expected keys below it: train, validation"),
        ("net={kind: transformer, heads: 5}", "net.heads: found 5, expected a divisor"),
    ],
)
def test_a_mistake_in_an_override_names_the_override(override: str, line: str) -> None:
    (found,) = refused(MINIMAL, override)
    assert found.startswith(f"override {override!r}: {line}")


def test_repeated_keys_are_refused_at_every_level_with_their_lines(file: Path) -> None:
    file.write_text(TEXT + "optim:\n  lr: 1.0e-3\n  lr: 2.0e-3\nname: other\n")
    assert refused(file) == [
        f"{file}: optim.lr: found twice, on lines 4 and 5, expected once",
        f"{file}: name: found twice, on lines 1 and 6, expected once",
    ]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "is empty"),
        (b"# only a comment\n", "is empty"),
        (b"- a\n- b\n", "found ['a', 'b'], expected keys"),
        (b"just text", "found 'just text', expected keys"),
        (b"name: [1\ndata: 2\n", "line 2, column 5: not valid YAML"),
        (
            b"name: !!python/object:os.system {}\n",
            "line 1, column 7: not valid YAML: could not determine a constructor",
        ),
        (b"name: *nowhere\n", "line 1, column 7: not valid YAML: found undefined alias"),
        (b"a: 1\n---\nb: 2\n", "line 2, column 1: not valid YAML: but found another document"),
        (b"? [a]\n: 1\n", "line 1, column 3: not valid YAML: found unhashable key"),
        (b"name: \x00\n", "not valid YAML"),
        (b"\x89HDF\r\n\x1a\n\xff\xfe", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_config_is_one_line(file: Path, content: bytes, line: str) -> None:
    file.write_bytes(content)
    (found,) = refused(file)
    assert found.startswith(f"{file}: {line}")


def test_an_anchor_inside_itself_is_refused(file: Path) -> None:
    file.write_text(TEXT + "net: &a {kind: epic, hidden: *a}\n")
    (found,) = refused(file)
    assert found.startswith(f"{file}: not valid YAML: its anchors stand for themselves")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.yaml: no such file"):
        load_config(tmp_path / "nowhere.yaml")
    with pytest.raises(DataError, match=r"did you mean 'configs/gluon30\.yaml'"):
        load_config("gluon3")
    assert refused(tmp_path) == [f"{tmp_path}: is a folder without config.yaml, expected a YAML file or a run folder"]


def test_a_run_folder_stands_for_its_config_and_is_its_own_output(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(to_yaml(load_config(MINIMAL)))
    assert load_config(tmp_path) == load_config(MINIMAL, [f"output={tmp_path}"])
    assert load_config(tmp_path / "config.yaml").output is None


def test_data_beside_the_config_are_found_from_elsewhere(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("name: g\ndata: {train: parts/*.h5, validation: v.h5}\n")
    (tmp_path / "parts").mkdir()
    for name in ("parts/1.h5", "v.h5"):
        (tmp_path / name).touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    data = load_config(Path("..") / file.name).data
    assert [Path(name).resolve() for name in data.train] == [tmp_path.resolve() / "parts" / "*.h5"]
    assert [Path(name).resolve() for name in data.validation] == [(tmp_path / "v.h5").resolve()]
    (elsewhere / "v.h5").touch()
    assert load_config(Path("..") / file.name).data.validation == ("v.h5",)


_WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1)
# What YAML is known to mistake for something else.
_TRAPS = st.sampled_from(
    ["1e5", "1e-3", "-2E+7", "no", "null", "~", "2024-01-01", "0x1F", "1_000", "12:30:00", "a: b", "#"]
)


@given(
    paths=st.lists(_WORDS | _TRAPS, min_size=1, max_size=3),
    experiment=_WORDS | _TRAPS,
    lr=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    order=st.permutations(["etarel", "phirel", "ptrel"]),
)
def test_yaml_round_trip(paths: list[str], experiment: str, lr: float, order: list[str]) -> None:
    config = load_config(
        {
            "name": "1e5",
            "data": {"train": paths, "validation": paths[0], "options": {"threshold": lr, "tree": experiment}},
            "features": {"points": dict.fromkeys(order, "standard")},
            "net": {"kind": "graph"},
            "optim": {"lr": lr},
            "tracking": {"experiment": experiment},
        }
    )
    text = to_yaml(config)
    back = Config.model_validate(yaml.safe_load(text))
    assert back == config
    assert config_hash(back) == config_hash(config)
    assert list(back.features.points) == order


def test_resolved_yaml_loads_as_the_same_config(tmp_path: Path) -> None:
    config = load_config(MINIMAL, ["net.kind=transformer", "optim.lr=1e-5"])
    (tmp_path / "resolved.yaml").write_text(to_yaml(config))
    assert load_config(tmp_path / "resolved.yaml") == config


def test_hash_is_that_of_the_values_and_not_of_how_they_are_written() -> None:
    config = load_config(MINIMAL)
    assert re.fullmatch(r"[0-9a-f]{64}", config_hash(config))
    assert config_hash(load_config(MINIMAL, ["net.hidden=128", "optim.lr=1e-3"])) == config_hash(config)
    assert config_hash(load_config(MINIMAL, ["net.hidden=129"])) != config_hash(config)


def test_hash_depends_on_the_order_of_features() -> None:
    first, second = (
        load_config(MINIMAL, [f"features.points={points}"])
        for points in ("{etarel: standard, ptrel: log}", "{ptrel: log, etarel: standard}")
    )
    assert config_hash(first) != config_hash(second)


def test_flat_holds_every_value_once() -> None:
    config = load_config(
        {**MINIMAL, "net": {"kind": "graph"}}, ["data.options.tree=Events", "sampling.options.eta=0.5"]
    )
    found = flat(config)
    assert found["net.coordinates"] == "etarel, phirel"
    assert found["data.options.tree"] == "Events"
    assert found["sampling.options.eta"] == 0.5
    assert found["features.points.ptrel"] == "log"
    assert all(isinstance(value, (str, int, float, bool)) or value is None for value in found.values())
    leaves = [
        line for line in to_yaml(config).splitlines() if not line.endswith(":") and not line.lstrip().startswith("-")
    ]
    lists = [key for key in ("data.train", "data.validation", "net.coordinates") if key in found]
    assert len(found) == len(leaves) + len(lists)


def test_the_kind_of_net_may_be_left_to_an_override() -> None:
    assert isinstance(load_config(MINIMAL, ["net.kind=graph"]).net, GraphConfig)
