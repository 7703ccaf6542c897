"""Cron expressions that the scheduler can run, and no others."""

from datetime import UTC, datetime

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from shared.spec.cron import parse_cron


@pytest.mark.parametrize(
    "line",
    ["0 3 * * *", "*/5 * * * *", "0 0 1-5,7 jan-mar mon", "0 0 * * 7", "1-30/7 * * * *", "0 0 29 feb *", "5 4 * * SUN"],
)
def test_good_lines(line: str) -> None:
    assert parse_cron(line) == line


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "five fields"),
        ("* * * *", "five fields"),
        ("@daily", "five fields"),
        ("60 * * * *", "minute"),
        ("* 24 * * *", "hour"),
        ("* * 0 * *", "day of month"),
        ("* * * 13 *", "month"),
        ("* * * * 8", "day of week"),
        ("5-1 * * * *", "minute"),
        ("*/0 * * * *", "minute"),
        ("1,,2 * * * *", "minute"),
        ("*-5 * * * *", "minute"),
        ("\u0663 * * * *", "minute"),
        ("a * * * *", "minute"),
        ("0 0 31 2 *", "do not have"),
        ("0 0 30,31 feb *", "do not have"),
    ],
)
def test_wrong_lines_name_the_field(line: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_cron(line)


FIELD = st.lists(
    st.from_regex(r"(\*|[0-9]{1,2}(-[0-9]{1,2})?)(/[0-9]{1,2})?", fullmatch=True), min_size=1, max_size=2
).map(",".join)


@given(st.lists(FIELD, min_size=5, max_size=5).map(" ".join))
def test_what_is_taken_has_a_next_time(line: str) -> None:
    try:
        parse_cron(line)
    except ValueError:
        return
    assert next(CronSim(line, datetime(2024, 1, 1, tzinfo=UTC)))
