"""SQL on cycles: what their rows say, and which of them nobody has looked at for a while."""

import uuid
from datetime import timedelta

from sqlalchemy import and_, func, or_, select
from sqlmodel import Session, col

from services.trainer.cycle_steps import Facts
from services.trainer.repository import database_now
from shared.contracts.tasks import TaskName
from shared.errors import NotFound
from shared.jobs.outbox import enqueue
from shared.registry.states import CycleState, DatasetState, Decision, ReleaseState, RunState, ValidationState
from shared.registry.tables import Cycle, Dataset, Run, Validation
from shared.registry.tables.validation import newest_decision_first

OPEN_CYCLES = (CycleState.QUEUED, CycleState.DATASET, CycleState.TRAINING, CycleState.VALIDATING)


def lock_cycle(session: Session, cycle_id: uuid.UUID) -> Cycle | None:
    """The cycle, locked; None when it does not exist. Waits for another worker that looks at it: its look may be older."""
    return session.scalars(select(Cycle).where(col(Cycle.id) == cycle_id).with_for_update()).one_or_none()


def cycle_of(session: Session, pipeline_id: uuid.UUID, cycle_id: uuid.UUID, *, lock: bool = False) -> Cycle:
    """One cycle of a pipeline.

    Raises:
        NotFound: it has no such cycle.
    """
    query = select(Cycle).where(col(Cycle.id) == cycle_id, col(Cycle.pipeline_id) == pipeline_id)
    cycle = session.scalars(query.with_for_update() if lock else query).one_or_none()
    if cycle is None:
        raise NotFound(f"This pipeline has no cycle {cycle_id}.")
    return cycle


def facts_of(session: Session, cycle: Cycle) -> Facts:
    """What the rows say about a cycle now."""
    dataset = session.get(Dataset, cycle.dataset_id) if cycle.dataset_id else None
    run = session.get(Run, cycle.run_id) if cycle.run_id else None
    judged = _verdict_of(session, cycle)
    return Facts(
        state=CycleState(cycle.state),
        dataset=DatasetState(dataset.state) if dataset else None,
        dataset_reason=dataset.reason if dataset else None,
        run=RunState(run.state) if run else None,
        run_reason=run.reason if run else None,
        validation=ValidationState(judged.state) if judged else None,
        decision=Decision(judged.decision) if judged and judged.decision else None,
        release=ReleaseState(judged.release_state) if judged and judged.release_state else None,
        sentence=judged.sentence if judged else None,
        validation_reason=judged.reason if judged else None,
    )


def _verdict_of(session: Session, cycle: Cycle) -> Validation | None:
    """The verdict a cycle follows: the one it asked for; once it is held, the newest decision on its version, whoever asked."""
    if cycle.state == CycleState.HELD and cycle.version_id is not None:
        decided = select(Validation).where(
            col(Validation.candidate_id) == cycle.version_id, col(Validation.decision).is_not(None)
        )
        newest = session.scalars(decided.order_by(*newest_decision_first()).limit(1)).one_or_none()
        if newest is not None:
            return newest
    return session.get(Validation, cycle.validation_id) if cycle.validation_id else None


def nudge_stalled_cycles(session: Session, *, renudge_after_s: float) -> int:
    """Nudge cycles that are not at their end and were not looked at or nudged for a while.

    A held one waits for a person, and is left alone until the newest decision on its version is another than to hold it.
    """
    newest = select(col(Validation.decision)).where(
        col(Validation.candidate_id) == col(Cycle.version_id), col(Validation.decision).is_not(None)
    )
    decision = newest.order_by(*newest_decision_first()).limit(1).scalar_subquery()
    stale = func.now() - timedelta(seconds=renudge_after_s)
    rows = session.scalars(
        select(Cycle)
        .where(
            or_(
                col(Cycle.state).in_(OPEN_CYCLES), and_(col(Cycle.state) == CycleState.HELD, decision != Decision.HOLD)
            ),
            or_(col(Cycle.nudged_at).is_(None), col(Cycle.nudged_at) < stale),
            or_(col(Cycle.advanced_at).is_(None), col(Cycle.advanced_at) < stale),
        )
        .with_for_update(skip_locked=True)
    ).all()
    now = database_now(session)
    for row in rows:
        row.nudged_at = now
        enqueue(session, TaskName.ADVANCE_CYCLE, row.id)
    return len(rows)


def has_open_cycle(session: Session, pipeline_id: uuid.UUID) -> bool:
    """Whether a cycle of the pipeline is still at work (held ones wait for a person, and do not count)."""
    query = select(col(Cycle.id)).where(col(Cycle.pipeline_id) == pipeline_id, col(Cycle.state).in_(OPEN_CYCLES))
    return session.scalars(query.limit(1)).one_or_none() is not None


def open_cycles(session: Session) -> int:
    """How many cycles are at work."""
    query = select(func.count()).select_from(Cycle).where(col(Cycle.state).in_(OPEN_CYCLES))
    return session.scalar(query) or 0
