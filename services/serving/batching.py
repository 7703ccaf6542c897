"""Batches without waiting: what has arrived when the loop comes round is scored together; what comes meanwhile is the next batch.

No request ever waits for another to come. Where they come one at a time, each is scored on the spot; now and then one waits for
the loop's next turn, to see whether that is still so. A batch that is expected to take less than a stated time runs on the event
loop: a thread would cost more than it saves. One that takes longer runs in a thread, while small ones go on beside it.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, Protocol, TypeVar

from services.serving.run_cost import RunCost
from shared.errors import Unavailable

ALONE = 8
"""After so many batches of one job in a row, jobs are scored on the spot."""
LOOK_EVERY = 16
"""One in so many of these is queued nevertheless, to see whether others come meanwhile."""


class Job(Protocol):
    """What is batched."""

    @property
    def size(self) -> int:
        """Rows."""


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


class Batcher(Generic[J, R]):
    """Scores jobs together. All methods belong to one event loop."""

    def __init__(
        self,
        score: Callable[[Sequence[J]], "Sequence[R | Exception]"],
        deliver: Callable[[Sequence[J], "Sequence[R | Exception]"], "Sequence[R | Exception]"],
        cost: RunCost,
        pool: Executor,
        *,
        inline_s: float,
        batch_s: float,
        most_rows: int,
        threads: int,
    ) -> None:
        """Prepare.

        Args:
            score: what a batch takes; an outcome a job, in order. Runs on the loop or in a thread.
            deliver: takes the outcomes on the loop and returns the final ones, just before the jobs' callers wake.
            cost: what `score` is expected to take; kept up to date.
            pool: where long batches run.
            inline_s: a batch expected to take at most this runs on the loop.
            batch_s: a batch in a thread is filled up to this expected time.
            most_rows: rows that may wait; what comes on top is refused.
            threads: long batches at once.
        """
        self._score = score
        self._deliver = deliver
        self._cost = cost
        self._pool = pool
        self._inline_s = inline_s
        self._batch_s = batch_s
        self._most_rows = most_rows
        self._threads = threads
        self._short: deque[tuple[J, Ticket[R]]] = deque()
        self._long: deque[tuple[J, Ticket[R]]] = deque()
        self._waiting_rows = 0
        self._running = 0
        self._scheduled = False
        self._alone = 0

    def submit(self, job: J) -> "asyncio.Future[R]":
        """As `put`; gives the outcome. A caller who gives up the future stops nobody else's."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self.put(job, future)
        return future

    def put(self, job: J, ticket: Ticket[R]) -> None:
        """Have a job scored with whatever else waits. Its ticket may hear of it before this returns.

        Raises:
            Unavailable: more waits than can be scored soon.
        """
        if self._waiting_rows + job.size > self._most_rows and self._waiting_rows:
            raise Unavailable("This replica has more to score than it can; try again shortly.")
        self._waiting_rows += job.size
        if self._cost.of(job.size) > self._inline_s:
            self._long.append((job, ticket))
        else:
            self._short.append((job, ticket))
            if self._alone >= ALONE and self._alone % LOOK_EVERY and not self._scheduled:
                self._run()
                return
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = False
        while self._long and self._running < self._threads:
            self._start_long()
        if self._short:
            batch = self._take(self._short, self._inline_s)
            self._alone = self._alone + 1 if len(batch) == 1 else 0
            self._finish(batch, *self._timed([job for job, _ in batch], time.perf_counter))
        if self._short:  # let others have the loop in between
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._run)

    def _start_long(self) -> None:
        batch = self._take(self._long, self._batch_s)
        closing: Sequence[R | Exception] = [Unavailable("This replica is closing; try another.")] * len(batch)
        try:
            # By the thread's own clock: that it waited for the loop's turns does not make the work too long for the loop.
            work = asyncio.get_running_loop().run_in_executor(
                self._pool, self._timed, [job for job, _ in batch], time.thread_time
            )
        except RuntimeError:  # the pool takes nothing more
            self._finish(batch, closing, 0.0)
            return
        self._running += 1

        def done(work: "asyncio.Future[tuple[Sequence[R | Exception], float]]") -> None:
            self._running -= 1
            if work.cancelled():
                self._finish(batch, closing, 0.0)
            else:
                self._finish(batch, *work.result())
            self._run()

        work.add_done_callback(done)

    def _timed(self, jobs: Sequence[J], clock: Callable[[], float]) -> "tuple[Sequence[R | Exception], float]":
        began_s = clock()
        try:
            outcomes: Sequence[R | Exception] = self._score(jobs) if jobs else []
        except Exception as error:  # noqa: BLE001 - every caller hears of it
            outcomes = [error] * len(jobs)
        return outcomes, clock() - began_s

    def _take(self, queue: "deque[tuple[J, Ticket[R]]]", seconds: float) -> "list[tuple[J, Ticket[R]]]":
        """The oldest jobs, as many as are expected to run within a time; at least one. Nobody waits for those given up."""
        most = self._cost.rows_within(seconds)
        taken: list[tuple[J, Ticket[R]]] = []
        rows = 0
        while queue and (not taken or rows + queue[0][0].size <= most):
            job, ticket = queue.popleft()
            if ticket.cancelled():
                self._waiting_rows -= job.size
                continue
            taken.append((job, ticket))
            rows += job.size
        return taken

    def _finish(
        self, batch: "Sequence[tuple[J, Ticket[R]]]", outcomes: "Sequence[R | Exception]", seconds: float
    ) -> None:
        if not batch:
            return
        jobs = [job for job, _ in batch]
        rows = sum(job.size for job in jobs)
        self._cost.learn(rows, seconds)
        self._waiting_rows -= rows
        try:
            delivered = self._deliver(jobs, outcomes)
        except Exception as error:  # noqa: BLE001 - every caller hears of it, and nobody waits for ever
            delivered = [error] * len(batch)
        for (_, ticket), outcome in zip(batch, delivered, strict=True):
            if ticket.cancelled():
                continue
            if isinstance(outcome, Exception):
                ticket.set_exception(outcome)
            else:
                ticket.set_result(outcome)
