"""One worker at a time has a row, and one that was presumed dead cannot write any more."""

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import func
from sqlalchemy.exc import OperationalError

from shared.contracts.tasks import TaskName
from shared.errors import IllegalMove, LeaseLost
from shared.jobs import faults
from shared.jobs import lease as leases
from shared.jobs.lease import Lease
from shared.jobs.sweeper import sweep
from shared.jobs.work import ALL_WORK, RUN, VALIDATION, WorkKind
from shared.registry.session import Sessions
from shared.registry.states import RunState, ValidationState
from shared.registry.tables import ModelVersion, Run, Validation
from tests.support.rows import AS_OF, Rows
from tests.support.waiting import until

LONG_S, ATTEMPTS = 600.0, 3


def claim(sessions: Sessions, row: uuid.UUID, kind: WorkKind = RUN, *, lease_s: float = LONG_S) -> Lease | None:
    return leases.claim(sessions, kind, row, lease_s=lease_s, max_attempts=ATTEMPTS)


def claimed(sessions: Sessions, row: uuid.UUID, kind: WorkKind = RUN, *, lease_s: float = LONG_S) -> Lease:
    lease = claim(sessions, row, kind, lease_s=lease_s)
    assert lease is not None
    return lease


def expire(rows: Rows, row: uuid.UUID) -> None:
    """The lease ends, and the sweeper sees it."""
    rows.set(Run, row, lease_until=func.now() - timedelta(seconds=1))
    with rows.sessions.begin() as session:
        sweep(session, max_attempts=ATTEMPTS, renudge_after_s=LONG_S)


@pytest.mark.parametrize("kind", ALL_WORK, ids=lambda kind: kind.name)
def test_claimed_once_among_many(rows: Rows, sessions: Sessions, pipeline: uuid.UUID, kind: WorkKind) -> None:
    for _ in range(5):
        row: uuid.UUID = getattr(rows, kind.name)(pipeline)
        ready = threading.Barrier(8)

        def take(row: uuid.UUID = row, ready: threading.Barrier = ready) -> Lease | None:
            ready.wait()
            return claim(sessions, row, kind)

        with ThreadPoolExecutor(8) as pool:
            found = [future.result() for future in [pool.submit(take) for _ in range(8)]]
        (lease,) = [lease for lease in found if lease is not None]
        after = rows.get(kind.table, row)
        assert (after.state, after.fence, after.attempt) == (kind.running, 1, 1)
        assert (lease.fence, lease.attempt, after.worker) == (1, 1, leases.worker_name())
        assert after.started_at is not None
        rows.set(kind.table, row, state=kind.failed)  # of some kinds a pipeline has one at work


def test_an_expired_lease_goes_to_another_and_the_first_can_no_longer_write(
    rows: Rows, sessions: Sessions, pipeline: uuid.UUID
) -> None:
    run = rows.run(pipeline)
    first = claimed(sessions, run)
    assert claim(sessions, run) is None, "the lease holds"
    began: datetime = rows.get(Run, run).started_at
    expire(rows, run)
    second = claimed(sessions, run)
    assert (second.fence, second.attempt) == (2, 2)
    assert rows.get(Run, run).started_at == began

    assert not leases.extend(sessions, first, progress={"from": "a zombie"})
    assert first.lost.is_set()
    with pytest.raises(LeaseLost, match=r"fence 1\) is lost"):
        first.check()
    with (
        pytest.raises(LeaseLost, match="taken by another worker"),
        leases.finish(sessions, first, RunState.SUCCEEDED) as (session, row),
    ):
        session.add(version_of(row))
    leases.fail(sessions, first, "a zombie's reason")
    leases.give_back(sessions, first, "a zombie's reason", counts=True)
    assert not leases.hand_over(sessions, first)
    after = rows.get(Run, run)
    assert (after.state, after.fence, after.reason, after.progress) == (RunState.RUNNING, 2, None, {})
    assert rows.all(ModelVersion) == []

    with leases.finish(sessions, second, RunState.SUCCEEDED) as (session, row):
        session.add(version_of(row))
    assert rows.get(Run, run).state == RunState.SUCCEEDED
    assert len(rows.all(ModelVersion)) == 1
    assert claim(sessions, run) is None, "an ended run is never claimed"
    leases.fail(sessions, second, "too late")
    assert (rows.get(Run, run).state, rows.get(Run, run).reason) == (RunState.SUCCEEDED, None)


