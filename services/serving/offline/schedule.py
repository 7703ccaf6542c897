"""Cron schedules of offline predictions: the tick that queues a generation for each slot that is due, from serving's worker.

However many workers tick, a slot starts one generation: its row holds the slot, once.
"""

import threading
import uuid

import structlog
from celery import Celery, signals
from sqlalchemy.exc import OperationalError
from sqlmodel import Session

from services.serving.offline import repository
from shared.registry.session import Sessions
from shared.slots import due_slot
from shared.spec import parse

log = structlog.get_logger(__name__)


def tick(sessions: Sessions) -> int:
    """Queue a generation for every pipeline whose schedule is due. Each pipeline is a transaction of its own.

    A slot waits while an earlier generation of its pipeline is open, and is then the one that catches up.

    Returns:
        How many were queued.
    """
    with sessions.begin() as session:
        pipelines = repository.scheduled_pipelines(session)
    started = 0
    for pipeline_id in pipelines:
        try:
            with sessions.begin() as session:
                started += _tick_pipeline(session, pipeline_id)
        except OperationalError:
            raise  # the database is away, for all of them alike
        except Exception:
            log.exception(
                "the schedule of one pipeline's offline predictions cannot be followed", pipeline=str(pipeline_id)
            )
    return started


def _tick_pipeline(session: Session, pipeline_id: uuid.UUID) -> int:
    pipeline = repository.lock_pipeline(session, pipeline_id)
    row = repository.current_spec(session, pipeline)
    offline = parse(row.spec).offline
    if offline is None or offline.schedule is None or repository.has_open(session, pipeline_id):
        return 0
    set_at, last = repository.schedule_set_at(session, row), repository.last_slot(session, pipeline_id)
    now = repository.database_now(session)
    slot = due_slot(offline.schedule, after=max(set_at, last) if last else set_at, now=now)
    if slot is None or repository.live_version(session, pipeline_id) is None:
        return 0
    source = offline.source.model_dump(mode="json", exclude_none=True)
    made = repository.add(session, pipeline, source, trigger="schedule", requested_by="schedule", slot=slot)
    if made is None:
        return 0
    log.info("schedule asks for offline predictions", pipeline=pipeline.name, slot=slot.isoformat())
    return 1


def start_ticking(app: Celery, sessions: Sessions, *, every_s: float) -> None:
    """Tick in a thread of this worker process, from when it is ready until it stops."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(every_s):
            try:
                tick(sessions)
            except Exception as error:  # noqa: BLE001 - the next tick may do better
                log.warning("the schedules wait", error=type(error).__name__)

    def start(sender: object, **_: object) -> None:
        if getattr(sender, "app", None) is app:
            threading.Thread(target=run, name="schedule", daemon=True).start()

    signals.worker_ready.connect(start, weak=False)
    signals.worker_shutting_down.connect(lambda **_: stop.set(), weak=False)
