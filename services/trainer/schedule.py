"""Cron schedules: the tick that starts the cycle of a slot that is due. However many schedulers run, a slot starts once."""

import structlog
from sqlalchemy.exc import OperationalError
from sqlmodel import Session

from services.trainer import cycle_repository, repository, schedule_repository
from services.trainer.cycles import start_cycle
from services.trainer.metrics import SLOTS
from shared.registry.session import Sessions
from shared.slots import due_slot

log = structlog.get_logger(__name__)


def tick(sessions: Sessions) -> int:
    """Start a cycle for every pipeline whose schedule is due. Each pipeline is a transaction of its own.

    A slot waits while an earlier cycle of its pipeline is at work, and is then the one that catches up.

    Returns:
        How many cycles were started.
    """
    with sessions() as session:
        names = repository.pipeline_names(session)
    started = 0
    for name in names:
        try:
            with sessions.begin() as session:
                started += _tick_pipeline(session, name)
        except OperationalError:
            raise  # the database is away, for all of them alike
        except Exception:
            log.exception("the schedule of one pipeline cannot be followed", pipeline=name)
    return started


def _tick_pipeline(session: Session, name: str) -> int:
    pipeline = repository.pipeline_named(session, name)
    if not schedule_repository.lock_schedule(session, pipeline.id):
        return 0  # another scheduler is at it
    spec = repository.spec_row(session, pipeline)
    schedule = schedule_repository.schedule_of(session, pipeline.id)
    cron = schedule.cron if schedule and schedule.cron else spec.spec.get("schedule")
    if cron is None or (schedule is not None and schedule.paused):
        return 0
    now = repository.database_now(session)
    set_at = schedule_repository.set_at(session, spec, schedule)
    last = schedule_repository.last_slot(session, pipeline.id)
    slot = due_slot(cron, after=max(set_at, last) if last else set_at, now=now)
    if slot is None or cycle_repository.has_open_cycle(session, pipeline.id):
        return 0
    if not schedule_repository.take_slot(session, pipeline.id, slot):
        return 0
    cycle = start_cycle(session, pipeline, as_of=slot, trigger="schedule", requested_by="schedule", slot=slot)
    schedule_repository.note_slot_cycle(session, pipeline.id, slot, cycle.id)
    SLOTS.inc()
    log.info("schedule started a cycle", pipeline=name, slot=slot.isoformat(), cycle=str(cycle.id))
    return 1
