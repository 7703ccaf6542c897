"""From a row as sent to an event or a label, or to a reason."""

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from services.data.rows import MAX_KEPT_CHARS, EventReader, LabelReader, Unreadable, kept_text
from shared.errors import Invalid
from shared.instances import RowProblem
from shared.labels import LabelSource
from shared.spec import parse
from tests.unit.data.samples import SPEC, event

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
PREDICTION = (uuid.UUID(int=1), 3)
SPEC_READ = parse(SPEC)
EVENTS = EventReader(SPEC_READ)


def verify(text: str) -> Any:
    if text != "good":
        raise Invalid("not issued for this pipeline")
    return PREDICTION


LABELS = LabelReader(SPEC_READ, verify)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_the_digest_is_over_what_was_said_and_not_over_how_or_when() -> None:
    base = EVENTS.read(event(1, 3), NOW).digest
    assert EVENTS.read({**event(1, 3), "available_at": None, "city": "Oslo", "distance": 0.25}, NOW).digest == base
    assert EVENTS.read({**event(1, 3), "late": 1}, NOW).digest == base
    assert EVENTS.read({**event(1, 3), "distance": 9}, NOW).digest != base
    assert EVENTS.read(event(1, 4), NOW).digest != base


@pytest.mark.parametrize("said", [1, 1.0, True])
def test_an_event_may_carry_its_label(said: object) -> None:
    label = EVENTS.read(event(1, 3, late=said, label_time="2024-01-05T00:00:00Z"), NOW).label

    assert label is not None
    assert (label.key, label.label, label.source) == ("t0001", 1.0, LabelSource.EVENT)
    assert label.label_time == moment("2024-01-05")
    # The event was available on the fourth, its label not before it was known.
    assert label.available_at == moment("2024-01-05")


def test_a_label_without_a_time_is_known_when_its_event_is() -> None:
    label = EVENTS.read(event(1, 3, late=0), NOW).label
    assert label is not None
    assert label.label_time == label.available_at == moment("2024-01-04")
    received = EVENTS.read(event(1, 3, late=0, available_at=None), NOW).label
    assert received is not None
    assert received.label_time == NOW
    assert not received.timed


def test_no_label_and_a_null_label_are_none() -> None:
    assert EVENTS.read(event(1, 3), NOW).label is None
    assert EVENTS.read(event(1, 3, late=None), NOW).label is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"late": 2}, "late: must be 0 or 1"),
        ({"late": "1"}, "late: must be a number"),
        ({"late": float("nan")}, "late: must be a finite"),
        ({"late": 10**400}, "late: must be a finite"),
        ({"late": 1, "label_time": "2024-06-01T13:00:00Z"}, "label_time: must not be later"),
        ({"late": 1, "label_time": "soon"}, "label_time: must be a time"),
        ({"began": "2024-06-01T12:10:00Z"}, "began: lies in the future"),
        ({"late": 7, "distance": "far"}, "distance: must be a number; late: must be 0 or 1"),
        ({"score": 1}, "score: is no field"),
    ],
)
def test_bad_events_say_why(change: dict[str, Any], says: str) -> None:
    with pytest.raises(RowProblem, match=says):
        EVENTS.read({**event(1, 3), **change}, NOW)


def test_labels_name_a_key_or_a_prediction() -> None:
    by_key = LABELS.read({"key": "t1", "label": 1, "time": "2024-05-01T00:00:00Z"}, NOW)
    assert (by_key.key, by_key.prediction, by_key.label_time) == ("t1", None, moment("2024-05-01"))
    assert (by_key.source, by_key.available_at) == (LabelSource.EXPLICIT, NOW)
    by_prediction = LABELS.read({"prediction_id": "good", "label": False, "source": "implicit"}, NOW)
    assert (by_prediction.prediction, by_prediction.label, by_prediction.label_time) == (PREDICTION, 0.0, NOW)
    assert (by_prediction.source, by_prediction.timed) == (LabelSource.IMPLICIT, False)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ([], "must be an object"),
        ({}, "either key or prediction_id"),
        ({"key": "a", "prediction_id": "good", "label": 1}, "either key or prediction_id"),
        ({"key": "a"}, "label: is required"),
        ({"key": "a", "label": 3}, "0 or 1"),
        ({"key": "a", "label": [1]}, "must be a number"),
        ({"key": "a\x00", "label": 1}, "NUL"),
        ({"key": 5, "label": 1}, "key: must be a text"),
        ({"prediction_id": "forged", "label": 1}, "prediction_id: not issued"),
        ({"prediction_id": 5, "label": 1}, "prediction_id: must be a text"),
        ({"key": "a", "label": 1, "source": "event"}, "explicit or implicit"),
        ({"key": "a", "label": 1, "source": []}, "explicit or implicit"),
        ({"key": "a", "label": 1, "time": "2030-01-01T00:00:00Z"}, "time: must not be later"),
        ({"key": "a", "label": 1, "weight": 2, "by\n": "ana"}, r"by\\n: is no field of a label; weight: is no field"),
        ({str(number): 0 for number in range(1000)}, "^([^;]*; ){19}[^;]*$"),
    ],
)
def test_bad_labels_say_why(row: object, says: str) -> None:
    with pytest.raises(RowProblem, match=says):
        LABELS.read(row, NOW)


@pytest.mark.parametrize(
    "row", [{"a": "\x00\ud800é"}, Unreadable("{\x00 \ud800 é", "is not JSON"), "x" * 100_000, None]
)
def test_what_quarantine_keeps_fits_a_database(row: object) -> None:
    kept = kept_text(row)
    assert kept.isascii()
    assert "\x00" not in kept
    assert len(kept) <= MAX_KEPT_CHARS


def test_rows_nested_beyond_reason_are_not_kept() -> None:
    row: Any = []
    for _ in range(100_000):
        row = [row]
    assert "nested" in kept_text(row)
