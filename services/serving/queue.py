"""Jobs that wait to be scored, by priority and then by age. Who is given up or past its deadline is not scored."""

import time
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import structlog

from services.serving.admission import Backlog, Priority

log = structlog.stdlib.get_logger(__name__)


class Job(Protocol):
    """What is scored."""

    @property
    def size(self) -> int:
        """Rows."""

    @property
    def priority(self) -> Priority:
        """Who goes first."""

    @property
    def deadline_s(self) -> float:
        """When its answer is of no use any more, by `time.perf_counter`."""


J = TypeVar("J", bound=Job)
R = TypeVar("R")
R_contra = TypeVar("R_contra", contravariant=True)


class Ticket(Protocol[R_contra]):
    """What a job's outcome is given to: a future, or what does as well."""

    def cancelled(self) -> bool:
        """Whether nobody waits any more."""

    def set_result(self, result: R_contra, /) -> None:
        """The job is done."""

    def set_exception(self, error: Exception, /) -> None:
        """The job failed."""


def tell(ticket: Ticket[R], outcome: "R | Exception") -> None:
    """Give a ticket its outcome. Whatever that brings about is not the trouble of others, who wait for theirs."""
    try:
        if ticket.cancelled():
            return
        if not isinstance(outcome, Exception):
            ticket.set_result(outcome)
        elif isinstance(outcome, StopIteration):  # which no future takes
            ticket.set_exception(RuntimeError("a job stopped an iteration"))
        else:
            ticket.set_exception(outcome)
    except Exception:
        log.exception("an outcome could not be told")


Entry = tuple[J, Ticket[R], float]
"""A job, its ticket, and what it is expected to cost, seconds."""


class Queue(Generic[J, R]):
    """What waits for the event loop, or for a thread."""

    def __init__(self, backlog: Backlog, given_up: Callable[[J], None]) -> None:
        """Begin empty.

        Args:
            backlog: hears of all that comes and goes.
            given_up: hears of each job that leaves without being scored.
        """
        self.backlog = backlog
        self._given_up = given_up
        self._waiting: tuple[deque[Entry[J, R]], ...] = tuple(deque() for _ in Priority)
        self._high, self._normal, self._low = self._waiting

    def __bool__(self) -> bool:
        return bool(self._normal or self._high or self._low)

    def add(self, job: J, ticket: Ticket[R], cost_s: float) -> None:
        """The last of its priority."""
        self.backlog.join(job.priority, cost_s)
        self._waiting[job.priority].append((job, ticket, cost_s))

    def take(self, most_rows: int) -> list[Entry[J, R]]:
        """The first jobs, as many as have so many rows together, at least one, to be run now; empty when none is left to score."""
        now_s = time.perf_counter()
        taken: list[Entry[J, R]] = []
        rows = 0
        for waiting in self._waiting:
            while waiting:
                entry = waiting[0]
                job = entry[0]
                if taken and rows + job.size > most_rows:
                    break
                waiting.popleft()
                if job.deadline_s < now_s or entry[1].cancelled():
                    self._give_up(entry)
                    continue
                taken.append(entry)
                rows += job.size
            if waiting:  # what comes after might fit, but it is not its turn
                break
        if taken:
            self.backlog.start(taken)
        return taken

    def drop_late(self) -> None:
        """Answer those whose deadline has passed."""
        now_s = time.perf_counter()
        for waiting in self._waiting:
            for _ in range(len(waiting)):
                entry = waiting.popleft()
                if entry[0].deadline_s < now_s:
                    self._give_up(entry)
                else:
                    waiting.append(entry)

    def _give_up(self, entry: Entry[J, R]) -> None:
        job, ticket, cost_s = entry
        self.backlog.leave(job.priority, cost_s)
        self._given_up(job)
        tell(ticket, self.backlog.too_late(job.priority))
