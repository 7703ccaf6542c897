"""Who is let in: bounded by the expected wait, whatever the estimates are worth; the urgent last to be refused."""

import random
from dataclasses import dataclass
from math import inf

import pytest

from services.serving.admission import Backlog, Priority
from services.serving.errors import DeadlinePassed, Overloaded

COST_S = 0.01
MOST_S = 0.5


@dataclass(frozen=True)
class Job:
    """What waits."""

    priority: Priority


def job(priority: Priority) -> tuple[Job, None, float]:
    return Job(priority), None, COST_S


class World:
    """A resource with so many servers that takes `slower` times as long as is expected, and what is asked of it."""

    def __init__(self, *, servers: int = 1, slower: float = 1.0) -> None:
        self.now_s = 100.0
        self.backlog = Backlog(
            servers=servers, most_wait_s=MOST_S, clock=lambda: self.now_s, chance=random.Random(7)
        )  # fmt: skip
        self.servers, self.slower = servers, slower
        self.waiting: list[tuple[float, Priority]] = []
        self.busy_until_s = [self.now_s] * servers
        self.waits_s: dict[Priority, list[float]] = {priority: [] for priority in Priority}
        self.refused: dict[Priority, int] = dict.fromkeys(Priority, 0)

    def run(self, seconds: float, **per_s: float) -> None:
        """Arrivals at random, so many a second by the name of their priority."""
        draw = random.Random(3)
        arrivals = sorted(
            (self.now_s + draw.random() * seconds, Priority[name])
            for name, rate in per_s.items()
            for _ in range(int(rate * seconds))
        )
        running: list[tuple[float, Priority]] = []
        end_s = self.now_s + seconds
        while arrivals or running:
            next_done = min(running, default=(inf, Priority.LOW))
            next_come = arrivals[0][0] if arrivals else inf
            if min(next_done[0], next_come) > end_s and not running:
                break
            if next_done[0] <= next_come:
                self.now_s = next_done[0]
                running.remove(next_done)
                self.backlog.finish([job(next_done[1])])
            else:
                self.now_s, priority = arrivals.pop(0)
                try:
                    self.backlog.check(priority, inf)
                except Overloaded:
                    self.refused[priority] += 1
                else:
                    self.backlog.join(priority, COST_S)
                    self.waiting.append((self.now_s, priority))
            while self.waiting and len(running) < self.servers:
                came_s, priority = first = min(self.waiting, key=lambda entry: entry[1])
                self.waiting.remove(first)
                self.waits_s[priority].append(self.now_s - came_s)
                self.backlog.start([job(priority)])
                running.append((self.now_s + COST_S * self.slower, priority))


@pytest.mark.parametrize("slower", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("servers", [1, 3])
def test_ten_times_the_load_waits_no_longer_than_is_allowed_and_keeps_every_server_busy(
    slower: float, servers: int
) -> None:
    world = World(servers=servers, slower=slower)
    capacity = servers / (COST_S * slower)
    world.run(20, NORMAL=10 * capacity)
    settled = world.waits_s[Priority.NORMAL][int(4 * capacity) :]
    assert max(settled) < 1.5 * MOST_S
    assert len(world.waits_s[Priority.NORMAL]) > 0.97 * 20 * capacity


def test_the_urgent_are_served_in_full_while_the_others_are_refused() -> None:
    world = World()
    world.run(20, HIGH=50, NORMAL=400, LOW=400)
    assert world.refused[Priority.HIGH] == 0
    assert max(world.waits_s[Priority.HIGH]) < 0.2
    assert world.refused[Priority.LOW] == 400 * 20 - len(world.waits_s[Priority.LOW])
    served = {priority: len(waits) for priority, waits in world.waits_s.items()}
    assert served[Priority.NORMAL] > 10 * served[Priority.LOW]


def test_a_load_that_fits_is_never_refused() -> None:
    world = World(servers=2)
    world.run(20, NORMAL=150)
    assert sum(world.refused.values()) == 0


def test_whoever_comes_when_nobody_waits_is_let_in_however_wrong_the_estimate() -> None:
    backlog = Backlog(servers=1, most_wait_s=1e-9, clock=lambda: 0.0, chance=random.Random(7))
    backlog.check(Priority.LOW, -inf)
    backlog.join(Priority.LOW, 1e9)
    with pytest.raises(Overloaded):
        backlog.check(Priority.LOW, inf)


def test_a_deadline_before_the_turn_is_refused_and_the_time_to_come_back_is_that_of_the_work() -> None:
    backlog = Backlog(servers=1, most_wait_s=60, clock=lambda: 100.0, chance=random.Random(7))
    backlog.join(Priority.NORMAL, 10.0)
    backlog.check(Priority.NORMAL, 110.5)
    with pytest.raises(DeadlinePassed) as error:
        backlog.check(Priority.NORMAL, 109.5)
    assert error.value.retry_after_s in (10, 11, 12)
    backlog.check(Priority.HIGH, 100.5)


def test_one_long_pause_of_the_process_is_not_taken_for_slowness() -> None:
    now = [0.0]
    backlog = Backlog(servers=1, most_wait_s=1, clock=lambda: now[0], chance=random.Random(7))
    backlog.join(Priority.NORMAL, COST_S)
    backlog.start([job(Priority.NORMAL)])
    now[0] = 60.0
    backlog.finish([job(Priority.NORMAL)])
    assert backlog.speed > 0.9
