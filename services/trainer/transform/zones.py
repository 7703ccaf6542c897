"""The offsets of a time zone as a table, found by asking `zoneinfo`, so that any source of zone data serves."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

FIRST, LAST = datetime(1900, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
"""The table covers these years; earlier and later moments get the offset at its ends."""
_STEP_S = 86_400
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class ZoneTable:
    """From transition_s[i] (epoch seconds UTC, rising) on, local time is UTC + offset_s[i + 1]; before all, offset_s[0]."""

    transition_s: tuple[int, ...]
    offset_s: tuple[int, ...]


@lru_cache(maxsize=64)
def zone_table(timezone: str) -> ZoneTable:
    """The table of an IANA zone.

    Two changes within one day that cancel out are not seen; no zone is known to have them.
    """
    zone = ZoneInfo(timezone)

    def offset_at(second: int) -> int:
        shift = (_EPOCH + timedelta(seconds=second)).astimezone(zone).utcoffset()
        return round(shift.total_seconds()) if shift else 0

    first, last = int(FIRST.timestamp()), int(LAST.timestamp())
    transitions: list[int] = []
    offsets = [offset_at(first)]
    for start in range(first, last, _STEP_S):
        while offset_at(start + _STEP_S) != offsets[-1]:
            before, after = (transitions[-1] if transitions and transitions[-1] > start else start), start + _STEP_S
            while after - before > 1:
                middle = (before + after) // 2
                if offset_at(middle) == offsets[-1]:
                    before = middle
                else:
                    after = middle
            transitions.append(after)
            offsets.append(offset_at(after))
    return ZoneTable(tuple(transitions), tuple(offsets))
