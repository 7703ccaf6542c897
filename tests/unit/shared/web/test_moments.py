"""Moments in bodies and queries: ISO 8601 with an offset; a number could be seconds, milliseconds or microseconds."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from shared.web.moments import Moment

READER: TypeAdapter[datetime] = TypeAdapter(Moment)


@pytest.mark.parametrize("text", ["2013-03-01T08:00:00Z", "2013-03-01T10:00:00+02:00", "2013-03-01 08:00:00.0Z"])
def test_text_with_an_offset_is_a_moment(text: str) -> None:
    assert READER.validate_python(text) == datetime(2013, 3, 1, 8, tzinfo=UTC)


@pytest.mark.parametrize(
    "value",
    [
        0,
        7.5,
        True,
        10**400,
        "7",
        "1e5",
        "1362124800",
        "",
        "now",
        "nan",
        "2013-03-01",
        "2013-03-01T08:00:00",
        "2013-02-30T08:00:00Z",
    ],
)
def test_anything_else_is_none(value: Any) -> None:
    with pytest.raises(ValidationError):
        READER.validate_python(value)


def test_what_is_wanted_is_said() -> None:
    with pytest.raises(ValidationError, match="must be ISO 8601 with an offset, such as 2013-03-01T08:00:00Z"):
        READER.validate_python(1362124800)
