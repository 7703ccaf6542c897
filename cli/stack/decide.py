"""What the supervisor does next: pure functions from what is wanted and what was seen to the states and steps that follow.

Times are monotonic seconds, passed in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum


class Phase(StrEnum):
    """Where one part stands."""

    WAITING = "waiting"
    """Not started yet: a part it needs is not ready."""
    STARTING = "starting"
    """Runs, but has not been ready since it was started."""
    READY = "ready"
    """Runs and says that it is ready."""
    UNREADY = "unready"
    """Runs and was ready, but says now that it is not."""
    BACKOFF = "backoff"
    """Died; it is started again at `retry_at`."""
    DONE = "done"
    """Had one thing to do, and did it."""
    FAILED = "failed"
    """Never came up, and is given up."""
    STOPPING = "stopping"
    """Was asked to stop."""
    STOPPED = "stopped"
    """Does not run, and is not to be started."""


RUNNING = frozenset({Phase.STARTING, Phase.READY, Phase.UNREADY, Phase.STOPPING})
SETTLED = frozenset({Phase.READY, Phase.DONE})
AT_REST = frozenset({Phase.DONE, Phase.FAILED, Phase.STOPPED})

FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 30.0
HEALTHY_S = 30.0
"""After being ready for so long a part that dies starts over with the shortest wait."""
START_ATTEMPTS = 3
"""How often a part that was never ready is started before the stack gives up."""


@dataclass(frozen=True)
class Wanted:
    """The part of a child's description that decisions need."""

    name: str
    needs: tuple[str, ...] = ()
    """Parts that must be ready (or done) before it is first started, and that stop after it."""
    once: bool = False
    """It ends by itself: exit status 0 means done, any other is a failure."""
    ready_within_s: float = 180.0
    """How long its first start may take, attempts together."""
    grace_s: float = 10.0
    """How long it may take to stop before it is killed."""


@dataclass(frozen=True)
class State:
    """What was seen of one part."""

    phase: Phase = Phase.WAITING
    first_started_at: float | None = None
    ready_at: float | None = None
    """Since when this run of it has been ready; None while it is not, or has not been."""
    was_ever_ready: bool = False
    failures: int = 0
    """Deaths in a row, without `HEALTHY_S` between them."""
    restarts: int = 0
    retry_at: float | None = None
    stop_asked_at: float | None = None
    reason: str = ""
    """Why it is not ready, or how it ended."""


def backoff_s(failures: int) -> float:
    """Wait before the next start after so many deaths in a row (1 or more): doubling, bounded."""
    return float(min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(failures - 1, 16)))


def after_start(state: State, now: float) -> State:
    """It was started."""
    return replace(
        state,
        phase=Phase.STARTING,
        first_started_at=now if state.first_started_at is None else state.first_started_at,
        restarts=state.restarts + (state.phase is Phase.BACKOFF),
        ready_at=None,
        retry_at=None,
        reason="",
    )


def after_probe(state: State, reason: str | None, now: float) -> State:
    """It was asked whether it is ready: None means yes, a text why not."""
    if state.phase not in (Phase.STARTING, Phase.READY, Phase.UNREADY):
        return state
    if reason is None:
        since = state.ready_at if state.phase is Phase.READY else now
        return replace(state, phase=Phase.READY, ready_at=since, was_ever_ready=True, reason="")
    phase = Phase.STARTING if state.phase is Phase.STARTING else Phase.UNREADY
    return replace(state, phase=phase, ready_at=None if phase is Phase.STARTING else state.ready_at, reason=reason)


def after_exit(wanted: Wanted, state: State, code: int, now: float) -> State:
    """Its process ended; a negative code is the signal that ended it."""
    how = f"killed by signal {-code}" if code < 0 else f"ended with exit status {code}"
    if state.phase in AT_REST:  # given up while it ran
        return state
    if state.phase is Phase.STOPPING:
        return replace(state, phase=Phase.STOPPED, ready_at=None, reason="")
    if wanted.once:
        return replace(state, phase=Phase.DONE if code == 0 else Phase.FAILED, reason="" if code == 0 else how)
    healthy = state.ready_at is not None and now - state.ready_at >= HEALTHY_S
    failures = 1 if healthy else state.failures + 1
    if not state.was_ever_ready and failures >= START_ATTEMPTS:
        return replace(state, phase=Phase.FAILED, failures=failures, reason=f"{how}, {failures} times in a row")
    return replace(
        state,
        phase=Phase.BACKOFF,
        failures=failures,
        ready_at=None,
        retry_at=now + backoff_s(failures),
        reason=how,
    )


