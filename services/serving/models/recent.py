"""Samples of the requests that were answered lately, kept in memory alone: a new version rehearses with them before it answers."""

import math
from collections import deque

MOST_BODY_BYTES = 64 * 1024
"""A larger body is passed over: it would make a load long."""
EVERY_S = 0.5
"""At most one body is kept in this time, whatever the load: the sample spans some seconds, and keeping costs next to nothing."""


class Sample:
    """The newest bodies of one pipeline's `/predict`. Written on the event loop, read by the threads that load."""

    __slots__ = ("_kept", "due_s")

    def __init__(self, most: int) -> None:
        self._kept: deque[bytes] = deque(maxlen=most)
        self.due_s = -math.inf if most else math.inf
        """When the next one is looked for: one comparison for each batch is all that it costs until then. Monotonic seconds."""

    def keep(self, body: bytes) -> None:
        """Take a body in; the oldest goes."""
        if len(body) <= MOST_BODY_BYTES:
            self._kept.append(body)

    def newest(self) -> list[bytes]:
        """What is kept, newest first."""
        return list(self._kept)[::-1]


class RecentRequests:
    """A sample for each pipeline."""

    def __init__(self, most: int) -> None:
        """Start empty.

        Args:
            most: bodies kept of a pipeline; 0 keeps none.
        """
        self._most = most
        self._samples: dict[str, Sample] = {}

    def of(self, name: str) -> Sample:
        """The sample of a pipeline; the same one for all its versions."""
        return self._samples.setdefault(name, Sample(self._most))
