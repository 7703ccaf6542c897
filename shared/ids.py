"""Identifiers: UUID version 7 (RFC 9562, section 5.7), so that rows and files sort by the time they were made."""

import os
import struct
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_COUNTER_BITS = 74  # rand_a and rand_b of the RFC, taken together as one counter
_MAX_MS = 2**48 - 1
_STEPS = 256


class _Sequence:
    """Time and counter of the last id made: the monotonic random method of RFC 9562, section 6.2.

    Inside one millisecond the counter grows by a random step, so that ids go on growing and still cannot be foretold.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ms = -1
        self._counter = 0
        self._steps: list[int] = []

    def next(self, ms: int, *, never_back: bool) -> int:
        with self._lock:
            if never_back:
                ms = max(ms, self._ms)
            if ms == self._ms:
                # 32 random bits. The system's source is asked for many at once: a call costs more than all else here.
                if not self._steps:
                    self._steps = list(struct.unpack(f"<{_STEPS}I", os.urandom(4 * _STEPS)))
                self._counter += 1 + self._steps.pop()
                if self._counter >> _COUNTER_BITS:  # 2**41 ids in one millisecond: borrow from the next one
                    ms, self._counter = ms + 1, 0
            else:
                # The top bit stays clear: room to count in.
                self._counter = int.from_bytes(os.urandom(10)) >> (80 - _COUNTER_BITS + 1)
            self._ms = ms
            counter = self._counter
        high, low = counter >> 62, counter & (2**62 - 1)
        return ms << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low


_clock = _Sequence()
_given = _Sequence()


def new_id(now: datetime | None = None) -> uuid.UUID:
    """A new UUID version 7.

    Without `now` each id of this process is greater than the one before, even when the clock steps back. With `now`
    the id carries that time (to the millisecond), and ids asked for one after the other for one time still grow.

    Raises:
        ValueError: `now` has no time zone or is outside of what 48 bits of milliseconds since 1970 hold.
    """
    if now is None:
        return uuid.UUID(int=new_id_number())
    if now.tzinfo is None:
        raise ValueError("now must have a time zone, such as datetime.now(UTC)")
    ms = (now - _EPOCH) // _MILLISECOND
    if not 0 <= ms <= _MAX_MS:
        raise ValueError("now must not be before 1970")
    return uuid.UUID(int=_given.next(ms, never_back=False))


def new_id_number() -> int:
    """As `new_id()`, as the number that the UUID is: its 32 hex digits are `number.to_bytes(16).hex()`, its
    milliseconds `number >> 80`.

    For where a UUID object would cost more than its making.
    """
    return _clock.next(time.time_ns() // 1_000_000, never_back=True)


def id_time(value: uuid.UUID) -> datetime:
    """When a version 7 id was made: UTC, to the millisecond.

    Raises:
        ValueError: another version of UUID, or a time past the year 9999.
    """
    if value.version != 7:
        raise ValueError("only a UUID of version 7 carries its time")
    try:
        return _EPOCH + (value.int >> 80) * _MILLISECOND
    except OverflowError:
        raise ValueError("the id carries a time past the year 9999") from None
