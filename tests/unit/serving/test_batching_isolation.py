"""Every caller gets its own outcome once, and who has left none: whichever lane runs it, whenever one leaves, whatever fails."""

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st

from services.serving.admission import Backlog, Priority
from services.serving.batching import Batcher
from services.serving.run_cost import RunCost
from services.serving.threads import Threads

DEADLINE_S = 30.0
SHORT, LONG = st.sampled_from([1, 1, 2, 3]), st.sampled_from([20, 21, 40, 90])
LONG_FROM = 10
"""Rows from which a job goes to a thread: `INLINE_S` at a microsecond a row, which the test's clock says."""
ROW_S = 1e-6


@dataclass(eq=False)
class Job:
    """A job, and the ticket of its caller: it keeps all that it is told."""

    number: int
    size: int
    fails: bool
    told: list[list[int] | Exception] = field(default_factory=list)
    left: str | None = None
    """In what state it was when its caller left."""
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    heard_after: int = 0
    """What was told to a caller that had left."""

    deadline_s: float = inf

    @property
    def priority(self) -> Priority:
        return Priority(self.number % 3)

    @property
    def rows(self) -> list[int]:
        return [1000 * self.number + row for row in range(self.size)]

    def cancelled(self) -> bool:
        return self.left is not None and self.left != "answered"

    def set_result(self, result: list[int]) -> None:
        self._tell(result)

    def set_exception(self, exception: BaseException) -> None:
        assert isinstance(exception, Exception)
        self._tell(exception)

    def _tell(self, outcome: list[int] | Exception) -> None:
        self.heard_after += self.cancelled()
        self.told.append(outcome)
        self.heard.set()


def backlog(servers: int) -> Backlog:
    """One that refuses nobody."""
    return Backlog(servers=servers, most_wait_s=inf, clock=time.perf_counter, chance=random.Random(7))


class SteadyCost(RunCost):
    """A cost that stays, so that a job's lane depends on its size alone."""

    def learn(self, rows: int, seconds: float) -> None:
        """Nothing is learned."""


class Model:
    """Negates rows, all of a batch in one list. In a thread it waits until it may go on."""

    def __init__(self, breaks: frozenset[int]) -> None:
        self._breaks = breaks
        self._lock = threading.Lock()
        self._loop_thread = threading.get_ident()
        self.may_go_on = threading.Semaphore(0)
        self.runs: list[tuple[str, list[Job]]] = []
        self.waiting: set[Job] = set()
        """Those that a thread has and waits with."""
        self.broken: set[Job] = set()

    def score(self, jobs: Sequence[Job]) -> Sequence[list[int] | Exception]:
        lane = "loop" if threading.get_ident() == self._loop_thread else "thread"
        with self._lock:
            number = len(self.runs)
            self.runs.append((lane, list(jobs)))
            self.waiting |= set(jobs) if lane == "thread" else set()
        if lane == "thread":
            assert self.may_go_on.acquire(timeout=DEADLINE_S)
            with self._lock:
                self.waiting -= set(jobs)
        if number in self._breaks:
            self.broken |= set(jobs)
            raise KeyError(number)
        scores = [-row for job in jobs for row in job.rows]
        outcomes: list[list[int] | Exception] = []
        for job in jobs:
            part, scores = scores[: job.size], scores[job.size :]
            outcomes.append(ValueError(job.number) if job.fails else part)
        return outcomes


ACTIONS = st.one_of(
    st.tuples(st.just("ask"), st.one_of(SHORT, SHORT, LONG), st.integers(0, 7).map(lambda draw: draw == 0)),
    st.tuples(st.just("ask"), st.one_of(SHORT, SHORT, LONG), st.integers(0, 7).map(lambda draw: draw == 0)),
    st.tuples(st.just("leave"), st.integers(0, 50), st.just(None)),
    st.tuples(st.just("leave running"), st.integers(0, 50), st.just(None)),
    st.tuples(st.just("turn"), st.integers(1, 3), st.just(None)),
    st.tuples(st.just("go on"), st.integers(1, 2), st.just(None)),
)


