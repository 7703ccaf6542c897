"""Nobody gets another's rows, whoever leaves and whatever fails; nobody waits for others to come."""

import asyncio
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.serving.admission import Priority
from services.serving.batching import Batcher
from services.serving.errors import DeadlinePassed, Overloaded
from services.serving.run_cost import RunCost
from services.serving.threads import Threads
from shared.errors import Unavailable
from tests.unit.serving.doubling import Doubling, Rows, backlog, batcher


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32), inline_us=st.sampled_from([0, 5, 30, 10**6]), breaks_at=st.sampled_from([None, 1, 3])
)
def test_no_caller_ever_gets_another_s_rows(seed: int, inline_us: int, breaks_at: int | None) -> None:
    draw = random.Random(seed)
    jobs = [
        Rows(tuple(1000 * index + row for row in range(draw.choice([1, 1, 1, 2, 7, 40]))), fails=draw.random() < 0.1)
        for index in range(60)
    ]
    leaves = {index for index in range(len(jobs)) if draw.random() < 0.2}

    async def ask(index: int, asked: Batcher[Rows, list[int]]) -> list[int] | BaseException:
        for _ in range(draw.randrange(4)):
            await asyncio.sleep(0)
        try:
            return await asked.submit(jobs[index])
        except (ValueError, KeyError) as error:
            return error

    async def all_of_them(pool: ThreadPoolExecutor) -> list[list[int] | BaseException]:
        asked = batcher(Doubling(breaks_at=breaks_at), pool, inline_s=inline_us / 1e6)
        tasks = [asyncio.create_task(ask(index, asked)) for index in range(len(jobs))]
        for index in sorted(leaves):
            for _ in range(draw.randrange(3)):
                await asyncio.sleep(0)
            tasks[index].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    with ThreadPoolExecutor(2) as pool:
        answers = asyncio.run(all_of_them(pool))
    if breaks_at is None:
        assert not any(isinstance(answer, KeyError) for answer in answers)
    for index, (job, answer) in enumerate(zip(jobs, answers, strict=True)):
        if isinstance(answer, asyncio.CancelledError):
            assert index in leaves
        elif isinstance(answer, ValueError):
            assert job.fails
            assert str(answer) == str(job.numbers)
        elif not isinstance(answer, KeyError):
            assert answer == [2 * number for number in job.numbers]
            assert not job.fails


async def test_what_has_arrived_is_one_batch_and_one_request_alone_waits_for_none() -> None:
    model = Doubling()
    with ThreadPoolExecutor(1) as pool:
        asked = batcher(model, pool)
        assert await asked.submit(Rows((1,))) == [2]
        await asyncio.gather(*(asked.submit(Rows((number,))) for number in range(5)))
    assert model.batches == [[1], [1, 1, 1, 1, 1]]


async def test_a_batch_ends_where_it_would_take_too_long() -> None:
    model = Doubling()
    with ThreadPoolExecutor(1) as pool:
        asked = batcher(model, pool, inline_s=3e-6, cost=RunCost(0, 1e-6))
        await asyncio.gather(*(asked.submit(Rows((number, number))) for number in range(3)))
    assert all(sum(batch) <= 4 for batch in model.batches)
    assert len(model.batches) >= 2


async def test_short_work_passes_long_work_in_a_thread() -> None:
    model = Doubling()
    goes_on = threading.Event()
    score = model.score

    def slowly(jobs: Sequence[Rows]) -> Sequence[list[int] | Exception]:
        if jobs[0].size > 1:
            assert goes_on.wait(30)
        return score(jobs)

    model.score = slowly  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        asked = batcher(model, pool, inline_s=5e-6)
        long = asked.submit(Rows(tuple(range(100))))
        assert await asked.submit(Rows((1,))) == [2]
        assert not long.done()
        goes_on.set()
        assert await long == [2 * number for number in range(100)]


async def test_more_than_may_wait_is_refused_and_room_comes_back() -> None:
    model = Doubling()
    with ThreadPoolExecutor(1) as pool:
        asked = batcher(model, pool, most_rows=10)
        first = asked.submit(Rows(tuple(range(11))))  # one alone is never too large: its own limit is the request's
        with pytest.raises(Overloaded, match="Try again"):
            asked.submit(Rows((1,)))
        await first
        assert await asked.submit(Rows((1,))) == [2]


async def test_who_has_left_before_the_run_costs_nothing() -> None:
    model = Doubling()
    with ThreadPoolExecutor(1) as pool:
        asked = batcher(model, pool, most_rows=2)
        left, stays = asked.submit(Rows((1,))), asked.submit(Rows((2,)))
        left.cancel()
        assert await stays == [4]
        assert model.batches == [[1]]
        assert await asyncio.gather(asked.submit(Rows((3,))), asked.submit(Rows((4,)))) == [[6], [8]]


async def test_a_pool_that_closes_lets_nobody_wait() -> None:
    started, goes_on = threading.Event(), threading.Event()
    model = Doubling()

    def slowly(jobs: Sequence[Rows]) -> Sequence[list[int] | Exception]:
        started.set()
        assert goes_on.wait(30)
        return [list(job.numbers) for job in jobs]

    model.score = slowly  # type: ignore[method-assign]
    pool = ThreadPoolExecutor(1)
    asked = batcher(model, pool, inline_s=0)
    many = Rows(tuple(range(100)))
    running, waiting = asked.submit(many), asked.submit(many)
    await asyncio.to_thread(started.wait, 30)
    pool.shutdown(wait=False, cancel_futures=True)
    goes_on.set()
    assert await running == list(many.numbers)
    with pytest.raises(Unavailable, match="closing"):
        await waiting
    with pytest.raises(Unavailable, match="closing"):
        await asked.submit(many)


