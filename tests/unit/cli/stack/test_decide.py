"""The supervisor's decisions, as tables."""

from dataclasses import replace

import pytest

from cli.stack import decide
from cli.stack.decide import Phase, State, Wanted, Whole

ENGINE = Wanted("engine")
MIGRATE = Wanted("migrate", needs=("engine",), once=True)
SERVICE = Wanted("service", needs=("engine", "migrate"))
WORKER = Wanted("worker", needs=("service",))
ALL = (ENGINE, MIGRATE, SERVICE, WORKER)
UP = State(Phase.READY, first_started_at=0, ready_at=1, was_ever_ready=True)


def states(*phases: Phase) -> dict[str, State]:
    return {wanted.name: State(phase) for wanted, phase in zip(ALL, phases, strict=True)}


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 0.5), (2, 1), (3, 2), (4, 4), (6, 16), (7, 30), (8, 30), (10_000, 30)]
)
def test_backoff_doubles_up_to_a_bound(failures: int, seconds: float) -> None:
    assert decide.backoff_s(failures) == seconds


@pytest.mark.parametrize(
    ("phases", "starts"),
    [
        ((Phase.WAITING,) * 4, ["engine"]),
        ((Phase.STARTING, Phase.WAITING, Phase.WAITING, Phase.WAITING), []),
        ((Phase.READY, Phase.WAITING, Phase.WAITING, Phase.WAITING), ["migrate"]),
        ((Phase.READY, Phase.STARTING, Phase.WAITING, Phase.WAITING), []),
        ((Phase.READY, Phase.DONE, Phase.WAITING, Phase.WAITING), ["service"]),
        ((Phase.READY, Phase.FAILED, Phase.WAITING, Phase.WAITING), []),
        ((Phase.READY, Phase.DONE, Phase.UNREADY, Phase.WAITING), []),
        ((Phase.READY, Phase.DONE, Phase.READY, Phase.WAITING), ["worker"]),
        ((Phase.READY, Phase.DONE, Phase.READY, Phase.STOPPED), []),
    ],
)
def test_a_part_starts_when_what_it_needs_is_ready(phases: tuple[Phase, ...], starts: list[str]) -> None:
    assert decide.to_start(ALL, states(*phases), now=0) == starts


def test_a_dead_part_starts_again_when_its_wait_is_over_whatever_became_of_its_needs() -> None:
    seen = states(Phase.BACKOFF, Phase.DONE, Phase.BACKOFF, Phase.READY)
    seen["engine"] = replace(seen["engine"], retry_at=10)
    seen["service"] = replace(seen["service"], retry_at=5)
    assert decide.to_start(ALL, seen, now=4.9) == []
    assert decide.to_start(ALL, seen, now=5) == ["service"]
    assert decide.to_start(ALL, seen, now=10) == ["engine", "service"]


def test_parts_stop_after_those_that_need_them() -> None:
    seen = states(Phase.READY, Phase.DONE, Phase.READY, Phase.READY)
    order = []
    while stopping := decide.to_stop(ALL, seen):
        order.append(stopping)
        for name in stopping:
            seen[name] = decide.after_stop(seen[name], now=0)
            assert decide.to_stop(ALL, seen) == []  # one that still stops holds back what it needs
            seen[name] = decide.after_exit(ENGINE, seen[name], 0, now=1)
    assert order == [["worker"], ["service"], ["engine"]]
    assert {name: state.phase for name, state in seen.items()} == {
        "engine": Phase.STOPPED, "migrate": Phase.DONE, "service": Phase.STOPPED, "worker": Phase.STOPPED,
    }  # fmt: skip


@pytest.mark.parametrize("phase", [Phase.WAITING, Phase.BACKOFF])
def test_what_does_not_run_stops_at_once(phase: Phase) -> None:
    assert decide.after_stop(State(phase, retry_at=9), now=0).phase is Phase.STOPPED


def test_what_does_not_stop_in_time_is_killed() -> None:
    seen = states(Phase.READY, Phase.DONE, Phase.READY, Phase.READY)
    seen["worker"] = decide.after_stop(seen["worker"], now=100)
    assert decide.to_kill(ALL, seen, now=100 + WORKER.grace_s - 0.1) == []
    assert decide.to_kill(ALL, seen, now=100 + WORKER.grace_s) == ["worker"]


@pytest.mark.parametrize(
    ("state", "code", "phase", "failures", "retry_at"),
    [
        # Never ready: it is tried START_ATTEMPTS times.
        (State(Phase.STARTING), 1, Phase.BACKOFF, 1, 100.5),
        (State(Phase.STARTING, failures=1), 1, Phase.BACKOFF, 2, 101),
        (State(Phase.STARTING, failures=2), 1, Phase.FAILED, 3, None),
        # Once ready: it is tried for ever, with longer waits.
        (replace(UP, ready_at=99), -9, Phase.BACKOFF, 1, 100.5),
        (replace(UP, ready_at=99, failures=3), -9, Phase.BACKOFF, 4, 104),
        (replace(UP, phase=Phase.STARTING, ready_at=None, failures=50), 1, Phase.BACKOFF, 51, 130),
        # Healthy for a while: it starts over with the shortest wait.
        (replace(UP, ready_at=70, failures=6), -9, Phase.BACKOFF, 1, 100.5),
        (replace(UP, phase=Phase.UNREADY, ready_at=70, failures=6), -9, Phase.BACKOFF, 1, 100.5),
        # A part that should run for ever and ends well has died as well.
        (UP, 0, Phase.BACKOFF, 1, 100.5),
        # Asked to stop, or given up: it stays down.
        (State(Phase.STOPPING), -15, Phase.STOPPED, 0, None),
        (State(Phase.FAILED, failures=1), -9, Phase.FAILED, 1, None),
    ],
)
def test_after_a_death(state: State, code: int, phase: Phase, failures: int, retry_at: float | None) -> None:
    after = decide.after_exit(SERVICE, state, code, now=100)
    assert (after.phase, after.failures, after.retry_at) == (phase, failures, retry_at)


