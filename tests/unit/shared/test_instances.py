"""One reading of instances, for events and /predict alike."""

import contextlib
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.instances import FIRST, LAST, InstanceReader, RowProblem, epoch_us, from_epoch_us
from shared.spec import parse

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
SPEC = parse(
    {
        "name": "trips",
        "task": "binary",
        "key": "trip",
        "entity": "rider",
        "columns": ["city"],
        "time": "began",
        "features": {
            "carrier": {"type": "category", "vocabulary": 8, "required": True},
            "distance": {"type": "number"},
            "began": {"type": "timestamp", "calendar": ["hour"]},
            "booked": {"type": "timestamp", "calendar": ["hour"]},
            "embedding": {"type": "vector", "length": 2},
        },
        "label": {"name": "late"},
    }
)
ROW: dict[str, Any] = {
    "trip": "t1",
    "began": "2024-06-01T10:00:00+02:00",
    "carrier": "UA",
    "booked": 1_717_000_000_000_000,
    "embedding": [1, 2.5],
}
READER = InstanceReader(SPEC)


def problems(row: object, reader: InstanceReader = READER) -> dict[str, str]:
    """What is wrong with a row, by field."""
    with pytest.raises(RowProblem) as caught:
        reader.read(row, received_at=NOW)
    return {".".join(map(str, error["loc"])): error["msg"] for error in caught.value.errors}


def test_a_row_is_normalised() -> None:
    instance = READER.read({**ROW, "rider": None, "city": 7}, received_at=NOW)

    assert instance.key == "t1"
    assert instance.time == datetime(2024, 6, 1, 8, tzinfo=UTC)
    assert instance.available_at == NOW
    # The event time is a feature too, but stands in `time` alone; what is missing is left out.
    assert instance.payload == {
        "carrier": "UA",
        "booked": 1_717_000_000_000_000,
        "embedding": [1.0, 2.5],
        "city": 7,
    }


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"distance": 5}, {"distance": 5.0}),
        ({"distance": -0.0}, {"distance": 0.0}),
        ({"distance": None}, {}),
        ({"began": "2024-06-01T08:00:00Z"}, {"began": epoch_us(datetime(2024, 6, 1, 8, tzinfo=UTC))}),
        ({"booked": "2024-01-01T00:00:00-05:00"}, {"booked": "2024-01-01T05:00:00Z"}),
    ],
)
def test_two_ways_to_say_the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert READER.read({**ROW, **one}, received_at=NOW) == READER.read({**ROW, **other}, received_at=NOW)


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"trip": None}, "trip", "required"),
        ({"trip": ""}, "trip", "1 to 256"),
        ({"trip": 7}, "trip", "text"),
        ({"trip": "a\x00"}, "trip", "NUL"),
        ({"trip": "x" * 257}, "trip", "1 to 256"),
        ({"began": None}, "began", "required"),
        ({"began": "yesterday"}, "began", "ISO 8601"),
        ({"began": "2024-06-01T10:00:00"}, "began", "offset"),
        ({"began": 1.5}, "began", "time"),
        ({"began": True}, "began", "time"),
        ({"began": 10**30}, "began", "1900"),
        ({"began": "0001-01-01T00:00:00+23:59"}, "began", "1900"),
        ({"began": "9999-12-31T23:59:59-23:59"}, "began", "1900"),
        ({"carrier": None}, "carrier", "required"),
        ({"carrier": ""}, "carrier", "required"),
        ({"carrier": 5}, "carrier", "text"),
        ({"carrier": "\ud800"}, "carrier", "Unicode"),
        ({"carrier": "x" * 5000}, "carrier", "4096"),
        ({"distance": "5"}, "distance", "number"),
        ({"distance": True}, "distance", "number"),
        ({"distance": math.nan}, "distance", "finite"),
        ({"distance": math.inf}, "distance", "finite"),
        ({"distance": 10**400}, "distance", "finite"),
        ({"distance": [1]}, "distance", "number"),
        ({"booked": None}, "booked", "required"),
        ({"embedding": None}, "embedding", "required"),
        ({"embedding": [1]}, "embedding", "list of 2"),
        ({"embedding": [1, None]}, "embedding", "none missing"),
        ({"embedding": [1, math.nan]}, "embedding", "finite"),
        ({"embedding": "12"}, "embedding", "list"),
        ({"city": {"a": 1}}, "city", "text, a number"),
        ({"rider": math.nan}, "rider", "finite"),
        ({"available_at": "2024-06-01T12:06:00Z"}, "available_at", "receipt"),
        ({"late": 1}, "late", "no field"),
        ({"x\x00y": 1}, "x\\x00y", "no field"),
    ],
)
def test_what_is_wrong_is_told_by_field(change: dict[str, Any], field: str, says: str) -> None:
    assert says in problems({**ROW, **change})[field]


def test_all_problems_are_told_at_once_but_not_without_end() -> None:
    assert set(problems({"carrier": 1, "distance": "x"})) == {
        "trip",
        "began",
        "carrier",
        "distance",
        "booked",
        "embedding",
    }
    assert len(problems({f"field{number}": 1 for number in range(1000)})) == 20


@pytest.mark.parametrize("row", [None, [], "row", 5, True])
def test_a_row_is_an_object(row: object) -> None:
    assert "object" in problems(row)[""]


def test_a_clock_that_runs_ahead_a_little_counts_as_the_receipt() -> None:
    assert READER.read({**ROW, "available_at": "2024-06-01T12:04:00Z"}, received_at=NOW).available_at == NOW


def test_only_events_must_have_happened() -> None:
    ahead = {**ROW, "began": (NOW + timedelta(hours=2)).isoformat()}
    assert READER.read(ahead, received_at=NOW).time == NOW + timedelta(hours=2)
    assert "future" in problems(ahead, InstanceReader(SPEC, max_ahead=timedelta(minutes=5)))["began"]


@given(st.integers(epoch_us(FIRST), epoch_us(LAST) - 1).map(from_epoch_us))
def test_epoch_microseconds_are_exact(moment: datetime) -> None:
    assert from_epoch_us(epoch_us(moment)) == moment


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*ROW, "x"]), inner, max_size=4),
)


@given(VALUES)
def test_any_json_is_read_or_refused(value: Any) -> None:
    for row in (value, dict.fromkeys(ROW, value), {**ROW, "distance": value, "city": value}):
        with contextlib.suppress(RowProblem):
            READER.read(row, received_at=NOW)