def version_of(run: Run) -> ModelVersion:
    return ModelVersion(
        pipeline_id=run.pipeline_id, number=1, run_id=run.id, dataset_id=run.dataset_id, spec_version=1, digest="f" * 64,
        size_bytes=1, as_of=AS_OF, train_end=AS_OF, train_label_mean=0.5,
    )  # fmt: skip


def test_an_end_nudges_the_cycle_and_clears_what_an_earlier_attempt_said(
    rows: Rows, sessions: Sessions, pipeline: uuid.UUID
) -> None:
    cycle = rows.cycle(pipeline)
    run = rows.run(pipeline, cycle_id=cycle, reason="The store was away.")
    with leases.finish(sessions, claimed(sessions, run), RunState.SUCCEEDED) as (_, row):
        row.metrics = {"loss": 0.5}
    after = rows.get(Run, run)
    assert (after.metrics, after.reason, after.lease_until) == ({"loss": 0.5}, None, None)
    assert after.finished_at >= after.started_at
    assert rows.nudges() == [(TaskName.ADVANCE_CYCLE, cycle)]


def end_badly(sessions: Sessions, lease: Lease) -> None:
    with leases.finish(sessions, lease, RunState.SUCCEEDED) as (_, row):
        row.metrics = {"half": 1}
        raise RuntimeError("in the middle")


def test_a_failing_end_writes_nothing(rows: Rows, sessions: Sessions, pipeline: uuid.UUID) -> None:
    run = rows.run(pipeline, cycle_id=rows.cycle(pipeline))
    lease = claimed(sessions, run)
    with pytest.raises(RuntimeError, match="in the middle"):
        end_badly(sessions, lease)
    after = rows.get(Run, run)
    assert (after.state, after.metrics, rows.nudges()) == (RunState.RUNNING, {}, [])
    with pytest.raises(IllegalMove), leases.finish(sessions, lease, RunState.RUNNING):
        pass
    leases.fail(sessions, lease, "It does not converge.")
    after = rows.get(Run, run)
    assert (after.state, after.reason) == (RunState.FAILED, "It does not converge.")


def test_attempts_are_counted_and_end(rows: Rows, sessions: Sessions, pipeline: uuid.UUID) -> None:
    run = rows.run(pipeline)
    for attempt in range(1, ATTEMPTS + 1):
        lease = claimed(sessions, run)
        assert (lease.attempt, lease.fence) == (attempt, attempt)
        if attempt % 2:
            leases.give_back(sessions, lease, "It crashed.", counts=True)
            assert (rows.get(Run, run).state, rows.get(Run, run).attempt) == (RunState.QUEUED, attempt)
        expire(rows, run)
    assert claim(sessions, run) is None


@pytest.mark.parametrize("kind", ALL_WORK, ids=lambda kind: kind.name)
def test_an_outage_uses_up_no_attempt_but_waits_ever_longer(
    rows: Rows, sessions: Sessions, pipeline: uuid.UUID, kind: WorkKind
) -> None:
    row: uuid.UUID = getattr(rows, kind.name)(pipeline)
    waits: list[float] = []
    for fence in range(1, 4 * ATTEMPTS):
        lease = claimed(sessions, row, kind)
        assert (lease.attempt, lease.fence) == (1, fence)
        leases.give_back(sessions, lease, "The store is away.", counts=False)
        after = rows.get(kind.table, row)
        assert (after.state, after.attempt) == (kind.queued, 0)
        waits.append(leases.wait_s(fence))
        assert after.reason == f"The store is away. It is tried again after {waits[-1]:.0f} s."
        assert after.lease_until > database_now(sessions), "it waits"
        assert claim(sessions, row, kind) is None, "whoever nudges"
        rows.set(kind.table, row, lease_until=func.now() - timedelta(seconds=1))
    assert waits[:6] == [10, 20, 40, 80, 160, 300]
    assert set(waits[5:]) == {300}


