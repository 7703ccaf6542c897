"""Stages in a pipeline file: what does not fit is refused by name, and a file without any keeps the digest it had."""

from typing import Any

import pytest

from shared.errors import Invalid
from shared.spec import parse, spec_digest
from tests.unit.serving.tiny_model import SPEC

VECTOR = {**SPEC["features"], "look": {"type": "vector", "length": 4}}


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        ({"type": "sort"}, "0"),
        ({"type": "clip"}, "give low, high or both"),
        ({"type": "clip", "low": 1, "high": 0}, "low is above high"),
        ({"type": "calibrate"}, "give either points or platt"),
        ({"type": "calibrate", "points": [(1, 0), (0, 1)]}, "points must go by rising score"),
        ({"type": "calibrate", "platt": {"slope": -1}}, "greater than 0"),
        ({"type": "filter"}, "give either keep or drop"),
        ({"type": "filter", "keep": {"field": "carrier"}}, "give one_of, at_least or at_most"),
        ({"type": "filter", "keep": {"field": "distance", "at_least": 2, "at_most": 1}}, "that never holds"),
        ({"type": "filter", "keep": {"field": "shop", "one_of": [1]}}, "0.keep.field: shop is no field"),
        ({"type": "filter", "keep": {"field": "look", "one_of": [1]}}, "look is a vector"),
        ({"type": "boost", "where": {"field": "carrier", "one_of": ["AA"]}}, "give multiply or add"),
        ({"type": "demote", "where": {"field": "late", "at_least": 1}}, "0.where.field: late is no field"),
        ({"type": "diversify", "k": 5}, "give fields, vector or both"),
        ({"type": "diversify", "k": 5, "vector": "carrier"}, "0.vector: carrier is not a vector"),
        ({"type": "diversify", "k": 5, "fields": ["carrier", "shop"]}, "0.fields.1: shop is no field"),
        ({"type": "cap", "field": "available_at", "most": 1}, "available_at is no field"),
        ({"type": "top", "k": 0}, "greater than or equal to 1"),
    ],
)
def test_a_stage_that_does_not_fit_is_refused_by_name(stage: dict[str, Any], says: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse({**SPEC, "features": VECTOR, "postprocessing": [stage]})
    assert says in str(refused.value.errors)
    assert "postprocessing" in refused.value.detail


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        (
            [{"type": "diversify", "k": 5, "fields": ["carrier"]}, {"type": "clip", "low": 0}],
            "postprocessing.1: follows",
        ),
        ([{"type": "threshold", "at": 0.5}] * 2, "postprocessing.1: is a second threshold"),
        ([{"type": "top", "k": 1}] * 33, "at most 32"),
    ],
)
def test_stages_must_fit_each_other(stages: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse({**SPEC, "postprocessing": stages})
    assert says in str(refused.value.errors)


def test_platt_scaling_is_for_probabilities() -> None:
    stage = {"type": "calibrate", "platt": {"slope": 1.5}}
    parse({**SPEC, "postprocessing": [stage]})
    with pytest.raises(Invalid, match="use points"):
        parse({**SPEC, "task": "regression", "postprocessing": [stage]})


def test_stages_survive_being_stored_and_a_spec_without_any_is_stored_as_before() -> None:
    stages = [
        {"type": "filter", "drop": {"field": "note", "one_of": ["a", 1, True, 2.5]}},
        {"type": "cap", "field": "flight", "most": 1},
    ]
    spec = parse({**SPEC, "postprocessing": stages})
    assert parse(spec.model_dump(mode="json")) == spec
    assert "postprocessing" not in parse(SPEC).model_dump(mode="json")
    assert spec_digest(parse({**SPEC, "postprocessing": []})) == spec_digest(parse(SPEC)) != spec_digest(spec)
