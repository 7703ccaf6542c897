"""The sweeper: rows whose worker died are queued again or fail for good; rows that wait without a worker are nudged again."""

from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Any

import structlog
from sqlalchemy import and_, func, or_, select
from sqlmodel import Session, col

from shared.contracts.tasks import TaskName
from shared.jobs.outbox import enqueue
from shared.jobs.work import ALL_WORK, WorkKind
from shared.observability.metrics import LEASES_EXPIRED
from shared.registry.states import ReleaseState, RunState
from shared.registry.tables import Run, Validation

log = structlog.get_logger(__name__)


def sweep(session: Session, *, max_attempts: int, renudge_after_s: float, expire: bool = True) -> int:
    """One look at all open work, in the caller's transaction.

    Args:
        session: its transaction ends the sweep.
        max_attempts: rows claimed this often fail for good when their lease expires again.
        renudge_after_s: a queued row is nudged again when its last nudge is older than this (a flushed queue, a lost message).
        expire: whether expired leases count. Not so after an outage of the database, in which no worker could extend its lease.

    Returns:
        How many rows were moved or nudged.
    """
    moved = sum(_sweep_kind(session, kind, max_attempts, renudge_after_s, expire) for kind in ALL_WORK)
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


def _sweep_kind(session: Session, kind: WorkKind, max_attempts: int, renudge_after_s: float, expire: bool) -> int:
    moved = 0
    table: Any = kind.table
    if expire:
        for row in _locked(session, kind, kind.running, _past(table.lease_until)):
            LEASES_EXPIRED.labels(kind.name).inc()
            _move(
                session,
                kind,
                row,
                max_attempts=max_attempts,
                failed=f"Its worker died {row.attempt} times; the last was {row.worker}. See that worker's log.",
                cancelled="Cancelled on request; its worker was already gone.",
            )
            log.warning("lease expired", kind=kind.name, row=str(row.id), attempt=row.attempt, now=row.state)
            moved += 1
    for row in _locked(session, kind, kind.queued, _due(kind, renudge_after_s)):
        _move(
            session,
            kind,
            row,
            max_attempts=max_attempts,
            failed=f"Given back {row.attempt} times; the last reason: {row.reason or 'none'}",
            cancelled="Cancelled on request.",
        )
        moved += 1
    return moved


def _past(moment: Any, ago_s: float = 0) -> Any:
    return moment < func.now() - timedelta(seconds=ago_s)


def _due(kind: WorkKind, renudge_after_s: float) -> Any:
    """Which waiting rows to look at: their wait is over, their last nudge seems lost, or they are cancelled."""
    table: Any = kind.table
    unheard = and_(table.lease_until.is_(None), or_(table.nudged_at.is_(None), _past(table.nudged_at, renudge_after_s)))
    due = or_(_past(table.lease_until), unheard)
    return or_(due, col(Run.cancel_requested)) if kind.table is Run else due


def _locked(session: Session, kind: WorkKind, state: StrEnum, condition: Any) -> Sequence[Any]:
    table: Any = kind.table
    return session.scalars(select(table).where(table.state == state, condition).with_for_update(skip_locked=True)).all()


def _move(session: Session, kind: WorkKind, row: Any, *, max_attempts: int, failed: str, cancelled: str) -> None:
    """Nudge the row again; or end it, when it was cancelled or tried too often."""
    now = session.scalar(select(func.now()))
    row.lease_until = None
    if not _cancelled(row) and row.attempt < max_attempts:
        row.state, row.nudged_at = kind.queued, now
        enqueue(session, kind.task, row.id)
        return
    row.finished_at = now
    row.state, row.reason = (RunState.CANCELLED, cancelled) if _cancelled(row) else (kind.failed, failed)
    if (cycle_id := getattr(row, "cycle_id", None)) is not None:
        enqueue(session, TaskName.ADVANCE_CYCLE, cycle_id)