@pytest.mark.parametrize(("code", "phase"), [(0, Phase.DONE), (1, Phase.FAILED), (-9, Phase.FAILED)])
def test_a_one_off_is_done_or_failed(code: int, phase: Phase) -> None:
    assert decide.after_exit(MIGRATE, State(Phase.STARTING), code, now=0).phase is phase


def test_readiness_comes_and_goes() -> None:
    state = decide.after_start(State(), now=1)
    state = decide.after_probe(state, "does not listen yet", now=2)
    assert (state.phase, state.ready_at, state.reason) == (Phase.STARTING, None, "does not listen yet")
    state = decide.after_probe(state, None, now=3)
    assert (state.phase, state.ready_at, state.was_ever_ready) == (Phase.READY, 3, True)
    assert decide.after_probe(state, None, now=4) == state
    state = decide.after_probe(state, "no database", now=5)
    assert (state.phase, state.reason) == (Phase.UNREADY, "no database")
    state = decide.after_probe(state, None, now=6)
    assert (state.phase, state.ready_at) == (Phase.READY, 6)


def test_a_late_answer_about_a_part_that_stops_changes_nothing() -> None:
    assert decide.after_probe(State(Phase.STOPPING), None, now=1) == State(Phase.STOPPING)


def test_only_starts_after_a_death_count_as_restarts() -> None:
    state = decide.after_start(State(), now=1)
    assert (state.restarts, state.first_started_at) == (0, 1)
    state = decide.after_start(decide.after_exit(SERVICE, state, 1, now=2), now=3)
    assert (state.restarts, state.first_started_at, state.retry_at) == (1, 1, None)


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.BACKOFF])
def test_a_first_start_that_takes_too_long_has_failed(phase: Phase) -> None:
    state = State(phase, first_started_at=10, reason="does not listen yet")
    late = 10 + SERVICE.ready_within_s
    assert decide.after_wait(SERVICE, state, now=late - 1) == state
    given_up = decide.after_wait(SERVICE, state, now=late)
    assert (given_up.phase, given_up.reason) == (Phase.FAILED, "not ready after 180 s: does not listen yet")
    assert decide.after_wait(SERVICE, replace(state, was_ever_ready=True), now=late).phase is phase


@pytest.mark.parametrize(
    ("phases", "stopping", "running", "whole"),
    [
        ((Phase.WAITING,) * 4, False, False, Whole.STARTING),
        ((Phase.READY, Phase.DONE, Phase.READY, Phase.READY), False, True, Whole.READY),
        ((Phase.READY, Phase.DONE, Phase.READY, Phase.READY), True, True, Whole.STOPPING),
        ((Phase.STOPPED, Phase.DONE, Phase.STOPPED, Phase.STOPPED), True, False, Whole.STOPPED),
        ((Phase.STOPPED, Phase.FAILED, Phase.STOPPED, Phase.STOPPED), True, False, Whole.FAILED),
        ((Phase.STOPPED, Phase.FAILED, Phase.STOPPED, Phase.STOPPED), True, True, Whole.STOPPING),
    ],
)
def test_where_the_whole_stands(phases: tuple[Phase, ...], stopping: bool, running: bool, whole: Whole) -> None:
    assert decide.whole(states(*phases), stopping=stopping, running=running) is whole


def test_a_stack_that_was_up_is_degraded_not_starting() -> None:
    seen = dict.fromkeys(("engine", "service", "worker"), UP) | {"migrate": State(Phase.DONE)}
    seen["service"] = decide.after_exit(SERVICE, UP, -9, now=2)
    assert decide.whole(seen, stopping=False, running=True) is Whole.DEGRADED


def test_the_loop_sleeps_until_something_is_due() -> None:
    seen = dict.fromkeys(("engine", "service", "worker"), UP) | {"migrate": State(Phase.DONE)}
    assert decide.seconds_to_next(ALL, seen, 100, at_most=5) == 5
    seen["service"] = State(Phase.BACKOFF, was_ever_ready=True, retry_at=101)
    assert decide.seconds_to_next(ALL, seen, 100, at_most=5) == 1
    seen["worker"] = State(Phase.STOPPING, stop_asked_at=90.5)
    assert decide.seconds_to_next(ALL, seen, 100, at_most=5) == 0.5
    seen["engine"] = State(Phase.STARTING, first_started_at=0)
    assert decide.seconds_to_next(ALL, seen, 200, at_most=5) == 0
