"""The sweeper: rows whose worker died are queued again or fail for good; rows that wait without a worker are nudged again."""

from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import func, or_, select
from sqlmodel import Session, col

from shared.contracts.tasks import TaskName
from shared.jobs.outbox import enqueue
from shared.jobs.work import ALL_WORK, WorkKind
from shared.observability.metrics import LEASES_EXPIRED
from shared.registry.states import ReleaseState, RunState
from shared.registry.tables import Run, Validation

log = structlog.get_logger(__name__)


def sweep(session: Session, *, max_attempts: int, renudge_after_s: float) -> int:
    """One look at all open work, in the caller's transaction.

    Args:
        session: its transaction ends the sweep.
        max_attempts: rows claimed this often fail for good when their lease expires again.
        renudge_after_s: a queued row is nudged again when its last nudge is older than this (a flushed queue, a lost message).

    Returns:
        How many rows were moved or nudged.
    """
    moved = sum(_sweep_kind(session, kind, max_attempts, renudge_after_s) for kind in ALL_WORK)
    return moved + _sweep_releases(session, renudge_after_s)


def _sweep_releases(session: Session, renudge_after_s: float) -> int:
    """Verdicts whose release serving has not confirmed are nudged again."""
    stale = func.now() - timedelta(seconds=renudge_after_s)
    rows = session.scalars(
        select(Validation)
        .where(
            col(Validation.release_state) == ReleaseState.PENDING,
            or_(col(Validation.nudged_at).is_(None), col(Validation.nudged_at) < stale),
        )
        .with_for_update(skip_locked=True)
    ).all()
    now = session.scalar(select(func.now()))
    for row in rows:
        row.nudged_at = now
        enqueue(session, TaskName.RELEASE, row.id)
    return len(rows)


def _cancelled(row: Any) -> bool:
    """Only runs are cancelled on request; a dataset or verdict under way takes seconds."""
    return isinstance(row, Run) and row.cancel_requested


def _sweep_kind(session: Session, kind: WorkKind, max_attempts: int, renudge_after_s: float) -> int:
    table: Any = kind.table
    now = session.scalar(select(func.now()))
    stale = timedelta(seconds=renudge_after_s)
    expired = session.scalars(
        select(table)
        .where(table.state == kind.running, table.lease_until < func.now())
        .with_for_update(skip_locked=True)
    ).all()
    for row in expired:
        LEASES_EXPIRED.labels(kind.name).inc()
        row.lease_until = None
        if _cancelled(row):
            row.state, row.finished_at = RunState.CANCELLED, now
            row.reason = "Cancelled on request; its worker was already gone."
        elif row.attempt >= max_attempts:
            row.state, row.finished_at = kind.failed, now
            row.reason = f"Its worker died {row.attempt} times; the last was {row.worker}. See that worker's log."
        else:
            row.state = kind.queued
            row.nudged_at = now
            enqueue(session, kind.task, row.id)
        if row.state != kind.queued and row.cycle_id is not None:
            enqueue(session, TaskName.ADVANCE_CYCLE, row.cycle_id)
        log.warning("lease expired", kind=kind.name, row=str(row.id), attempt=row.attempt, now=row.state)
    waiting = session.scalars(
        select(table)
        .where(table.state == kind.queued, or_(table.nudged_at.is_(None), table.nudged_at < func.now() - stale))
        .with_for_update(skip_locked=True)
    ).all()
    for row in waiting:
        if _cancelled(row):
            row.state, row.finished_at, row.reason = RunState.CANCELLED, now, "Cancelled on request."
        elif row.attempt >= max_attempts:
            row.state, row.finished_at = kind.failed, now
            row.reason = f"Given back {row.attempt} times; the last reason: {row.reason or 'none'}"
        else:
            row.nudged_at = now
            enqueue(session, kind.task, row.id)
        if row.state != kind.queued and row.cycle_id is not None:
            enqueue(session, TaskName.ADVANCE_CYCLE, row.cycle_id)
    return len(expired) + len(waiting)
