"""Cron expressions, checked when a pipeline is applied so that the scheduler never meets a wrong one."""

import re

_PART = re.compile(r"(?:\*|([0-9]{1,2}|[a-z]{3})(?:-([0-9]{1,2}|[a-z]{3}))?)(?:/([0-9]{1,2}))?")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of week", 0, 7, _WEEKDAYS),
)
_DAYS_IN = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def parse_cron(value: str) -> str:
    """Check five fields of `*`, numbers, ranges, steps and lists (names for months and weekdays); spaces become single.

    Raises:
        ValueError: anything else, naming the field; or a date that never comes, such as the 31st of February.
    """
    fields = value.split()
    if len(fields) != len(_FIELDS):
        raise ValueError("must be a cron expression of five fields, such as 0 3 * * * (every day at 3:00 UTC)")
    values = []
    for text, (name, low, high, names) in zip(fields, _FIELDS, strict=True):
        numbers: set[int] = set()
        for part in text.lower().split(","):
            some = _numbers(part, low, high, names)
            if not some:
                raise ValueError(
                    f"{name} must be *, numbers from {low} to {high}, ranges a-b or steps */n, with commas"
                )
            numbers.update(some)
        values.append(numbers)
    if min(values[2]) > max(_DAYS_IN[month - 1] for month in values[3]):
        raise ValueError("names a day of month that its months do not have")
    return " ".join(fields)


def _numbers(part: str, low: int, high: int, names: tuple[str, ...]) -> range:
    """The numbers one part of a field stands for; empty when it is wrong."""
    match = _PART.fullmatch(part)
    if match is None:
        return range(0)
    try:
        first, last, step = (
            text and (names.index(text) + low if text in names else int(text)) for text in match.groups()
        )
    except ValueError:
        return range(0)
    if first is None:
        start, end = low, high
    else:
        start, end = int(first), int(first if last is None else last)
    if not low <= start <= end <= high or (step is not None and (start == end or not 1 <= int(step) <= high)):
        return range(0)
    return range(start, end + 1, int(step or 1))
