"""Which cron slot is due."""

from datetime import UTC, datetime, timedelta

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.slots import due_slot
from shared.spec.cron import parse_cron


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "after", "now", "due"),
    [
        ("0 3 * * *", "2026-08-06 03:00", "2026-08-07 02:59:59.999", None),
        ("0 3 * * *", "2026-08-06 03:00", "2026-08-07 03:00", "2026-08-07 03:00"),
        ("0 3 * * *", "2026-08-06 03:00", "2026-08-07 03:00:00.000001", "2026-08-07 03:00"),
        ("0 3 * * *", "2026-08-06 03:00", "2026-08-07 18:12:31", "2026-08-07 03:00"),
        # Taken already; set after it; set at the very moment.
        ("0 3 * * *", "2026-08-07 03:00", "2026-08-07 03:00:30", None),
        ("0 3 * * *", "2026-08-07 03:00:10", "2026-08-07 03:00:30", None),
        ("* * * * *", "2026-08-07 03:00:10", "2026-08-07 03:01", "2026-08-07 03:01"),
        # Many missed ones: the newest alone.
        ("0 3 * * *", "2026-07-01 03:00", "2026-08-07 18:00", "2026-08-07 03:00"),
        ("* * * * *", "2025-08-07 03:00", "2026-08-07 18:00:59", "2026-08-07 18:00"),
        # Month ends and leap days.
        ("0 0 31 * *", "2026-03-31 00:00", "2026-04-30 23:59", None),
        ("0 0 31 * *", "2026-03-31 00:00", "2026-06-01 00:00", "2026-05-31 00:00"),
        ("30 23 29 2 *", "2024-01-01 00:00", "2026-08-07 00:00", "2024-02-29 23:30"),
        ("0 0 1 1 *", "2025-12-31 12:00", "2026-01-01 00:00", "2026-01-01 00:00"),
        # Sunday is 0, 7 and sun; weekdays by name.
        ("0 4 * * 0", "2026-08-01 00:00", "2026-08-07 00:00", "2026-08-02 04:00"),
        ("0 4 * * 7", "2026-08-01 00:00", "2026-08-07 00:00", "2026-08-02 04:00"),
        ("0 4 * * sun", "2026-08-01 00:00", "2026-08-07 00:00", "2026-08-02 04:00"),
        ("0 4 * * mon-fri", "2026-08-07 04:00", "2026-08-09 23:00", None),
        # UTC: on the nights when New York and Berlin change their clocks every hour comes once.
        ("30 2 * * *", "2026-03-07 02:30", "2026-03-08 02:30", "2026-03-08 02:30"),
        ("30 1 * * *", "2026-11-01 01:30", "2026-11-01 02:30", None),
        # Lists, ranges and steps.
        ("*/15 8-10 * * *", "2026-08-07 00:00", "2026-08-07 09:44", "2026-08-07 09:30"),
        ("0 0,12 * * *", "2026-08-07 00:00", "2026-08-07 11:59", None),
    ],
)
def test_due_slot(cron: str, after: str, now: str, due: str | None) -> None:
    parse_cron(cron)
    assert due_slot(cron, after=at(after), now=at(now)) == (at(due) if due else None)


def _part(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    single = number.map(str)
    span = st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}")
    step = st.tuples(st.one_of(st.just("*"), span), st.integers(1, high or 1)).map(lambda pair: f"{pair[0]}/{pair[1]}")
    return st.lists(st.one_of(single, span, step), min_size=1, max_size=3).map(",".join) | st.just("*")


CRONS = st.tuples(_part(0, 59), _part(0, 23), _part(1, 31), _part(1, 12), _part(0, 7)).map(" ".join)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(cron=CRONS, seconds=st.integers(0, 15 * 365 * 86_400))
def test_what_a_pipeline_may_say_the_scheduler_understands(cron: str, seconds: int) -> None:
    try:
        parse_cron(cron)
    except ValueError:
        return
    moment = at("2020-01-01") + timedelta(seconds=seconds)
    slot = due_slot(cron, after=datetime.min.replace(tzinfo=UTC), now=moment)
    assert slot is not None
    assert slot <= moment
    # The newest: the next one after it lies in the future.
    assert next(CronSim(cron, slot)) > moment
    assert next(CronSim(cron, slot - timedelta(minutes=1))) == slot
