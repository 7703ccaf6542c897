"""Who takes the next connection, and when a dead worker is started again."""

import pytest

from services.serving.config import ServingSettings, score_threads
from services.serving.workers.choice import SILENT_AFTER_S, Load, Standing, choose, hangs, is_ready, restart_pause_s

AWAY, UNREADY, READY = Standing.AWAY, Standing.UNREADY, Standing.READY
NOW_S = 100.0


@pytest.mark.parametrize(
    ("loads", "order"),
    [
        pytest.param([Load(AWAY), Load(AWAY)], [], id="nobody takes"),
        pytest.param([Load(READY, 3), Load(READY, 2)], [1, 0], id="the fewest first"),
        pytest.param([Load(READY, 2, given=9), Load(READY, 2, given=4)], [1, 0], id="equal ones take turns"),
        pytest.param([Load(READY, 9), Load(UNREADY, 0)], [0, 1], id="a ready one first, however busy"),
        pytest.param([Load(UNREADY, 3), Load(UNREADY, 0), Load(AWAY)], [1, 0], id="unready ones when nobody is ready"),
        pytest.param([Load(READY, 9), Load(AWAY, 0)], [0], id="one that closes takes none"),
    ],
)
def test_who_takes_the_next_connection(loads: list[Load], order: list[int]) -> None:
    for load in loads:
        load.heard_s = NOW_S
    assert choose(loads, NOW_S) == order


def test_one_that_was_not_heard_for_long_comes_last() -> None:
    loads = [Load(READY, 0, heard_s=NOW_S - SILENT_AFTER_S), Load(READY, 50, heard_s=NOW_S - 1)]
    assert choose(loads, NOW_S) == [1, 0]
    assert [is_ready(load, NOW_S) for load in loads] == [False, True]


@pytest.mark.parametrize(
    ("load", "killed"),
    [
        (Load(READY, heard_s=NOW_S - 61), True),
        (Load(UNREADY, heard_s=NOW_S - 61), True),
        (Load(READY, heard_s=NOW_S - 59), False),
        (Load(AWAY, heard_s=NOW_S - 1000), False),
    ],
)
def test_one_that_is_silent_far_too_long_hangs(load: Load, killed: bool) -> None:
    assert hangs(load, NOW_S, 60) is killed


def test_many_connections_are_shared_evenly_also_after_one_begins_anew() -> None:
    loads = [Load(READY, heard_s=NOW_S) for _ in range(4)]

    def give(count: int) -> None:
        for _ in range(count):
            load = loads[choose(loads, NOW_S)[0]]
            load.open += 1

    give(64)
    assert [load.open for load in loads] == [16] * 4
    loads[2].open = 0
    give(16)
    assert [load.open for load in loads] == [16] * 4


@pytest.mark.parametrize(
    ("last_s", "lived_s", "pause_s"), [(0, 1, 0.5), (0.5, 1, 1), (1, 1, 2), (20, 1, 30), (30, 1, 30), (30, 31, 0.5)]
)
def test_a_worker_that_keeps_dying_is_started_ever_more_slowly(last_s: float, lived_s: float, pause_s: float) -> None:
    assert restart_pause_s(last_s, lived_s) == pause_s


@pytest.mark.parametrize(
    ("cpus", "workers", "threads"), [(1, 1, 1), (2, 1, 2), (64, 1, 4), (8, 4, 2), (8, 3, 2), (2, 4, 1), (64, 64, 1)]
)
def test_workers_share_the_cores(cpus: int, workers: int, threads: int) -> None:
    assert score_threads(cpus, workers) == threads


def test_the_default_of_score_threads_follows_the_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.serving.config.usable_cpus", lambda: 8)
    assert ServingSettings().score_threads == 4
    assert ServingSettings(workers=4).score_threads == 2
    assert ServingSettings(workers=4, score_threads=3).score_threads == 3
