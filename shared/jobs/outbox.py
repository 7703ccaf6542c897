"""Transactional outbox: a nudge is a row written with the work it is about, published to Celery afterwards.

Losing Redis costs seconds, never work: unsent rows stay here, and the sweeper writes a new nudge for work that waits.
"""

import uuid
from collections.abc import Callable
from datetime import timedelta

import structlog
from sqlalchemy import delete, func, select, update
from sqlmodel import Session, col

from shared.contracts.tasks import TaskName
from shared.observability.context import request_id
from shared.registry.session import Sessions
from shared.registry.tables import OutboxMessage

log = structlog.get_logger(__name__)

Publish = Callable[[TaskName, uuid.UUID, str], None]
"""Send one nudge: task, row id, request id. Raises `Unavailable` when the queue cannot be reached."""

KNOWN = frozenset(map(str, TaskName))
KEEP_SENT = timedelta(hours=1)


def enqueue(session: Session, task: TaskName, row_id: uuid.UUID) -> None:
    """Write a nudge in the caller's transaction."""
    session.add(OutboxMessage(task=task, row_id=row_id, request_id=request_id.get()))


def dispatch(sessions: Sessions, publish: Publish, *, batch: int = 100) -> int:
    """Publish waiting nudges, oldest first; a nudge counts as sent only once the queue took it.

    Two dispatchers never send the same row at the same time (SKIP LOCKED); a crash between publishing and committing sends a
    nudge twice, which is harmless. A nudge for a task that nobody knows is given up, and hinders no other.

    Returns:
        How many were sent.

    Raises:
        Unavailable: the queue cannot be reached; what was sent before is marked, the rest waits.
    """
    with sessions() as session:
        rows = session.scalars(
            select(OutboxMessage)
            .where(col(OutboxMessage.sent_at).is_(None))
            .order_by(col(OutboxMessage.id))
            .limit(batch)
            .with_for_update(skip_locked=True)
        ).all()
        sent: list[int | None] = []
        published = 0
        try:
            for row in rows:
                if row.task in KNOWN:
                    publish(TaskName(row.task), row.row_id, row.request_id)
                    published += 1
                else:  # of another release; the sweeper repeats it for as long as its row waits
                    log.error("a nudge for an unknown task is given up", task=row.task, row=str(row.row_id))
                sent.append(row.id)
        finally:
            if sent:
                session.execute(update(OutboxMessage).where(col(OutboxMessage.id).in_(sent)).values(sent_at=func.now()))
            session.commit()
    return published


def pending(session: Session) -> int:
    """How many nudges wait to be published."""
    return (
        session.scalar(select(func.count()).select_from(OutboxMessage).where(col(OutboxMessage.sent_at).is_(None))) or 0
    )


def prune(session: Session) -> None:
    """Delete nudges sent long ago."""
    session.execute(delete(OutboxMessage).where(col(OutboxMessage.sent_at) < func.now() - KEEP_SENT))
