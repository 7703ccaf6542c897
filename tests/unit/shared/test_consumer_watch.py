"""When a worker counts as deaf: messages wait, it is idle, and time passes."""

import threading

import pytest

from shared.consumer_watch import DEAF_AFTER_S, EXIT_AFTER_S, EXIT_CODE, ConsumerWatch
from shared.errors import Unavailable


class World:
    """A queue's length and a clock, both set by hand."""

    def __init__(self) -> None:
        self.waiting = 0
        self.now = 0.0
        self.away = False

    def count(self) -> int:
        if self.away:
            raise ConnectionError("refused")
        return self.waiting


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def watch(world: World) -> ConsumerWatch:
    return ConsumerWatch(world.count, clock=lambda: world.now)


def test_an_empty_queue_is_never_deafness(world: World, watch: ConsumerWatch) -> None:
    for world.now in (0, 1000, 2000):
        watch.check()


def test_messages_left_lying_by_an_idle_worker_are(world: World, watch: ConsumerWatch) -> None:
    world.waiting = 1
    watch.check()
    world.now = DEAF_AFTER_S - 1
    watch.check()
    world.now = DEAF_AFTER_S
    with pytest.raises(Unavailable, match="messages wait"):
        watch.check()


def test_a_busy_worker_may_let_them_wait(world: World, watch: ConsumerWatch) -> None:
    world.waiting = 5
    watch.task_started()
    for world.now in (0, 5000, 10_000):
        watch.check()
    watch.task_ended()
    world.now += 1
    watch.check()


def test_each_task_taken_starts_the_time_anew(world: World, watch: ConsumerWatch) -> None:
    world.waiting = 5
    for world.now in range(0, 1000, 20):
        watch.check()
        watch.task_started()
        watch.task_ended()


def test_nobody_is_deaf_to_a_broker_that_is_away(world: World, watch: ConsumerWatch) -> None:
    world.waiting = 1
    watch.check()
    world.away = True
    world.now = 1000
    watch.check()
    world.away = False
    watch.check()
    world.now += DEAF_AFTER_S
    with pytest.raises(Unavailable):
        watch.check()


def test_the_process_is_ended_when_it_stays_deaf(
    world: World, watch: ConsumerWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.consumer_watch.LOOK_EVERY_S", 0.0)
    world.waiting = 1
    watch.look()
    world.now = EXIT_AFTER_S
    codes: list[int] = []
    watch.run(threading.Event(), end=codes.append)
    assert codes == [EXIT_CODE]


def test_the_watch_ends_with_the_worker(watch: ConsumerWatch) -> None:
    stop = threading.Event()
    stop.set()
    watch.run(stop, end=lambda code: pytest.fail(f"ended with {code}"))
