"""SQL on schedules and their slots."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import Session, col

from shared.registry.tables import Schedule, ScheduleSlot, SpecVersion


def schedule_of(session: Session, pipeline_id: uuid.UUID) -> Schedule | None:
    """The schedule row, if someone changed the spec's."""
    return session.get(Schedule, pipeline_id)


def set_schedule(session: Session, pipeline_id: uuid.UUID, *, cron: str | None, paused: bool, changed_by: str) -> None:
    """Write the schedule row, unless it says so already: a schedule that stays the same keeps the slot that is due."""
    values: dict[str, Any] = {"cron": cron, "paused": paused, "changed_by": changed_by, "changed_at": func.now()}
    known = session.scalar(select(col(Schedule.pipeline_id)).where(col(Schedule.pipeline_id) == pipeline_id))
    if known is None and cron is None and not paused:
        return  # without a row, the spec's applies
    statement = insert(Schedule).values(pipeline_id=pipeline_id, **values)
    changed = or_(col(Schedule.cron).is_distinct_from(cron), col(Schedule.paused) != paused)
    session.execute(statement.on_conflict_do_update(index_elements=["pipeline_id"], set_=values, where=changed))


def set_at(session: Session, spec: SpecVersion, schedule: Schedule | None) -> datetime:
    """Since when the present schedule holds: slots from before that are not caught up.

    A new spec version with the same schedule changes nothing, and none does while another schedule stands in its place.
    """
    if schedule is not None and schedule.cron is not None:
        return schedule.changed_at
    own, cron = col(SpecVersion.pipeline_id) == spec.pipeline_id, spec.spec.get("schedule")
    other = col(SpecVersion.spec)["schedule"].as_string().is_distinct_from(cron)
    before = select(func.coalesce(func.max(SpecVersion.number), 0)).where(own, other).scalar_subquery()
    since = session.scalar(select(func.min(SpecVersion.created_at)).where(own, col(SpecVersion.number) > before))
    assert isinstance(since, datetime)
    return max(since, schedule.changed_at) if schedule is not None else since


def lock_schedule(session: Session, pipeline_id: uuid.UUID) -> bool:
    """Whether this transaction alone looks at the pipeline's schedule; another one that looks is not waited for."""
    return bool(
        session.scalar(select(func.pg_try_advisory_xact_lock(func.hashtextextended(f"schedule-{pipeline_id}", 0))))
    )


def last_slot(session: Session, pipeline_id: uuid.UUID) -> datetime | None:
    """The newest slot that was taken."""
    return session.scalar(select(func.max(ScheduleSlot.slot)).where(col(ScheduleSlot.pipeline_id) == pipeline_id))


def take_slot(session: Session, pipeline_id: uuid.UUID, slot: datetime) -> bool:
    """Whether this transaction is the one that has the slot: its key holds even where the schedule's lock does not."""
    statement = (
        insert(ScheduleSlot)
        .values(pipeline_id=pipeline_id, slot=slot)
        .on_conflict_do_nothing()
        .returning(col(ScheduleSlot.slot))
    )
    return session.execute(statement).one_or_none() is not None


def note_slot_cycle(session: Session, pipeline_id: uuid.UUID, slot: datetime, cycle_id: uuid.UUID) -> None:
    """Record which cycle a slot started."""
    session.execute(
        update(ScheduleSlot)
        .where(col(ScheduleSlot.pipeline_id) == pipeline_id, col(ScheduleSlot.slot) == slot)
        .values(cycle_id=cycle_id)
    )
