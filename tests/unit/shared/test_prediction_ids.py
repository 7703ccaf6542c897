"""Prediction ids: what was made is believed, what was not is refused."""

import hashlib
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Invalid
from shared.ids import id_time, new_id
from shared.prediction_ids import MAX_ROWS, PredictionIds, parse

SECRET = "0123456789abcdef" * 2
PIPELINE = "flight-delay"
NOON = datetime(2013, 6, 1, 12, tzinfo=UTC)
REQUEST = new_id(NOON)
ids = PredictionIds(SECRET)


@pytest.mark.parametrize("row", [0, 1, 255, 65_536, MAX_ROWS - 1])
def test_request_and_row_come_back(row: int) -> None:
    text = ids.make(PIPELINE, REQUEST, row)
    assert ids.verify(PIPELINE, text) == parse(text) == (REQUEST, row)
    assert id_time(parse(text)[0]) == NOON
    assert len(text) == 54
    assert text.isalnum()
    assert text == text.lower()


def test_the_tag_is_64_bits_of_a_keyed_blake2b_over_eight_rows() -> None:
    key = hashlib.blake2b(SECRET.encode()).digest()
    message = b"flight-delay\0" + REQUEST.bytes + bytes([0, 0, 1])
    tags = hashlib.blake2b(message, key=key, person=b"relevo-predict").hexdigest()
    assert ids.make(PIPELINE, REQUEST, 9) == REQUEST.hex + "000009" + tags[16:32]


def test_a_batch_is_the_same_ids() -> None:
    assert ids.make_batch(PIPELINE, REQUEST.hex, 50) == [ids.make(PIPELINE, REQUEST, row) for row in range(50)]
    assert ids.make_batch(PIPELINE, REQUEST.hex, 0) == []


def test_ids_sort_by_time_then_row() -> None:
    requests = [new_id(NOON + timedelta(milliseconds=5 * n)) for n in range(20)]
    made = [text for request in requests for text in ids.make_batch(PIPELINE, request.hex, 300)]
    assert made == sorted(made)


def test_replicas_with_the_same_secret_believe_each_other() -> None:
    assert PredictionIds(SECRET).verify(PIPELINE, ids.make(PIPELINE, REQUEST, 1)) == (REQUEST, 1)


def test_another_pipeline_or_secret_is_refused() -> None:
    text = ids.make(PIPELINE, REQUEST, 0)
    for verifier, pipeline in ((ids, "other"), (PredictionIds(SECRET[::-1]), PIPELINE)):
        with pytest.raises(Invalid, match="not issued for this pipeline"):
            verifier.verify(pipeline, text)


@given(st.integers(0, 53), st.sampled_from("0123456789abcdef"))
def test_one_changed_character_is_refused(position: int, digit: str) -> None:
    text = ids.make(PIPELINE, REQUEST, 7)
    changed = text[:position] + digit + text[position + 1 :]
    if changed != text:
        with pytest.raises(Invalid):
            ids.verify(PIPELINE, changed)


@given(st.text(max_size=80))
def test_any_other_text_is_refused_without_echoing_it(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        ids.verify(PIPELINE, text)
    assert refused.value.errors[0]["loc"] == ["prediction_id"]
    assert len(text) < 8 or text not in refused.value.detail


def test_each_prediction_has_one_spelling() -> None:
    text = ids.make(PIPELINE, REQUEST, 7)
    for other in (text.upper(), text + "\n", f" {text}", text[:-1], str(REQUEST) + text[32:]):
        with pytest.raises(Invalid):
            ids.verify(PIPELINE, other)


def test_what_cannot_be_carried_is_refused() -> None:
    for row in (-1, MAX_ROWS):
        with pytest.raises(ValueError, match="row"):
            ids.make(PIPELINE, REQUEST, row)
    with pytest.raises(ValueError, match="count"):
        ids.make_batch(PIPELINE, REQUEST.hex, MAX_ROWS + 1)
    with pytest.raises(ValueError, match="version 7"):
        ids.make(PIPELINE, uuid.uuid4(), 0)


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 32 characters"):
        PredictionIds("short")
