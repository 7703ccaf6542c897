"""Calendar parts in the graph against `datetime` and `zoneinfo`, on thousands of moments."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import onnxruntime as ort
import pytest
import spox
from spox import Tensor, argument

from services.trainer.transform import calendar
from services.trainer.transform.zones import zone_table

ZONES = [
    "UTC",
    "America/New_York",
    "Europe/Paris",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Africa/Casablanca",
]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def session_for(timezone: str) -> ort.InferenceSession:
    micros = argument(Tensor(np.int64, ("n",)))
    outputs = calendar.calendar_parts(list(calendar.PART_SIZES), calendar.local_seconds(micros, timezone))
    return ort.InferenceSession(spox.build({"micros": micros}, outputs).SerializeToString())


def expected(micros: int, zone: ZoneInfo) -> dict[str, int]:
    local = (EPOCH + timedelta(microseconds=micros)).astimezone(zone)
    return {
        "minute_of_day": local.hour * 60 + local.minute,
        "hour": local.hour,
        "weekday": local.weekday(),
        "day": local.day - 1,
        "month": local.month - 1,
    }


def compare(timezone: str, moments: np.ndarray) -> None:
    parts = list(calendar.PART_SIZES)
    found = dict(zip(parts, session_for(timezone).run(parts, {"micros": moments}), strict=True))
    zone = ZoneInfo(timezone)
    wanted = [expected(int(moment), zone) for moment in moments]
    for part in parts:
        assert found[part].dtype == np.int64
        np.testing.assert_array_equal(found[part], [one[part] for one in wanted], err_msg=f"{part} in {timezone}")


@pytest.mark.parametrize("timezone", ZONES)
def test_random_moments_from_1901_to_2099(timezone: str) -> None:
    rng = np.random.default_rng(1)
    first, last = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (1901, 2099))
    compare(timezone, rng.integers(first * 1_000_000, last * 1_000_000, 3_000))


@pytest.mark.parametrize("timezone", ZONES[1:])
def test_both_sides_of_every_transition(timezone: str) -> None:
    transitions = np.array(zone_table(timezone).transition_s, np.int64) * 1_000_000
    compare(timezone, np.concatenate([transitions - 1, transitions, transitions + 3_600_000_000]))


def test_the_days_around_new_york_s_clock_changes_minute_by_minute() -> None:
    for day in (
        datetime(2013, 3, 10, tzinfo=UTC),
        datetime(2013, 11, 3, tzinfo=UTC),
        datetime(1969, 4, 27, tzinfo=UTC),
    ):
        start = int(day.timestamp())
        compare("America/New_York", (start + 60 * np.arange(1_440, dtype=np.int64)) * 1_000_000)


def test_every_day_of_leap_and_century_years() -> None:
    days = [
        int(datetime(year, 1, 1, 23, 59, 59, tzinfo=UTC).timestamp()) + 86_400 * day
        for year in (1900, 1904, 1999, 2000, 2001, 2096, 2100, 2400)
        for day in range(366)
    ]
    compare("UTC", np.array(days, np.int64) * 1_000_000 + 999_999)


def test_moments_beyond_the_calendar_are_clamped() -> None:
    limits = np.iinfo(np.int64)
    hour, month = session_for("America/New_York").run(["hour", "month"], {"micros": np.array([limits.min, limits.max])})
    assert month.tolist() == [11, 11]  # 0001-01-01 UTC is still December in New York
    assert all(0 <= value < 24 for value in hour)


def test_a_zone_with_one_offset_has_no_table() -> None:
    assert zone_table("Etc/GMT+5").transition_s == ()
    assert zone_table("Etc/GMT+5").offset_s == (-5 * 3600,)
