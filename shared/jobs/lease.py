"""Leases with fencing numbers (Kleppmann, "How to do distributed locking"): one worker at a time acts on a row, and one that
was presumed dead cannot write any more. All times are the database's.

    lease = claim(sessions, RUN, run_id, lease_s=30, max_attempts=3, stopping=stopping)
    if lease is None: return                      # someone else has it, or it is done: a repeated nudge
    with heartbeat(sessions, lease):
        ... work, calling lease.check() between steps ...
        with finish(sessions, lease, RunState.SUCCEEDED) as (session, row):
            row.metrics = ...                     # written with the fence check, in one transaction
"""

import contextlib
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any

import structlog
from sqlalchemy import func, or_, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, col

from shared.contracts.tasks import TaskName
from shared.errors import LeaseLost, WorkerStops
from shared.jobs.faults import patiently
from shared.jobs.outbox import enqueue
from shared.jobs.work import WorkKind
from shared.registry.session import Sessions
from shared.registry.states import check_move

log = structlog.get_logger(__name__)

FIRST_WAIT_S, LONGEST_WAIT_S = 10.0, 300.0
STOPPED = "Its worker was asked to stop; another one takes it up."


@dataclass
class Lease:
    """The right to finish one row, as long as its fence is the row's."""

    kind: WorkKind
    row_id: uuid.UUID
    fence: int
    attempt: int
    max_attempts: int
    lease_s: float
    lost: threading.Event = field(default_factory=threading.Event)
    """Set as soon as a heartbeat finds that the row has another fence or state."""
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when the worker was asked to stop (`messaging.asked_to_stop`)."""

    def check(self) -> None:
        """Stop here when the lease is gone, or is to be handed over.

        Raises:
            LeaseLost: another worker has the row, or it was cancelled.
            WorkerStops: the worker was asked to stop.
        """
        if self.lost.is_set():
            raise LeaseLost(f"The lease on {self.kind.name} {self.row_id} (fence {self.fence}) is lost.")
        if self.stopping.is_set():
            raise WorkerStops(STOPPED)


def worker_name() -> str:
    """Host and process, for people who look at a row."""
    return f"{socket.gethostname()}:{os.getpid()}"


def claim(
    sessions: Sessions,
    kind: WorkKind,
    row_id: uuid.UUID,
    *,
    lease_s: float,
    max_attempts: int,
    stopping: threading.Event | None = None,
) -> Lease | None:
    """Take the row if it is queued, in one atomic statement. One whose lease has expired is the sweeper's to queue again.

    Args:
        stopping: set when this worker was asked to stop. It then takes nothing, and `Lease.check` ends what it has.

    Returns:
        The lease, or None when there is nothing to do: a repeated nudge, a finished row, one that was given back and is to
        wait a while, attempts used up.
    """
    stopping = stopping or threading.Event()
    if stopping.is_set():
        return None
    table: Any = kind.table
    statement = (
        update(table)
        .where(
            table.id == row_id,
            table.state == kind.queued,
            or_(table.lease_until.is_(None), table.lease_until < func.now()),
            table.attempt < max_attempts,
        )
        .values(
            state=kind.running,
            fence=table.fence + 1,
            attempt=table.attempt + 1,
            lease_until=func.now() + timedelta(seconds=lease_s),
            worker=worker_name(),
            started_at=func.coalesce(table.started_at, func.now()),
        )
        .returning(table.fence, table.attempt)
    )
    with sessions.begin() as session:
        taken = session.execute(statement).one_or_none()
    if taken is None:
        return None
    return Lease(kind, row_id, taken.fence, taken.attempt, max_attempts, lease_s, stopping=stopping)


def extend(sessions: Sessions, lease: Lease, **values: Any) -> bool:
    """Push the lease's end and write progress columns with it.

    Returns:
        False when the row is no longer this lease's (`lease.lost` is then set).
    """
    table: Any = lease.kind.table
    statement = (
        update(table)
        .where(table.id == lease.row_id, table.fence == lease.fence, table.state == lease.kind.running)
        .values(lease_until=func.now() + timedelta(seconds=lease.lease_s), **values)
        .returning(table.id)
    )
    with sessions.begin() as session:
        held = session.execute(statement).one_or_none() is not None
    if not held:
        lease.lost.set()
    return held


@contextmanager
def heartbeat(sessions: Sessions, lease: Lease) -> Iterator[None]:
    """Extend the lease three times within its length, from a thread of its own, until the block ends.

    A database that is away does not end the lease at once: the row's own expiry decides, by the database's clock.
    """
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(lease.lease_s / 3):
            try:
                if not extend(sessions, lease):
                    # No warning: a run's own process ends its row while the worker still beats. The sweeper warns of expiry.
                    log.info(
                        "the row is no longer held", kind=lease.kind.name, row=str(lease.row_id), fence=lease.fence
                    )
                    return
            except SQLAlchemyError as error:
                log.warning("heartbeat failed, trying again", kind=lease.kind.name, error=type(error).__name__)

    thread = threading.Thread(target=beat, name=f"heartbeat-{lease.kind.name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=10)


@contextmanager
def finish(sessions: Sessions, lease: Lease, state: StrEnum) -> Iterator[tuple[Session, Any]]:
    """One transaction that ends the row: it is locked, its fence checked, the caller writes, `state` is set.

    Yields:
        The session and the locked row; add what belongs to the end (a version, an alert, a nudge) to the session.

    Raises:
        LeaseLost: the row has another fence or is no longer running; nothing is written.
    """
    with _held(sessions, lease) as (session, row):
        check_move(lease.kind.running, state)
        row.reason = None  # an earlier attempt's
        yield session, row
        row.state = state
        row.lease_until = None
        row.finished_at = session.scalar(select(func.now()))
        if (cycle_id := getattr(row, "cycle_id", None)) is not None:  # not all kinds of work are a cycle's
            enqueue(session, TaskName.ADVANCE_CYCLE, cycle_id)


@contextmanager
def _held(sessions: Sessions, lease: Lease) -> Iterator[tuple[Session, Any]]:
    """One transaction on the locked row, if it is still this lease's; raises `LeaseLost` when it is not."""
    table: Any = lease.kind.table
    with sessions.begin() as session:
        row = session.scalars(
            select(table)
            .where(table.id == lease.row_id, table.fence == lease.fence, table.state == lease.kind.running)
            .with_for_update()
        ).one_or_none()
        if row is None:
            lease.lost.set()
            raise LeaseLost(
                f"{lease.kind.name} {lease.row_id} was taken by another worker (fence {lease.fence} is old)."
            )
        yield session, row


