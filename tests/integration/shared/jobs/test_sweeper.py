"""Nothing that was asked for is forgotten, and nothing is tried for ever."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func

from shared.contracts.tasks import TaskName
from shared.jobs import lease as leases
from shared.jobs.sweeper import sweep
from shared.jobs.work import ALL_WORK, RUN, WorkKind
from shared.registry.session import Sessions
from shared.registry.states import Decision, ReleaseState, RunState, ValidationState
from shared.registry.tables import Run, Validation
from tests.support.rows import Rows

ATTEMPTS, RENUDGE_S = 3, 60.0
PAST, RECENT = func.now() - timedelta(seconds=61), func.now() - timedelta(seconds=30)


def swept(sessions: Sessions) -> int:
    with sessions.begin() as session:
        return sweep(session, max_attempts=ATTEMPTS, renudge_after_s=RENUDGE_S)


def of_cycle(kind: WorkKind, cycle: uuid.UUID) -> dict[str, Any]:
    """The column that makes a row a cycle's, where its kind has one."""
    return {"cycle_id": cycle} if "cycle_id" in kind.table.model_fields else {}


def expired(rows: Rows, kind: WorkKind, pipeline: uuid.UUID, attempt: int, **values: Any) -> uuid.UUID:
    row: uuid.UUID = getattr(rows, kind.name)(pipeline, **values)
    rows.set(kind.table, row, state=kind.running, fence=attempt, attempt=attempt, worker="host:1", lease_until=PAST)
    return row


@pytest.mark.parametrize("kind", ALL_WORK, ids=lambda kind: kind.name)
def test_the_work_of_a_dead_worker_is_queued_again(
    rows: Rows, sessions: Sessions, pipeline: uuid.UUID, kind: WorkKind
) -> None:
    row = expired(rows, kind, pipeline, 1, **of_cycle(kind, rows.cycle(pipeline)))
    assert swept(sessions) == 1
    after = rows.get(kind.table, row)
    assert (after.state, after.fence, after.attempt, after.lease_until) == (kind.queued, 1, 1, None)
    assert rows.nudges() == [(kind.task, row)]
    assert swept(sessions) == 0, "it was nudged just now"
    lease = leases.claim(sessions, kind, row, lease_s=60, max_attempts=ATTEMPTS)
    assert lease is not None
    assert lease.fence == 2


@pytest.mark.parametrize("kind", ALL_WORK, ids=lambda kind: kind.name)
def test_work_that_kills_its_workers_fails_for_good(
    rows: Rows, sessions: Sessions, pipeline: uuid.UUID, kind: WorkKind
) -> None:
    cycle = rows.cycle(pipeline)
    row = expired(rows, kind, pipeline, ATTEMPTS, **of_cycle(kind, cycle))
    assert swept(sessions) == 1
    after = rows.get(kind.table, row)
    assert (after.state, after.reason) == (
        kind.failed,
        "Its worker died 3 times; the last was host:1. See that worker's log.",
    )
    assert after.finished_at is not None
    assert rows.nudges() == ([(TaskName.ADVANCE_CYCLE, cycle)] if of_cycle(kind, cycle) else [])
    assert swept(sessions) == 0


@pytest.mark.parametrize("kind", ALL_WORK, ids=lambda kind: kind.name)
def test_what_an_outage_gave_back_is_nudged_when_its_wait_is_over(
    rows: Rows, sessions: Sessions, pipeline: uuid.UUID, kind: WorkKind
) -> None:
    row: uuid.UUID = getattr(rows, kind.name)(pipeline)
    for _ in range(2 * ATTEMPTS):
        rows.forget_nudges()
        lease = leases.claim(sessions, kind, row, lease_s=60, max_attempts=ATTEMPTS)
        assert lease is not None
        leases.give_back(sessions, lease, "The store is away.", counts=False)
        rows.set(kind.table, row, nudged_at=PAST)
        assert (swept(sessions), rows.nudges()) == (0, []), "its wait is not over"
        rows.set(kind.table, row, lease_until=func.now() - timedelta(seconds=1))
        assert swept(sessions) == 1
        assert rows.nudges() == [(kind.task, row)]
        assert swept(sessions) == 0


def test_after_an_outage_of_the_database_no_lease_expires_at_once(
    rows: Rows, sessions: Sessions, pipeline: uuid.UUID
) -> None:
    run, waits = expired(rows, RUN, pipeline, ATTEMPTS), rows.run(pipeline)
    with sessions.begin() as session:
        assert sweep(session, max_attempts=ATTEMPTS, renudge_after_s=RENUDGE_S, expire=False) == 1
    assert rows.get(Run, run).state == RunState.RUNNING
    assert rows.nudges() == [(TaskName.TRAIN, waits)]