async def test_a_stall_lets_nobody_wait_for_ever() -> None:
    cost = RunCost.measured(20e-6, 276e-6, 256)
    cost.learn(1, 30.0)
    for _ in range(2000):
        cost.learn(64, 80e-6)
    with ThreadPoolExecutor(1) as pool:
        asked = batcher(Doubling(), pool, inline_s=1e-3, cost=cost)
        assert await asyncio.wait_for(asked.submit(Rows((1,))), 30) == [2]


@pytest.mark.parametrize("inline_s", [0.0, 1.0])
async def test_what_fails_while_answers_are_handed_out_reaches_their_callers(inline_s: float) -> None:
    model, broken = Doubling(), [MemoryError()]

    def breaks_once(jobs: Sequence[Rows], outcomes: Sequence[list[int] | Exception]) -> Sequence[list[int] | Exception]:
        if broken:
            raise broken.pop()
        return model.deliver(jobs, outcomes)

    with ThreadPoolExecutor(1) as pool:
        asked = Batcher(
            model.score, breaks_once, RunCost(0, 1e-6), pool,
            on_loop=backlog(1), in_threads=backlog(1), inline_s=inline_s, batch_s=1e-4, most_rows=10, threads=Threads(1),
        )  # fmt: skip
        with pytest.raises(MemoryError):
            await asyncio.wait_for(asked.submit(Rows((1,))), 30)
        assert await asyncio.wait_for(asked.submit(Rows(tuple(range(10)))), 30) == [2 * row for row in range(10)]


async def test_waiting_for_the_processor_does_not_make_work_too_long_for_the_loop() -> None:
    cost = RunCost(2e-3, 1e-6)
    model = Doubling()
    score = model.score

    def waits(jobs: Sequence[Rows]) -> Sequence[list[int] | Exception]:
        threading.Event().wait(3e-3)
        return score(jobs)

    model.score = waits  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        asked = batcher(model, pool, inline_s=1e-3, cost=cost)
        number = 0
        while cost.of(1) > 1e-3 and number < 500:
            assert await asked.submit(Rows((number,))) == [2 * number]
            number += 1
    assert cost.of(1) <= 1e-3, "it waits in its thread, it does not work"


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32), inline_us=st.sampled_from([0, 30, 10**6]), breaks_at=st.sampled_from([None, 2]))
def test_whatever_becomes_of_jobs_nothing_is_left_on_the_books(
    seed: int, inline_us: int, breaks_at: int | None
) -> None:
    draw = random.Random(seed)

    async def all_of_them(pool: ThreadPoolExecutor) -> None:
        asked = batcher(Doubling(breaks_at=breaks_at), pool, inline_s=inline_us / 1e6, most_wait_s=1e-4)
        futures = []
        for _ in range(60):
            job = Rows(
                tuple(range(draw.choice([1, 1, 3, 50]))),
                priority=draw.choice(list(Priority)),
                deadline_s=draw.choice([inf, inf, time.perf_counter() + 1e-4]),
            )
            try:
                futures.append(asked.submit(job))
            except (Overloaded, DeadlinePassed):
                continue
            if draw.random() < 0.2:
                futures[-1].cancel()
            if draw.random() < 0.3:
                await asyncio.sleep(0)
        await asyncio.gather(*futures, return_exceptions=True)
        for _ in range(1000):  # those who left are found when their turn comes
            await asyncio.sleep(0)
        for queue in (asked._short, asked._long):
            assert queue.backlog.has_room()
            assert queue.backlog.wait_s(Priority.LOW) == 0
        assert asked._rows == [0, 0, 0]

    with ThreadPoolExecutor(2) as pool:
        asyncio.run(all_of_them(pool))


class Trouble:
    """A ticket that nothing can be told."""

    def cancelled(self) -> bool:
        return False

    def set_result(self, result: object) -> None:
        raise OSError("its connection is in trouble")

    set_exception = set_result


@pytest.mark.parametrize("inline_s", [0.0, 1.0])
async def test_one_who_cannot_be_told_keeps_the_others_from_nothing(inline_s: float) -> None:
    with ThreadPoolExecutor(1) as pool:
        asked = batcher(Doubling(), pool, inline_s=inline_s)
        first = asked.submit(Rows((1,)))
        asked.put(Rows((2,)), Trouble())
        last = asked.submit(Rows((3,)))
        assert await asyncio.wait_for(asyncio.gather(first, last), 30) == [[2], [6]]
        assert asked.waiting_rows == 0


@pytest.mark.parametrize("inline_s", [0.0, 1.0])
async def test_an_outcome_that_no_future_takes_is_told_all_the_same(inline_s: float) -> None:
    model = Doubling()

    def stops(jobs: Sequence[Rows]) -> Sequence[list[int] | Exception]:
        raise StopIteration

    model.score = stops  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="stopped"):
        await asyncio.wait_for(batcher(model, pool, inline_s=inline_s).submit(Rows((1,))), 30)


async def test_a_thread_that_ends_lets_nobody_wait() -> None:
    model = Doubling()

    def ends(jobs: Sequence[Rows]) -> Sequence[list[int] | Exception]:
        raise SystemExit

    model.score = ends  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        asked = batcher(model, pool, inline_s=0.0)
        with pytest.raises(Unavailable):
            await asyncio.wait_for(asked.submit(Rows((1,))), 30)
        assert asked.waiting_rows == 0
