"""The offsets of a time zone as a table, found by asking `zoneinfo`, so that any source of zone data serves."""

from bisect import bisect_left
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
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


@dataclass(frozen=True)
class Slices:
    """A zone's changes by equal slices of time, of which none holds two, so that a moment's slice tells its offset at once.

    Slice i begins at first_s + i * length_s (epoch seconds UTC). In it local time is UTC + before_s[i] until change_s[i], and
    UTC + after_s[i] from then on; in a slice without a change both are the same.
    """

    first_s: int
    length_s: int
    change_s: tuple[int, ...]
    before_s: tuple[int, ...]
    after_s: tuple[int, ...]


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


def sliced(table: ZoneTable) -> Slices:
    """The slices of a zone that has changes, as long as they can be (a power of two)."""
    first, last = table.transition_s[0], table.transition_s[-1]
    nearest = min((after - before for before, after in pairwise(table.transition_s)), default=1)
    length = 1 << (nearest.bit_length() - 1)  # at most the distance of any two changes, so no slice holds two
    starts = range(first, last + 1, length)
    passed = [bisect_left(table.transition_s, start) for start in starts]
    changes = [*table.transition_s, last]
    ends = [*passed[1:], len(table.transition_s)]
    return Slices(
        first_s=first,
        length_s=length,
        change_s=tuple(changes[index] for index in passed),
        before_s=tuple(table.offset_s[index] for index in passed),
        after_s=tuple(table.offset_s[index] for index in ends),
    )