def database_now(sessions: Sessions) -> datetime:
    with sessions.begin() as session:
        return session.execute(func.now().select()).scalar_one()


def test_a_worker_that_stops_hands_its_row_over_at_once(rows: Rows, sessions: Sessions, pipeline: uuid.UUID) -> None:
    run = rows.run(pipeline)
    for fence in range(1, 2 * ATTEMPTS):
        lease = claimed(sessions, run)
        assert (lease.attempt, lease.fence) == (1, fence)
        assert leases.hand_over(sessions, lease)
        after = rows.get(Run, run)
        assert (after.state, after.attempt, after.reason) == (RunState.QUEUED, 0, leases.STOPPED)
        assert rows.nudges() == [(TaskName.TRAIN, run)] * fence


class Away:
    """Sessions of a database that comes back after so many tries."""

    def __init__(self, sessions: Sessions, tries: int, fault: Exception) -> None:
        self.sessions, self.left, self.fault = sessions, tries, fault

    def begin(self) -> Any:
        if self.left:
            self.left -= 1
            raise self.fault
        return self.sessions.begin()


def lost(cause: type[psycopg.Error]) -> OperationalError:
    return OperationalError("update runs", {}, cause("told in words"))


class Hours:
    """A clock on which an hour passes with each look at a database that is away."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, _: float) -> None:
        self.now += 3600


@pytest.mark.parametrize(
    ("tell", "state"),
    [
        (lambda away, lease: leases.give_back(away, lease, "It crashed.", counts=True), RunState.QUEUED),
        (lambda away, lease: leases.give_back(away, lease, "The store is away.", counts=False), RunState.QUEUED),
        (lambda away, lease: leases.fail(away, lease, "It does not converge."), RunState.FAILED),
    ],
    ids=["crashed", "outage", "failed"],
)
def test_what_happened_is_told_once_the_database_is_back_however_long_it_was_away(
    rows: Rows,
    sessions: Sessions,
    pipeline: uuid.UUID,
    monkeypatch: pytest.MonkeyPatch,
    tell: Callable[[Any, Lease], None],
    state: RunState,
) -> None:
    monkeypatch.setattr(faults, "time", Hours())
    run = rows.run(pipeline)
    away: Any = Away(sessions, 30, lost(psycopg.OperationalError))
    tell(away, claimed(sessions, run))
    assert (rows.get(Run, run).state, away.left) == (state, 0)


def test_a_worker_that_stops_does_not_wait_for_the_database(
    rows: Rows, sessions: Sessions, pipeline: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "time", Hours())
    run = rows.run(pipeline)
    lease = claimed(sessions, run)
    away: Any = Away(sessions, 1, lost(psycopg.errors.QueryCanceled))
    with pytest.raises(OperationalError):
        leases.give_back(away, lease, "The store is away.", counts=False)
    lease.stopping.set()
    away = Away(sessions, 5, lost(psycopg.errors.AdminShutdown))
    with pytest.raises(OperationalError):
        leases.hand_over(away, lease)
    assert (rows.get(Run, run).state, away.left) == (RunState.RUNNING, 3)
    away.left = 1
    assert leases.hand_over(away, lease)
    assert rows.get(Run, run).state == RunState.QUEUED


def test_a_worker_that_stops_takes_nothing(rows: Rows, sessions: Sessions, pipeline: uuid.UUID) -> None:
    run, stopping = rows.run(pipeline), threading.Event()
    stopping.set()
    assert leases.claim(sessions, RUN, run, lease_s=LONG_S, max_attempts=ATTEMPTS, stopping=stopping) is None
    assert rows.get(Run, run).fence == 0


def test_heartbeats_keep_a_lease_beyond_its_length(rows: Rows, sessions: Sessions, pipeline: uuid.UUID) -> None:
    run = rows.run(pipeline)
    lease = claimed(sessions, run, lease_s=1.5)
    ends: list[datetime] = [rows.get(Run, run).lease_until]
    with leases.heartbeat(sessions, lease):

        def moved() -> bool:
            ends.append(rows.get(Run, run).lease_until)
            return ends[-1] > ends[0] + timedelta(seconds=3)

        until(moved, "the lease is two lengths longer")
        assert not lease.lost.is_set()
    stopped = rows.get(Run, run).lease_until
    assert not any(thread.name == "heartbeat-run" for thread in threading.enumerate())
    assert rows.get(Run, run).lease_until == stopped


@pytest.mark.parametrize("how", ["another fence", "another state"])
def test_heartbeats_notice_a_loss(rows: Rows, sessions: Sessions, pipeline: uuid.UUID, how: str) -> None:
    run = rows.run(pipeline)
    lease = claimed(sessions, run, lease_s=0.3)
    with leases.heartbeat(sessions, lease):
        rows.set(Run, run, **({"fence": 9} if how == "another fence" else {"state": RunState.CANCELLED}))
        until(lease.lost.is_set, "the loss is noticed")


def test_heartbeats_go_on_after_a_fault(
    rows: Rows, sessions: Sessions, pipeline: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = rows.run(pipeline)
    lease = claimed(sessions, run, lease_s=0.3)
    beats: list[int] = []
    extend = leases.extend

    def faulty(*arguments: Any, **values: Any) -> bool:
        beats.append(1)
        if len(beats) < 3:
            raise OperationalError("update runs", {}, Exception("the server closed the connection"))
        return extend(*arguments, **values)

    monkeypatch.setattr(leases, "extend", faulty)
    before = rows.get(Run, run).lease_until
    with leases.heartbeat(sessions, lease):
        until(lambda: rows.get(Run, run).lease_until > before, "a heartbeat after two that failed")
    assert not lease.lost.is_set()


@pytest.mark.parametrize("kind", ALL_WORK, ids=lambda kind: kind.name)
def test_after_an_outage_no_nudge_takes_a_row_from_a_living_worker(
    rows: Rows, sessions: Sessions, pipeline: uuid.UUID, kind: WorkKind
) -> None:
    row: uuid.UUID = getattr(rows, kind.name)(pipeline)
    lease = claimed(sessions, row, kind)
    rows.set(kind.table, row, lease_until=func.now() - timedelta(minutes=10))
    assert claim(sessions, row, kind) is None
    assert leases.extend(sessions, lease)
    assert rows.get(kind.table, row).lease_until > database_now(sessions)


def test_a_verdict_that_is_judged_again_is_claimed_anew(rows: Rows, sessions: Sessions, pipeline: uuid.UUID) -> None:
    row = rows.validation(pipeline)
    with leases.finish(sessions, claimed(sessions, row, VALIDATION), ValidationState.PASSED):
        pass
    assert claim(sessions, row, VALIDATION) is None
    rows.set(Validation, row, state=ValidationState.QUEUED, attempt=0)
    assert claimed(sessions, row, VALIDATION).fence == 2, "the fence never starts anew"


def test_a_nudge_is_written_with_the_row(rows: Rows, sessions: Sessions, pipeline: uuid.UUID) -> None:
    run = rows.run(pipeline)
    with sessions() as session:
        leases.nudge(session, RUN, run)
        session.rollback()
    assert (rows.nudges(), rows.get(Run, run).nudged_at) == ([], None)
    with sessions.begin() as session:
        leases.nudge(session, RUN, run)
    assert rows.nudges() == [(TaskName.TRAIN, run)]
    assert rows.get(Run, run).nudged_at is not None
