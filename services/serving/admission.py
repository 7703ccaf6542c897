"""Who is let in when more comes than can be scored: decided before a body is decoded, from what waits and how fast it goes.

A request is refused when it is expected to wait longer than it may. That is Little's law (1961), W = L / throughput, with
L in expected seconds of work, which jobs of all sizes have in common, and the throughput measured: how much expected work is done
in a second while there is some. So batches that save, threads that share a core and estimates that are wrong are all in it.
Pure: reads no clock of its own.
"""

import math
import random
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, Protocol

from services.serving.errors import DeadlinePassed, Overloaded

MEMORY_S = 0.5
"""Busy time over which the throughput is averaged (exponentially)."""
STALL = 4.0
"""A batch counts as at most so many times the time that was expected: a pause of the whole process says little of the next."""
LEAST_SPEED = 1e-3
NO_WAIT_S = 0.001
"""Nobody is refused for having to wait so long."""
RETRY_SPREAD_S = 2
"""Those who are refused together are told to come back up to so much apart."""


class Priority(IntEnum):
    """Who goes first, and who is refused last."""

    HIGH = 0
    """Waits for nothing but what is high, and what runs already. Needs a scope of its own."""
    NORMAL = 1
    """What no header says."""
    LOW = 2
    """Refused first, scored last."""


class Job(Protocol):
    """What waits."""

    @property
    def priority(self) -> Priority:
        """Who goes first."""


Entry = tuple[Job, Any, float]
"""A job, something of its own, and what it is expected to cost, seconds."""


class Backlog:
    """What is admitted and not done at one resource: the event loop, or the scoring threads."""

    __slots__ = (
        "_busy_s", "_chance", "_clock", "_done_s", "_free_s", "_looked_s", "_most_wait_s", "_running", "_running_s",
        "_servers", "_waiting", "_waiting_s", "_work_s",
    )  # fmt: skip

    def __init__(self, *, servers: int, most_wait_s: float, clock: Callable[[], float], chance: random.Random) -> None:
        """Begin with nothing to do.

        Args:
            servers: batches that run at once; with fewer nobody waits.
            most_wait_s: longest time that a job is expected to wait, else it is refused.
            clock: monotonic seconds, those of the deadlines.
            chance: spreads the times to come back.
        """
        self._servers = servers
        self._most_wait_s = most_wait_s
        self._clock = clock
        self._chance = chance
        self._waiting = self._running = 0
        self._waiting_s = [0.0] * len(Priority)
        self._running_s = 0.0
        self._work_s = 0.0
        """Of all, waiting and running: expected seconds."""
        self._looked_s = 0.0
        self._done_s = self._busy_s = MEMORY_S
        self._free_s = min(NO_WAIT_S, most_wait_s)
        """Work before which nobody waits to speak of."""

    def has_room(self) -> bool:
        """Whether a job that comes now waits for nobody: then there is room for work that may be left undone, too."""
        return self._waiting + self._running < self._servers

    def check(self, priority: Priority, deadline_s: float) -> None:
        """Whether a job may come now.

        Args:
            deadline_s: by the clock, when its answer is of no use any more.

        Raises:
            Overloaded: it would wait longer than is allowed.
            DeadlinePassed: it would wait past its deadline.
        """
        if self._work_s <= self._free_s or self.has_room():
            return
        wait_s = self.wait_s(priority)
        if wait_s > self._most_wait_s:
            raise Overloaded(self.retry_after_s(priority))
        if self._clock() + wait_s > deadline_s:
            raise self.too_late(priority)

    def too_late(self, priority: Priority) -> DeadlinePassed:
        """What a job hears that is not scored in time."""
        return DeadlinePassed(self.retry_after_s(priority))

    def wait_s(self, priority: Priority) -> float:
        """Seconds that a job which comes now is expected to wait: for what runs, and for what waits and goes before it."""
        return (self._running_s + sum(self._waiting_s[: priority + 1])) / self.speed

    @property
    def speed(self) -> float:
        """Expected seconds of work that are done in a second."""
        return max(LEAST_SPEED, self._done_s / self._busy_s)

    def retry_after_s(self, priority: Priority) -> int:
        """When there will be room, whole seconds: when all that goes before is done, and a little spread."""
        return max(1, math.ceil(self.wait_s(priority))) + int(self._chance.random() * (RETRY_SPREAD_S + 1))

    # What happens to a job

    def join(self, priority: Priority, cost_s: float) -> None:
        """A job begins to wait."""
        if not self._waiting and not self._running:
            self._looked_s = self._clock()
        self._waiting += 1
        self._waiting_s[priority] += cost_s
        self._work_s += cost_s

    def leave(self, priority: Priority, cost_s: float) -> None:
        """A job that waits is given up."""
        self._waiting -= 1
        self._waiting_s[priority] -= cost_s
        self._work_s -= cost_s
        self._sweep()

    def start(self, batch: Sequence[Entry]) -> None:
        """Jobs that waited begin to run together."""
        waiting_s = self._waiting_s
        self._waiting -= len(batch)
        self._running += 1
        for job, _, cost_s in batch:
            waiting_s[job.priority] -= cost_s
            self._running_s += cost_s
        self._sweep()

    def finish(self, batch: Sequence[Entry]) -> None:
        """The jobs of a batch are done."""
        cost_s = sum([cost_s for _, _, cost_s in batch])
        now_s = self._clock()
        took_s = min(now_s - self._looked_s, STALL * cost_s / self.speed)
        self._looked_s = now_s
        kept = math.exp(-took_s / MEMORY_S)
        self._done_s = self._done_s * kept + cost_s
        self._busy_s = self._busy_s * kept + took_s
        self._free_s = min(NO_WAIT_S, self._most_wait_s) * self.speed
        self._running -= 1
        self._running_s -= cost_s
        self._work_s -= cost_s
        self._sweep()

    def _sweep(self) -> None:
        """Sums of floats leave crumbs behind."""
        if not self._waiting:
            self._waiting_s = [0.0] * len(Priority)
            if not self._running:
                self._running_s = self._work_s = 0.0
