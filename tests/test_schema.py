"""Schemas: standard meanings, selection, JSON, and refusals."""

from __future__ import annotations

import json

import pytest

from pcdiff.errors import DataError
from pcdiff.schema import JET_TYPES, Feature, Schema, jet_schema, vector_schema


def test_standard_names_get_units_and_categories() -> None:
    schema = jet_schema(["ptrel", "pt", "pdgId"], ["mass", "type"])
    assert [schema.point(name).unit for name in schema.point_names] == ["", "GeV", ""]
    assert schema.cloud("mass").unit == "GeV"
    assert schema.cloud("type").categories == JET_TYPES == ("g", "q", "t", "w", "z")
    assert jet_schema(["pt"], ["type"], types=("g", "q")).cloud("type").categories == ("g", "q")


def test_extra_features_replace_the_standard_meaning() -> None:
    own = Feature("pt", "TeV", "in other units")
    schema = jet_schema(["pt", "depth"], ["pt"], extra={"pt": own})
    assert schema.point("pt") == own
    assert schema.point("depth") == Feature("depth")


def test_vectors_are_pure_numbers_without_symmetries() -> None:
    schema = vector_schema(["px", "y"])
    assert schema == Schema("vectors", (Feature("px"), Feature("y")))
    assert schema.reflections == ()


@pytest.mark.parametrize(
    "schema",
    [
        jet_schema(["etarel", "phirel", "ptrel"], ["pt", "type"], axis="all", types=("g", "q")),
        vector_schema(["x", "y"]),
    ],
)
def test_json_round_trip_is_exact(schema: Schema) -> None:
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema


def test_select_keeps_the_order_asked_for() -> None:
    schema = jet_schema(["etarel", "phirel", "ptrel"], ["pt", "mass"])
    chosen = schema.select(points=("ptrel", "etarel"), clouds=())
    assert chosen.point_names == ("ptrel", "etarel")
    assert chosen.cloud_names == ()
    assert chosen.reflections == schema.reflections


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jet_schema(["pt", "pt"], []), "'pt' is given twice"),
        (lambda: jet_schema([], ["pt"]), "at least one point feature"),
        (lambda: jet_schema(["a/b"], []), "'a/b' cannot name a point feature"),
        (lambda: jet_schema(["pt"], [""]), "'' cannot name a cloud feature"),
        (lambda: Schema("rings", (Feature("pt"),)), "kind is 'rings', expected 'jets', 'halos', 'vectors'"),  # type: ignore[arg-type]
        (lambda: Schema("jets", (Feature("pt"),), axis="some"), "axis is 'some'"),  # type: ignore[arg-type]
        (lambda: jet_schema(["ptrel"], []).point("ptrell"), "did you mean 'ptrel'"),
        (lambda: Schema.from_dict({"kind": "jets"}), "not a stored pcdiff schema"),
        (lambda: Schema.from_dict({**jet_schema(["pt"], []).to_dict(), "points": [5]}), "not a stored pcdiff schema"),
    ],
)
def test_refusals_are_one_line(make, message) -> None:
    with pytest.raises(DataError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
