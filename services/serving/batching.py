"""Batches without waiting: what has arrived when the loop comes round is scored together; what comes meanwhile is the next batch.

No request ever waits for another to come. Where they come one at a time, each is scored on the spot; now and then one waits for
the loop's next turn, to see whether that is still so. A batch that is expected to take less than a stated time runs on the event
loop: a thread would cost more than it saves. One that takes longer runs in a thread, while small ones go on beside it. Where more
comes than can be scored in time, `admission` says who is refused.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

from services.serving.admission import Backlog, Priority
from services.serving.errors import Overloaded
from services.serving.queue import Entry, Job, Queue, Ticket, tell
from services.serving.run_cost import RunCost
from services.serving.threads import Threads
from shared.errors import Unavailable

ALONE = 8
"""After so many batches of one job in a row, jobs are scored on the spot."""
LOOK_EVERY = 16
"""One in so many of these is queued nevertheless, to see whether others come meanwhile."""
LATE_S = 0.05
"""Time between two looks for deadlines that have passed, while somebody waits for a thread."""

J = TypeVar("J", bound=Job)
R = TypeVar("R")


class Batcher(Generic[J, R]):
    """Scores jobs together. All methods belong to one event loop."""

    def __init__(
        self,
        score: Callable[[Sequence[J]], "Sequence[R | Exception]"],
        deliver: Callable[[Sequence[J], "Sequence[R | Exception]"], "Sequence[R | Exception]"],
        cost: RunCost,
        pool: Executor,
        *,
        on_loop: Backlog,
        in_threads: Backlog,
        inline_s: float,
        batch_s: float,
        most_rows: int,
        threads: Threads,
    ) -> None:
        """Prepare.

        Args:
            score: what a batch takes; an outcome a job, in order. Runs on the loop or in a thread.
            deliver: takes the outcomes on the loop and returns the final ones, just before the jobs' callers wake.
            cost: what `score` is expected to take; kept up to date.
            pool: where long batches run.
            on_loop: what the event loop has to score, of all batchers.
            in_threads: what the pool has to score, of all batchers.
            inline_s: a batch expected to take at most this runs on the loop.
            batch_s: a batch in a thread is filled up to this expected time.
            most_rows: rows that may wait, of a job's priority and those before it; what comes on top is refused.
            threads: those of the pool, shared by all batchers.
        """
        self._score = score
        self._deliver = deliver
        self._cost = cost
        self._pool = pool
        self._inline_s = inline_s
        self._batch_s = batch_s
        self._most_rows = most_rows
        self._threads = threads
        self._short: Queue[J, R] = Queue(on_loop, self._forget)
        self._long: Queue[J, R] = Queue(in_threads, self._forget)
        self._rows = [0] * len(Priority)
        """Of jobs that are not done, by priority."""
        self._looking = False
        self._scheduled = False
        self._alone = 0

    @property
    def waiting_rows(self) -> int:
        """Rows that wait to be scored, or are being scored."""
        return sum(self._rows)

    def check(self, priority: Priority, deadline_s: float, rows: int) -> None:
        """Whether a job would be taken now: asked before its rows are read.

        Args:
            rows: that it has at least.

        Raises:
            Overloaded, DeadlinePassed: as `put`.
        """
        self._queue(self._cost.of(rows)).backlog.check(priority, deadline_s)

    def submit(self, job: J) -> "asyncio.Future[R]":
        """As `put`; gives the outcome. A caller who gives up the future stops nobody else's."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self.put(job, future)
        return future

    def put(self, job: J, ticket: Ticket[R]) -> None:
        """Have a job scored with whatever else waits. Its ticket may hear of it before this returns.

        Raises:
            Overloaded: more waits than can be scored soon.
            DeadlinePassed: it would wait past its deadline. The ticket of a job that has waited past it hears the same.
        """
        priority = job.priority
        cost_s = self._cost.of(job.size)
        queue = self._queue(cost_s)
        if not self._scheduled and queue is self._short and self._alone >= ALONE and self._alone % LOOK_EVERY:
            self._alone += 1
            outcomes, seconds = self._timed([job], time.perf_counter)
            self._cost.learn(job.size, seconds)
            self._tell([job], [ticket], outcomes)
            return
        queue.backlog.check(priority, job.deadline_s)
        rows = self._rows
        if (before := rows[0] + rows[1] + rows[2]) and before + job.size > self._most_rows:
            before = sum(rows[: priority + 1])
            if before and before + job.size > self._most_rows:
                raise Overloaded(queue.backlog.retry_after_s(priority))
        rows[priority] += job.size
        queue.add(job, ticket, cost_s)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._run)

    def _queue(self, cost_s: float) -> Queue[J, R]:
        return self._long if cost_s > self._inline_s else self._short

    def _run(self) -> None:
        self._scheduled = False
        self._run_long()
        if self._long and not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_later(LATE_S, self._look)
        if self._short:
            batch = self._short.take(self._cost.rows_within(self._inline_s))
            self._alone = self._alone + 1 if len(batch) == 1 else 0
            if batch:
                self._finish(self._short, batch, *self._timed([job for job, _, _ in batch], time.perf_counter))
        if self._short:  # let others have the loop in between
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run_long(self) -> None:
        while self._long and self._threads.take(self._run_long):
            self._start_long()

    def _look(self) -> None:
        self._looking = False
        self._long.drop_late()
        if self._long:
            self._looking = True
            asyncio.get_running_loop().call_later(LATE_S, self._look)

    def _start_long(self) -> None:
        batch = self._long.take(self._cost.rows_within(self._batch_s))
        if not batch:
            self._threads.give_back(self._run_long)
            return
        closing: Sequence[R | Exception] = [Unavailable("This replica is closing; try another.")] * len(batch)
        try:
            # By the thread's own clock: that it waited for the loop's turns does not make the work too long for the loop.
            work = asyncio.get_running_loop().run_in_executor(
                self._pool, self._timed, [job for job, _, _ in batch], time.thread_time
            )
        except RuntimeError:  # the pool takes nothing more
            self._threads.give_back(self._run_long)
            self._finish(self._long, batch, closing, 0.0)
            return

        def done(work: "asyncio.Future[tuple[Sequence[R | Exception], float]]") -> None:
            self._threads.give_back(self._run_long)
            if work.cancelled() or work.exception() is not None:  # an end of the thread itself, which no batch survives
                self._finish(self._long, batch, closing, 0.0)
            else:
                self._finish(self._long, batch, *work.result())

        work.add_done_callback(done)

    def _timed(self, jobs: Sequence[J], clock: Callable[[], float]) -> "tuple[Sequence[R | Exception], float]":
        began_s = clock()
        try:
            outcomes: Sequence[R | Exception] = self._score(jobs)
        except Exception as error:  # noqa: BLE001 - every caller hears of it
            outcomes = [error] * len(jobs)
        return outcomes, clock() - began_s

    def _forget(self, job: J) -> None:
        self._rows[job.priority] -= job.size

    def _finish(
        self, queue: Queue[J, R], batch: Sequence[Entry[J, R]], outcomes: "Sequence[R | Exception]", seconds: float
    ) -> None:
        jobs = [job for job, _, _ in batch]
        rows = 0
        for job in jobs:
            rows += job.size
            self._rows[job.priority] -= job.size
        self._cost.learn(rows, seconds)
        queue.backlog.finish(batch)
        self._tell(jobs, [ticket for _, ticket, _ in batch], outcomes)

    def _tell(self, jobs: Sequence[J], tickets: Sequence[Ticket[R]], outcomes: "Sequence[R | Exception]") -> None:
        try:
            delivered = self._deliver(jobs, outcomes)
        except Exception as error:  # noqa: BLE001 - every caller hears of it, and nobody waits for ever
            delivered = [error] * len(jobs)
        for ticket, outcome in zip(tickets, delivered, strict=True):
            tell(ticket, outcome)
