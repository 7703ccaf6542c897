"""What the tests of batching score: each number's double."""

import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import inf

from services.serving.admission import Backlog, Priority
from services.serving.batching import Batcher
from services.serving.run_cost import RunCost
from services.serving.threads import Threads


@dataclass(frozen=True)
class Rows:
    """A job: its answer is the double of each of its numbers."""

    numbers: tuple[int, ...]
    fails: bool = False
    priority: Priority = Priority.NORMAL
    deadline_s: float = inf

    @property
    def size(self) -> int:
        return len(self.numbers)


class Doubling:
    """Scores a batch as a model does: all numbers in one list, split again by sizes."""

    def __init__(self, *, breaks_at: int | None = None) -> None:
        self.batches: list[list[int]] = []
        self.delivered: list[Rows] = []
        self._breaks_at = breaks_at

    def score(self, jobs: Sequence[Rows]) -> Sequence[list[int] | Exception]:
        self.batches.append([job.size for job in jobs])
        if self._breaks_at == len(self.batches):
            raise KeyError("the batch")
        doubled = [2 * number for job in jobs for number in job.numbers]
        outcomes: list[list[int] | Exception] = []
        start = 0
        for job in jobs:
            part = doubled[start : start + job.size]
            start += job.size
            outcomes.append(ValueError(str(job.numbers)) if job.fails else part)
        return outcomes

    def deliver(
        self, jobs: Sequence[Rows], outcomes: Sequence[list[int] | Exception]
    ) -> Sequence[list[int] | Exception]:
        self.delivered += jobs
        return outcomes


def backlog(servers: int, most_wait_s: float = inf) -> Backlog:
    return Backlog(servers=servers, most_wait_s=most_wait_s, clock=time.perf_counter, chance=random.Random(7))


def batcher(
    model: Doubling,
    pool: ThreadPoolExecutor,
    *,
    inline_s: float = 1.0,
    cost: RunCost | None = None,
    most_rows: int = 10**6,
    most_wait_s: float = inf,
) -> Batcher[Rows, list[int]]:
    return Batcher(
        model.score, model.deliver, cost or RunCost(0, 1e-6), pool,
        on_loop=backlog(1, most_wait_s), in_threads=backlog(2, most_wait_s),
        inline_s=inline_s, batch_s=1e-4, most_rows=most_rows, threads=Threads(2),
    )  # fmt: skip
