"""The task behind `validator.validate`: claim the row, compare, and finish it with everything that follows, once."""

import threading
import time
import uuid
from collections.abc import Callable

import structlog

from services.validator import repository, verdict
from services.validator.compare import Model, compare
from services.validator.config import ValidatorSettings
from services.validator.gate import Outcome
from services.validator.held_out import read_held_out
from services.validator.repository import Case
from shared.artifacts import ArtifactStore
from shared.errors import LeaseLost, RelevoError, WorkerStops
from shared.jobs import faults
from shared.jobs import lease as leases
from shared.jobs.lease import Lease
from shared.jobs.work import VALIDATION
from shared.observability.context import log_context
from shared.observability.metrics import JOB_SECONDS, JOBS
from shared.registry.session import Sessions
from shared.registry.states import DatasetState
from shared.registry.tables import ModelVersion

log = structlog.get_logger(__name__)


def validate(
    sessions: Sessions,
    store: ArtifactStore,
    settings: ValidatorSettings,
    validation_id: uuid.UUID,
    *,
    stopping: threading.Event | None = None,
) -> None:
    """Judge one candidate, if the row waits for that; a repeated nudge does nothing.

    A passing fault (storage or database away) gives the row back, to be tried again later; a fault that stays ends it as failed.

    Args:
        stopping: as for `claim`; the row is then handed to another worker.
    """
    lease = leases.claim(
        sessions,
        VALIDATION,
        validation_id,
        lease_s=settings.lease_s,
        max_attempts=settings.max_attempts,
        stopping=stopping,
    )
    if lease is None:
        return
    began = time.monotonic()
    with leases.heartbeat(sessions, lease):
        result = _judge_or_tell(sessions, store, settings, lease)
    JOBS.labels("validation", result).inc()
    JOB_SECONDS.labels("validation").observe(time.monotonic() - began)


def _judge_or_tell(sessions: Sessions, store: ArtifactStore, settings: ValidatorSettings, lease: Lease) -> str:
    try:
        return _judge_and_finish(sessions, store, settings, lease)
    except LeaseLost:
        return "lost"
    except WorkerStops:
        leases.hand_over(sessions, lease)
        return "handed-over"
    except faults.PASSING as error:
        leases.give_back(sessions, lease, faults.describe(error), counts=not faults.is_outage(error))
        return "retried"
    except RelevoError as error:
        log.warning("validation failed", validation=str(lease.row_id), reason=error.detail)
        leases.fail(sessions, lease, f"No verdict could be reached: {error.detail}")
        return "failed"


def _judge_and_finish(sessions: Sessions, store: ArtifactStore, settings: ValidatorSettings, lease: Lease) -> str:
    with sessions.begin() as session:
        case = repository.load_case(session, lease.row_id)
    with log_context(pipeline=case.pipeline.name, candidate=case.candidate.number):
        outcome, report = _judge(case, store, settings.scoring_threads, lease.check)
        lease.check()
        with leases.finish(sessions, lease, outcome.verdict) as (session, row):
            decision = verdict.record(session, row, case, outcome, report, webhook=settings.webhook_url is not None)
        log.info("candidate judged", verdict=outcome.verdict, decision=decision, sentence=outcome.sentence)
    return str(outcome.verdict)


def _judge(
    case: Case, store: ArtifactStore, threads: int, check: Callable[[], None]
) -> tuple[Outcome, dict[str, object]]:
    dataset = case.dataset
    if dataset.state != DatasetState.READY or dataset.digest is None:
        raise RelevoError(f"The dataset {dataset.number} of the candidate is {dataset.state}; its test rows are gone.")
    versions = [case.candidate, *([case.baseline] if case.baseline else [])]
    check()
    rows = read_held_out(store, dataset.digest, trained_until=max(version.train_end for version in versions))
    candidate, baseline = _model(case.candidate, store), _model(case.baseline, store) if case.baseline else None
    check()
    return compare(
        rows,
        candidate,
        baseline,
        check=check,
        spec=case.spec,
        train_label_mean=case.candidate.train_label_mean,
        # Of the dataset: judging the same versions again gives the same verdict.
        seed=int(dataset.digest[:8], 16),
        threads=threads,
    )


def _model(version: ModelVersion, store: ArtifactStore) -> Model:
    return Model(version.number, store.get(version.digest), version.signature)