def after_wait(wanted: Wanted, state: State, now: float) -> State:
    """Time went by: a first start that takes too long has failed."""
    if state.was_ever_ready or state.first_started_at is None or state.phase not in (Phase.STARTING, Phase.BACKOFF):
        return state
    if now - state.first_started_at < wanted.ready_within_s:
        return state
    why = f"not ready after {wanted.ready_within_s:.0f} s" + (f": {state.reason}" if state.reason else "")
    return replace(state, phase=Phase.FAILED, reason=why)


def to_start(all_wanted: Sequence[Wanted], states: Mapping[str, State], now: float) -> list[str]:
    """Parts to start now: those whose needs are met, and those whose wait after a death is over."""
    return [
        wanted.name
        for wanted in all_wanted
        if (states[wanted.name].phase is Phase.WAITING and all(states[need].phase in SETTLED for need in wanted.needs))
        or (states[wanted.name].phase is Phase.BACKOFF and (states[wanted.name].retry_at or 0) <= now)
    ]


def to_stop(all_wanted: Sequence[Wanted], states: Mapping[str, State]) -> list[str]:
    """Parts to stop now, once the whole is to stop: those that nothing still running needs, not even by way of others."""
    needed: set[str] = set()
    for wanted in reversed(all_wanted):  # each part stands after what it needs, so its own need is known before theirs
        if wanted.name in needed or states[wanted.name].phase not in AT_REST:
            needed.update(wanted.needs)
    return [
        wanted.name
        for wanted in all_wanted
        if wanted.name not in needed and states[wanted.name].phase not in AT_REST | {Phase.STOPPING}
    ]


def after_stop(state: State, now: float) -> State:
    """It was asked to stop; one that does not run has stopped."""
    if state.phase in RUNNING:
        return replace(state, phase=Phase.STOPPING, stop_asked_at=now, reason="")
    return state if state.phase in AT_REST else replace(state, phase=Phase.STOPPED, retry_at=None, reason="")


def to_kill(all_wanted: Sequence[Wanted], states: Mapping[str, State], now: float) -> list[str]:
    """Parts that were asked to stop and have had their time."""
    return [
        wanted.name
        for wanted in all_wanted
        if (state := states[wanted.name]).phase is Phase.STOPPING
        and state.stop_asked_at is not None
        and now - state.stop_asked_at >= wanted.grace_s
    ]


class Whole(StrEnum):
    """Where the stack stands."""

    STARTING = "starting"
    """Some part is not ready yet, for the first time."""
    READY = "ready"
    """All parts are ready."""
    DEGRADED = "degraded"
    """All parts have been ready; now one is not."""
    STOPPING = "stopping"
    """The parts are being stopped."""
    STOPPED = "stopped"
    """No part runs."""
    FAILED = "failed"
    """A part never came up; the others have been stopped."""


def whole(states: Mapping[str, State], *, stopping: bool, running: bool) -> Whole:
    """Where the stack stands.

    Args:
        stopping: whether it is to stop, by wish or because a part failed.
        running: whether any process of it runs.
    """
    phases = {state.phase for state in states.values()}
    if stopping:
        if running or not phases <= AT_REST:
            return Whole.STOPPING
        return Whole.FAILED if Phase.FAILED in phases else Whole.STOPPED
    if phases <= SETTLED:
        return Whole.READY
    came_up = all(state.was_ever_ready or state.phase is Phase.DONE for state in states.values())
    return Whole.DEGRADED if came_up else Whole.STARTING


def seconds_to_next(all_wanted: Sequence[Wanted], states: Mapping[str, State], now: float, *, at_most: float) -> float:
    """How long nothing is due: until the next restart, start deadline or kill, at most `at_most` seconds."""
    due = [now + at_most]
    for wanted in all_wanted:
        state = states[wanted.name]
        if state.phase is Phase.BACKOFF and state.retry_at is not None:
            due.append(state.retry_at)
        if state.phase is Phase.STOPPING and state.stop_asked_at is not None:
            due.append(state.stop_asked_at + wanted.grace_s)
        if state.phase is Phase.STARTING and not state.was_ever_ready and state.first_started_at is not None:
            due.append(state.first_started_at + wanted.ready_within_s)
    return max(0.0, min(due) - now)
