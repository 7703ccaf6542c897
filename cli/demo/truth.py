"""Truth on its way: what has happened in the world and is told to Relevo only when simulated time has passed it. Pure."""

import heapq
from datetime import datetime
from typing import Any


class PendingTruth:
    """Feedback items waiting for the moment at which their truth is known."""

    def __init__(self) -> None:
        self._waiting: list[tuple[datetime, int, dict[str, Any]]] = []
        self._added = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, known_at: datetime, item: dict[str, Any]) -> None:
        """Keep `item` back until `known_at`."""
        heapq.heappush(self._waiting, (known_at, self._added, item))
        self._added += 1

    def due(self, now: datetime) -> list[dict[str, Any]]:
        """Take out the items known at or before `now`, in the order in which they became known."""
        found = []
        while self._waiting and self._waiting[0][0] <= now:
            found.append(heapq.heappop(self._waiting)[2])
        return found

    @property
    def last_known_at(self) -> datetime | None:
        """The latest moment among the items still waiting."""
        return max((known_at for known_at, _, _ in self._waiting), default=None)
