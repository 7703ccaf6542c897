"""A request is read whole or refused whole, with every wrong field named, up to a bound, and never a value."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from services.serving.instances import MAX_ERRORS, read_envelope, read_rows
from services.serving.models.loader import codec_for
from services.serving.models.model import read_signature
from services.serving.rows import to_json
from shared.errors import Invalid
from shared.instances import InstanceReader, epoch_us
from shared.spec import PipelineSpec, parse
from tests.unit.serving.tiny_model import SIGNATURE, SPEC

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

    def read(version: PipelineSpec, current: PipelineSpec, instance: dict[str, Any]) -> dict[str, Any]:
        codec = codec_for(version, current, read_signature(SIGNATURE))
        rows = codec.read([instance], AT)
        decoded = codec.decode(orjson.dumps({"instances": [instance]}), epoch_us(AT), max_instances=1, names_model=True)
        (row,) = orjson.loads(to_json(rows))
        if decoded is not None:
            decoded.rows[0].available_at = epoch_us(AT)
            assert orjson.loads(to_json(decoded.rows)) == [row]
        return {name: value for name, value in row.items() if name not in codec.not_logged}

    plain = {"carrier": "AA", "distance": 500.0}
    assert read(old, old, GOOD) == read(old, new, GOOD) == plain
    assert read(old, new, fuller) == {**plain, "temp": 20.5, "seat": "12A"}
    assert read(new, new, fuller) == read(new, old, fuller) == {**plain, "temp": 20.5, "seat": "12A", "v": [1.0, 2.0]}
