"""Version 7 UUIDs: order, time, layout."""

import threading
import time
import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.ids import id_time, new_id

NOON = datetime(2013, 6, 1, 12, tzinfo=UTC)


def test_each_id_is_greater_than_the_one_before() -> None:
    ids = [new_id() for _ in range(20_000)]  # many in each millisecond
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
    assert [str(i) for i in ids] == sorted(str(i) for i in ids)


def test_ids_asked_for_one_time_still_grow() -> None:
    ids = [new_id(NOON) for _ in range(1000)]
    assert ids == sorted(set(ids))
    assert {id_time(i) for i in ids} == {NOON}


def test_an_id_of_the_past_does_not_hold_back_the_next() -> None:
    new_id(datetime(2500, 1, 1, tzinfo=UTC))
    assert abs(id_time(new_id()) - datetime.now(UTC)) < timedelta(hours=1)


def test_a_clock_that_steps_back_does_not_break_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    before = new_id()
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    assert new_id() > before


def test_threads_get_different_ids() -> None:
    ids: list[uuid.UUID] = []
    threads = [threading.Thread(target=lambda: ids.extend([new_id() for _ in range(2000)])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 8000


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)))  # noqa: DTZ001
def test_the_time_comes_back_to_the_millisecond(when: datetime) -> None:
    made = new_id(when)
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert timedelta(0) <= when - id_time(made) < timedelta(milliseconds=1)


def test_any_zone_is_the_same_moment() -> None:
    assert id_time(new_id(NOON.astimezone(timezone(timedelta(hours=-4))))) == NOON


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        new_id(datetime(2013, 6, 1))  # noqa: DTZ001


def test_a_time_before_the_epoch_is_refused() -> None:
    with pytest.raises(ValueError, match="before 1970"):
        new_id(datetime(1969, 12, 31, tzinfo=UTC))


def test_other_ids_carry_no_time() -> None:
    with pytest.raises(ValueError, match="version 7"):
        id_time(uuid.uuid4())
    with pytest.raises(ValueError, match="9999"):
        id_time(uuid.UUID("ffffffff-ffff-7fff-bfff-ffffffffffff"))