def test_a_living_worker_is_left_alone(rows: Rows, sessions: Sessions, pipeline: uuid.UUID) -> None:
    run = rows.run(pipeline)
    leases.claim(sessions, RUN, run, lease_s=600, max_attempts=ATTEMPTS)
    rows.set(Run, run, nudged_at=PAST)
    assert swept(sessions) == 0
    assert (rows.get(Run, run).state, rows.nudges()) == (RunState.RUNNING, [])


@pytest.mark.parametrize("how", ["waits", "given back", "expired"])
def test_what_was_cancelled_is_not_tried_again(rows: Rows, sessions: Sessions, pipeline: uuid.UUID, how: str) -> None:
    cycle = rows.cycle(pipeline)
    run = expired(rows, RUN, pipeline, 1, cycle_id=cycle, cancel_requested=True)
    if how != "expired":
        until = None if how == "waits" else func.now() + timedelta(minutes=5)
        rows.set(Run, run, state=RunState.QUEUED, lease_until=until, nudged_at=RECENT)
    assert swept(sessions) == 1
    after = rows.get(Run, run)
    assert (after.state, after.lease_until) == (RunState.CANCELLED, None)
    assert after.reason.startswith("Cancelled on request")
    assert after.finished_at is not None
    assert rows.nudges() == [(TaskName.ADVANCE_CYCLE, cycle)]


@pytest.mark.parametrize("kind", ALL_WORK, ids=lambda kind: kind.name)
@pytest.mark.parametrize(
    ("nudged", "again"), [(None, 1), (PAST, 1), (RECENT, 0)], ids=["never", "long ago", "just now"]
)
def test_what_waits_is_nudged_again(
    rows: Rows, sessions: Sessions, pipeline: uuid.UUID, kind: WorkKind, nudged: Any, again: int
) -> None:
    row: uuid.UUID = getattr(rows, kind.name)(pipeline)
    rows.set(kind.table, row, nudged_at=nudged)
    assert swept(sessions) == again
    assert rows.nudges() == [(kind.task, row)] * again
    assert rows.get(kind.table, row).state == kind.queued
    assert swept(sessions) == 0


@pytest.mark.parametrize("kind", ALL_WORK, ids=lambda kind: kind.name)
def test_what_was_given_back_too_often_fails_at_the_next_look(
    rows: Rows, sessions: Sessions, pipeline: uuid.UUID, kind: WorkKind
) -> None:
    cycle = rows.cycle(pipeline)
    row: uuid.UUID = getattr(rows, kind.name)(pipeline, **of_cycle(kind, cycle))
    for attempt in range(1, ATTEMPTS + 1):
        lease = leases.claim(sessions, kind, row, lease_s=60, max_attempts=ATTEMPTS)
        assert lease is not None
        leases.give_back(sessions, lease, "It crashed.", counts=True)
        assert rows.get(kind.table, row).attempt == attempt
        if attempt < ATTEMPTS:
            assert "It is tried again after" in rows.get(kind.table, row).reason
            rows.set(kind.table, row, lease_until=None)
    assert leases.claim(sessions, kind, row, lease_s=60, max_attempts=ATTEMPTS) is None
    assert swept(sessions) == 1
    after = rows.get(kind.table, row)
    assert after.state == kind.failed
    assert after.reason == "Given back 3 times; the last reason: It crashed."
    assert rows.nudges() == ([(TaskName.ADVANCE_CYCLE, cycle)] if of_cycle(kind, cycle) else [])


def test_a_release_that_serving_has_not_confirmed_is_nudged_again(
    rows: Rows, sessions: Sessions, pipeline: uuid.UUID
) -> None:
    facts = {"state": ValidationState.PASSED, "decision": Decision.PROMOTE}
    pending = rows.validation(pipeline, **facts, release_state=ReleaseState.PENDING)
    for settled in (ReleaseState.DONE, None):
        rows.validation(pipeline, **facts, release_state=settled)
    assert swept(sessions) == 1
    assert rows.nudges() == [(TaskName.RELEASE, pending)]
    assert swept(sessions) == 0
    rows.set(Validation, pending, nudged_at=PAST)
    assert swept(sessions) == 1


def test_two_sweepers_move_a_row_once(rows: Rows, sessions: Sessions, pipeline: uuid.UUID) -> None:
    run = expired(rows, RUN, pipeline, 1)
    with sessions.begin() as first:
        assert sweep(first, max_attempts=ATTEMPTS, renudge_after_s=RENUDGE_S) == 1
        first.flush()
        assert swept(sessions) == 0, "the row is locked: the second neither waits nor moves it"
    assert rows.nudges() == [(TaskName.TRAIN, run)]
