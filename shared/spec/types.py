"""Field types that the spec and the HTTP contracts share: names, durations, texts that Postgres can hold."""

import re
from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema

MAX_TEXT = 4096

_DURATION = re.compile(r"^(\d{1,6})(s|m|h|d)$")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(value: object) -> timedelta:
    """Read `90s`, `15m`, `12h` or `30d`.

    Raises:
        ValueError: anything else, naming the form expected.
    """
    if isinstance(value, timedelta):
        return value
    match = _DURATION.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be a whole number followed by s, m, h or d, such as 12h")
    return timedelta(seconds=int(match[1]) * _UNIT_S[match[2]])


def format_duration(value: timedelta) -> str:
    """The inverse of `parse_duration`, in the largest unit that divides the value."""
    seconds = round(value.total_seconds())
    for unit in ("d", "h", "m"):
        if seconds and seconds % _UNIT_S[unit] == 0:
            return f"{seconds // _UNIT_S[unit]}{unit}"
    return f"{seconds}s"


def storable_text(value: str) -> str:
    """Refuse what PostgreSQL text cannot hold: NUL and lone surrogates.

    Raises:
        ValueError: the text holds one of them.
    """
    if "\x00" in value:
        raise ValueError("must not contain the NUL character")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode (it holds a lone surrogate)") from None
    return value


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^\d{1,6}(s|m|h|d)$", "examples": ["12h", "30d"]}),
]
Text = Annotated[str, AfterValidator(storable_text), Field(max_length=MAX_TEXT)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$", description="lower-case letters, digits and hyphens")]
FieldName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$", description="letters, digits, underscores")]
