"""Calendar parts of a moment in local time, as graph nodes: int64 arithmetic only, exact before 1970 too.

Dates come from day counts by Howard Hinnant's civil_from_days ("chrono-Compatible Low-Level Date Algorithms").
"""

from collections.abc import Callable, Sequence

import numpy as np
import spox.opset.ai.onnx.v21 as op
from spox import Var

from services.trainer.transform.zones import sliced, zone_table

FIRST_SECOND, LAST_SECOND = -62_135_596_800, 253_402_300_799
"""0001-01-01 and 9999-12-31 in epoch seconds: moments beyond are clamped, so that no sum below can overflow."""
PART_SIZES = {"minute_of_day": 1440, "hour": 24, "weekday": 7, "day": 31, "month": 12}
"""Number of values of each part; all count from 0 (Monday, the first of the month, January)."""


def local_seconds(micros: Var, timezone: str) -> Var:
    """Epoch microseconds UTC (int64 [n]) to seconds since 1970-01-01 on the local clock (int64 [n])."""
    seconds = op.clip(floor_div(micros, 1_000_000), _int(FIRST_SECOND), _int(LAST_SECOND))
    table = zone_table(timezone)
    if not table.transition_s:
        return op.add(seconds, _int(table.offset_s[0]))
    slices = sliced(table)
    index = op.clip(
        floor_div(op.sub(seconds, _int(slices.first_s)), slices.length_s), _int(0), _int(len(slices.change_s) - 1)
    )
    change, before, after = (
        op.gather(op.const(np.array(column, np.int64)), index)
        for column in (slices.change_s, slices.before_s, slices.after_s)
    )
    return op.add(seconds, op.where(op.less(seconds, change), before, after))


def calendar_parts(parts: Sequence[str], local: Var) -> dict[str, Var]:
    """Parts of local seconds, each int64 [n] in 0 .. PART_SIZES[part] - 1, in the order asked for."""
    second_of_day = op.mod(local, _int(86_400))
    day_count = floor_div(local, 86_400)
    day, month = _day_and_month(day_count) if {"day", "month"} & set(parts) else (day_count, day_count)
    known: dict[str, Callable[[], Var]] = {
        "minute_of_day": lambda: op.div(second_of_day, _int(60)),
        "hour": lambda: op.div(second_of_day, _int(3_600)),
        "weekday": lambda: op.mod(op.add(day_count, _int(3)), _int(7)),
        "day": lambda: day,
        "month": lambda: month,
    }
    return {part: known[part]() for part in parts}


def _day_and_month(days: Var) -> tuple[Var, Var]:
    """Day of the month and month, both from 0, of a day count since 1970-01-01. The algorithm's year starts in March."""
    day_of_era = op.mod(op.add(days, _int(719_468)), _int(146_097))
    leap = op.div(day_of_era, _int(1_460))
    century = op.div(day_of_era, _int(36_524))
    last = op.div(day_of_era, _int(146_096))
    year_of_era = op.div(op.sub(op.add(op.sub(day_of_era, leap), century), last), _int(365))
    before_year = op.sub(
        op.add(op.mul(year_of_era, _int(365)), op.div(year_of_era, _int(4))), op.div(year_of_era, _int(100))
    )
    day_of_year = op.sub(day_of_era, before_year)
    month_from_march = op.div(op.add(op.mul(day_of_year, _int(5)), _int(2)), _int(153))
    before_month = op.div(op.add(op.mul(month_from_march, _int(153)), _int(2)), _int(5))
    return op.sub(day_of_year, before_month), op.mod(op.add(month_from_march, _int(2)), _int(12))


def floor_div(value: Var, divisor: int) -> Var:
    """Division of int64 that rounds down: ONNX's Div rounds toward zero, its Mod follows the divisor's sign."""
    return op.div(op.sub(value, op.mod(value, _int(divisor))), _int(divisor))


def _int(value: int) -> Var:
    return op.const(np.int64(value))
