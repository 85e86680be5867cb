"""The page of methods names all that there is, as the code has it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from pcdiff.config import SAMPLER_FACTS, DenoiserConfig, LossConfig, SamplingConfig, ScheduleConfig

from .test_density import make
from .test_transforms import jets

METHODS = (Path(__file__).parents[1] / "docs" / "methods.md").read_text(encoding="utf-8")


def rows() -> list[list[str]]:
    lines = [line for line in METHODS.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_each_sampler_stands_with_its_orders_and_options() -> None:
    table = {row[0].strip("`"): row for row in rows() if len(row) == 5}
    for name, facts in SAMPLER_FACTS.items():
        assert name in table
        _, order, _, options, _ = table[name]
        for option, default in facts.options.items():
            shown = re.search(rf"`{option}` \(([^)]+)\)", options)
            assert shown, (name, option)
            assert float(shown[1]) == default
        if name in ("ddim", "sde-dpm"):
            assert [int(n) for n in re.findall(r"\d", order)] == sorted(facts.orders)


def test_the_example_of_a_constraint_works_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum of ptrel of each of 1,000 generated jets is 1 to 1e-4."""
    (script,) = re.findall(r"```python\n(.*?)```", METHODS, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    make(jets(200)).save("runs/gluon30")
    made: dict[str, Any] = {}
    exec(script, made)  # noqa: S102
    total = np.add.reduceat(made["jets"].column("ptrel").astype(np.float64), made["jets"].offsets[:-1])
    assert len(total) == 1000
    np.testing.assert_allclose(total, 1, atol=1e-4)


@pytest.mark.parametrize(
    ("section", "key"),
    [
        (SamplingConfig, "grid"),
        (ScheduleConfig, "kind"),
        (LossConfig, "objective"),
        (LossConfig, "weight"),
        (LossConfig, "times"),
        (DenoiserConfig, "parametrisation"),
    ],
)
def test_each_choice_of_a_config_is_explained(section: Any, key: str) -> None:
    for value in get_args(section.model_fields[key].annotation):
        assert f"`{value}`" in METHODS or f": {value}`" in METHODS, value
