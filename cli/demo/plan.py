"""The calendar of a replay: which days are replayed, and where a retraining period begins. Pure."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

FIRST_DAY = date(2013, 3, 1)
"""January and February are history: what the first model learns from."""
LAST_DAY = date(2013, 12, 31)
DAY_BEGINS = time(8, tzinfo=UTC)
"""A day of flights begins at 08:00 UTC, three or four in the morning in New York, when no flight leaves."""


@dataclass(frozen=True, slots=True)
class Day:
    """One day of flights: departures in [start, end)."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Period:
    """The days between two training cycles; the cycle's `as_of` is the start."""

    number: int
    days: tuple[Day, ...]

    @property
    def start(self) -> datetime:
        """When the first day begins."""
        return self.days[0].start

    @property
    def end(self) -> datetime:
        """When the last day ends."""
        return self.days[-1].end

    @property
    def label(self) -> str:
        """First and last day, such as `Mar 01-Mar 30`."""
        return f"{self.start:%b %d}-{self.days[-1].start:%b %d}"


def plan(every: timedelta, until: date = LAST_DAY, first: date = FIRST_DAY) -> list[Period]:
    """The periods from `first` to `until`, both included, each `every` long; the last may be shorter.

    Raises:
        ValueError: `every` is not a whole number of days, or `until` is outside the replayable part of the year.
    """
    if every < timedelta(days=1) or every % timedelta(days=1):
        raise ValueError("the time between cycles must be a whole number of days, such as 7d or 30d")
    if not first <= until <= LAST_DAY:
        raise ValueError(f"the last day must be between {first} and {LAST_DAY}, not {until}")
    midnight = datetime.combine(first, DAY_BEGINS)
    days = [
        Day(midnight + timedelta(days=n), midnight + timedelta(days=n + 1)) for n in range((until - first).days + 1)
    ]
    step = every.days
    return [Period(n + 1, tuple(days[begin : begin + step])) for n, begin in enumerate(range(0, len(days), step))]