def fail(sessions: Sessions, lease: Lease, reason: str) -> None:
    """End the row as failed for good, if it is still this lease's; `reason` is a sentence for a person."""

    def end() -> None:
        with finish(sessions, lease, lease.kind.failed) as (_, row):
            row.reason = reason

    with contextlib.suppress(LeaseLost):
        patiently(end, stopping=lease.stopping)


def give_back(sessions: Sessions, lease: Lease, reason: str, *, counts: bool) -> None:
    """Queue the row again, to be nudged after a while that doubles with each time it was taken (`wait_s`).

    When that was the last attempt, it waits for nothing but the sweeper, which ends it with `reason`.

    Args:
        reason: a sentence for a person; it stands in the row while that waits.
        counts: whether the attempt is used up. An outage that the worker met (`faults.is_outage`) is not the work's fault and
            does not count: the row waits for the end of the outage, however long that takes.
    """

    def put_back() -> None:
        with _held(sessions, lease) as (_, row):
            last = counts and row.attempt >= lease.max_attempts
            seconds = 0.0 if last else wait_s(row.fence)
            row.state, row.lease_until = lease.kind.queued, func.now() + timedelta(seconds=seconds)
            row.attempt -= 0 if counts else 1
            row.reason = reason if last else f"{reason} It is tried again after {seconds:.0f} s."
        log.warning("given back", kind=lease.kind.name, row=str(lease.row_id), reason=reason, counts=counts, s=seconds)

    with contextlib.suppress(LeaseLost):
        patiently(put_back, stopping=lease.stopping)


def hand_over(sessions: Sessions, lease: Lease) -> bool:
    """Queue the row again for another worker, at once and without counting the attempt: this worker was asked to stop.

    Returns:
        False when the row is no longer this lease's: it has ended, or another worker has it.
    """

    def put_back() -> None:
        with _held(sessions, lease) as (session, row):
            row.state, row.lease_until, row.reason = lease.kind.queued, None, STOPPED
            row.attempt -= 1
            session.flush()
            nudge(session, lease.kind, lease.row_id)

    try:
        patiently(put_back, stopping=lease.stopping)
    except LeaseLost:
        return False
    log.info("handed over", kind=lease.kind.name, row=str(lease.row_id))
    return True


def wait_s(taken: int) -> float:
    """How long a row waits that was given back after it had been taken so often: 10 s, 20 s, 40 s, up to 5 minutes."""
    return min(FIRST_WAIT_S * 2 ** min(taken - 1, 10), LONGEST_WAIT_S)


def nudge(session: Session, kind: WorkKind, row_id: uuid.UUID) -> None:
    """Write a nudge for a queued row in the caller's transaction."""
    table: Any = kind.table
    session.execute(update(table).where(col(table.id) == row_id).values(nudged_at=func.now()))
    enqueue(session, kind.task, row_id)
