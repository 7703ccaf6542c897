"""A request is read whole or refused whole, with every wrong field named, up to a bound, and never a value."""

from datetime import UTC, datetime
from typing import Any

import pytest

from services.serving.instances import MAX_ERRORS, read_envelope, read_rows
from services.serving.models.loader import reader_for
from shared.errors import Invalid
from shared.instances import InstanceReader
from shared.spec import parse
from tests.unit.serving.tiny_model import SPEC

AT = datetime(2013, 6, 2, tzinfo=UTC)
GOOD = {"flight": "AA-1", "departs": "2013-06-02T12:00:00Z", "carrier": "AA", "distance": 500}
READER = InstanceReader(parse(SPEC))


def problems(call: Any) -> list[tuple[str, str]]:
    with pytest.raises(Invalid) as caught:
        call()
    return [(".".join(map(str, error["loc"])), error["msg"]) for error in caught.value.errors]


def envelope(document: object, *, names_model: bool = True) -> Any:
    return read_envelope(document, max_instances=3, names_model=names_model)


def test_a_good_envelope() -> None:
    read = envelope({"instances": [GOOD], "model": "delays", "version": 4})
    assert (read.instances, read.model, read.version) == ([GOOD], "delays", 4)
    assert envelope({"instances": [GOOD], "model": None, "version": None}).model is None


@pytest.mark.parametrize(
    ("document", "wrong"),
    [
        ([GOOD], "body"),
        ("text", "body"),
        ({}, "body.instances"),
        ({"instances": {}}, "body.instances"),
        ({"instances": []}, "body.instances"),
        ({"instances": [GOOD] * 4}, "body.instances"),
        ({"instances": [GOOD], "model": 3}, "body.model"),
        ({"instances": [GOOD], "version": 0}, "body.version"),
        ({"instances": [GOOD], "version": True}, "body.version"),
        ({"instances": [GOOD], "version": 1.0}, "body.version"),
        ({"instances": [GOOD], "version": 2**31}, "body.version"),
        ({"instances": [GOOD], "rows": 1}, "body.rows"),
    ],
)
def test_a_wrong_envelope_names_its_field(document: object, wrong: str) -> None:
    assert [loc for loc, _ in problems(lambda: envelope(document))] == [wrong]


def test_a_model_in_the_path_is_not_named_again() -> None:
    assert problems(lambda: envelope({"instances": [GOOD], "model": "delays"}, names_model=False)) == [
        ("body.model", "is named by the path; leave it out")
    ]


def test_every_wrong_field_of_every_row_is_named() -> None:
    rows = [GOOD, {**GOOD, "distance": "far", "carier": "AA"}, {"carrier": 3}, 7]
    assert problems(lambda: read_rows(READER, rows, AT)) == [
        ("body.instances.1.distance", "must be a number"),
        ("body.instances.1.carier", "is no field of this pipeline"),
        ("body.instances.2.carrier", "must be a text"),
        ("body.instances.2.flight", "is required"),
        ("body.instances.2.departs", "is required"),
        ("body.instances.3", "must be an object of fields by name"),
    ]


def test_the_list_of_errors_is_bounded() -> None:
    assert len(problems(lambda: read_rows(READER, [{}] * 1000, AT))) == MAX_ERRORS


def test_no_value_is_echoed() -> None:
    secret = "very-secret-value"
    with pytest.raises(Invalid) as caught:
        read_rows(READER, [{**GOOD, "distance": secret, "departs": secret}], AT)
    assert secret not in caught.value.detail + str(caught.value.errors)


def test_a_swap_between_specs_fails_no_request_that_fitted_either() -> None:
    features = SPEC["features"]
    old = parse(SPEC)
    new = parse(
        {
            **SPEC,
            "columns": ["note", "seat"],
            "features": {
                **features,
                "temp": {"type": "number", "required": True},
                "v": {"type": "vector", "length": 2},
            },
        }
    )
    fuller = {**GOOD, "temp": 20.5, "seat": "12A", "v": [1, 2]}
    for version, current in ((old, old), (old, new), (new, new)):
        reader = reader_for(version, current)
        (row,) = read_rows(reader, [fuller if current is new else GOOD], AT)
        assert row.key == "AA-1"
    (row,) = read_rows(reader_for(old, new), [GOOD], AT)
    assert row.payload == {"carrier": "AA", "distance": 500.0}
    (row,) = read_rows(reader_for(old, new), [fuller], AT)
    assert row.payload == {"carrier": "AA", "distance": 500.0, "temp": 20.5, "seat": "12A"}
    (row,) = read_rows(reader_for(new, old), [fuller], AT)
    assert row.payload["v"] == [1.0, 2.0]