async def play(actions: Sequence[tuple[str, int, bool | None]], breaks: frozenset[int], seen: Counter[str]) -> None:
    model, jobs, delivered = Model(breaks), list[Job](), list[Job]()

    def deliver(some: Sequence[Job], outcomes: Sequence[list[int] | Exception]) -> Sequence[list[int] | Exception]:
        delivered.extend(some)
        return outcomes

    with ThreadPoolExecutor(2) as pool:
        batcher: Batcher[Job, list[int]] = Batcher(
            model.score, deliver, SteadyCost(0, ROW_S), pool,
            on_loop=backlog(1), in_threads=backlog(2), inline_s=LONG_FROM * ROW_S, batch_s=100 * ROW_S, most_rows=10**6,
            threads=Threads(2),
        )  # fmt: skip
        try:
            for name, number, fails in actions:
                if name == "ask":
                    jobs.append(Job(len(jobs), number, bool(fails)))
                    batcher.put(jobs[-1], jobs[-1])
                elif name == "turn":
                    for _ in range(number):
                        await asyncio.sleep(0)
                elif name == "go on":
                    model.may_go_on.release(number)
                else:
                    among = [job for job in jobs if job.left is None]
                    if name == "leave running":
                        among = sorted(model.waiting & set(among), key=lambda job: job.number)
                    if among:
                        leave(among[number % len(among)], model)
            model.may_go_on.release(len(jobs) + 1)
            async with asyncio.timeout(DEADLINE_S):
                for job in jobs:
                    if not job.cancelled():
                        await job.heard.wait()
        finally:
            model.may_go_on.release(len(jobs) + 1)

    for job in jobs:
        check(job, model)
    assert len(delivered) == len(set(delivered)), "no job is run twice"
    assert set(delivered) >= {job for job in jobs if not job.cancelled()}
    count(seen, jobs, model)


def leave(job: Job, model: Model) -> None:
    if job.told:
        job.left = "answered"
    elif job in model.waiting:
        job.left = "running"
    elif any(job in run for _, run in model.runs):
        job.left = "run"  # its outcome is on the way from the thread to the loop
    else:
        job.left = "waiting"


def check(job: Job, model: Model) -> None:
    """The one right outcome, once."""
    assert job.heard_after == 0
    if job.cancelled():
        assert job.told == []
        return
    (outcome,) = job.told
    if job in model.broken:
        assert isinstance(outcome, KeyError)
    elif job.fails:
        assert isinstance(outcome, ValueError)
        assert outcome.args == (job.number,)
    else:
        assert outcome == [-row for row in job.rows]


def count(seen: Counter[str], jobs: Sequence[Job], model: Model) -> None:
    """What the plays have met."""
    for lane, run in model.runs:
        seen[f"{lane}: runs"] += 1
        seen[f"{lane}: several jobs"] += len(run) > 1
        seen[f"{lane}: mixed sizes"] += len({job.size for job in run}) > 1
        seen[f"{lane}: one fails among others"] += len(run) > 1 and {job.fails for job in run} == {True, False}
        seen[f"{lane}: one has left"] += any(job.cancelled() for job in run) and not all(job.cancelled() for job in run)
        seen[f"{lane}: breaks"] += any(job in model.broken for job in run)
    for lane in ("loop", "thread"):
        seen[f"{lane}: more than one batch"] += sum(run[0] == lane for run in model.runs) > 1
    for job in jobs:
        seen[f"left: {job.left}"] += 1


def test_each_caller_gets_its_own_outcome_once() -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=100, derandomize=True)
    @given(
        actions=st.lists(ACTIONS, min_size=20, max_size=60),
        breaks=st.frozensets(st.integers(0, 12), max_size=2),
    )
    def plays(actions: list[tuple[str, int, bool | None]], breaks: frozenset[int]) -> None:
        asyncio.run(play(actions, breaks, seen))

    plays()
    met = {kind for kind, times in seen.items() if times}
    lanes = ("runs", "several jobs", "mixed sizes", "one fails among others", "breaks", "more than one batch")
    wanted = {f"{lane}: {kind}" for lane in ("loop", "thread") for kind in lanes} | {"thread: one has left"}
    assert met >= wanted | {f"left: {state}" for state in ("None", "waiting", "running", "answered")}, sorted(
        seen.items()
    )
