"""The calendar of a replay: every day once, periods back to back, sensible refusals."""

import itertools
from datetime import UTC, date, datetime, timedelta

import pytest

from cli.demo.plan import LAST_DAY, plan


@pytest.mark.parametrize("every", [1, 7, 30, 31, 306, 1000])
def test_periods_cover_every_day_once_and_in_order(every: int) -> None:
    periods = plan(timedelta(days=every))
    days = [day for period in periods for day in period.days]
    assert len(days) == 306
    assert days[0].start == datetime(2013, 3, 1, 8, tzinfo=UTC)
    assert days[-1].end == datetime(2014, 1, 1, 8, tzinfo=UTC)
    assert all(before.end == after.start for before, after in itertools.pairwise(days))
    assert [period.number for period in periods] == list(range(1, len(periods) + 1))
    assert {len(period.days) for period in periods[:-1]} <= {every}


def test_the_default_has_eleven_periods_named_by_their_days() -> None:
    periods = plan(timedelta(days=30))
    assert len(periods) == 11
    assert periods[0].label == "Mar 01-Mar 30"
    assert periods[-1].label == "Dec 26-Dec 31"
    assert periods[1].start == periods[0].end


def test_until_is_the_last_day_played() -> None:
    (period,) = plan(timedelta(days=30), until=date(2013, 3, 5))
    assert (len(period.days), period.end) == (5, datetime(2013, 3, 6, 8, tzinfo=UTC))


@pytest.mark.parametrize("every", [timedelta(0), timedelta(hours=12), timedelta(hours=36), timedelta(days=-1)])
def test_periods_are_whole_days(every: timedelta) -> None:
    with pytest.raises(ValueError, match="whole number of days"):
        plan(every)


@pytest.mark.parametrize("until", [date(2013, 2, 28), LAST_DAY + timedelta(days=1)])
def test_days_without_flights_to_replay_are_refused(until: date) -> None:
    with pytest.raises(ValueError, match="last day must be between"):
        plan(timedelta(days=30), until=until)
