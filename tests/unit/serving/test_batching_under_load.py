"""Where more comes than can be scored: who goes first, who is refused, and who gets the threads."""

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import inf

import pytest

from services.serving.admission import Priority
from services.serving.batching import Batcher
from services.serving.errors import DeadlinePassed, Overloaded
from services.serving.run_cost import RunCost
from services.serving.threads import Threads
from tests.unit.serving.doubling import Doubling, Rows, backlog


class Held(Doubling):
    """Scores nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.started, self.goes_on = threading.Event(), threading.Event()

    def score(self, jobs: Sequence[Rows]) -> Sequence[list[int] | Exception]:
        self.started.set()
        assert self.goes_on.wait(30)
        return super().score(jobs)


class Steady(RunCost):
    """Expects the same of every run: what is long stays long, however fast the machine."""

    def learn(self, rows: int, seconds: float) -> None:
        pass


def long(number: int, priority: Priority = Priority.NORMAL, deadline_s: float = inf) -> Rows:
    """A job that fills a batch of a thread."""
    return Rows(tuple(range(number, number + 100)), priority=priority, deadline_s=deadline_s)


def in_one_thread(
    model: Doubling, pool: ThreadPoolExecutor, most_wait_s: float = inf, threads: Threads | None = None
) -> Batcher[Rows, list[int]]:
    return Batcher(
        model.score, model.deliver, RunCost(0, 1e-6), pool, on_loop=backlog(1), in_threads=backlog(1, most_wait_s),
        inline_s=0, batch_s=1e-4, most_rows=10**6, threads=threads or Threads(1),
    )  # fmt: skip


async def test_who_is_urgent_goes_first_and_who_is_too_late_is_not_scored() -> None:
    model = Held()
    with ThreadPoolExecutor(1) as pool:
        asked = in_one_thread(model, pool)
        running = asked.submit(long(0))
        await asyncio.to_thread(model.started.wait, 30)
        low, normal, high = (asked.submit(long(1000 * p, p)) for p in reversed(Priority))
        late = asked.submit(long(9000, deadline_s=time.perf_counter() + 0.01))
        with pytest.raises(DeadlinePassed, match="X-Relevo-Timeout-Ms"):
            await asyncio.wait_for(late, 30)  # while the thread is still held up
        assert not running.done()
        model.goes_on.set()
        await asyncio.gather(running, low, normal, high)
    assert [job.numbers[0] for job in model.delivered] == [0, 0, 1000, 2000]


async def test_lanes_share_the_threads_in_turn_and_the_urgent_go_first_in_each() -> None:
    ran: list[int] = []

    class Noting(Held):
        def score(self, jobs: Sequence[Rows]) -> Sequence[list[int] | Exception]:
            ran.extend(job.numbers[0] for job in jobs)
            return super().score(jobs)

    model, threads = Noting(), Threads(1)
    with ThreadPoolExecutor(4) as pool:
        one, other = (in_one_thread(model, pool, threads=threads) for _ in range(2))
        asked = [one.submit(long(1000)), one.submit(long(2000, Priority.LOW))]
        await asyncio.to_thread(model.started.wait, 30)
        asked += [other.submit(long(3000)), one.submit(long(4000)), other.submit(long(5000, Priority.HIGH))]
        given_up = other.submit(long(6000))
        for _ in range(3):
            await asyncio.sleep(0)
        given_up.cancel()
        model.goes_on.set()
        await asyncio.gather(*asked)
        assert await other.submit(long(7000)) == [2 * number for number in range(7000, 7100)]
    assert ran == [1000, 5000, 4000, 3000, 2000, 7000]


async def test_a_lane_that_is_never_without_short_work_leaves_the_threads_to_others_in_turn() -> None:
    order: list[str] = []

    class Noting(Doubling):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def score(self, jobs: Sequence[Rows]) -> Sequence[list[int] | Exception]:
            if jobs[0].size > 1:
                order.append(self.name)
            return super().score(jobs)

    with ThreadPoolExecutor(1) as pool:
        threads, wanted = Threads(1), 20
        busy, other = (
            Batcher(
                model.score, model.deliver, Steady(0, 1e-6), pool, on_loop=backlog(1), in_threads=backlog(1),
                inline_s=5e-5, batch_s=1e-4, most_rows=10**6, threads=threads,
            )
            for model in (Noting("busy"), Noting("other"))
        )  # fmt: skip
        ended = asyncio.Event()

        async def short() -> None:
            while not ended.is_set():
                await busy.submit(Rows((1,)))

        async def longs(lane: Batcher[Rows, list[int]]) -> None:
            while not ended.is_set():
                await lane.submit(long(1))
                if order.count("other") >= wanted or len(order) >= 10 * wanted:
                    ended.set()

        asked = [short() for _ in range(8)] + [longs(lane) for lane in (busy, other) for _ in range(3)]
        await asyncio.wait_for(asyncio.gather(*asked), 60)
    assert order.count("other") >= wanted
    assert order.count("busy") >= wanted / 2


async def test_more_than_can_be_scored_in_time_is_refused_by_priority_and_room_comes_back() -> None:
    model = Held()
    with ThreadPoolExecutor(1) as pool:
        asked = in_one_thread(model, pool, most_wait_s=2.5e-4)  # two and a half batches
        taken = [asked.submit(long(0))]
        await asyncio.to_thread(model.started.wait, 30)
        taken += [asked.submit(long(number)) for number in (1, 2)]
        for refused in (Priority.NORMAL, Priority.LOW):
            with pytest.raises(Overloaded):
                asked.check(refused, inf, rows=100)
            with pytest.raises(Overloaded) as error:
                asked.submit(long(3, refused))
            assert error.value.retry_after_s is not None
            assert 1 <= error.value.retry_after_s <= 4
        with pytest.raises(DeadlinePassed):
            asked.submit(long(4, Priority.HIGH, time.perf_counter()))
        taken.append(asked.submit(long(5, Priority.HIGH)))  # waits for what runs, not for what waits
        model.goes_on.set()
        await asyncio.gather(*taken)
        assert await asked.submit(Rows((1,))) == [2]
        assert await asked.submit(long(6, Priority.LOW)) == [2 * number for number in range(6, 106)]
