"""The data worker's task: claim a dataset, build it, and end the row one way or another."""

import threading
import uuid

import structlog
from celery import Celery

from services.data.build import run_build
from services.data.config import DataSettings
from shared.artifacts import ArtifactStore
from shared.config import CommonSettings
from shared.contracts.tasks import TaskName
from shared.errors import Invalid, LeaseLost, WorkerStops
from shared.jobs import faults
from shared.jobs.lease import Lease, claim, fail, give_back, hand_over, heartbeat
from shared.jobs.work import DATASET
from shared.messaging import asked_to_stop
from shared.observability.metrics import JOBS
from shared.registry.session import Sessions

log = structlog.get_logger(__name__)

PASSING = (*faults.PASSING, OSError)
"""Faults that another attempt may not meet: the database or the store away, a full disk."""


def install(
    app: Celery, sessions: Sessions, store: ArtifactStore, settings: CommonSettings, limits: DataSettings
) -> None:
    """Register the task with the worker's Celery application."""
    stopping = asked_to_stop()

    @app.task(name=TaskName.BUILD_DATASET.value)
    def build_dataset(row_id: str) -> None:
        """Build the dataset a nudge names, if it is still to be built."""
        build_row(uuid.UUID(row_id), sessions, store, settings, limits, stopping=stopping)


def build_row(
    row_id: uuid.UUID,
    sessions: Sessions,
    store: ArtifactStore,
    settings: CommonSettings,
    limits: DataSettings,
    *,
    stopping: threading.Event | None = None,
) -> None:
    """Claim and build one dataset; a nudge for one that is taken or done does nothing.

    Args:
        stopping: as for `claim`.
    """
    lease = claim(
        sessions, DATASET, row_id, lease_s=settings.lease_s, max_attempts=settings.max_attempts, stopping=stopping
    )
    if lease is None:
        return
    with heartbeat(sessions, lease):
        try:
            run_build(sessions, store, limits, lease)
        except LeaseLost:
            JOBS.labels("dataset", "lease lost").inc()
            log.warning("another worker has the dataset; leaving it", dataset=str(row_id), fence=lease.fence)
        except WorkerStops:
            JOBS.labels("dataset", "handed-over").inc()
            hand_over(sessions, lease)
        except Invalid as error:
            _fail(sessions, lease, error.detail)
        except PASSING as error:
            JOBS.labels("dataset", "given back").inc()
            log.warning("dataset build interrupted, giving it back", dataset=str(row_id), exc_info=error)
            _give_back(sessions, lease, error)
        except Exception as error:
            log.exception("dataset build failed", dataset=str(row_id))
            _fail(
                sessions,
                lease,
                f"The build met an error it does not know ({type(error).__name__}); the worker's log has it.",
            )


def _fail(sessions: Sessions, lease: Lease, reason: str) -> None:
    JOBS.labels("dataset", "failed").inc()
    fail(sessions, lease, reason)


def _give_back(sessions: Sessions, lease: Lease, error: Exception) -> None:
    known = isinstance(error, faults.PASSING)
    reason = faults.describe(error) if known else f"Interrupted by a passing fault ({type(error).__name__})."
    try:
        give_back(sessions, lease, reason, counts=not faults.is_outage(error))
    except PASSING as away:
        log.warning("the registry is away; the lease's end gives the dataset back", error=type(away).__name__)
