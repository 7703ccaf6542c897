"""The serving worker's task: claim a generation of offline predictions, make it, and end the row one way or another."""

import threading
import uuid

import structlog
from celery import Celery
from sqlalchemy.exc import IntegrityError

from services.serving.config import ServingSettings
from services.serving.errors import NotLoadable
from services.serving.offline import repository
from services.serving.offline.precompute import retire, run
from shared.artifacts import ArtifactStore
from shared.config import CommonSettings
from shared.contracts.tasks import TaskName
from shared.errors import ArtifactCorrupt, ArtifactMissing, Invalid, LeaseLost, Malformed, TooLarge, WorkerStops
from shared.jobs import faults
from shared.jobs.lease import Lease, claim, fail, give_back, hand_over, heartbeat
from shared.jobs.work import PRECOMPUTE
from shared.messaging import asked_to_stop
from shared.observability.metrics import JOBS
from shared.registry.session import Sessions
from shared.registry.tables import Precompute

log = structlog.get_logger(__name__)

PASSING = (*faults.PASSING, OSError)
"""Faults that another attempt may not meet: the database or the store away, a full disk."""
FINAL = (Invalid, Malformed, TooLarge, NotLoadable, ArtifactMissing, ArtifactCorrupt)
"""What no other attempt would do better; the message says why."""


def install(
    app: Celery, sessions: Sessions, store: ArtifactStore, common: CommonSettings, settings: ServingSettings
) -> None:
    """Register the task with the worker's Celery application."""
    stopping = asked_to_stop()

    @app.task(name=TaskName.PRECOMPUTE.value)
    def precompute(row_id: str) -> None:
        """Make the generation a nudge names, if it is still to be made."""
        precompute_row(uuid.UUID(row_id), sessions, store, common, settings, stopping=stopping)


def precompute_row(
    row_id: uuid.UUID,
    sessions: Sessions,
    store: ArtifactStore,
    common: CommonSettings,
    settings: ServingSettings,
    *,
    stopping: threading.Event | None = None,
) -> None:
    """Claim and make one generation; a nudge for one that is taken, done, or waits for another of its pipeline does nothing.

    Args:
        stopping: as for `claim`.
    """
    try:
        lease = claim(
            sessions, PRECOMPUTE, row_id, lease_s=common.lease_s, max_attempts=common.max_attempts, stopping=stopping
        )
    except IntegrityError:  # the index `precomputes_one_running`; it is nudged when that one has ended
        log.info("another generation of the pipeline is being made", row=str(row_id))
        return
    if lease is None:
        return
    with heartbeat(sessions, lease):
        _make(sessions, store, settings, lease)
    try:
        with sessions.begin() as session:
            pipeline_id = session.get_one(Precompute, row_id).pipeline_id
            repository.nudge_next(session, pipeline_id)
        retire(sessions, store, pipeline_id, keep=settings.precompute_keep)
    except PASSING as away:
        log.warning("tidying up waits; the sweeper nudges what is queued", error=type(away).__name__)


def _make(sessions: Sessions, store: ArtifactStore, settings: ServingSettings, lease: Lease) -> None:
    row_id = str(lease.row_id)
    try:
        run(sessions, store, settings, lease)
    except LeaseLost:
        JOBS.labels("precompute", "lease lost").inc()
        log.warning("another worker has the generation; leaving it", row=row_id, fence=lease.fence)
    except WorkerStops:
        JOBS.labels("precompute", "handed-over").inc()
        hand_over(sessions, lease)
    except FINAL as error:
        _fail(sessions, lease, error.detail)
    except PASSING as error:
        JOBS.labels("precompute", "given back").inc()
        log.warning("offline predictions interrupted, giving them back", row=row_id, exc_info=error)
        _give_back(sessions, lease, error)
    except Exception as error:
        log.exception("offline predictions failed", row=row_id)
        reason = f"It met an error it does not know ({type(error).__name__}); the worker's log has it."
        _fail(sessions, lease, reason)


def _fail(sessions: Sessions, lease: Lease, reason: str) -> None:
    JOBS.labels("precompute", "failed").inc()
    fail(sessions, lease, reason)


def _give_back(sessions: Sessions, lease: Lease, error: Exception) -> None:
    known = isinstance(error, faults.PASSING)
    reason = faults.describe(error) if known else f"Interrupted by a passing fault ({type(error).__name__})."
    try:
        give_back(sessions, lease, reason, counts=not faults.is_outage(error))
    except PASSING as away:
        log.warning("the registry is away; the lease's end gives the generation back", error=type(away).__name__)
